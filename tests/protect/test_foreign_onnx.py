# SPDX-License-Identifier: BSD-2-Clause
"""Networks of other styles that come as ONNX files: they can be trained, locked and exported again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign_styles import Attention, Grouped, PreActivation, Tokens, settled
from torch import nn

from cloister.protect.edgepro.deployed import deployable
from cloister.protect.edgepro.locks import fold_normalisation, lockable, token_rows
from cloister.protect.training import export_onnx, load_model

SHAPE = (1, 8, 8)


@pytest.mark.parametrize(("make", "layers"), [(PreActivation, 3), (Tokens, 5), (Grouped, 6), (Attention, 4)])
def test_what_comes_from_onnx_can_be_trained_locked_and_exported(
    make: type[nn.Module], layers: int, tmp_path: Path
) -> None:
    module, images = settled(make()), torch.randn((5, *SHAPE), generator=torch.Generator().manual_seed(2))
    back = load_model(export_onnx(module, SHAPE, tmp_path / "model.onnx"))
    with torch.no_grad():
        assert torch.allclose(back(images), module(images), atol=1e-4)
    ready = fold_normalisation(token_rows(back, SHAPE))
    assert len(lockable(ready)) == layers - 1, "linear layers are layers, not products with constants"
    assert deployable(ready, SHAPE) == (), "all of them"
    loss = nn.functional.cross_entropy(ready.train()(images), torch.arange(5))
    loss.backward()
    assert all(layer.weight.grad is not None for layer in lockable(ready).values())
