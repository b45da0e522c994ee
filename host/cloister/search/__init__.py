# SPDX-License-Identifier: BSD-2-Clause
"""The strategy generator: searches for the strategy from which an attacker gains least within a budget.

Needs the extra ``search`` (Optuna, SQLAlchemy), but not torch: whatever trains is an evaluator's, in
:mod:`cloister.protect`.
"""

from cloister.search.errors import need_optuna

need_optuna()

from cloister.search.budget import Budget  # noqa: E402 - behind the check that names the remedy
from cloister.search.choose import Choice, choose, front_of  # noqa: E402
from cloister.search.errors import BudgetError, SearchError  # noqa: E402
from cloister.search.figures import OBJECTIVES, Evaluator, Figures, Stage  # noqa: E402
from cloister.search.generate import Effort, Found, found_in, search  # noqa: E402
from cloister.search.space import Space  # noqa: E402

__all__ = [
    "OBJECTIVES", "Budget", "BudgetError", "Choice", "Effort", "Evaluator", "Figures", "Found", "SearchError", "Space",
    "Stage", "choose", "found_in", "front_of", "search",
]  # fmt: skip
