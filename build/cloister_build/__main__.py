# SPDX-License-Identifier: BSD-2-Clause
"""``python -m cloister_build``."""

import sys

from cloister_build.cli import main

sys.exit(main())
