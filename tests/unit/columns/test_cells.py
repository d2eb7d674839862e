"""Numbers cut into cells, and sets counted: against plain Python over small blocks."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from insights_engine.columns import cells, item_sets, names
from insights_engine.columns.names import (
    Beyond,
    Experiment,
    Fact,
    NumberField,
    Presence,
    SpanStatus,
    Value,
)
from insights_engine.facts.facts import Series
from insights_engine.language.parser import parse_filter
from insights_engine.language.printer import print_apart, print_filter
from insights_engine.sets import bitmaps
from insights_engine.upkeep.postings import Extent, sliced

USED = 300
NAME = NumberField("tag", "k", "")

numbers = st.dictionaries(
    st.integers(0, USED - 1),
    st.lists(
        st.one_of(
            st.integers(-3, 3).map(float),
            st.floats(allow_nan=False, allow_infinity=False),
            st.sampled_from((0.1, 0.2, 10_000.0, -0.0)),
        ),
        min_size=1,
        max_size=3,
    ),
)


def stored(values: dict[int, list[float]]) -> cells.StoredSlices:
    """The numbers as the index has them."""
    collected = Series(whole=False)
    for position in sorted(values):
        for number in values[position]:
            collected.add(position, number)
    extent = Extent(1, 0, USED)
    slices = {
        (role, slot): members
        for role, slot, members in sliced(collected, 1, len(collected.positions), extent)
    }
    return cells.StoredSlices(slices)


def ordered(number: float) -> int:
    return bitmaps.ordered(bitmaps.pattern_of_double(number))


@given(values=numbers, more=numbers, data=st.data())
def test_cells_are_those_of_the_smallest_and_largest_number(
    values: dict[int, list[float]], more: dict[int, list[float]], data: st.DataObject
) -> None:
    every = sorted({ordered(n) for some in (values, more) for ns in some.values() for n in ns})
    starts = sorted(data.draw(st.sets(st.sampled_from(every), max_size=8))) if every else []
    cuts = cells.Cuts(list(map(float, range(len(starts)))), starts)
    placed = cells.cells_of_slices([stored(values), stored(more)], cuts)
    low, high = cells.bytes_of(placed.low, USED), cells.bytes_of(placed.high, USED)
    within = data.draw(st.sets(st.integers(0, USED - 1)))
    bits = bitmaps.of_positions(sorted(within))
    expected_low: Counter[int] = Counter()
    for position in range(USED):
        found = [ordered(n) for n in (*values.get(position, ()), *more.get(position, ()))]
        least = bisect_right(starts, min(found)) + 1 if found else 0
        most = bisect_right(starts, max(found)) + 1 if found else 0
        assert (low[position], high[position]) == (least, most)
        if found and position in within:
            expected_low[least] += 1
        for cut, start in enumerate(starts, 1):
            at_least = any(n >= start for n in found)
            assert placed.members(">=", cut) >> position & 1 == at_least
            assert placed.members("<", cut) >> position & 1 == any(n < start for n in found)
    assert placed.counts(bits)[0] == expected_low


@given(values=numbers)
def test_a_sample_of_a_small_block_is_all_of_it(values: dict[int, list[float]]) -> None:
    found = set(stored(values).sample(USED, (1 << USED) - 1))
    assert found == {ordered(n) for ns in values.values() for n in (min(ns), max(ns))}


@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_a_pattern_is_that_of_its_double(number: float) -> None:
    assert bitmaps.double_of(bitmaps.pattern_of_double(number)) == number


@given(sample=st.lists(st.floats(-1e6, 1e6), max_size=300))
def test_cuts_part_the_sample(sample: list[float]) -> None:
    cuts = cells.choose_cuts(NAME, list(map(ordered, sample)))
    assert list(cuts.starts) == sorted(set(cuts.starts))
    assert len(cuts.values) <= 2 * (20 + 2 * 6)
    for value, start in zip(cuts.values, cuts.starts, strict=True):
        assert ordered(float(value)) == start
        assert any(number < value for number in sample)
        assert any(number >= value for number in sample)
    # Up to 32 different numbers are all told apart.
    if 1 < len(set(sample)) <= 32:
        assert len(cuts.values) == len(set(sample)) - 1


def test_cuts_are_good_to_read() -> None:
    name = NumberField("trace", "execution_time_ms", "")
    sample = [*range(113, 900, 7), *range(5013, 9000, 31)]
    places = [bitmaps.ordered(bitmaps.pattern_of_integer(number)) for number in sample]
    values = cells.choose_cuts(name, places).values
    # 5000 is in the gap; at both ends, where the parts are small, there is less choice.
    assert 5000 in values
    assert [value for value in values if 150 < value < 8000 and value % 10] == []
    day = 86_400_000
    name = NumberField("trace", "timestamp_ms", "")
    sample = [20_000 * day + 7_654_321 * number for number in range(2000)]
    places = [bitmaps.ordered(bitmaps.pattern_of_integer(number)) for number in sample]
    values = cells.choose_cuts(name, places).values
    assert sum(value % day == 0 for value in values) > 15


@given(
    sets=st.lists(st.sets(st.integers(0, USED - 1), min_size=1), min_size=1, max_size=8),
    within=st.sets(st.integers(0, USED - 1)),
)
def test_columns_count_the_members_of_sets(sets: list[set[int]], within: set[int]) -> None:
    # Item 0 is all terms together, the others are one term each; the last is no fact.
    items: dict[int, tuple[int, ...]] = {term: (0, term + 1) for term in range(len(sets))}
    last = len(sets)
    items[last - 1] = (0,)
    postings = [(term, bitmaps.encode(sorted(members), USED)) for term, members in enumerate(sets)]
    found = item_sets.ItemSets(postings, items, {last: [postings[-1][1]]}, USED)
    expected = [set().union(*sets), *sets]
    for chosen, members in (
        (None, set(range(USED))),
        (bitmaps.of_positions(sorted(within)), within),
    ):
        totals = [0] * (last + 1)
        found.add_counts(totals, chosen)
        assert totals == [*(len(one & members) for one in expected[:-1]), 0]
    assert set(found.doubts) == {last}
    assert found.sets(range(last + 2)) == {
        item: bitmaps.of_positions(sorted(one)) for item, one in enumerate(expected)
    }


def test_item_sets_know_of_doubts_whose_positions_were_not_given() -> None:
    found = item_sets.ItemSets([(1, bitmaps.encode([1, 5], USED))], {1: (0,)}, {1: ()}, USED)
    assert set(found.doubts) == {1}
    assert found.sets((0, 1)) == {0: 0b100010}


@given(members=st.sets(st.integers(0, 40_000), max_size=400))
def test_the_positions_of_thin_and_of_thick_sets(members: set[int]) -> None:
    bits = sum(1 << position for position in members)
    assert bitmaps.positions(bits) == sorted(members)


@pytest.mark.parametrize(
    ("name", "filter", "apart", "label"),
    [
        (Value("tag", "env", "it's"), "tags.env = 'it''s'", None, ("tag", "env", "it's")),
        (Value("tag", "name", "x"), "tags['name'] = 'x'", None, ("tag", "name", "x")),
        (Value("run", "", "r"), "run_id = 'r'", None, ("run", "run_id", "r")),
        (Value("metadata", "mlflow.trace.user", "u"), "user = 'u'", None, None),
        (Presence("feedback", "x"), "feedback.x IS NOT NULL", None, ("feedback", "x", None)),
        (
            Value("attribute", "a\x1fb c", "1"),
            "span.attributes['a']['b c'] = '1'",
            "any(span.attributes['a']['b c'] = '1')",
            ("attribute", "a.b c", "1"),
        ),
        (
            SpanStatus("name", "db", "ERROR"),
            "span.name = 'db' AND span.status = 'ERROR'",
            "any(span.name = 'db' AND span.status = 'ERROR')",
            ("span", "name, status", "db, ERROR"),
        ),
        (
            Beyond("span", "duration", "db", ">=", 0.25, 1),
            "span.name = 'db' AND span.duration_ms >= 0.25",
            "any(span.name = 'db' AND span.duration_ms >= 0.25)",
            ("number", "span.name, span.duration_ms", "db, >= 0.25"),
        ),
        (Experiment(7), "experiment_id = '7'", None, ("trace", "experiment_id", "7")),
    ],
)
def test_facts_are_written_as_filters(
    name: Fact,
    filter: str,
    apart: str | None,
    label: tuple[str, str, str | None] | None,
) -> None:
    node = names.node_of(name)
    assert print_filter(node) == filter
    assert print_apart(node) == (apart or filter)
    assert parse_filter(filter) == parse_filter(apart or filter) == node
    if label is not None:
        assert names.label(name) == label
