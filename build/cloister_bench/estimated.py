# SPDX-License-Identifier: BSD-2-Clause
"""What the estimate says of the models that the benchmark measures, to be held against what it measured."""

from __future__ import annotations

from cloister.compile.arrange import arrange
from cloister.compile.memory import TA_OWN
from cloister.estimate.instructions import Instructions
from cloister.estimate.plan import plan_arrangement
from cloister.ir.check import check_graph
from cloister.ir.importer import import_onnx, raise_problems
from cloister.ir.passes.pipeline import clean, optimise
from cloister_bench.prepare import Workload

#: More than any model needs.
_ALL = 1 << 32


def estimated(work: Workload, memory: int = 0, *, crypto: bool = True) -> Instructions | None:
    """The estimate for one inference in the TA.

    Args:
        memory: the limit of LOAD, which does not count the TA itself; 0: none.
        crypto: the device has the fastest cipher.

    Returns:
        None where the model does not fit.
    """
    imported = import_onnx(work.model, None)
    graph = imported.graph
    clean(graph)
    raise_problems([*imported.problems, *check_graph(graph)])
    optimise(graph)
    made = arrange(graph, **work.choices)
    found = plan_arrangement(graph, made, memory + TA_OWN if memory else _ALL)
    return found.instructions if crypto else found.instructions_without_crypto
