# SPDX-License-Identifier: BSD-2-Clause
"""ONNX import: free dimensions, folding, and models that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import assert_matches, build, floats, kernels, node

from cloister.compile import compile_onnx
from cloister.compile.survey import survey
from cloister.errors import FormatError, UnsupportedModelError
from cloister.ir.importer import import_onnx
from cloister.ir.load import ModelError


def test_a_free_batch_dimension_becomes_one_and_is_noted() -> None:
    compiled = compile_onnx(build([node("Relu", "x", "y")], {"x": ["batch", 3]}, ["y"]))
    assert compiled.inputs[0].shape == (1, 3)
    assert any("'x'" in note and "batch" in note for note in compiled.notes)


@pytest.mark.parametrize("key", ["batch", "x:0"])
def test_a_free_dimension_is_fixed_by_name_or_by_place(key: str) -> None:
    compiled = compile_onnx(build([node("Relu", "x", "y")], {"x": ["batch", 3]}, ["y"]), dims={key: 5})
    assert compiled.inputs[0].shape == compiled.outputs[0].shape == (5, 3)
    assert not compiled.notes


def test_a_symbol_shared_by_inputs_is_fixed_in_all() -> None:
    model = build([node("Add", "x y", "z")], {"x": ["n", "w"], "y": ["n", "w"]}, ["z"])
    assert [info.shape for info in compile_onnx(model, dims={"n": 2, "w": 7}).inputs] == [(2, 7), (2, 7)]


def test_other_free_dimensions_are_refused_with_the_option_that_fixes_them() -> None:
    model = build([node("Relu", "x", "y")], {"x": ["n", "height", None]}, ["y"])
    with pytest.raises(UnsupportedModelError) as caught:
        compile_onnx(model)
    assert "--dim height=SIZE" in str(caught.value)
    assert "--dim x:2=SIZE" in str(caught.value)


@pytest.mark.parametrize("dims", [{"nothing": 1}, {"n": 0}, {"n": -4}])
def test_impossible_dimensions_are_refused(dims: dict[str, int]) -> None:
    with pytest.raises(ModelError):
        compile_onnx(build([node("Relu", "x", "y")], {"x": ["n", 3]}, ["y"]), dims=dims)


def test_the_model_given_is_not_changed() -> None:
    model = build([node("Relu", "x", "y")], {"x": ["n", 3]}, ["y"])
    before = model.SerializeToString()
    compile_onnx(model)
    assert model.SerializeToString() == before


def test_a_shape_computed_from_a_shape_is_folded() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "batch", axis=0),
        node("Unsqueeze", "batch axes", "batch1"),
        node("Concat", "batch1 rest", "target", axis=0),
        node("Reshape", "x target", "y"),
        node("Neg", "y", "z"),
    ]
    constants = {
        "zero": np.array(0, np.int64), "axes": np.array([0], np.int64), "rest": np.array([-1], np.int64),
    }  # fmt: skip
    model = build(nodes, {"x": [2, 3, 4]}, ["z"], constants)
    compiled = assert_matches(model, {"x": floats(2, 3, 4)})
    assert kernels(compiled) == ["UNARY"]


def test_inputs_can_be_made_constants() -> None:
    model = build([node("Reshape", "x s", "y")], {"x": [2, 6], "s": [2]}, ["y"], types={"s": TensorProto.INT64})
    compiled = compile_onnx(model, fixed_inputs={"s": np.array([3, 4], np.int64)})
    assert [info.name for info in compiled.inputs] == ["x"]
    assert compiled.outputs[0].shape == (3, 4)
    with pytest.raises(ModelError, match="no input 'q'"):
        compile_onnx(model, fixed_inputs={"q": np.zeros(1)})


def test_constants_listed_among_the_inputs_stay_constants() -> None:
    model = build([node("Add", "x c", "y")], {"x": [2], "c": [2]}, ["y"], {"c": floats(2)}, opset=8)
    model.ir_version = 3
    assert [info.name for info in compile_onnx(model).inputs] == ["x"]


def test_local_functions_are_inlined() -> None:
    body = [node("Relu", "a", "b"), node("Neg", "b", "c")]
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "Flip", ["a"], ["c"], body, opsets)
    model = build(
        [helper.make_node("Flip", ["x"], ["y"], domain="local")],
        {"x": [4]},
        ["y"],
        functions=[function],
        domains=["local"],
    )
    assert_matches(model, {"x": floats(4)})


def test_all_problems_are_told_at_once_with_node_and_attribute() -> None:
    nodes = [
        node("Conv", "x w", "a", name="first", auto_pad="NOTSET"),
        node("STFT", "x step", "b", name="second"),
        node("LRN", "x", "c", name="third", size=3),
        node("NonZero", "c", "d", name="fourth"),
    ]
    model = build(
        nodes, {"x": [1, 2, 5], "w": [4, 2, 3]}, ["a", "d"], {"step": np.array(1, np.int64)},
        types={"d": TensorProto.INT64},
    )  # fmt: skip
    model.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [None] * 4))
    with pytest.raises(UnsupportedModelError) as caught:
        compile_onnx(model)
    text = str(caught.value)
    assert "'first' (Conv), W = 'w'" in text
    assert "'second' (STFT)" in text
    assert "'fourth' (NonZero)" in text
    assert "3 problems" in text


def test_nodes_that_nobody_reads_raise_no_problem() -> None:
    nodes = [node("NonZero", "x", "unused"), node("Relu", "x", "y")]
    assert kernels(compile_onnx(build(nodes, {"x": [3]}, ["y"]))) == ["UNARY"]


def test_half_and_double_precision_are_refused_by_name() -> None:
    for kind, name in ((TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64")):
        model = build([node("Relu", "x", "y")], {"x": [3]}, ["y"], types={"x": kind, "y": kind})
        with pytest.raises(UnsupportedModelError, match=name):
            compile_onnx(model)


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph([node("Neg", "x", "z")], "b", [], [helper.make_tensor_value_info("z", 1, [3])])
    nodes = [node("If", "c", "y", name="choice", then_branch=branch, else_branch=branch)]
    model = build(nodes, {"x": [3], "c": []}, ["y"], types={"c": TensorProto.BOOL})
    with pytest.raises(UnsupportedModelError, match=r"'choice' \(If\), then_branch.*control flow"):
        compile_onnx(model)


def test_foreign_domains_are_refused() -> None:
    nodes = [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft", name="g")]
    model = build(nodes, {"x": [3]}, ["y"], domains=["com.microsoft"])
    with pytest.raises(UnsupportedModelError, match=r"com\.microsoft::Gelu"):
        compile_onnx(model)


def test_old_opsets_and_sparse_constants_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="opset = 6"):
        compile_onnx(build([node("Relu", "x", "y")], {"x": [3]}, ["y"], opset=6))
    model = build([node("Add", "x s", "y")], {"x": [3]}, ["y"])
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [2.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [1])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    with pytest.raises(UnsupportedModelError, match="sparse"):
        compile_onnx(model)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    for data in (b"", b"not a model", build([node("Relu", "x", "y")], {"x": [3]}, ["y"]).SerializeToString()[:-20]):
        broken.write_bytes(data)
        with pytest.raises(FormatError, match=r"broken\.onnx"):
            compile_onnx(broken)
    with pytest.raises(FormatError, match=r"missing\.onnx cannot be read: No such file"):
        compile_onnx(tmp_path / "missing.onnx")


def test_external_data_is_read_and_its_absence_refused(tmp_path: Path) -> None:
    model = build([node("Add", "x c", "y")], {"x": [400]}, ["y"], {"c": floats(400)})
    path = tmp_path / "model.onnx"
    aside = onnx.ModelProto()
    aside.CopyFrom(model)
    onnx.save(aside, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    x = floats(400, seed=1)
    assert compile_onnx(path).partitions == compile_onnx(model).partitions
    assert_matches(model, {"x": x})
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(FormatError, match="weights in a file of their own"):
        compile_onnx(path)
    weights.unlink()
    with pytest.raises(FormatError, match=r"weights in a file of their own.*weights\.bin"):
        compile_onnx(path)


def test_contradicting_shapes_are_refused() -> None:
    model = build([node("MatMul", "x w", "y")], {"x": [2, 3]}, ["y"], {"w": floats(4, 5)})
    with pytest.raises(FormatError, match="contradict"):
        compile_onnx(model)


def test_node_positions_are_those_of_the_model() -> None:
    nodes = [node("Neg", "c", "d"), node("Relu", "x", "a"), node("Add", "a d", "y", name="sum")]
    graph = import_onnx(build(nodes, {"x": [3]}, ["y"], {"c": floats(3)})).graph
    assert [(item.op, item.index) for item in graph.nodes] == [("Relu", 1), ("Add", 2)]


def test_a_survey_lists_what_is_not_supported() -> None:
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("NonZero", "b", "c", name="odd")]
    found = survey(build(nodes, {"x": [1, 2, 4, 4]}, ["c"], {"w": floats(3, 2, 3, 3)}, types={"c": TensorProto.INT64}))
    assert {row.operator: row.supported for row in found.operators} == {"Conv": True, "Relu": True, "NonZero": False}
    assert found.parameters == 54
    assert [problem.node for problem in found.problems] == ["odd"]
    assert next(row.macs for row in found.operators if row.operator == "Conv") == 2 * 2 * 3 * 18
    assert found.macs is None
