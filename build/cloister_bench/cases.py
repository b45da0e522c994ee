# SPDX-License-Identifier: BSD-2-Clause
"""From the calibration's models to single kernels, each a partition of its own, no two alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx

from cloister.compile.arrange import Lowered, lower
from cloister.compile.emit import emit_partition
from cloister.compile.lowering import Op
from cloister.compile.planner import plan_arena
from cloister.compile.winograd import apply, is_winograd, tile_count
from cloister.errors import CloisterError
from cloister.estimate.features import Term, terms_of
from cloister.ir.check import check_graph
from cloister.ir.importer import import_onnx, raise_problems
from cloister.ir.passes.pipeline import clean, optimise

#: Tiles between two transformations of the weights for which WINOGRAD is measured; 0: all at once.
_TILES = (0, 8, 24)
#: Most kernels that are measured of a kind: layouts and ends of 8-bit models would otherwise be most of all.
_MOST = 200


@dataclass(frozen=True)
class Case:
    """A kernel that is measured: its record alone in a partition, and what it does."""

    name: str
    terms: list[Term]
    arena: int
    partition: bytes = field(repr=False)


def lowered(model: onnx.ModelProto, weights: str = "float32") -> Lowered:
    """The kernels of a model, nothing split."""
    imported = import_onnx(model, None)
    graph = imported.graph
    graph.weights = weights
    clean(graph)
    raise_problems([*imported.problems, *check_graph(graph)])
    optimise(graph)
    return lower(graph, None)


def cases(models: Iterable[tuple[str, onnx.ModelProto]], seen: set[object], counted: Counter[str]) -> list[Case]:
    """The kernels of some models that differ from all `seen` before; `counted` are those of each kind.

    Raises:
        CloisterError: a model does not compile.
    """
    found: list[Case] = []
    for name, model in models:
        try:
            made = lowered(model)
        except CloisterError as error:
            raise CloisterError(f"calibration model {name}: {error.message}", error.remedy) from error
        for ops in _variants(made.ops):
            plan = plan_arena(ops, *made.ends)
            for op in ops:
                terms = terms_of(op)
                key = tuple((term.kind, *term.counts.items(), *term.shape.items()) for term in terms)
                kind = terms[0].kind
                if key not in seen and counted[kind] < _MOST:
                    seen.add(key)
                    counted[kind] += 1
                    found.append(Case(f"{name}: {op.kernel}", terms, plan.size, emit_partition([op], plan)))
    return found


def _variants(ops: list[Op]) -> Iterable[list[Op]]:
    yield ops
    places = [index for index, op in enumerate(ops) if is_winograd(op)]
    for tiles in _TILES if places else ():
        yield apply(ops, {index: tiles or tile_count(ops[index].fields) for index in places})
