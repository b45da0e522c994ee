# SPDX-License-Identifier: BSD-2-Clause
"""``python -m cloister_bench``."""

import sys

from cloister_bench.cli import main

sys.exit(main())
