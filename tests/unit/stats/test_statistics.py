"""The statistics of a pair of filters, against scipy and exact arithmetic."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from insights_engine.stats import independence, statistics
from insights_engine.stats.multiple import TargetTests
from insights_engine.stats.statistics import Counts
from scipy import stats

from tests.unit.contingency import SMALL_TABLES, Table, random_tables


def defined(table: Table) -> bool:
    a, b, c, d = table
    return 0 not in (a + b, c + d, a + c, b + d)


def exact_fisher(table: Table) -> Fraction:
    a, b, c, d = table
    row, column, total = a + b, a + c, a + b + c + d
    low, high = max(0, row + column - total), min(row, column)
    weights = {
        k: math.comb(row, k) * math.comb(total - row, column - k) for k in range(low, high + 1)
    }
    limit = weights[a] * (1 + Fraction(1, 10**14))
    return Fraction(
        sum(weight for weight in weights.values() if weight <= limit), sum(weights.values())
    )


def test_fisher_equals_exact_arithmetic_on_small_tables() -> None:
    for table in filter(defined, SMALL_TABLES):
        assert independence.fisher_exact(*table) == pytest.approx(
            float(exact_fisher(table)), rel=1e-13
        ), table


def test_fisher_equals_exact_arithmetic_on_middling_tables() -> None:
    for table in filter(defined, random_tables(400, 300, seed=2)):
        assert independence.fisher_exact(*table) == pytest.approx(
            float(exact_fisher(table)), rel=1e-12, abs=5e-324
        ), table


def test_fisher_equals_scipy() -> None:
    for table in filter(defined, random_tables(400, 5000, seed=3)):
        a, b, c, d = table
        expected = stats.fisher_exact([[a, b], [c, d]]).pvalue
        assert independence.fisher_exact(*table) == pytest.approx(expected, rel=1e-8, abs=1e-300), (
            table
        )


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # Tea tasting (Fisher 1935), and the job satisfaction example of SciPy.
        ((3, 1, 1, 3), 0.4857142857142857),
        ((8, 2, 1, 5), 0.034965034965034965),
    ],
)
def test_fisher_of_the_textbooks(table: Table, expected: float) -> None:
    assert independence.fisher_exact(*table) == pytest.approx(expected, rel=1e-14)


def test_fisher_with_huge_margins() -> None:
    for table in ((3, 20_000, 20_000, 10**8), (40, 20_000, 20_000, 10**8), (0, 9, 10**8, 10**8)):
        a, b, c, d = table
        reference = stats.hypergeom(a + b + c + d, a + b, a + c)
        pmf = reference.pmf(range(200))
        expected = pmf[pmf <= pmf[a] * (1 + 1e-9)].sum()
        assert independence.fisher_exact(*table) == pytest.approx(expected, rel=1e-5), table


@given(st.integers(150, 700), st.integers(0, 400), st.integers(1, 60), st.data())
def test_fisher_far_from_the_mode_equals_exact_arithmetic(
    row: int, more: int, distance: int, data: st.DataObject
) -> None:
    column = data.draw(st.integers(row - 20, row))
    total = 2 * row + more
    mode = (row + 1) * (column + 1) // (total + 2)
    cell = mode + (64 + distance) * data.draw(st.sampled_from([-1, 1]))
    table = (cell, row - cell, column - cell, total - row - column + cell)
    assume(min(table) >= 0)
    assert independence.fisher_exact(*table) == pytest.approx(float(exact_fisher(table)), rel=1e-11)


def test_fisher_close_to_underflow() -> None:
    # In (row, column, total): all of the row in the column, exactly once possible.
    for size in (44, 46, 48):
        exact = Fraction(1, math.comb(10**8, size))
        ours = independence.fisher_exact(size, 0, 0, 10**8 - size)
        assert ours == pytest.approx(float(exact), rel=1e-11, abs=1e-320), size


def test_fisher_far_out_underflows_to_zero_instead_of_failing() -> None:
    assert independence.fisher_exact(20_000, 0, 0, 10**8) == 0.0


def test_fisher_is_the_same_for_every_mirrored_table() -> None:
    for a, b, c, d in filter(defined, random_tables(200, 2000, seed=4)):
        values = {
            float(f"{independence.fisher_exact(*table):.10e}")
            for table in ((a, b, c, d), (b, a, d, c), (c, d, a, b), (d, c, b, a), (a, c, b, d))
        }
        assert len(values) == 1, (a, b, c, d)


def test_g_squared_and_its_p_value_equal_scipy() -> None:
    tables = [t for t in SMALL_TABLES[::3] if 0 not in t] + random_tables(800, 10**8, seed=5)
    for a, b, c, d in filter(defined, tables):
        theirs = stats.chi2_contingency(
            [[a, b], [c, d]], correction=False, lambda_="log-likelihood"
        )
        ours = independence.g_squared(a, b, c, d)
        # scipy sums terms that cancel; its error is absolute, ours relative.
        slack = (a + b + c + d) * 1e-14
        assert ours == pytest.approx(theirs.statistic, rel=1e-10, abs=slack)
        assert independence.chi_square_sf(theirs.statistic) == pytest.approx(
            theirs.pvalue, rel=1e-10, abs=1e-310
        )


def test_g_squared_of_a_huge_table_close_to_independence_loses_nothing() -> None:
    n, shift = 10**8, 7
    table = (n + shift, n - shift, n - shift, n + shift)
    u = Fraction(shift, n)
    # 2 E (phi(u) + phi(-u)) twice over, from the series in exact arithmetic.
    phi = sum(2 * u**k / (k * (k - 1)) for k in range(2, 12, 2))
    assert independence.g_squared(*table) == pytest.approx(float(4 * n * phi), rel=1e-14)


@pytest.mark.parametrize("x", [0.0, 1e-12, 0.5, 3.841458820694124, 100.0, 700.0, 1300.0])
def test_chi_square_tail_keeps_its_relative_precision(x: float) -> None:
    assert independence.chi_square_sf(x) == pytest.approx(stats.chi2.sf(x, 1), rel=1e-12)


def test_p_value_chooses_the_test_by_the_smallest_expected_count() -> None:
    # 200 * 200 / 400 = 100: just enough for G²; 199 * 200 / 400 is not.
    assert independence.p_value(120, 80, 80, 120) == independence.chi_square_sf(
        independence.g_squared(120, 80, 80, 120)
    )
    assert independence.p_value(119, 80, 81, 120) == independence.fisher_exact(119, 80, 81, 120)
    names = [independence.name_of_test(first, 200, 400) for first in (200, 199, 201)]
    assert names == ["G2", "Fisher", "Fisher"]
    results = [
        statistics.associate(Counts(first, 200, joint, 400))
        for first, joint in ((200, 120), (199, 119))
    ]
    assert [result.test for result in results] == ["G2", "Fisher"]
    assert [result.p_value for result in results] == [
        independence.p_value(120, 80, 80, 120),
        independence.p_value(119, 80, 81, 120),
    ]


def test_a_correlation_far_out_has_the_exact_p_value() -> None:
    """G², which Cochran's rule would choose at these expected counts, is ten times too small."""
    table = (16, 984, 0, 1000)
    found = statistics.associate(Counts(1000, 16, 16, 2000))
    exact = stats.fisher_exact([table[:2], table[2:]]).pvalue
    assert found.p_value == pytest.approx(exact, rel=1e-9)
    assert found.test == "Fisher"
    assert independence.p_value(*table, independence.SMALL_EXPECTED_COUNT) < exact / 10


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 3000), st.data())
def test_correlations_and_discoveries_agree(
    first: int, second: int, more: int, data: st.DataObject
) -> None:
    total = max(first, second) + 1 + more
    joint = data.draw(st.integers(max(0, first + second - total), min(first, second)))
    found = statistics.associate(Counts(first, second, joint, total))
    tests = TargetTests(first, total)
    assert (found.p_value, found.test) == (tests.p_value(second, joint), tests.test(second))


# Of statsmodels 0.15: Table2x2(table + 0.5, shift_zeros=False), its oddsratio and
# oddsratio_confint(0.05).
STATSMODELS_ODDS_RATIOS: dict[Table, tuple[float, float, float]] = {
    (0, 5, 7, 20): (0.24848484848484848, 0.012205916961485545, 5.058589217128616),
    (1, 5, 7, 20): (0.7454545454545455, 0.10192833527648121, 5.451893998185065),
    (3, 1, 1, 3): (5.444444444444445, 0.364069110341885, 81.41853968551796),
    (10, 40, 10, 40): (1.0, 0.3829311567940629, 2.611435455845635),
    (38, 64, 16, 82): (2.9844961240310077, 1.5389120121517894, 5.787996353281798),
    (120, 72, 0, 1008): (3352.3931034482757, 206.37032792187142, 54458.117274990575),
    (5, 0, 0, 7): (165.0, 2.8137651705339213, 9675.647522083016),
    (10_000, 90_000, 20_000, 99_880_000): (
        554.8996807661572,
        541.2651779479146,
        568.8776375413063,
    ),
    (99_999_999, 1, 1, 10**8): (4444444444444444.5, 462311391045695.6, 4.272680016616889e16),
}


@pytest.mark.parametrize("table", STATSMODELS_ODDS_RATIOS)
def test_odds_ratio_and_interval_equal_statsmodels(table: Table) -> None:
    a, b, c, d = table
    found = statistics.associate(Counts(a + b, a + c, a, a + b + c + d))
    assert (found.odds_ratio, found.odds_ratio_low, found.odds_ratio_high) == pytest.approx(
        STATSMODELS_ODDS_RATIOS[table], rel=1e-13
    )


CELL = st.one_of(st.integers(0, 12), st.integers(0, 10**8))


@given(CELL, CELL, CELL, CELL)
def test_odds_ratio_is_that_of_the_corrected_table(a: int, b: int, c: int, d: int) -> None:
    ours = statistics.odds_ratio(a, b, c, d)
    corrected = [cell + 0.5 for cell in (a, b, c, d)]
    logs = [math.log(cell) for cell in corrected]
    value = logs[0] - logs[1] - logs[2] + logs[3]
    margin = stats.norm.ppf(0.975) * math.sqrt(sum(1 / cell for cell in corrected))
    expected = (math.exp(value), math.exp(value - margin), math.exp(value + margin))
    assert (ours.value, ours.low, ours.high) == pytest.approx(expected, rel=1e-12)


@given(CELL, CELL, CELL, CELL)
def test_negating_a_filter_inverts_the_odds_ratio(a: int, b: int, c: int, d: int) -> None:
    ours, inverted = statistics.odds_ratio(a, b, c, d), statistics.odds_ratio(b, a, d, c)
    assert (inverted.value, inverted.low, inverted.high) == pytest.approx(
        (1 / ours.value, 1 / ours.high, 1 / ours.low), rel=1e-12
    )


@pytest.mark.parametrize(
    ("inside", "outside"), [(20, 20), (30, 300), (100, 1000), (300, 300), (20, 2000)]
)
def test_the_interval_covers_the_true_odds_ratio(inside: int, outside: int) -> None:
    """The exact coverage, by summing the probabilities of all tables.

    Gart's interval covers 95 % on average and at least 94 % where each expected
    count is at least 1.5.
    """
    coverages = []
    for share, ratio in itertools.product((0.03, 0.1, 0.2, 0.5), (0.2, 0.5, 1, 2, 5, 20)):
        odds = ratio * share / (1 - share)
        share_inside = odds / (1 + odds)
        expected = (inside * min(share_inside, 1 - share_inside), outside * share)
        if min(expected) < 1.5:
            continue
        within = stats.binom(inside, share_inside).pmf(range(inside + 1))
        without = stats.binom(outside, share).pmf(range(outside + 1))
        covered = 0.0
        for a, c in itertools.product(
            (a for a in range(inside + 1) if within[a] > 1e-6),
            (c for c in range(outside + 1) if without[c] > 1e-6),
        ):
            interval = statistics.odds_ratio(a, inside - a, c, outside - c)
            if interval.low <= ratio <= interval.high:
                covered += within[a] * without[c]
        assert covered > 0.94, (share, ratio)
        coverages.append(covered)
    assert len(coverages) >= 10
    assert 0.95 < sum(coverages) / len(coverages) < 0.975


def test_phi_is_the_signed_root_of_scipys_chi_square_per_trace() -> None:
    for a, b, c, d in filter(defined, SMALL_TABLES[::5] + random_tables(300, 10**8, seed=7)):
        ours = statistics.phi(a, b, c, d)
        chi2 = stats.chi2_contingency([[a, b], [c, d]], correction=False).statistic
        assert ours is not None
        assert abs(ours) == pytest.approx(math.sqrt(chi2 / (a + b + c + d)), rel=1e-9, abs=1e-12)
        assert (ours > 0) == (a * d > b * c)


def test_lift() -> None:
    assert statistics.lift(10, 10, 5, 75) == pytest.approx(10 * 100 / (20 * 15))
    assert statistics.lift(0, 3, 4, 5) == 0.0
    assert statistics.lift(0, 0, 4, 5) is None


@pytest.mark.parametrize(
    "counts",
    [Counts(0, 0, 0, 0), Counts(0, 5, 0, 10), Counts(5, 0, 0, 10), Counts(0, 0, 0, 10)],
)
def test_a_filter_that_matches_nothing_leaves_all_undefined(counts: Counts) -> None:
    result = statistics.associate(counts)
    assert math.isnan(result.npmi)
    assert math.isnan(result.npmi_smoothed)
    assert (
        result.lift,
        result.phi,
        result.odds_ratio,
        result.odds_ratio_low,
        result.odds_ratio_high,
        result.p_value,
        result.test,
    ) == (None,) * 7


@pytest.mark.parametrize("counts", [Counts(10, 4, 4, 10), Counts(4, 10, 4, 10), Counts(9, 9, 9, 9)])
def test_a_filter_that_matches_everything_has_lift_one_and_no_test(counts: Counts) -> None:
    result = statistics.associate(counts)
    assert result.lift == 1.0
    assert (result.phi, result.odds_ratio, result.p_value, result.test) == (None,) * 4


def test_contradicting_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="contradict"):
        statistics.associate(Counts(filter1=5, filter2=5, joint=6, total=10))
