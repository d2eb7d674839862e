"""Many tests against one target: p values, q values and their promise."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from insights_engine.stats import independence
from insights_engine.stats.multiple import TargetTests, benjamini_hochberg
from scipy import stats

P_VALUES = st.lists(
    st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0])), max_size=60
)


@given(P_VALUES)
@example([])
@example([1.0, 1.0])
@example([0.0, 5e-324, 1.0])
def test_q_values_equal_scipy(p_values: list[float]) -> None:
    ours = benjamini_hochberg(p_values)
    theirs = stats.false_discovery_control(p_values) if p_values else []
    assert ours == pytest.approx(list(theirs), rel=1e-14, abs=0)


@given(P_VALUES)
def test_q_values_rise_with_p_and_tie_with_it(p_values: list[float]) -> None:
    q_values = benjamini_hochberg(p_values)
    pairs = sorted(zip(p_values, q_values, strict=True))
    for (p, q), (next_p, next_q) in itertools.pairwise(pairs):
        assert q <= next_q
        if p == next_p:
            assert q == next_q
    assert all(p <= q <= 1 for p, q in pairs)


def test_q_values_by_hand() -> None:
    assert benjamini_hochberg([0.04, 0.01, 0.03, 0.9]) == pytest.approx(
        [0.16 / 3, 0.04, 0.16 / 3, 0.9], rel=1e-15
    )


@given(P_VALUES.filter(bool))
def test_leaving_out_p_values_of_one_changes_no_other(p_values: list[float]) -> None:
    rest = [p for p in p_values if p < 1]
    whole = benjamini_hochberg(p_values)
    assert benjamini_hochberg(rest, len(p_values)) == [
        q for p, q in zip(p_values, whole, strict=True) if p < 1
    ]


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1, float("inf")])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not a probability"):
        benjamini_hochberg([0.5, bad, 0.1])


def test_fewer_tests_than_p_values_are_refused() -> None:
    with pytest.raises(ValueError, match="2 p values of 1 tests"):
        benjamini_hochberg([0.5, 0.1], 1)


def random_facts(count: int, target: int, total: int, seed: int) -> list[tuple[int, int]]:
    """Facts of all sizes, independent of the target but for every tenth."""
    rng = random.Random(seed)
    facts = []
    for index in range(count):
        fact = int(10 ** rng.uniform(0, 5))
        share = target / total * (3 if index % 10 == 0 else 1)
        spread = (fact * share * (1 - share)) ** 0.5
        joint = round(rng.gauss(fact * share, spread))
        facts.append((fact, max(0, fact + target - total, min(joint, fact, target))))
    return facts


def columns(facts: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [fact for fact, _ in facts], [joint for _, joint in facts]


def test_p_values_of_facts_are_those_of_their_tables() -> None:
    facts = random_facts(2000, 10_000, 200_000, seed=1)
    tables = [
        (joint, 10_000 - joint, fact - joint, 190_000 - fact + joint) for fact, joint in facts
    ]
    tests = TargetTests(10_000, 200_000)
    expected = [independence.p_value(*table) for table in tables]
    assert tests.p_values(*columns(facts)) == expected
    assert [tests.p_value(*fact) for fact in facts] == expected
    assert (tests.test(1999), tests.test(2000)) == ("Fisher", "G2")


def test_the_limit_of_fishers_test_can_be_another() -> None:
    # 16 units all on one side, the example of the description of `independence`.
    exact, cochrans = (TargetTests(1000, 2000, below) for below in (independence.EXACT_BELOW, 5))
    assert exact.p_value(16, 16) == independence.fisher_exact(16, 984, 0, 1000)
    assert exact.p_value(16, 16) == pytest.approx(2 / 2**16, rel=0.1)
    assert cochrans.p_value(16, 16) == pytest.approx(2.4e-6, rel=0.1)
    assert (exact.test(16), cochrans.test(16), cochrans.test(9)) == ("Fisher", "G2", "Fisher")


def test_beyond_that_the_two_tests_are_alike() -> None:
    for target, total in ((1000, 2000), (2000, 200_000)):
        tests = TargetTests(target, total)
        fact = 100 * total // target
        for joint in range(50, 160):
            table = (joint, target - joint, fact - joint, total - target - fact + joint)
            exact = independence.fisher_exact(*table)
            if 1e-7 < exact < 0.05:
                assert 0.59 < tests.p_value(fact, joint) / exact < 1.25, joint


@pytest.mark.parametrize("relevant", [0.05, 0.01])
def test_irrelevant_p_values_may_be_one_without_changing_a_relevant_q(relevant: float) -> None:
    tests = TargetTests(10_000, 200_000)
    facts = random_facts(3000, 10_000, 200_000, seed=2)
    exact = tests.p_values(*columns(facts))
    quick = TargetTests(10_000, 200_000).p_values(*columns(facts), relevant=relevant)
    assert quick.count(1.0) > 2 * exact.count(1.0) > 0
    for p, q in zip(exact, quick, strict=True):
        assert q == p or (q == 1.0 and p > 0.05)
    relevant_q = [min(q, 2 * relevant) for q in benjamini_hochberg(exact) if q <= relevant]
    assert relevant_q == [q for q in benjamini_hochberg(quick) if q <= relevant]
    assert len(relevant_q) > 50


def test_a_fact_or_target_of_all_or_none_tells_nothing() -> None:
    assert TargetTests(5, 10).p_values([0, 10], [0, 5]) == [1.0, 1.0]
    assert TargetTests(0, 10).p_values([3], [0], relevant=0.05) == [1.0]
    assert TargetTests(10, 10).p_values([3], [3], relevant=0.05) == [1.0]
    assert TargetTests(0, 0).p_values([0], [0], relevant=0.05) == [1.0]


def test_contradicting_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="contradict"):
        TargetTests(5, 10).p_value(3, 4)
    with pytest.raises(ValueError, match="a target of 11 among 10"):
        TargetTests(11, 10)
