# SPDX-License-Identifier: BSD-2-Clause
"""Progressive pruning: a smaller network of the same use, channel by channel, within an accuracy budget.

After Hu et al., "Secure and Efficient Mobile DNN Using Trusted Execution Environments" (ASIA CCS 2023), whose internals
are not public in full; docs/pruning.md says which parts are the paper's and which are this project's.
"""

from cloister.protect.prune.exposed import PrunedInClear
from cloister.protect.prune.prune import Pruned, Step, prune_model
from cloister.protect.prune.settings import CRITERIA, PruneSettings, settings_with

__all__ = ["CRITERIA", "PruneSettings", "Pruned", "PrunedInClear", "Step", "prune_model", "settings_with"]
