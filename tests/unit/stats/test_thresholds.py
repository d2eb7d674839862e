"""Where numbers are cut, and the readable numbers that cut there."""

from __future__ import annotations

import itertools
import random
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from insights_engine.stats.thresholds import MOST_CUTS, decimal_text, quantile_cuts, roundest

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def digits(number: Decimal) -> int:
    """Significant digits."""
    return len("".join(map(str, number.as_tuple().digits)).strip("0")) or 1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (9871, 10412, "10000"),
        (3, 8, "5"),
        (5, 8, "7"),
        (3, 5000, "5000"),
        (0, 1, "1"),
        (99, 100, "100"),
        (-5, 3, "0"),
        (-1, 0, "0"),
        (-10412, -9871, "-10000"),
        (-8, -5, "-5"),
        (0.1, 0.2, "0.2"),
        (0.25, 0.75, "0.5"),
        (0.1, 0.10000000000000002, "0.10000000000000002"),
        (1234, 1234.5, "1234.5"),
        (Decimal("0.001"), Decimal("0.0014"), "0.0012"),
        (1e22, 3e22, "20000000000000000000000"),
        (2**63, 2**63 + 1, str(2**63 + 1)),
        (1e-7, 2e-7, "0.0000002"),
    ],
)
def test_roundest_by_hand(low: float, high: float, expected: str) -> None:
    assert decimal_text(roundest(low, high)) == expected


@given(FLOATS, FLOATS)
@example(0.0, 5e-324)
@example(-1.7976931348623157e308, 1.7976931348623157e308)
@example(0.1 + 0.2, 0.30000000000000010)
def test_the_roundest_float_lies_in_the_gap_as_decimal_and_as_float(a: float, b: float) -> None:
    assume(a != b)
    low, high = min(a, b), max(a, b)
    found = roundest(low, high)
    assert Decimal(repr(low)) < found <= Decimal(repr(high))
    assert low < float(decimal_text(found)) <= high
    assert digits(found) <= 17


@given(st.integers(-(10**18), 10**18), st.integers(1, 10**6))
def test_the_roundest_integer_lies_in_the_gap(low: int, width: int) -> None:
    found = roundest(low, low + width)
    assert found == int(found)
    assert low < found <= low + width


@given(st.integers(-3000, 3000), st.integers(1, 3000))
def test_no_number_of_the_gap_has_fewer_digits(low: int, width: int) -> None:
    high = low + width
    least = min(len(str(abs(x)).strip("0")) or 1 for x in range(low + 1, high + 1))
    assert digits(roundest(low, high)) == least
    # The same gap in thousandths.
    small = roundest(Decimal(low).scaleb(-3), Decimal(high).scaleb(-3))
    assert digits(small) == least
    assert decimal_text(small) == decimal_text(small).rstrip("0") or small == int(small)


@pytest.mark.parametrize(
    ("low", "high"), [(1, 1), (2, 1), (float("nan"), 1.0), (0, float("inf")), (float("-inf"), 0)]
)
def test_an_empty_or_endless_gap_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no number"):
        roundest(low, high)


def test_few_values_are_cut_everywhere() -> None:
    assert quantile_cuts([]) == []
    assert quantile_cuts([10]) == []
    assert quantile_cuts([10, 12, 40]) == [1, 2]
    assert quantile_cuts(range(1, MOST_CUTS + 2)) == list(range(1, MOST_CUTS + 1))


def test_many_values_are_cut_at_quantiles_and_in_the_tails() -> None:
    cuts = quantile_cuts(range(1, 134_401))
    assert len(cuts) == MOST_CUTS == 32
    shares = [Fraction(cut, 134_400) for cut in cuts]
    expected = sorted(
        [Fraction(k, 21) for k in range(1, 21)]
        + [Fraction(1, 21 * 2**k) for k in range(1, 7)]
        + [1 - Fraction(1, 21 * 2**k) for k in range(1, 7)]
    )
    for share, quantile in zip(shares, expected, strict=True):
        assert abs(share - quantile) < Fraction(1, 134_400)


def test_cuts_avoid_ties_and_leave_units_on_both_sides() -> None:
    rng = random.Random(1)
    for _ in range(200):
        counts = [int(10 ** rng.uniform(0, 4)) for _ in range(rng.randint(1, 400))]
        cumulative = list(itertools.accumulate(counts))
        cuts = quantile_cuts(cumulative)
        assert cuts == sorted(set(cuts))
        assert len(cuts) <= MOST_CUTS
        assert all(1 <= cut < len(counts) for cut in cuts)
        assert cuts or len(counts) == 1
