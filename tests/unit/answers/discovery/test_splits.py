"""The best threshold of a number: found, and its p value never too small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from insights_engine.answers.discovery.findings import measured
from insights_engine.answers.discovery.thresholds import Split, best_split
from insights_engine.answers.discovery.units import CellCounts
from insights_engine.columns.names import Value
from insights_engine.stats import independence, statistics
from insights_engine.stats.multiple import TargetTests
from insights_engine.stats.thresholds import MOST_CUTS, Search, normal_quantile
from scipy import special, stats

CELLS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=12)
Cell = tuple[int, int]
Table = tuple[int, int, int, int]


@dataclass(frozen=True)
class Number:
    """A number of some units: cell by cell those inside and outside of the target."""

    cells: Sequence[Cell]
    missing: Cell = (0, 0)
    # Of the largest numbers, where units have several; ``cells`` are of the smallest then.
    largest: Sequence[Cell] | None = None

    @property
    def target(self) -> int:
        return sum(inside for inside, _ in self.cells) + self.missing[0]

    @property
    def total(self) -> int:
        return sum(map(sum, self.cells)) + sum(self.missing)

    def counts(self) -> CellCounts:
        counts = CellCounts()
        counts.several = self.largest is not None
        for number, cells in enumerate((self.cells, self.largest or self.cells)):
            for cell, (inside, outside) in enumerate(cells, 1):
                if inside + outside:
                    counts.base[number][cell] = inside + outside
                if inside:
                    counts.target[number][cell] = inside
        return counts

    def best(self, direction: str = "positive", min_support: int = 1) -> Split | None:
        return best_split(self.counts(), self.target, self.total, direction, min_support)[1]

    def table(self, among: int, joint: int) -> Table:
        return statistics.Counts(self.target, among, joint, self.total).table

    def facts(self) -> dict[tuple[str, int], Table]:
        """All thresholds with their tables, spelled out."""
        found = {}
        largest = self.largest or self.cells
        for cut in range(1, len(self.cells)):
            for op, some in (("<", self.cells[:cut]), (">=", largest[cut:])):
                among, joint = sum(map(sum, some)), sum(inside for inside, _ in some)
                # With all numbers on one side it says no more than that there is one.
                if 0 < among < self.total - sum(self.missing):
                    found[op, cut] = self.table(among, joint)
        return found


@given(CELLS, st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_it_is_the_smallest_p_value_in_the_direction(cells: list[Cell], missing: Cell) -> None:
    number = Number(cells, missing)
    if not 0 < number.target < number.total:
        assert number.best() is None
        return
    tests = TargetTests(number.target, number.total)
    signs = {"positive": (1,), "negative": (-1,), "both": (1, -1)}
    for direction, wanted in signs.items():
        tables = {
            fact: table
            for fact, table in number.facts().items()
            if np.sign(table[0] * table[3] - table[1] * table[2]) in wanted
        }
        found = number.best(direction)
        if not tables:
            assert found is None
            continue
        assert found is not None
        # Chosen by Cochran's rule, tested by that of all facts.
        assert found.estimate == pytest.approx(
            min(independence.p_value(*table, 5) or 0 for table in tables.values()), rel=1e-12
        )
        table = number.table(found.among, found.joint)
        assert tables[found.op, found.cut] == table
        fact = measured(Value("tag", "k", "v"), found.among, found.joint, tests, found.search)
        single = independence.p_value(*table)
        assert single is not None
        assert single <= fact.p_value <= found.search.size * single + 1e-12
        assert fact.p_value == found.search.price(single)
        assert fact.test == f"best of {found.search.size} splits, {tests.test(found.among)}"


def test_a_timeout_is_found_where_it_sets_in() -> None:
    number = Number([(10, 990)] * 8 + [(400, 600), (10, 990)])
    found = number.best("positive")
    assert found is not None
    assert (found.op, found.cut) == (">=", 8)
    assert number.table(found.among, found.joint) == (410, 80, 1590, 7920)
    assert found.search.size == 9
    assert found.search.price(found.estimate) < 1e-200
    negative = number.best("negative")
    assert negative is not None
    assert (negative.op, negative.cut) == ("<", 8)
    assert negative.estimate == found.estimate
    # Of a fact and its negation the one that goes with the target.
    assert number.best("both") == found


def test_of_underflowing_p_values_the_strongest_wins() -> None:
    found = Number([(0, 10**6), (100, 10**6), (10**6, 100), (10**6, 0)]).best()
    assert found is not None
    assert (found.cut, found.estimate, found.search.price(0.0), found.search.size) == (
        2,
        0.0,
        0.0,
        3,
    )


def test_support_is_asked_of_the_fact() -> None:
    number = Number([(5, 0), (5, 40), (5, 45)])
    found = number.best()
    assert found is not None
    assert (found.cut, found.op, found.search.size) == (1, "<", 2)
    found = number.best(min_support=6)
    assert found is not None
    assert (found.cut, found.op) == (2, "<")
    assert number.table(found.among, found.joint) == (10, 5, 40, 45)
    assert number.best(min_support=96) is None


def test_whether_there_is_a_threshold_at_all_is_another_question() -> None:
    even = Number([(5, 5), (5, 5)])
    assert best_split(even.counts(), 10, 20, "both", 1) == (True, None)
    assert best_split(even.counts(), 10, 20, "both", 11) == (False, None)
    assert best_split(Number([(5, 5)]).counts(), 5, 10, "both", 1) == (False, None)


def test_units_without_a_value_match_no_threshold() -> None:
    number = Number([(10, 10), (40, 10)], missing=(30, 900))
    found = number.best()
    assert found is not None
    assert number.table(found.among, found.joint) == (40, 40, 10, 910)
    assert found.search.size == 2
    # Both thresholds go with the target, since having a value does.
    assert number.best("negative") is None


def test_smallest_and_largest_numbers_are_two_searches() -> None:
    """Both of which are paid for, since a fact and the other's negation differ."""
    smallest, largest = [(9, 60), (9, 40), (2, 0)], [(2, 30), (4, 60), (14, 10)]
    number = Number(smallest, largest=largest)
    found = number.best()
    assert found is not None
    assert (found.op, found.cut) == (">=", 2)
    assert number.table(found.among, found.joint) == (14, 6, 10, 90)
    assert [search.size for search in found.search.searches] == [2, 2]
    assert found.search.size == 4
    below, at_least = [one for one in found.search.searches if isinstance(one, Search)]
    assert (below.below, below.at_least_below) == ([69, 118], [])
    assert (at_least.below, at_least.at_least_below) == ([], [32, 96])
    for p in (1e-9, 1e-3):
        assert found.search.price(p) == below.price(p) + at_least.price(p)
    assert found.search.price(0.6) == 1.0


def test_many_cells_are_cut_at_quantiles() -> None:
    number = Number([(n % 3, 2) for n in range(4000)])
    found = number.best("both")
    assert found is not None
    assert found.search.size == MOST_CUTS


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
    # Small is less than 5 expected, whatever the limit of Fisher's test: here all but
    # the first and the last cut have more, and 100 nowhere.
    larger = Search(cuts, cuts, 0, 165, 330)
    assert larger.price(1e-4) < 25e-4


def test_cuts_without_units_between_them_cost_nothing() -> None:
    assert Search([5, 5, 5], [5, 5], 0, 9, 330).price(0.01) == 0.01
