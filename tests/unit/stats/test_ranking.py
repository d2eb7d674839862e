"""The order of facts, and which of them count as the same."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from insights_engine.stats import statistics
from insights_engine.stats.ranking import (
    NEAR_IDENTICAL_PHI,
    least_joint_of_near_identical,
    near_identical,
    strength,
)
from insights_engine.stats.statistics import OddsRatio, odds_ratio


def test_flukes_do_not_lead() -> None:
    # 1 of 1 in a target of 1 %, against 300 of 3,000.
    fluke = odds_ratio(1, 999, 0, 99_000)
    steady = odds_ratio(300, 700, 2_700, 96_300)
    assert fluke.value > steady.value
    assert strength(steady, "positive") > strength(fluke, "positive") > 0


def test_strength_is_the_bound_nearer_to_one() -> None:
    positive, negative = OddsRatio(8.0, 4.0, 16.0), OddsRatio(0.05, 0.02, 0.125)
    unsure, less_sure = OddsRatio(1.1, 0.8, 1.5), OddsRatio(1.1, 0.2, 8.0)
    facts = [unsure, positive, less_sure, negative]
    order = {
        direction: sorted(facts, key=lambda fact: -strength(fact, direction))
        for direction in ("positive", "negative", "both")
    }
    assert order["positive"] == [positive, unsure, less_sure, negative]
    assert order["negative"] == [negative, unsure, less_sure, positive]
    assert order["both"] == [negative, positive, unsure, less_sure]
    assert strength(negative, "both") == math.log(8)
    assert strength(unsure, "both") == math.log(0.8)
    with pytest.raises(ValueError, match="no direction: up"):
        strength(positive, "up")


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
