# SPDX-License-Identifier: BSD-2-Clause
"""Networks of other styles that come as ONNX files: they can be trained, locked and exported again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from foreign_styles import Attention, Grouped, PreActivation, Tokens, settled
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from cloister.protect.edgepro.deployed import deployable
from cloister.protect.edgepro.folding import fold_normalisation, token_rows
from cloister.protect.edgepro.layers import lockable
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


@pytest.mark.parametrize("opset", [9, 13])
def test_products_of_tokens_without_a_bias_become_layers(opset: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    weights = {"cw": (16, 1, 2, 2), "w": (16, 12), "hw": (12, 10), "hb": (10,)}
    constants = [numpy_helper.from_array(draw.normal(size=size).astype(np.float32), name)
                 for name, size in weights.items()]  # fmt: skip
    constants.append(numpy_helper.from_array(np.array([-1, 16, 16]), "shape"))
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "cw"], ["c"], strides=[2, 2]), make("Reshape", ["c", "shape"], ["f"]),
        make("Transpose", ["f"], ["t"], perm=[0, 2, 1]), make("MatMul", ["t", "w"], ["m"]), make("Relu", ["m"], ["r"]),
        make("ReduceMean", ["r"], ["g"], axes=[1], keepdims=0), make("Gemm", ["g", "hw", "hb"], ["y"]),
    ]  # fmt: skip
    image, answer = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *size])
        for name, size in (("x", SHAPE), ("y", (10,)))
    )
    model = helper.make_model(helper.make_graph(nodes, "g", [image], [answer], constants),
                              opset_imports=[helper.make_opsetid("", opset)], ir_version=4)  # fmt: skip
    onnx.save(model, tmp_path / "model.onnx")
    found = load_model(tmp_path / "model.onnx")  # it is held against the file's own answers
    assert len(lockable(found)) == 2
