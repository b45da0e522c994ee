# SPDX-License-Identifier: BSD-2-Clause
"""ONNX files as torch modules: batches that the exporter fixed to one image."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import cloister
from cloister.demo.data import MODEL, digits
from cloister.protect.training import TrainingError, export_onnx, load_model
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


def free_size(path: Path, last: str) -> Path:
    """A file that leaves its images' height and width free, and runs at 8 x 8: pooled, then flat by ``last``."""
    random = np.random.default_rng(0)
    constants = {
        "kernel": random.normal(size=(6, 1, 3, 3)).astype(np.float32), "zero": np.zeros(1, np.int64),
        "weights": random.normal(size=(6 * 16, 10)).astype(np.float32), "one": np.ones(1, np.int64),
    }  # fmt: skip
    make = helper.make_node
    flat = {
        "Flatten": [make("Flatten", ["pooled"], ["flat"])],
        # a shape that is worked out from the images' own, as exporters write it where sizes are free
        "Reshape": [
            make("Shape", ["pooled"], ["shape"]),
            make("ReduceProd", ["shape"], ["all"], keepdims=1),
            make("Slice", ["shape", "zero", "one"], ["batch"]),
            make("Div", ["all", "batch"], ["rest"]),
            make("Concat", ["batch", "rest"], ["goal"], axis=0),
            make("Reshape", ["pooled", "goal"], ["flat"]),
        ],
    }[last]
    graph = helper.make_graph(
        [
            make("Conv", ["image", "kernel"], ["mapped"], pads=[1, 1, 1, 1]),
            make("MaxPool", ["mapped"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
            *flat,
            make("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "free",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, "height", "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("last", ["Flatten", "Reshape"])
def test_a_file_that_leaves_the_images_size_free_takes_the_datas(tmp_path: Path, last: str) -> None:
    path = free_size(tmp_path / "free.onnx", last)
    module = load_model(path, shape=(1, 8, 8)).eval()
    images = torch.rand(5, 1, 8, 8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        assert np.allclose(module(images).numpy(), session.run(None, {"image": images.numpy()})[0], atol=1e-4)
    again = onnxruntime.InferenceSession(export_onnx(module, (1, 8, 8), tmp_path / "again.onnx"))
    assert np.allclose(again.run(None, {"image": images.numpy()})[0], module(images).detach().numpy(), atol=1e-4)
    with pytest.raises(TrainingError, match=r"free \(height, width\), .* 1 x 1") as refused:
        load_model(path)
    assert "load_model(path, shape=" in refused.value.remedy
    with pytest.raises(TrainingError, match=r"cannot be run on a batch of images of 1 x 12 x 12") as refused:
        load_model(path, shape=(1, 12, 12))
    assert "images of that size" in refused.value.remedy


def test_a_quantised_file_is_named_as_such(tmp_path: Path) -> None:
    cloister.quantize(MODEL, digits()[0][:20], tmp_path / "int8.onnx")
    with pytest.raises(TrainingError, match=r"int8.onnx is quantised") as refused:
        convert(tmp_path / "int8.onnx")
    assert "fp32 model" in refused.value.remedy and "cloister quantize" in refused.value.remedy


def test_operators_that_torch_has_no_counterpart_of_are_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Det", ["image"], ["determinant"]),
            helper.make_node("Gelu", ["flat"], ["curved"], domain="com.microsoft"),
            helper.make_node("Gelu", ["curved"], ["again"], domain="com.microsoft"),
            helper.make_node("Add", ["again", "determinant"], ["logits"]),
        ],
        "strange",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 16])],
    )
    path = tmp_path / "strange.onnx"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    with pytest.raises(TrainingError, match=r"counterpart of the operators Det, com.microsoft.Gelu\n"):
        convert(path)
