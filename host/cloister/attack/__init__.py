# SPDX-License-Identifier: BSD-2-Clause
"""The attacks that every protection is measured by. Needs the extra ``train`` (torch).

The package is also the function ``cloister.attack(...)``: :func:`cloister.protect.api.attack`.
"""

from cloister.attack.attacks import ATTACKS
from cloister.attack.bench import Report, bench
from cloister.attack.effort import Effort
from cloister.attack.errors import AttackError
from cloister.attack.exposed import BlackBox, Exposed, LeakedFile, SeenRun, WhiteBox
from cloister.callable_package import make_callable

__all__ = [
    "ATTACKS",
    "AttackError",
    "BlackBox",
    "Effort",
    "Exposed",
    "LeakedFile",
    "Report",
    "SeenRun",
    "WhiteBox",
    "bench",
]

make_callable(__name__)
