"""Numbers spread out of slices, and what is computed of either."""

from __future__ import annotations

import math
from array import array
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from insights_engine.answers.series import timelines
from insights_engine.answers.series.series_rows import (
    FINEST,
    percentiles,
    percentiles_of_slices,
    sum_of,
    total_of,
)
from insights_engine.sets import bitmaps

INT64 = st.integers(-(2**63), 2**63 - 1)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
FRACTIONS = (0.0, 0.25, 0.5, 0.95, 0.99, 1.0)


@given(st.lists(INT64, min_size=1, max_size=40))
def test_integers_come_back_from_their_slices(numbers: list[int]) -> None:
    patterns = [bitmaps.pattern_of_integer(number) for number in numbers]
    slices = bitmaps.transpose(patterns)
    spread = bitmaps.numbers(slices, len(numbers))
    assert list(bitmaps.integers(spread)) == numbers
    assert [bitmaps.integer_of(pattern) for pattern in patterns] == numbers
    low = bitmaps.low_numbers(slices, len(numbers))
    assert list(low) == [pattern & (2**32 - 1) for pattern in patterns]


@given(st.lists(DOUBLES, min_size=1, max_size=40))
def test_doubles_come_back_from_their_slices(numbers: list[float]) -> None:
    patterns = [bitmaps.pattern_of_double(number) for number in numbers]
    spread = bitmaps.numbers(bitmaps.transpose(patterns), len(numbers))
    assert list(bitmaps.doubles(spread)) == numbers
    assert [bitmaps.double_of(pattern) for pattern in patterns] == numbers


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_flags_are_sets(members: list[bool]) -> None:
    bits = sum(1 << place for place, there in enumerate(members) if there)
    flags = bitmaps.flags(bits, len(members))
    assert list(flags) == [int(there) for there in members]
    assert bitmaps.of_flags(flags) == bits
    column = list(range(100, 100 + len(members)))
    assert list(bitmaps.chosen(column, bits)) == [100 + place for place in bitmaps.positions(bits)]


@given(st.lists(INT64 | st.integers(-3, 3), min_size=1, max_size=60), st.integers(0, 2**60 - 1))
def test_slices_tell_percentiles_and_sums(numbers: list[int], some: int) -> None:
    slices = bitmaps.transpose([bitmaps.pattern_of_integer(number) for number in numbers])
    within = some & ((1 << len(numbers)) - 1)
    chosen = list(bitmaps.chosen(numbers, within))
    found = percentiles_of_slices(within, slices, FRACTIONS)
    assert found == percentiles(sorted(chosen), FRACTIONS)
    stored = {bit: bits.to_bytes(8, "little") for bit, bits in slices.items()}
    assert sum_of(within, stored, bitmaps.WIDTH - 1) == sum(chosen)


def test_percentiles_are_those_of_postgresql() -> None:
    # select percentile_cont(array[0, 0.25, 0.5, 0.95, 0.99, 1]) within group (order by n) ...
    assert percentiles([1, 2, 4, 10], FRACTIONS) == pytest.approx([1, 1.75, 3, 9.1, 9.82, 10])
    assert percentiles([], FRACTIONS) == [None] * 6
    assert percentiles_of_slices(0, {}, FRACTIONS) == [None] * 6


SMALLEST = st.integers(-40, 40).map(lambda number: number * 5e-324)


@given(
    st.lists(st.floats(1e-6, 1e6) | st.floats(-10, 10), min_size=1, max_size=30)
    | st.lists(SMALLEST, min_size=1, max_size=30)
    | st.lists(SMALLEST | st.floats(-1e-300, 1e-300), min_size=1, max_size=30),
    st.integers(0, 2**30 - 1),
    st.randoms(use_true_random=False),
)
def test_fixed_point_sums_are_exact(values: list[float], some: int, dice: Random) -> None:
    used = len(values)
    patterns = [bitmaps.pattern_of_double(value) for value in values]
    slices = {**bitmaps.transpose(patterns), bitmaps.HAS_NUMBER: (1 << used) - 1}
    order = array("H", dice.sample(range(used), used))
    sliced = timelines._fixed_point(slices, order, used)
    if sliced.exponent is None:
        powers = [math.frexp(value)[1] for value in values if value]
        assert max(powers) - min(powers) > 70
        return
    within = some & ((1 << used) - 1)
    total = sum_of(within, sliced.slices, sliced.sign) << (sliced.exponent - FINEST)
    ordered = [values[position] for position in order]
    assert total_of((), total) == math.fsum(bitmaps.chosen(ordered, within))


def test_sums_beyond_every_double() -> None:
    assert total_of([1e308, 1e308], 0) == math.inf
    assert total_of([-1e308, -1e308], 0) == -math.inf
    assert total_of([1e308, 1e308, -1e308], 0) == 1e308
    assert math.isnan(total_of([math.inf, -math.inf], 0))
    assert math.isnan(total_of([math.nan, 1.0], 0))
    assert total_of([0.1] * 10, 1 << -FINEST) == 2.0


def test_a_timeline_puts_sets_into_the_order_of_time() -> None:
    dice = Random(1)
    used = 500
    order = array("H", dice.sample(range(used), used))
    nothing = timelines.OrderedSlices(bytes(63), {})
    numbers = (
        array("q", bytes(8 * used)),
        array("q", bytes(8 * used)),
        array("d", bytes(8 * used)),
    )
    timeline = timelines.Timeline(0, array("I", range(used)), order, (nothing,) * 3, numbers, 0)
    for share in (0.01, 0.5, 1.0):
        members = set(dice.sample(range(used), int(share * used)))
        bits = sum(1 << position for position in members)
        places = bitmaps.positions(timeline.ordered(bits))
        assert {order[place] for place in places} == members
    assert list(timeline.in_order(list(range(used)))) == list(order)
    assert timeline.end_before(250, 0) == 250
