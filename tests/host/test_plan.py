# SPDX-License-Identifier: BSD-2-Clause
"""``cloister plan``: held against the TA's own planner in C, against the compiler, and at the command line."""

from __future__ import annotations

import ctypes
import json
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import build, engine, node
from test_stripes import wide_network

from cloister.cli.plan import plan
from cloister.compile import compile_onnx
from cloister.compile.memory import TA_OWN, manifest_pages, manifest_size, pages, reside
from cloister.errors import CloisterError
from cloister.estimate.instructions import constants
from cloister.estimate.pair import predict
from cloister.estimate.picture import save_picture
from cloister.estimate.plan import plan_model
from cloister.seal import VendorKey, seal_bundle
from cloister.zoo import NETWORKS, light_model, random_input

TA = Path(__file__).resolve().parents[2] / "ta"
DRIVER = """
#include "plan.h"
/* Plans `count` partitions of `sizes`; returns the bytes of the model's memory, 0 where they do not fit. */
uint64_t lay(uint32_t arena, uint32_t count, const uint32_t *sizes, uint64_t budget, uint8_t *resident)
{
	static struct cl_partition_desc partitions[CL_MAX_PARTITIONS];
	static struct cl_slot slots[CL_MAX_PARTITIONS];
	struct cl_manifest header = {.arena_size = arena, .partition_count = count};
	struct cl_manifest_view view = {.header = &header, .partitions = partitions};
	struct cl_plan plan = {0};

	for (uint32_t i = 0; i < count; i++) {
		partitions[i].plain_size = sizes[i];
		if (sizes[i] > header.largest_partition)
			header.largest_partition = sizes[i];
	}
	if (cl_plan_make(&view, budget, slots, &plan))
		return 0;
	for (uint32_t i = 0; i < count; i++)
		resident[i] = slots[i].resident;
	return plan.total;
}
uint32_t slot_size(void) { return sizeof(struct cl_slot); }
"""


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "driver.c").write_text(DRIVER)
    command = ["gcc", "-std=c11", "-shared", "-fPIC", "-o", folder / "plan.so", folder / "driver.c", TA / "plan.c"]
    subprocess.run([*command, f"-I{TA}", f"-I{TA / 'include'}"], check=True)
    library = ctypes.CDLL(str(folder / "plan.so"))
    library.lay.restype = ctypes.c_uint64
    library.lay.argtypes = [ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p]
    return library


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 1 << 20), st.lists(st.integers(40, 1 << 18), min_size=1, max_size=30), st.integers(0, 4 << 20))
def test_the_plan_is_that_of_the_ta(planner: ctypes.CDLL, arena: int, sizes: list[int], room: int) -> None:
    array = (ctypes.c_uint32 * len(sizes))(*sizes)
    resident = (ctypes.c_uint8 * len(sizes))()
    table = manifest_pages(len(sizes), 2)
    total = planner.lay(arena, len(sizes), array, pages(room), resident)
    planned = reside(arena, sizes, 2, TA_OWN + table + pages(room))
    assert (planned is None) == (total == 0)
    if planned is not None:
        assert planned.loaded == table + pages(total)
        assert planned.resident == tuple(index for index, kept in enumerate(resident) if kept)


def test_slots_have_the_size_that_is_reckoned_with(planner: ctypes.CDLL) -> None:
    from cloister.compile.memory import SLOT

    assert planner.slot_size() == SLOT


def test_the_manifest_has_the_size_that_is_reckoned_with() -> None:
    compiled = compile_onnx(wide_network(), max_partition=1 << 14)
    bundle, _ = seal_bundle(compiled, VendorKey.generate(), name="plan")
    assert manifest_size(len(compiled.partitions), 2, len(compiled.layers)) == len(bundle.manifest)


def test_the_plan_is_what_the_compiler_then_makes() -> None:
    model, budget = wide_network(), TA_OWN + (1 << 20)
    planned = plan_model(model, budget)
    compiled = compile_onnx(model, secure_memory=budget)
    sizes = [len(part) for part in compiled.partitions]
    assert planned.fits
    assert (planned.partitions, planned.weights, planned.largest) == (len(sizes), sum(sizes), max(sizes))
    assert (planned.arena, planned.bound) == (compiled.arena_size, compiled.report.arena_bound)
    assert planned.used <= budget
    assert planned.ratio <= 1.10
    lies = reside(compiled.arena_size, sizes, 2, budget, len(compiled.layers))
    assert lies is not None
    assert planned.streamed == lies.streamed == sum(sizes) - planned.resident_bytes
    assert max(moment.alive for moment in planned.moments) == planned.bound


def test_more_memory_streams_less_of_the_same_bundle() -> None:
    model, least = wide_network(), TA_OWN + (1 << 20)
    streamed = [
        plan_model(model, least + extra, compiled_for=least).streamed for extra in (0, 1 << 16, 1 << 17, 1 << 23)
    ]
    assert streamed == sorted(streamed, reverse=True)
    assert streamed[0] > streamed[-1] == 0


def test_a_model_that_does_not_fit_is_told_what_would() -> None:
    found = plan_model(wide_network(), TA_OWN + (64 << 10))
    assert not found.fits
    assert found.smallest is not None
    assert plan_model(wide_network(), found.smallest).fits


def test_every_kernel_has_an_estimate() -> None:
    from cloister.compile.lowering import STRUCTS
    from cloister.estimate.features import KERNELS

    assert set(KERNELS) == set(STRUCTS)
    kinds = {kind.split()[0] for kind in constants()["kernels"]}
    # The pools' kinds name what they take before the precision.
    assert set(STRUCTS) - {"POOL_S8"} <= kinds
    assert {"POOL max_S8", "POOL average_S8", "RUN", "STEP"} <= set(constants()["kernels"])


def test_the_estimate_grows_with_the_work_and_with_what_is_streamed() -> None:
    small = plan_model(wide_network(), TA_OWN + (1 << 20))
    large = plan_model(wide_network(), 16 << 20)
    assert small.instructions is not None and large.instructions is not None
    assert small.instructions_without_crypto is not None
    assert small.macs == large.macs
    assert small.instructions.decrypt > large.instructions.decrypt == 0
    assert small.instructions_without_crypto.decrypt > small.instructions.decrypt
    assert 0.1 * small.macs < small.instructions.compute < 2 * small.macs


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "wide.onnx"
    onnx.save(wide_network(), path)
    return path


def test_the_command_tells_how_it_fits(saved: Path) -> None:
    told = CliRunner().invoke(plan, [str(saved), "--secure-memory", "1.5MiB"])
    assert told.exit_code == 0, told.output
    for word in ("fits", "yes", "partitions", "resident", "streamed", "ratio", "instructions"):
        assert word in told.output


def test_the_command_prints_json_and_draws(saved: Path, tmp_path: Path) -> None:
    picture = tmp_path / "memory.svg"
    told = CliRunner().invoke(plan, [str(saved), "--secure-memory", "1.5MiB", "--json", "--picture", str(picture)])
    facts = json.loads(told.stdout)
    assert facts["fits"] is True
    assert facts["peak_over_bound"] <= 1.10
    assert facts["instructions"]["total"] > facts["macs"] * 0.1
    root = ElementTree.parse(picture).getroot()
    assert root.tag.endswith("svg")
    assert len(root.findall("{http://www.w3.org/2000/svg}path")) == 4


def test_the_command_tells_what_protection_adds(saved: Path) -> None:
    arguments = [str(saved), "--victim", str(saved), "--secure-memory", "64MiB"]
    text = CliRunner().invoke(plan, arguments, catch_exceptions=False).output
    wanted = predict(saved, saved, budget=64 << 20)
    assert f"{wanted.total:,.0f}" in text and f"{100 * wanted.overhead:+.2f} %" in text
    refused = CliRunner().invoke(plan, [*arguments, "--dim", "batch=1"])
    assert refused.exit_code == 2 and "without free dimensions" in refused.output
    told = json.loads(CliRunner().invoke(plan, [*arguments, "--json"], catch_exceptions=False).output)
    assert told["protected"]["total"] == pytest.approx(wanted.total) and told["protected"]["crossings"] == 1


def test_with_constants_of_a_board_estimates_are_no_instructions(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tmp_path / "board.json"
    board.write_text(json.dumps({**constants(), "unit": "nanoseconds"}))
    monkeypatch.setenv("CLOISTER_CONSTANTS", str(board))
    arguments = [str(saved), "--victim", str(saved), "--secure-memory", "64MiB"]
    text = CliRunner().invoke(plan, arguments, catch_exceptions=False).output
    assert "nanoseconds  " in text and "instructions  " not in text


def test_the_command_fails_where_the_model_does_not_fit(saved: Path) -> None:
    told = CliRunner().invoke(plan, [str(saved), "--secure-memory", "0.5MiB", "--json"])
    facts = json.loads(told.stdout)
    assert told.exit_code == 1
    assert facts["fits"] is False
    assert facts["smallest"] > 1 << 19
    again = CliRunner().invoke(plan, [str(saved), "--secure-memory", str(facts["smallest"])])
    assert again.exit_code == 0, again.output


def test_other_pictures_than_svg_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CloisterError, match=r"\.svg"):
        save_picture(plan_model(wide_network(), 8 << 20), "wide", tmp_path / "memory.png")


def test_a_model_without_kernels_is_planned() -> None:
    model = build([node("Identity", "x", "y")], {"x": [1, 4]}, ["y"])
    assert plan_model(model, 1 << 20).fits


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_a_light_network_runs_in_four_mebibytes(name: str) -> None:
    import onnxruntime

    model = light_model(name)
    inputs = random_input(model)
    compiled = compile_onnx(model, secure_memory=4 << 20)
    lies = reside(compiled.arena_size, [len(part) for part in compiled.partitions], 2, 4 << 20)
    assert lies is not None and lies.used <= 4 << 20
    assert compiled.arena_size <= 1.10 * compiled.report.arena_bound
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, inputs)[0].ravel()
    (got,) = (value.ravel() for value in engine().run(compiled, inputs).values())
    assert abs(got - wanted).max() <= 1e-4 * (wanted.max() - wanted.min())
    assert list((-got).argsort(kind="stable")[:5]) == list((-wanted).argsort(kind="stable")[:5])


def test_all_nine_networks_are_named() -> None:
    assert len(NETWORKS) == 9
    with pytest.raises(CloisterError, match="no network"):
        light_model("lenet")
