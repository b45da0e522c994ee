# SPDX-License-Identifier: BSD-2-Clause
"""Budgets as users write them, and what keeps them."""

from __future__ import annotations

import pytest

from cloister.search import Budget, BudgetError, Figures


def test_words() -> None:
    assert Budget.parse("2MiB", "1%", "1") == Budget(2 << 20, 0.01, 1.0)
    assert Budget.parse("64 kib", "0.5 %", "0.5 points") == Budget(65536, 0.005, 0.5)
    assert Budget.parse("4096", "0.01", "0") == Budget(4096, 0.01, 0.0)
    assert Budget.parse() == Budget()
    assert str(Budget.parse("2MiB", "1%", "1")) == "2 MiB of secure memory, 1 % overhead, 1 point lost"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("2 miles", None, None), "'2 miles'"),
        (("0", None, None), "none at all"),
        (("-1MiB", None, None), "'-1MiB'"),
        ((None, "1", None), "write 1%"),
        ((None, "much", None), "'much'"),
        ((None, "-1%", None), "'-1%'"),
        ((None, None, "1%"), "without a percent sign"),
        ((None, None, "nan"), "'nan'"),
        ((None, None, "-3"), "'-3' is less than nothing"),
    ],
)
def test_refused(given: tuple[str | None, str | None, str | None], named: str) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget.parse(*given)
    assert named in str(caught.value)
    assert caught.value.remedy


def test_numbers_are_checked() -> None:
    with pytest.raises(BudgetError, match="overhead"):
        Budget(overhead=float("nan"))
    with pytest.raises(BudgetError, match="memory"):
        Budget(memory=0)


def test_fits() -> None:
    budget = Budget.parse("1MiB", "1%", "1")
    assert budget.fits(Figures(0.01, 1 << 20, 0, lost=1.0))
    assert not budget.fits(Figures(0.0101, 1 << 20, 0, lost=1.0))
    assert not budget.fits(Figures(0.01, (1 << 20) + 1, 0, lost=1.0))
    assert not budget.fits(Figures(0.01, 1 << 20, 0, lost=1.1))
    assert Budget().fits(Figures(9.0, 1 << 40, 0, lost=90.0))
    assert budget.violation(Figures(0.02, 2 << 20, 0, lost=3.0)) == pytest.approx(1 + 1 + 2)


def test_estimates_have_the_benefit_of_the_doubt() -> None:
    budget = Budget.parse("1MiB", "1%")
    near = Figures(0.0103, 1000, 0, error=0.0005)
    assert not budget.fits(near)
    assert budget.fits(near, doubt=True)
    assert not budget.fits(Figures(0.0106, 1000, 0, error=0.0005), doubt=True)
    assert not budget.fits(Figures(0.001, (1 << 20) + 1, 0, error=0.0005), doubt=True)
