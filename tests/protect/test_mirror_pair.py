# SPDX-License-Identifier: BSD-2-Clause
"""Pairs before training: where victims can be tapped, what backbones are made of, what the CPM costs."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from foreign_network import Foreign
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from cloister.attack.surgery import fresh
from cloister.protect.mirror import build_pair, taps_of
from cloister.protect.mirror.graph import candidates, trace
from cloister.protect.mirror.narrow import narrowed
from cloister.protect.prune.channels import multiply_accumulates
from cloister.protect.strategy import Strategy
from cloister.protect.training import TrainingError, load_model, network

SHAPES = {
    "digits": (1, 8, 8),
    "lenet5": (1, 28, 28),
    "vgg7": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "foreign": (1, 8, 8),
}


@cache
def victim(name: str) -> nn.Module:
    if name == "foreign":
        torch.manual_seed(1)
        return Foreign().eval()
    return network(name, SHAPES[name][0], 10, 1).eval()


def images(name: str, count: int = 3) -> torch.Tensor:
    return torch.randn((count, *SHAPES[name]), generator=torch.Generator().manual_seed(0))


def strategy(name: str, **given: Any) -> Strategy:
    names = [tap for tap in taps_of(victim(name), SHAPES[name]) if tap not in ("image", "logits")]
    return Strategy(**{"taps": tuple(names[1::2]), "pool": 2, **given})


@pytest.mark.parametrize("name", SHAPES)
def test_all_data_flows_through_every_tap(name: str) -> None:
    shape = SHAPES[name]
    found = candidates(trace(victim(name)), shape)
    assert {"image", "logits"} < set(found) and len(found) >= 5
    for tap in found.values():
        graph = trace(victim(name)).requires_grad_(False)
        node = next(node for node in graph.graph.nodes if node.name == tap.node)
        with graph.graph.inserting_after(node):
            cut = graph.graph.call_function(torch.Tensor.detach, (node,))
        node.replace_all_uses_with(cut, lambda user, cut=cut: user is not cut)
        graph.recompile()
        assert victim(name)(images(name).requires_grad_()).requires_grad
        assert not graph(images(name).requires_grad_()).requires_grad, f"data flows past {tap.name}"


def test_taps_are_named_and_lie_behind_what_is_finished() -> None:
    assert taps_of(victim("lenet5"), (1, 28, 28)) == {
        "image": (1, 28, 28), "2": (6, 28, 28), "3": (6, 14, 14), "6": (6, 14, 14), "7": (6, 7, 7),
        "10": (120,), "12": (84,), "logits": (10,),
    }  # fmt: skip
    blocks = [name for name in taps_of(victim("resnet20"), (3, 32, 32)) if name.endswith(".relu")]
    assert len(blocks) == 9
    assert list(taps_of(victim("foreign"), (1, 8, 8)).values()) == [
        (1, 8, 8), (12, 8, 8), (16, 8, 8), (16, 8, 8), (16, 4, 4), (40,), (10,),
    ]  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ["tampered", "trained", "truncated", "random"])
def test_pairs_are_built_of_every_network(name: str, kind: str) -> None:
    shape = SHAPES[name]
    for given in (
        {"operator": "conv1x1", "head": "average"},
        {"operator": "separable", "merge": "concat", "channels": 0.5, "select": "first", "pool_kind": "max"},
    ):
        made = strategy(name, backbone=kind, **given)
        pair = build_pair(victim(name), shape, 10, made, 3)
        own, *crossed = pair.backbone(images(name))
        assert own.shape == (3, 10) and pair(images(name)).shape == (3, 10)
        assert [tuple(value.shape[1:]) for value in crossed] == [crossing.shape for crossing in pair.crossings]
        assert [crossing.input for crossing in pair.crossings] == [f"tap_{i}" for i in range(len(crossed))]
        with torch.no_grad():
            assert torch.allclose(pair.backbone.alone()(images(name)), own, atol=1e-5)
            features = pair.backbone.features()
            assert features is not None
            full = taps_of(victim(name), shape)[made.taps[-1]]
            assert features(images(name)).shape == (3, *full)
        again = build_pair(victim(name), shape, 10, made, 3)
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in pair.state_dict().items())


def test_reduction_is_what_the_strategy_says() -> None:
    whole = build_pair(victim("lenet5"), (1, 28, 28), 10, Strategy(taps=("3", "12"), backbone="trained"))
    half = build_pair(
        victim("lenet5"), (1, 28, 28), 10,
        Strategy(taps=("3", "12"), backbone="trained", pool=4, channels=0.5, pool_kind="max"),
        channels={"3": [0, 2, 5], "12": range(42)},
    )  # fmt: skip
    with torch.no_grad():
        (_, tap, vector), (_, small, short) = (pair.backbone(images("lenet5")) for pair in (whole, half))
    assert small.shape == (3, 3, 3, 3) and torch.equal(short, vector[:, :42])
    # 14 places to 3: windows of 6, 4 apart
    assert float(small[0, 1, 0, 0]) == float(tap[0, 2, :6, :6].max())
    assert float(small[1, 2, 2, 1]) == float(tap[1, 5, 8:, 4:10].max())


def test_backbones_hold_what_their_kind_says() -> None:
    shape = SHAPES["lenet5"]
    kinds = {
        kind: build_pair(victim("lenet5"), shape, 10, Strategy(taps=("3",), backbone=kind))  # type: ignore[arg-type]
        for kind in ("tampered", "trained", "truncated", "random")
    }
    with torch.no_grad():
        own = kinds["trained"].backbone(images("lenet5"))[0]
        assert torch.allclose(own, victim("lenet5")(images("lenet5")), atol=1e-5)
    convolutions = {
        kind: [layer for layer in pair.backbone.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        for kind, pair in kinds.items()
    }
    first = next(layer for layer in victim("lenet5").modules() if isinstance(layer, nn.Conv2d))
    assert torch.equal(convolutions["truncated"][0].weight, first.weight)
    assert [len(convolutions[kind]) for kind in ("trained", "truncated")] == [5, 2], "one layer and a short head"
    secret = [value for value in victim("lenet5").state_dict().values() if value.ndim > 0 and value.std() > 0]
    exposed = list(kinds["random"].backbone.state_dict().values())
    assert not any(a.shape == b.shape and torch.equal(a, b) for a in secret for b in exposed)
    moving = {kind: any(p.requires_grad for p in pair.backbone.parameters()) for kind, pair in kinds.items()}
    assert moving == {"tampered": True, "trained": False, "truncated": False, "random": False}


def test_an_attacker_does_not_get_the_weights_that_the_victims_training_began_with() -> None:
    begun = [value for value in network("lenet5", 1, 10, 0).state_dict().values() if value.dim() > 1]
    pairs = {
        kind: build_pair(victim("lenet5"), SHAPES["lenet5"], 10, strategy("lenet5", backbone=kind), seed=0)
        for kind in ("truncated", "random")
    }
    grown = pairs["truncated"].architecture
    assert grown is not None
    for held in (grown, pairs["random"].backbone):
        drawn = [value for value in held.state_dict().values() if value.dim() > 1]
        assert drawn and not any(a.shape == b.shape and torch.equal(a, b) for a in begun for b in drawn)


@pytest.mark.parametrize("name", ["digits", "resnet20"])
def test_narrow_backbones_cost_less_than_the_victim(name: str) -> None:
    made = strategy(name, backbone="random", backbone_width=0.5, cpm_width=4)
    pair = build_pair(victim(name), SHAPES[name], 10, made)
    assert multiply_accumulates(pair, SHAPES[name]) < 0.6 * multiply_accumulates(victim(name), SHAPES[name])
    assert pair(images(name)).shape == (3, 10)


def grouped() -> nn.Module:
    """32 channels that are normalised in runs of four, and 12 in runs of two."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.Conv2d(32, 12, 3, padding=1),
        nn.GroupNorm(6, 12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    ("share", "left"), [(0.9, (32, 12)), (0.8, (24, 12)), (0.75, (24, 12)), (0.5, (16, 6)), (0.1, (8, 6))]
)
def test_narrow_backbones_keep_equally_many_channels_of_each_run(share: float, left: tuple[int, int]) -> None:
    for kind in ("random", "tampered"):
        made = Strategy(taps=("2",), backbone=kind, backbone_width=share)  # type: ignore[arg-type]
        pair = build_pair(grouped(), (1, 8, 8), 10, made)
        assert pair(images("digits")).shape == (3, 10)
        found = [layer.num_channels for layer in pair.backbone.modules() if isinstance(layer, nn.GroupNorm)]
        assert found == list(left[: 2 if kind == "tampered" else 1]), "the other ends behind the tap"


def test_the_channels_of_largest_weights_of_each_run_are_kept() -> None:
    whole = grouped()
    first = whole.get_submodule("0")
    small = [run * 4 + run % 4 for run in range(8)]  # one of each run
    with torch.no_grad():
        first.weight[small] *= 1e-3  # type: ignore[operator,index]
    kept = [channel for channel in range(32) if channel not in small]
    assert torch.equal(narrowed(whole, (1, 8, 8), 0.75).get_submodule("0").weight, first.weight[kept])  # type: ignore[index]


def products(path: Path, constants: str) -> Path:
    """A file with layers as tf2onnx writes them, one with its weights on the left, a scale, and resized images."""
    draw = np.random.default_rng(0)
    sizes = {"w": (16, 12), "b": (12,), "left": (5, 12), "scale": (5,), "v": (5, 10), "by": (4,)}
    values = {name: draw.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    values["by"] = np.array([1, 1, 0.5, 0.5], np.float32)
    make = helper.make_node
    nodes = [
        make("Resize", ["x", "", "by"], ["s"], mode="linear"), make("Flatten", ["s"], ["f"]),
        make("MatMul", ["f", "w"], ["m"]), make("Add", ["m", "b"], ["a"]), make("Relu", ["a"], ["r"]),
        make("Transpose", ["r"], ["t"]), make("MatMul", ["left", "t"], ["l"]), make("Transpose", ["l"], ["u"]),
        make("Mul", ["u", "scale"], ["k"]), make("MatMul", ["k", "v"], ["y"]),
    ]  # fmt: skip
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    inside = [tensor for tensor in tensors if constants == "nodes" and tensor.name != "left"]
    nodes = [*(make("Constant", [], [tensor.name], value=tensor) for tensor in inside), *nodes]
    image, answer = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *size])
        for name, size in (("x", (1, 8, 8)), ("y", (10,)))
    )
    graph = helper.make_graph(nodes, "g", [image], [answer], [one for one in tensors if one not in inside])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def assert_apart(module: nn.Module, secrets: list[torch.Tensor]) -> None:
    shown = [value.detach() for value in module.state_dict().values() if value.numel() > 1]
    for secret in secrets:
        for known in (secret, secret.T if secret.ndim == 2 else secret):
            assert not any(value.shape == known.shape and torch.equal(value, known) for value in shown)


@pytest.mark.parametrize("constants", ["initializers", "nodes"])
def test_a_random_backbone_shows_no_constant_of_an_onnx_file(constants: str, tmp_path: Path) -> None:
    path = products(tmp_path / "model.onnx", constants)
    graph = onnx.load(path).graph
    stored = [*graph.initializer, *(node.attribute[0].t for node in graph.node if node.op_type == "Constant")]
    secrets = [torch.tensor(numpy_helper.to_array(tensor)) for tensor in stored if tensor.name != "by"]
    assert len(secrets) == 5
    found = load_model(path)
    pair = build_pair(found, (1, 8, 8), 10, Strategy(taps=("image", "logits"), backbone="random"))
    assert pair.architecture is not None
    for made in (pair.backbone, pair.architecture, fresh(found, 1)):
        assert_apart(made, secrets)
    answers = pair.backbone(torch.randn(3, 1, 8, 8))[0]
    assert answers.shape == (3, 10) and answers.isfinite().all(), "what images are resized by stays"


def test_products_of_rows_become_layers_that_can_be_trained(tmp_path: Path) -> None:
    layers = [layer for layer in load_model(products(tmp_path / "m.onnx", "initializers")).modules()
              if isinstance(layer, nn.Linear)]  # fmt: skip
    assert [(layer.in_features, layer.out_features, layer.bias is not None) for layer in layers] == [
        (16, 12, True), (5, 10, False),
    ]  # fmt: skip


class Holding(nn.Module):
    """A network that has learned tensors in a buffer, in an attribute and in a list, as asked."""

    def __init__(self, *places: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 16), nn.Linear(16, 10)
        learned = torch.randn((3, 16, 16), generator=torch.Generator().manual_seed(5))
        self.register_buffer("held", learned[0] if "buffer" in places else torch.ones(16, 16))
        self.plain = learned[1] if "attribute" in places else torch.ones(16, 16)
        self.listed = [learned[2] if "list" in places else torch.ones(16, 16)]
        self.register_buffer("mask", torch.ones(16, 16).tril().log())  # 0 and minus infinity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1))
        x = torch.relu(x @ self.held @ self.plain @ self.listed[0] + 0 * self.mask.clamp(min=-1).sum())
        return self.last(x)


def test_a_random_backbone_shows_no_buffer_or_attribute_of_a_module() -> None:
    module = Holding("buffer", "attribute").eval()
    before = copy.deepcopy(module)
    pair = build_pair(module, (1, 8, 8), 10, Strategy(taps=("image", "logits"), backbone="random"))
    secrets = [module.held, module.plain, *(parameter.detach() for parameter in module.parameters())]
    assert pair.architecture is not None
    assert_apart(pair.backbone, secrets)
    assert_apart(pair.architecture, secrets)
    assert torch.equal(fresh(module, 1).mask, module.mask)
    assert torch.equal(module.held, before.held) and torch.equal(module.plain, before.plain)


def test_weights_that_no_one_draws_are_refused_in_a_random_backbone() -> None:
    class Half(nn.Linear):
        def reset_parameters(self) -> None:
            nn.init.zeros_(self.bias)

    torch.manual_seed(0)
    half = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), Half(16, 10))
    nn.init.normal_(half[3].weight)
    made = Strategy(taps=("image", "logits"), backbone="random")
    for module, named in ((half, "3.weight"), (Holding("list"), "_tensor_constant")):
        with pytest.raises(TrainingError, match=named) as refused:
            build_pair(module.eval(), (1, 8, 8), 10, made)
        assert "backbone that is not random" in refused.value.remedy
        build_pair(module, (1, 8, 8), 10, replace(made, backbone="tampered"))


def test_a_victim_that_cannot_be_drawn_anew_is_named() -> None:
    class Frozen(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise RuntimeError("never to be trained\nat all")
            result: torch.Tensor = super().forward(x)
            return result

    victim = Frozen(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    with pytest.raises(TrainingError, match=r"Frozen with weights drawn anew .*: never to be trained") as refused:
        build_pair(victim, (1, 8, 8), 10, Strategy(taps=("2",), backbone="random"))
    assert refused.value.remedy and "at all" not in str(refused.value)


def test_no_answer_of_the_cpm_reaches_the_backbone() -> None:
    pair = build_pair(victim("digits"), (1, 8, 8), 10, Strategy(taps=("image", "2", "logits"), backbone="tampered"))
    before = [value.clone() for value in pair.backbone(images("digits"))]
    for parameter in pair.cpm.parameters():
        nn.init.normal_(parameter)
    assert all(torch.equal(a, b) for a, b in zip(before, pair.backbone(images("digits")), strict=True))
    assert [crossing.input for crossing in pair.crossings] == ["image", "tap_0", "tap_1"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"taps": ("2", "nowhere")}, "no tap nowhere"),
        ({"taps": ("6", "2")}, "not in the model's order"),
        ({"kind": "whole"}, "has no pair"),
        ({"backbone": "truncated", "taps": ("2", "logits")}, "truncated"),
    ],
)
def test_strategies_that_do_not_fit_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(TrainingError, match=named):
        build_pair(victim("digits"), (1, 8, 8), 10, replace(Strategy(taps=("2",)), **given))


def test_victims_that_do_not_fit_are_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TrainingError, match="traced"):
        taps_of(Branching(), (1, 8, 8))
    with pytest.raises(TrainingError, match="does not take images"):
        taps_of(victim("digits"), (3, 8, 8))
    with pytest.raises(TrainingError, match="not 7 logits"):
        build_pair(victim("digits"), (1, 8, 8), 7, Strategy(taps=("2",)))
    with pytest.raises(TrainingError, match="cannot cross"):
        build_pair(victim("digits"), (1, 8, 8), 10, Strategy(taps=("2",), channels=0.5), channels={"2": [1, 99]})


def test_graphs_are_taken_as_they_are() -> None:
    graph = fx.symbolic_trace(victim("digits"))
    assert taps_of(graph, (1, 8, 8)) == taps_of(victim("digits"), (1, 8, 8))
