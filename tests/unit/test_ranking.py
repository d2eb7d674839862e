"""The order of facts, and which of them count as the same."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from insights_engine import statistics
from insights_engine.ranking import (
    NEAR_IDENTICAL_PHI,
    LogOddsRatio,
    least_joint_of_near_identical,
    log_odds_ratio,
    near_identical,
)
from scipy import stats

CELL = st.one_of(st.integers(0, 12), st.integers(0, 10**8))


@given(CELL, CELL, CELL, CELL)
def test_log_odds_ratio_is_that_of_the_corrected_table(a: int, b: int, c: int, d: int) -> None:
    ours = log_odds_ratio(a, b, c, d)
    corrected = [cell + 0.5 for cell in (a, b, c, d)]
    logs = [math.log(cell) for cell in corrected]
    value = logs[0] - logs[1] - logs[2] + logs[3]
    margin = stats.norm.ppf(0.975) * math.sqrt(sum(1 / cell for cell in corrected))
    assert ours.value == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert ours.low == pytest.approx(value - margin, rel=1e-12, abs=1e-12)
    assert ours.high == pytest.approx(value + margin, rel=1e-12, abs=1e-12)
    assert ours.odds_ratio == pytest.approx(
        (math.exp(ours.value), math.exp(ours.low), math.exp(ours.high))
    )


@given(CELL, CELL, CELL, CELL)
def test_negating_the_fact_mirrors_the_interval(a: int, b: int, c: int, d: int) -> None:
    ours, mirrored = log_odds_ratio(a, b, c, d), log_odds_ratio(b, a, d, c)
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx(
        (-ours.value, -ours.high, -ours.low), abs=1e-12
    )


def test_with_a_zero_cell_it_is_the_odds_ratio_of_a_correlation() -> None:
    assert log_odds_ratio(0, 5, 7, 20).odds_ratio == pytest.approx(
        statistics.odds_ratio(0, 5, 7, 20), rel=1e-14
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
            interval = log_odds_ratio(a, inside - a, c, outside - c)
            if interval.low <= math.log(ratio) <= interval.high:
                covered += within[a] * without[c]
        assert covered > 0.94, (share, ratio)
        coverages.append(covered)
    assert len(coverages) >= 10
    assert 0.95 < sum(coverages) / len(coverages) < 0.975


def test_flukes_do_not_lead() -> None:
    # 1 of 1 in a target of 1 %, against 300 of 3,000.
    fluke = log_odds_ratio(1, 999, 0, 99_000)
    steady = log_odds_ratio(300, 700, 2_700, 96_300)
    assert fluke.value > steady.value
    assert steady.strength("positive") > fluke.strength("positive") > 0


def test_strength_is_the_bound_nearer_to_zero() -> None:
    positive, negative = LogOddsRatio(2.0, 1.5, 2.5), LogOddsRatio(-3.0, -4.0, -2.0)
    unsure, less_sure = LogOddsRatio(0.1, -0.2, 0.4), LogOddsRatio(0.1, -1.8, 2.0)
    facts = [unsure, positive, less_sure, negative]
    order = {
        direction: sorted(facts, key=lambda fact: -fact.strength(direction))
        for direction in ("positive", "negative", "both")
    }
    assert order["positive"] == [positive, unsure, less_sure, negative]
    assert order["negative"] == [negative, unsure, less_sure, positive]
    assert order["both"] == [negative, positive, unsure, less_sure]
    assert negative.strength("both") == 2.0
    assert unsure.strength("both") == -0.2
    with pytest.raises(ValueError, match="no direction: up"):
        positive.strength("up")


def test_near_identical_facts_by_hand() -> None:
    assert near_identical(1000, 1000, 951, 10**6)
    assert not near_identical(1000, 1000, 949, 10**6)
    assert not near_identical(1000, 2000, 1000, 10**6)
    # Nearly all units are common, yet independent.
    assert not near_identical(990, 990, 980, 1000)
    assert near_identical(7, 7, 7, 7)
    assert not near_identical(6, 7, 6, 7)
    # Each other's negation.
    assert not near_identical(500, 500, 0, 1000)


def test_the_least_joint_count_of_near_identical_facts() -> None:
    for total in (1, 2, 5, 20, 41):
        for first, second in itertools.product(range(total + 1), repeat=2):
            least = least_joint_of_near_identical(first, second, total)
            for joint in range(max(0, first + second - total), min(first, second) + 1):
                assert near_identical(first, second, joint, total) == (joint >= least)


@given(st.integers(1, 10**8), st.data())
def test_the_least_joint_count_of_huge_facts(total: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, total))
    second = data.draw(st.integers(max(1, first - first // 8), min(total, first + first // 8)))
    least = least_joint_of_near_identical(first, second, total)
    possible = max(0, first + second - total)
    for joint in (least - 1, least, least + 1):
        if possible <= joint <= min(first, second):
            assert near_identical(first, second, joint, total) == (joint >= least)


def test_near_identity_is_a_threshold_of_phi() -> None:
    assert NEAR_IDENTICAL_PHI == 0.95
    phi = statistics.phi(95, 5, 5, 10**6)
    assert phi is not None
    assert (phi >= 0.95) == near_identical(100, 100, 95, 10**6 + 105)
