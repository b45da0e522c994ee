# SPDX-License-Identifier: BSD-2-Clause
"""ONNX files as torch modules: batches that the exporter fixed to one image."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from cloister.demo.data import MODEL, digits
from cloister.protect.training import TrainingError, export_onnx
from cloister.protect.training.from_onnx import convert


def test_a_file_whose_exporter_fixed_the_batch_to_one_image_answers_batches(tmp_path: Path) -> None:
    _, _, images, labels = digits()
    module = convert(MODEL).eval()
    with torch.no_grad():
        together = module(torch.from_numpy(images[:64]))
        alone = torch.cat([module(torch.from_numpy(images[at : at + 1])) for at in range(64)])
    assert together.shape == (64, 10)
    assert torch.allclose(together, alone, atol=1e-4)
    assert export_onnx(module, (1, 8, 8), tmp_path / "again.onnx").is_file(), "protections write it out again"
    assert float(np.mean(together.argmax(1).numpy() == labels[:64])) > 0.95


def test_a_file_that_gives_one_answer_to_several_images_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("ReduceMean", ["flat"], ["logits"], axes=[0], keepdims=1),
        ],
        "mixed",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 16])],
    )
    path = tmp_path / "mixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(TrainingError, match="1 answers to 3 images") as refused:
        convert(path)
    assert "free batch dimension" in str(refused.value)
