# SPDX-License-Identifier: BSD-2-Clause
"""What several files of tests look at, made once."""

from __future__ import annotations

import pytest
from protected_digits import protect

from cloister.protect.automatic import Protected


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Protected:
    """The digits' network, protected; tests that change the folder copy it."""
    return protect(tmp_path_factory.mktemp("protect") / "digits")
