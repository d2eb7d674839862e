"""Sets of positions and bit-sliced numbers do what loops over single numbers do."""

from __future__ import annotations

import math
import struct
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from insights_engine.sets import bitmaps

WIDE = st.integers(-(2**63), 2**63 - 1)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
#: How many positions are given out, and some of them.
PLACES = st.integers(1, 3000).flatmap(
    lambda used: st.tuples(st.just(used), st.sets(st.integers(0, used - 1), max_size=200))
)


def as_set(positions: set[int]) -> int:
    return sum(1 << position for position in positions)


def slices_of(numbers: dict[int, int]) -> dict[int, int]:
    """Slices by definition."""
    found: Counter[int] = Counter()
    for position, pattern in numbers.items():
        for bit in range(bitmaps.WIDTH):
            if pattern >> bit & 1:
                found[bit] += 1 << position
    return dict(found)


@given(PLACES)
def test_what_is_stored_is_what_is_read(places: tuple[int, set[int]]) -> None:
    used, positions = places
    for stored in (
        bitmaps.encode(sorted(positions), used),
        bitmaps.encode_set(as_set(positions), used),
    ):
        assert bitmaps.decode(stored) == as_set(positions)
        assert list(bitmaps.stored_positions(stored)) == sorted(positions)
    assert bitmaps.positions(as_set(positions)) == sorted(positions)
    assert bitmaps.count(as_set(positions)) == len(positions)


def test_full_blocks_and_regular_ones_are_stored_too() -> None:
    for step in (1, 2, 3, 15, 16, 17, 1000):
        positions = range(0, bitmaps.POSITIONS, step)
        stored = bitmaps.encode(positions, bitmaps.POSITIONS)
        assert list(bitmaps.stored_positions(stored)) == list(positions)
        assert bitmaps.encode_set(bitmaps.decode(stored), bitmaps.POSITIONS) == stored
        assert len(stored) <= bitmaps.POSITIONS // 8 + 1


@given(WIDE, WIDE)
def test_patterns_of_integers_are_ordered_like_them(one: int, other: int) -> None:
    first, second = map(bitmaps.pattern_of_integer, (one, other))
    assert (bitmaps.ordered(first) < bitmaps.ordered(second)) == (one < other)
    assert (first == second) == (one == other)


@given(DOUBLES, DOUBLES)
def test_patterns_of_doubles_are_ordered_like_them(one: float, other: float) -> None:
    first, second = map(bitmaps.pattern_of_double, (one, other))
    assert (bitmaps.ordered(first) < bitmaps.ordered(second)) == (one < other)
    assert (first == second) == (one == other)


def test_the_ends_of_doubles_have_patterns() -> None:
    ends = (-math.inf, -1.7976931348623157e308, -5e-324, -0.0, 5e-324, 1.7976931348623157e308)
    patterns = [bitmaps.ordered(bitmaps.pattern_of_double(number)) for number in ends]
    assert patterns == sorted(patterns)
    assert bitmaps.pattern_of_double(-0.0) == bitmaps.pattern_of_double(0.0) == 0
    assert bitmaps.pattern_of_double(1.0) == struct.unpack("<Q", struct.pack("<d", 1.0))[0]


@given(st.lists(WIDE.map(bitmaps.pattern_of_integer), max_size=80))
def test_transposing_gives_the_slices(patterns: list[int]) -> None:
    assert bitmaps.transpose(patterns) == slices_of(dict(enumerate(patterns)))


@given(
    PLACES.flatmap(
        lambda places: st.tuples(
            st.just(places[0]),
            st.fixed_dictionaries(
                dict.fromkeys(
                    sorted(places[1]), (WIDE | st.integers(0, 9)).map(bitmaps.pattern_of_integer)
                )
            ),
        )
    )
)
def test_numbers_at_some_positions_are_stored_as_their_slices(
    case: tuple[int, dict[int, int]],
) -> None:
    used, numbers = case[0], dict(sorted(case[1].items()))
    stored = dict(bitmaps.sliced(list(numbers.values()), list(numbers), used))
    assert {bit: bitmaps.decode(members) for bit, members in stored.items()} == slices_of(numbers)
    for members in stored.values():
        assert members == bitmaps.encode_set(bitmaps.decode(members), used)


NUMBERS = st.dictionaries(st.integers(0, 60), WIDE | st.integers(-3, 3), max_size=30)


@given(
    NUMBERS, WIDE | st.integers(-3, 3) | st.just(2**63) | st.integers(0, 62).map(lambda n: 1 << n)
)
def test_slices_tell_what_is_below(numbers: dict[int, int], constant: int) -> None:
    slices = slices_of({p: bitmaps.pattern_of_integer(n) for p, n in numbers.items()})
    found = bitmaps.below(slices, as_set(set(numbers)), constant + 2**63)
    assert found == as_set({p for p, n in numbers.items() if n < constant})


@given(NUMBERS)
def test_no_more_slices_are_read_than_the_constant_has_bits(numbers: dict[int, int]) -> None:
    slices = slices_of({p: bitmaps.pattern_of_integer(n) for p, n in numbers.items()})
    read = []

    class Watched(dict[int, int]):
        def get(self, bit: int, otherwise: int = 0, /) -> int:  # type: ignore[override]
            read.append(bit)
            return super().get(bit, otherwise)

    bitmaps.below(Watched(slices), as_set(set(numbers)), (5 << 20) + 2**63)
    assert min(read) >= 20


@given(NUMBERS, st.integers(0, 12))
def test_slices_tell_the_largest(numbers: dict[int, int], wanted: int) -> None:
    slices = slices_of({p: bitmaps.pattern_of_integer(n) for p, n in numbers.items()})
    sure, tied = bitmaps.largest(slices, as_set(set(numbers)), wanted)
    assert not sure & tied
    ranked = sorted(numbers.values(), reverse=True)
    if len(ranked) <= wanted:
        assert (sure, tied) == (as_set(set(numbers)), 0)
        return
    last = ranked[wanted - 1] if wanted else None
    for position, number in numbers.items():
        if last is None:
            assert not sure
        elif number > last:
            assert sure >> position & 1
        elif number < last and bitmaps.count(sure) < wanted:
            assert not (sure | tied) >> position & 1
    if last is not None:
        assert bitmaps.count(sure) <= wanted <= bitmaps.count(sure | tied)


@given(NUMBERS.filter(bool))
def test_slices_tell_the_least(numbers: dict[int, int]) -> None:
    slices = slices_of({p: bitmaps.pattern_of_integer(n) for p, n in numbers.items()})
    assert bitmaps.least(slices, as_set(set(numbers))) == min(numbers.values())


COUNTS = st.dictionaries(st.integers(0, 40), st.integers(0, 2**12), max_size=30)


def counted(numbers: dict[int, int]) -> list[int]:
    slices = slices_of(numbers)
    return [slices.get(bit, 0) for bit in range(max(slices, default=-1) + 1)]


@given(COUNTS, COUNTS)
def test_counts_add_up(one: dict[int, int], other: dict[int, int]) -> None:
    sums = {p: one.get(p, 0) + other.get(p, 0) for p in one.keys() | other.keys()}
    found = bitmaps.add(counted(one), counted(other))
    assert {bit: members for bit, members in enumerate(found) if members} == slices_of(sums)


@given(COUNTS, st.integers(-2, 2**13))
def test_counts_are_compared(numbers: dict[int, int], constant: int) -> None:
    less, equal = bitmaps.compare_counts(counted(numbers), as_set(set(numbers)), constant)
    assert less == as_set({p for p, n in numbers.items() if n < constant})
    assert equal == as_set({p for p, n in numbers.items() if n == constant})
