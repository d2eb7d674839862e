"""The false discovery rate of the whole chain, by simulation.

Facts with known truth are tested as a discovery tests them: exact counts, the
p values of `TargetTests`, thresholds by `best_split`, `benjamini_hochberg`, all with
q <= 0.05 reported.  The promise is that of these, 5 % at most are expected to
be false.  Seeds are fixed, so the tests cannot fail by chance.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from insights_engine.answers.discovery.findings import measured
from insights_engine.answers.discovery.thresholds import best_split
from insights_engine.answers.discovery.units import CellCounts
from insights_engine.columns.names import Value
from insights_engine.stats.independence import EXACT_BELOW, SMALL_EXPECTED_COUNT
from insights_engine.stats.multiple import TargetTests, benjamini_hochberg
from insights_engine.stats.ranking import strength
from insights_engine.stats.statistics import Counts, odds_ratio

RUNS = 200
FDR = 0.05


def assert_promise(false_shares: list[float]) -> None:
    """That the mean is at most the promised rate, within two standard errors."""
    assert len(false_shares) == RUNS
    error = np.std(false_shares) / np.sqrt(RUNS)
    assert np.mean(false_shares) <= FDR + 2 * error


def false_among(q_values: list[float], planted: list[bool]) -> float:
    """The share of false ones among the reported, 0 where none is reported."""
    reported = np.array(q_values) <= FDR
    return float(np.sum(reported & ~np.array(planted))) / max(1, int(np.sum(reported)))


def searched(values: np.ndarray, target: np.ndarray, min_support: int = 1) -> float:
    """The p value of the best threshold of a number (NaN: no value), the search paid for."""
    present = ~np.isnan(values)
    _, cells = np.unique(values[present], return_inverse=True)
    counts = CellCounts()
    for histograms, some in ((counts.base, cells), (counts.target, cells[target[present]])):
        for histogram in histograms:
            histogram.update(Counter((some + 1).tolist()))
    total, of_target = len(values), int(target.sum())
    _, split = best_split(counts, of_target, total, "both", min_support)
    if split is None:
        return 1.0
    tests = TargetTests(of_target, total)
    return measured(Value("tag", "k", "v"), split.among, split.joint, tests, split.search).p_value


def numbers(rng: np.random.Generator, units: int) -> list[np.ndarray]:
    """Latencies, scores of few values, and numbers that some units lack."""
    continuous = [rng.lognormal(5, 1, units) for _ in range(6)]
    scores = [rng.integers(1, 6, units).astype(float) for _ in range(3)]
    sparse = [
        np.where(rng.random(units) < share, rng.exponential(1, units), np.nan)
        for share in (0.03, 0.3, 0.95)
    ]
    return [*continuous, *scores, *sparse]


@pytest.mark.parametrize(("units", "share"), [(2000, 0.05), (2000, 0.5), (600, 0.2)])
def test_facts_and_numbers_with_planted_ones_among_them(units: int, share: float) -> None:
    """Values of keys (so that facts exclude each other), nested copies, numbers."""
    rng = np.random.default_rng([units, int(share * 100)])
    false_shares, found_shares, first_ranks = [], [], []
    for _ in range(RUNS):
        target = rng.random(units) < share
        facts = []
        planted = []
        for key in range(30):
            values = rng.geometric(0.25, units)
            if key < 3:
                # One value much likelier in the target; the others, which it
                # displaces there, are associated with the target as well.
                values = np.where(target & (rng.random(units) < 0.5), 3, values)
            for value in range(1, 13):
                facts.append(values == value)
                planted.append(key < 3)
            # A parent that is true wherever some values are.
            facts.append(values >= 4)
            planted.append(key < 3)
        matrix = np.array(facts, dtype=np.int64)
        counts, joints = matrix.sum(axis=1).tolist(), (matrix @ target).tolist()
        total_target = int(target.sum())
        tests = TargetTests(total_target, units)
        enough = [i for i, count in enumerate(counts) if count >= 5]
        p_values = tests.p_values(
            [counts[i] for i in enough], [joints[i] for i in enough], relevant=FDR
        )
        truth = [planted[i] for i in enough]
        for index, values in enumerate(numbers(rng, units)):
            if index < 2:
                values = np.where(target & (rng.random(units) < 0.4), values * 8, values)
            p_values.append(searched(values, target, min_support=5))
            truth.append(index < 2)
        q_values = benjamini_hochberg(p_values)
        false_shares.append(false_among(q_values, truth))
        strong = [index for index, i in enumerate(enough) if i // 13 < 3 and i % 13 == 2]
        strong += [len(enough), len(enough) + 1]
        found_shares.append(float(np.mean([q_values[index] <= FDR for index in strong])))
        strengths = [
            strength(
                odds_ratio(*Counts(total_target, counts[i], joints[i], units).table), "positive"
            )
            for i in enough
        ]
        leaders = sorted(range(len(enough)), key=lambda index: -strengths[index])[:3]
        first_ranks.append(set(leaders) == set(strong[:3]))
    assert_promise(false_shares)
    assert np.mean(found_shares) > 0.99
    assert np.mean(first_ranks) > 0.97


def test_nothing_planted_in_thousands_of_rare_facts_of_two_halves() -> None:
    """The hardest case of a comparison: all facts are rare, none is true.

    The rate is then the probability of any report at all.  It is the case for
    which `TargetTests` does not leave significance to G².
    """
    rng = np.random.default_rng(7)
    sizes = rng.integers(14, 19, 8000)
    nothing = [False] * len(sizes)
    rates = {}
    for exact_below in (EXACT_BELOW, SMALL_EXPECTED_COUNT):
        false_shares = []
        for _ in range(RUNS):
            joints = rng.hypergeometric(1000, 1000, sizes)
            tests = TargetTests(1000, 2000, exact_below)
            p_values = tests.p_values(sizes.tolist(), joints.tolist(), relevant=FDR)
            false_shares.append(false_among(benjamini_hochberg(p_values), nothing))
        rates[exact_below] = float(np.mean(false_shares))
        if exact_below == EXACT_BELOW:
            assert_promise(false_shares)
    assert rates[SMALL_EXPECTED_COUNT] > 2 * FDR


@pytest.mark.parametrize("target", [30, 300, 1500])
def test_nothing_planted_at_all(target: int) -> None:
    """Facts of all sizes and numbers with many ties; none is true."""
    rng = np.random.default_rng(target)
    units = 3000
    sizes = np.round(10 ** rng.uniform(0.7, 3.3, 1000)).astype(int)
    false_shares = []
    for _ in range(RUNS):
        joints = rng.hypergeometric(target, units - target, sizes)
        p_values = TargetTests(target, units).p_values(sizes.tolist(), joints.tolist(), FDR)
        chosen = np.zeros(units, dtype=bool)
        chosen[rng.choice(units, target, replace=False)] = True
        for values in numbers(rng, units):
            p_values.append(searched(values, chosen))
        false_shares.append(false_among(benjamini_hochberg(p_values), [False] * len(p_values)))
    assert_promise(false_shares)
