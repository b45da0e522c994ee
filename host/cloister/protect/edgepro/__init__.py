# SPDX-License-Identifier: BSD-2-Clause
"""EdgePro: a model that answers only with a password.

After Chen et al., "EdgePro: Edge Deep Learning Model Protection via Neuron Authorization", with the changes that
docs/edgepro.md explains.
"""

from cloister.protect.edgepro.lock import Locked, lock_model
from cloister.protect.edgepro.locks import LayerLock, authorised, fold_in, fold_out, from_password, to_password
from cloister.protect.edgepro.settings import LockSettings

__all__ = [
    "LayerLock",
    "LockSettings",
    "Locked",
    "authorised",
    "fold_in",
    "fold_out",
    "from_password",
    "lock_model",
    "to_password",
]
