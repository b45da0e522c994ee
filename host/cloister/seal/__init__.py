# SPDX-License-Identifier: BSD-2-Clause
"""Keys, sealed partitions, bundles and licences. This room knows bytes, not graphs."""

from cloister.seal.bundle import Bundle, seal_bundle
from cloister.seal.keys import VendorKey
from cloister.seal.licence import Licence, issue_licence

__all__ = ["Bundle", "Licence", "VendorKey", "issue_licence", "seal_bundle"]
