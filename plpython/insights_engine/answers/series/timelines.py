"""The traces of a block in the order of time, with their numbers.

A bucket of a series is then a run of bits.  In most blocks the order is that of the
positions; where it is not, the slices are put into it once a session, as a block's
numbers never change.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple, Optional

from insights_engine.index.cache import CACHE
from insights_engine.index.groups import Block, Group, all_positions
from insights_engine.index.index_reader import GROUP, Index
from insights_engine.sets import bitmaps

_KEY = ("timelines",)
#: Slices of fixed-point numbers; numbers that need more are summed one by one.
_MOST_BITS = 2 * bitmaps.WIDTH
#: Stored digits of a double's significand, and what power of two the last of them is
#: a multiple of in the smallest numbers (IEEE 754, binary64).
_FRACTION, _LEAST = 52, -1074


class OrderedSlices(NamedTuple):
    """Numbers, bit by bit, of the traces that have one; the highest bit is negative."""

    there: bytes
    slices: dict[int, bytes]
    #: The bit that is negative.
    sign: int = bitmaps.WIDTH - 1
    #: The numbers are multiples of two to the power of this; None: there are no slices.
    exponent: Optional[int] = 0

    def part(self, start: int, end: int) -> SlicedBytes:
        """What is in some whole bytes."""
        found = {}
        for bit, members in self.slices.items():
            own = members[start:end]
            if any(own):
                found[bit] = own
        return SlicedBytes(self.there[start:end], found)


class SlicedBytes(NamedTuple):
    """A few whole bytes of sliced numbers."""

    there: bytes
    slices: dict[int, bytes]


class Timeline:
    """The traces of a block, dead ones among them, in the order of time."""

    __slots__ = (
        *("_first_ms", "_order", "_places", "_times"),
        *("costs", "execution", "nbytes", "numbers", "odd", "tokens"),
    )

    def __init__(
        self,
        first_ms: int,
        times: array[int],
        order: Optional[array[int]],
        sliced: tuple[OrderedSlices, OrderedSlices, OrderedSlices],
        numbers: tuple[array[int], array[int], array[float]],
        odd: int,
    ) -> None:
        # When they began, ms after a moment.
        self._first_ms = first_ms
        self._times = times
        self.execution, self.tokens, self.costs = sliced
        #: The same numbers one by one, 0 for none.
        self.numbers = numbers
        #: Positions whose cost is there, but no finite number.
        self.odd = odd
        # The position of each, and the place of each position; None: they are the same.
        self._order = order
        self._places: Optional[array[int]] = None
        if order is not None:
            self._places = array("H", bytes(2 * len(order)))
            for place, position in enumerate(order):
                self._places[position] = place
        #: About what it takes in memory.
        self.nbytes = (
            sum(one.itemsize * len(one) for one in (self._times, *numbers))
            + (0 if order is None else 4 * len(order))
            + sum(len(one.there) * (1 + len(one.slices)) for one in sliced)
        )

    def __len__(self) -> int:
        return len(self._times)

    def time_ms(self, place: int) -> int:
        """When a trace began."""
        return self._first_ms + self._times[place]

    def ordered(self, bits: int) -> int:
        """A set of positions as a set of places in time."""
        order, places = self._order, self._places
        if order is None or places is None:
            return bits
        used = len(order)
        if bits == all_positions(used):
            return bits
        if 10 * bitmaps.count(bits) < used:
            flags = bytearray(used)
            for position in bitmaps.positions(bits):
                flags[places[position]] = 1
            return bitmaps.of_flags(flags)
        return bitmaps.of_flags(bytes(map(bitmaps.flags(bits, used).__getitem__, order)))

    def in_order(self, numbers: Sequence[int]) -> Sequence[int]:
        """Numbers by position as numbers by place in time."""
        if self._order is None:
            return numbers
        return [numbers[position] for position in self._order]

    def end_before(self, time_ms: int, start: int) -> int:
        """The number of traces that began before then, of which ``start`` are known to."""
        return bisect_left(self._times, time_ms - self._first_ms, start)

    def ends_before(self, times_ms: Iterable[int]) -> list[int]:
        """How many began before each of some moments."""
        times, first_ms = self._times, self._first_ms
        return [bisect_left(times, time_ms - first_ms) for time_ms in times_ms]


def narrow(numbers: array[int]) -> array[int]:
    """The same integers in half the room, if they fit."""
    if numbers and min(numbers) >= -(2**31) and max(numbers) < 2**31:
        return array("i", numbers)
    return numbers


def timelines(index: Index, blocks: Sequence[Block]) -> Iterator[Timeline]:
    """The timeline of each block, in their order."""
    size = GROUP // bitmaps.POSITIONS
    for first in range(0, len(blocks), size):
        some = blocks[first : first + size]
        known = dict(CACHE.columns(_KEY))
        lacking = [block for block in some if block.block not in known]
        if lacking:
            fresh = _read(index, lacking)
            CACHE.keep(_KEY, fresh)
            known.update(fresh)
        for block in some:
            yield known[block.block]


def _read(index: Index, blocks: Sequence[Block]) -> dict[int, Timeline]:
    # The places of blocks in a group belong to the group.
    group = Group(index.plpy, [copy(block) for block in blocks])
    planner = index.planner
    all_times = _divided(group, planner.timestamps().slices(group))
    execution, tokens, costs = (
        _divided(group, planner.column(name)[0].slices(group))
        for name in ("execution_time_ms", "total_tokens", "total_cost")
    )
    _, odd = planner.column("total_cost")
    group.fetch(odd)
    odd_ones = group.divided(group.union(odd))
    found: dict[int, Timeline] = {}
    for number, block in enumerate(blocks):
        used = block.used
        first_ms, times = _times(all_times[number], used)
        order = _order(times)
        found[block.block] = Timeline(
            first_ms,
            _ordered(times, order),
            order,
            (
                _sliced(execution[number], order, used),
                _sliced(tokens[number], order, used),
                _fixed_point(costs[number], order, used),
            ),
            (
                _integers(execution[number], order, used),
                _integers(tokens[number], order, used),
                _ordered(bitmaps.doubles(bitmaps.numbers(costs[number], used)), order),
            ),
            odd_ones[number],
        )
    return found


def _times(slices: dict[int, int], used: int) -> tuple[int, array[int]]:
    """A moment, and how many ms after it the trace at each position began."""
    every = all_positions(used)
    high = {bit: members for bit, members in slices.items() if 32 <= bit < bitmaps.WIDTH}
    if all(members == every or not members for members in high.values()):
        # They differ by no more than their lower halves do.
        pattern = sum(1 << bit for bit, members in high.items() if members)
        return bitmaps.integer_of(pattern), bitmaps.low_numbers(slices, used)
    return 0, bitmaps.integers(bitmaps.numbers(slices, used))


def _order(times: array[int]) -> Optional[array[int]]:
    """The positions in the order of time; None: that is their own."""
    listed = times.tolist()
    # Those that are in order already take no time to sort.
    if sorted(listed) == listed:
        return None
    return array("H", sorted(range(len(listed)), key=listed.__getitem__))


def _ordered(numbers: array[Any], order: Optional[array[int]]) -> array[Any]:
    if order is None:
        return numbers
    return array(numbers.typecode, map(numbers.__getitem__, order))


def _integers(slices: dict[int, int], order: Optional[array[int]], used: int) -> array[int]:
    if any(members for bit, members in slices.items() if 31 <= bit < bitmaps.WIDTH):
        return narrow(_ordered(bitmaps.integers(bitmaps.numbers(slices, used)), order))
    return _ordered(array("i", bitmaps.low_numbers(slices, used).tobytes()), order)


def _divided(group: Group, slices: dict[int, int]) -> list[dict[int, int]]:
    """Slices for each block."""
    found: list[dict[int, int]] = [{} for _ in group.blocks]
    for bit, members in slices.items():
        for own, part in zip(found, group.divided(members)):
            own[bit] = part
    return found


def _sliced(slices: dict[int, int], order: Optional[array[int]], used: int) -> OrderedSlices:
    """Slices in the order of time."""
    there = slices.get(bitmaps.HAS_NUMBER, 0)
    rest = {bit: bits for bit, bits in slices.items() if bits and bit != bitmaps.HAS_NUMBER}
    return OrderedSlices(*_stored(there, rest, order, used))


def _stored(
    there: int, slices: dict[int, int], order: Optional[array[int]], used: int
) -> tuple[bytes, dict[int, bytes]]:
    if order is not None:
        there = _permuted(there, order)
        slices = {bit: _permuted(bits, order) for bit, bits in slices.items()}
    size = (used + 7) >> 3
    return (
        there.to_bytes(size, "little"),
        {bit: bits.to_bytes(size, "little") for bit, bits in slices.items()},
    )


def _permuted(bits: int, order: array[int]) -> int:
    flags = bitmaps.flags(bits, len(order))
    return bitmaps.of_flags(bytes(map(flags.__getitem__, order)))


def _fixed_point(slices: dict[int, int], order: Optional[array[int]], used: int) -> OrderedSlices:
    """The slices of doubles as those of fixed-point numbers in the order of time, exactly.

    Without slices, if that takes too many of them.
    """
    there = slices.get(bitmaps.HAS_NUMBER, 0)
    negative = slices.get(bitmaps.WIDTH - 1, 0)
    # The patterns of negative doubles have all other bits turned.
    bits = [slices.get(bit, 0) ^ negative for bit in range(bitmaps.WIDTH - 1)]
    significand, exponent = bits[:_FRACTION], bits[_FRACTION:]
    by_power = _by_power(exponent, _union(bits))
    low, high = min(by_power, default=0), max(by_power, default=0)
    if high - low + _FRACTION + 2 > _MOST_BITS:
        return OrderedSlices(*_stored(there, {}, order, used), exponent=None)
    # The first digit, which is not stored, is 1, but of the smallest numbers.
    significand.append(_union(exponent))
    found = dict.fromkeys(range(high - low + len(significand)), 0)
    for power, members in by_power.items():
        for bit, part in enumerate(significand, power - low):
            found[bit] |= part & members
    if negative:
        _negate(found, negative)
    found = {bit: part for bit, part in found.items() if part}
    return OrderedSlices(*_stored(there, found, order, used), _MOST_BITS - 1, _LEAST + low)


def _by_power(exponent: Sequence[int], numbers: int) -> dict[int, int]:
    """Which numbers are multiples of what power of two above the least, of their exponents."""
    found = {0: numbers}
    for bit in range(len(exponent) - 1, -1, -1):
        parts = {}
        for power, members in found.items():
            upper = members & exponent[bit]
            if upper:
                parts[power | 1 << bit] = upper
            if upper != members:
                parts[power] = members ^ upper
        found = parts
    # The two lowest exponents mean the same.
    lowest = found.pop(0, 0) | found.pop(1, 0)
    found = {power - 1: members for power, members in found.items()}
    return {0: lowest, **found} if lowest else found


def _negate(slices: dict[int, int], those: int) -> None:
    """Turn some of the numbers, all of which are positive, into two's complements."""
    carry = those
    for bit in range(_MOST_BITS):
        turned = slices.get(bit, 0) ^ those
        slices[bit] = turned ^ carry
        carry &= turned


def _union(sets: Iterable[int]) -> int:
    """The members of any of some sets."""
    found = 0
    for members in sets:
        found |= members
    return found
