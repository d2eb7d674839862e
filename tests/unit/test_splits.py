"""The best threshold of a number: found, and its p value never too small."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from insights_engine import independence
from insights_engine.splits import (
    Histogram,
    Search,
    best_split,
    normal_quantile,
)
from scipy import special, stats

CELLS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=12)


def histogram(cells: list[tuple[int, int]], missing: tuple[int, int] = (0, 0)) -> Histogram:
    """Of cells in ascending order: units inside and outside of the target."""
    below = np.cumsum([inside + outside for inside, outside in cells]).tolist()
    target_below = np.cumsum([inside for inside, _ in cells]).tolist()
    return Histogram(
        below[:-1],
        target_below[:-1],
        below[-1],
        target_below[-1],
        target_below[-1] + missing[0],
        below[-1] + sum(missing),
    )


def plain_facts(h: Histogram) -> list[tuple[int, bool, tuple[int, int, int, int]]]:
    """All thresholds with their tables, spelled out."""
    facts = []
    for cut, (below, joint) in enumerate(zip(h.below, h.target_below, strict=True)):
        for at_least in (True, False):
            fact = h.present - below if at_least else below
            both = h.target_present - joint if at_least else joint
            if 0 < fact < h.total:
                table = (both, h.target - both, fact - both, h.total - h.target - fact + both)
                facts.append((cut, at_least, table))
    return facts


@given(CELLS, st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_it_is_the_smallest_p_value_in_the_direction(
    cells: list[tuple[int, int]], missing: tuple[int, int]
) -> None:
    h = histogram(cells, missing)
    if not 0 < h.target < h.total:
        assert best_split(h) is None
        return
    signs = {"positive": 1, "negative": -1}
    for direction in ("positive", "negative", "both"):
        sign = signs.get(direction)
        wanted = [
            (independence.p_value(*t), cut, at_least, t)
            for cut, at_least, t in plain_facts(h)
            if sign is None or (t[0] * t[3] - t[1] * t[2]) * sign > 0
        ]
        found = best_split(h, direction)
        if not wanted:
            assert found is None
            continue
        assert found is not None
        assert independence.p_value(*found.table) == pytest.approx(min(wanted)[0], rel=1e-12)
        assert (found.cut, found.at_least, found.table) in [w[1:] for w in wanted]
        assert found.single_p_value == independence.fisher_exact(*found.table)
        assert (
            found.single_p_value <= found.p_value <= found.searched * found.single_p_value + 1e-12
        )
        assert found.test == f"best of {found.searched} splits, Fisher"


def test_a_timeout_is_found_where_it_sets_in() -> None:
    cells = [(10, 990)] * 8 + [(400, 600), (10, 990)]
    found = best_split(histogram(cells), "positive")
    assert found is not None
    assert (found.cut, found.at_least) == (7, True)
    assert found.table == (410, 80, 1590, 7920)
    assert found.searched == 9
    assert found.p_value < 1e-200
    negative = best_split(histogram(cells), "negative")
    assert negative is not None
    assert (negative.cut, negative.at_least) == (7, False)
    assert negative.p_value == found.p_value


def test_of_underflowing_p_values_the_strongest_wins() -> None:
    found = best_split(histogram([(0, 10**6), (100, 10**6), (10**6, 100), (10**6, 0)]))
    assert found is not None
    assert (found.cut, found.p_value, found.test) == (1, 0.0, "best of 3 splits, G2")


def test_support_is_asked_of_the_fact() -> None:
    cells = [(5, 0), (5, 40), (5, 45)]
    found = best_split(histogram(cells))
    assert found is not None
    assert (found.cut, found.at_least, found.searched) == (0, False, 2)
    found = best_split(histogram(cells), min_support=6)
    assert found is not None
    assert (found.cut, found.at_least, found.table) == (1, False, (10, 5, 40, 45))
    assert best_split(histogram(cells), min_support=96) is None


def test_units_without_a_value_match_no_threshold() -> None:
    found = best_split(histogram([(10, 10), (40, 10)], missing=(30, 900)))
    assert found is not None
    assert found.table == (40, 40, 10, 910)
    assert found.searched == 2
    # Both thresholds go with the target, since having a value does.
    negative = best_split(histogram([(10, 10), (40, 10)], missing=(30, 900)), "negative")
    assert negative is None


def test_contradicting_counts_and_unknown_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="contradict"):
        best_split(Histogram([3], [4], 10, 5, 5, 10))
    with pytest.raises(ValueError, match="no direction: up"):
        best_split(histogram([(1, 2), (2, 1)]), "up")


# ------------------------------------------------------------------ the price


@pytest.mark.parametrize("p", [1 - 1e-9, 0.9, 0.5, 0.05, 1e-5, 1e-50, 1e-289])
def test_the_normal_quantile_equals_scipy(p: float) -> None:
    assert normal_quantile(p) == pytest.approx(stats.norm.isf(p / 2), rel=1e-9, abs=1e-15)


def test_beyond_the_reach_of_erfc_the_quantile_is_too_large_and_little_so() -> None:
    exact = float(special.ndtri_exp(math.log(1e-300) - math.log(2)))
    assert -exact < normal_quantile(1e-300) < -exact * 1.01
    assert math.isfinite(normal_quantile(5e-324))


def test_the_price_lies_between_one_and_bonferronis() -> None:
    cuts = list(range(1000, 32_001, 1000))
    search = Search(cuts, cuts, 0, 3000, 33_000)
    previous = 0.0
    for exponent in range(-300, 1):
        p = 10.0**exponent
        price = search.price(p)
        assert p <= price <= min(1.0, 32 * p)
        assert price >= previous
        previous = price
    # Much less than 32, and little more than without the missing value.
    assert search.price(0.001) < 0.02
    missing = Search(cuts, cuts, 1, 3000, 33_001)
    assert search.price(0.001) < missing.price(0.001) < 1.3 * search.price(0.001)
    assert (search.size, missing.size) == (32, 64)
    assert (search.price(0.0), search.price(1.0)) == (0.0, 1.0)


def test_where_counts_are_small_the_price_is_bonferronis() -> None:
    cuts = list(range(10, 321, 10))
    assert Search(cuts, cuts, 0, 9, 330).price(1e-4) == pytest.approx(32e-4)


def test_cuts_without_units_between_them_cost_nothing() -> None:
    assert Search([5, 5, 5], [5, 5], 0, 9, 330).price(0.01) == 0.01


def exact_error(
    cuts: list[int], missing: int, target: int, total: int, levels: list[float]
) -> list[float]:
    """The probability that the p value of a best split is at most each level.

    Exact, given that the target is a random set of this size: by the number of
    its units without a value and then, cut by cut, below it.
    """
    log_factorial = special.gammaln(np.arange(total + 1) + 1.0)

    def hypergeometric(good: int, all_of_them: int, drawn: int) -> np.ndarray:
        """Probabilities of 0, 1, ... good ones among the drawn."""
        found = np.arange(max(0, drawn - all_of_them + good), min(good, drawn) + 1)

        def choose(n: int, k: np.ndarray) -> np.ndarray:
            return log_factorial[n] - log_factorial[k] - log_factorial[n - k]

        logs = choose(good, found) + choose(all_of_them - good, drawn - found)
        result = np.zeros(good + 1)
        result[found] = np.exp(logs - choose(all_of_them, np.array(drawn)))
        return result

    def single(fact: int) -> np.ndarray:
        """Fisher's p value of each joint count; 1 for what is impossible."""
        result = np.ones(target + 1)
        for joint in range(max(0, fact + target - total), min(fact, target) + 1):
            result[joint] = independence.fisher_exact(
                joint, target - joint, fact - joint, total - target - fact + joint
            )
        return result

    present = total - missing
    search = Search(cuts, cuts, missing, target, total)
    below_p = [single(cut) for cut in cuts]
    above_p = [single(present - cut) for cut in cuts]
    errors = []
    for level in levels:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if search.price(middle) <= level else (low, middle)
        error = 0.0
        for absent, weight in enumerate(hypergeometric(target, total, missing)):
            if weight == 0:
                continue
            inside = target - absent
            state = np.zeros(inside + 1)
            state[0] = weight
            previous = 0
            for index, cut in enumerate(cuts):
                following = np.zeros(inside + 1)
                for k in np.nonzero(state)[0]:
                    step = hypergeometric(inside - int(k), present - previous, cut - previous)
                    following[k:] += state[k] * step
                k = np.arange(inside + 1)
                hit = (below_p[index][k] <= low) | (above_p[index][inside - k] <= low)
                # What reaches the level here for the first time.
                error += following[hit].sum()
                following[hit] = 0
                state, previous = following, cut
        errors.append(error)
    return errors


@pytest.mark.parametrize(
    ("total", "target", "missing"),
    [
        (60, 8, 0),
        (60, 30, 0),
        (200, 20, 0),
        (500, 100, 0),
        (1000, 300, 0),
        (2000, 30, 0),
        (20_000, 100, 0),
        (300, 30, 3),
        (300, 40, 100),
        (1000, 25, 500),
    ],
)
def test_the_search_is_paid_for(total: int, target: int, missing: int) -> None:
    present = total - missing
    cuts = sorted({max(1, round(present * k / 33)) for k in range(1, 33)})
    levels = [0.1, 0.05, 0.01, 1e-3, 1e-5]
    errors = exact_error(cuts, missing, target, total, levels)
    for level, error in zip(levels, errors, strict=True):
        assert error <= level
    # And not by never finding anything, once there is enough to find.
    if target >= 100:
        assert errors[1] > 0.5 * 0.05
