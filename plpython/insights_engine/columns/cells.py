"""The numbers of traces, divided into cells by the constants that thresholds are chosen from.

The numbers of a field are compared as `bitmaps.ordered` orders them, so that a cell
holds exactly what exact SQL finds between two constants.  Where to cut is
chosen once, from a sample of the traces and without a look at any target, and at
readable numbers; of each trace it is then kept in which cell its
smallest and its largest number lie, a few bits each.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple, Optional, Union

from insights_engine.columns.names import NumberField
from insights_engine.facts.terms import Role
from insights_engine.language import storage
from insights_engine.language.storage import Type
from insights_engine.sets import bitmaps, intervals
from insights_engine.stats.thresholds import gaps, roundest

#: Numbers of a field that cuts are chosen from, ...
SAMPLE = 20_000
#: ... except in a base of so few traces, where all numbers are.
FEW_TRACES = 5_000


class Extremes(NamedTuple):
    """The smallest and largest number of each trace that has one, as ordered integers."""

    positions: Sequence[int]
    low: Sequence[int]
    high: Sequence[int]


class Cuts(NamedTuple):
    """Constants, ascending, and the first ordered integer that is not below each."""

    values: Sequence[Union[int, float]]
    starts: Sequence[int]


#: The number of a cell at each position, bit by bit, the lowest first.
Planes = Sequence[int]
#: How many traces are in each cell.
Histogram = dict[int, int]


class Cells:
    """The cell of the smallest and largest number by position, from 1; 0: there is none.

    They are the same object where no trace has two different numbers.
    """

    __slots__ = ("_last", "cuts", "high", "low", "size")

    def __init__(self, low: Planes, high: Planes, cuts: Cuts) -> None:
        self.low = low
        self.high = high
        self.cuts = cuts
        # The last base, as a rule all traces, and its `counts`.
        self._last: tuple[int, tuple[Histogram, Histogram]] = (-1, ({}, {}))
        planes = low if high is low else (*low, *high)
        #: About how many bytes of memory it takes.
        self.size = 2_000 + sum(bits.bit_length() // 7 for bits in planes)

    def counts(self, within: int) -> tuple[Histogram, Histogram]:
        """How many traces of a set have their smallest, and their largest, number in each cell."""
        low = histogram(self.low, within)
        return low, low if self.high is self.low else histogram(self.high, within)

    def base_counts(self, base: int) -> tuple[Histogram, Histogram]:
        """The counts in a set that is counted again and again: the base of a discovery."""
        if self._last[0] != base:
            self._last = base, self.counts(base)
        return self._last[1]

    def members(self, op: str, cut: int) -> int:
        """The positions with some number at or above a cut (``>=``), or below it (``<``)."""
        planes = self.high if op == ">=" else self.low
        there = _there(planes)
        less, equal = bitmaps.compare_counts(planes, there, cut)
        below = less | equal
        return there & ~below if op == ">=" else below


def _there(planes: Planes) -> int:
    there = 0
    for bits in planes:
        there |= bits
    return there


def histogram(planes: Planes, within: int) -> Histogram:
    """How often each cell occurs among the members of a set."""
    # The members whose cell begins with each number of bits so far, in order.
    parted = [_there(planes) & within]
    for bits in reversed(planes):
        deeper: list[int] = []
        for members in parted:
            ones = members & bits
            deeper += (members ^ ones, ones)
        parted = deeper
    found: Histogram = {}
    for cell, members in enumerate(parted):
        if members:
            found[cell] = bitmaps.count(members)
    return found


def bytes_of(planes: Planes, used: int) -> bytes:
    """The cell at each position as a byte."""
    digits = 0
    for bit, bits in enumerate(planes):
        digits |= int.from_bytes(bitmaps.flags(bits, used), "little") << bit
    return digits.to_bytes(used, "little")


# ------------------------------------------------------------- numbers as slices


class StoredSlices:
    """The numbers of traces of one signature, bit by bit, as the index stores them.

    Slices are decoded on first use and kept.
    """

    def __init__(self, slices: Mapping[tuple[str, int], bytes]) -> None:
        self._stored = slices
        self._decoded: dict[tuple[str, int], int] = {}
        #: The positions with a number.
        self.there = self.slice(Role.LOW, bitmaps.HAS_NUMBER)
        #: Those of them with several different ones.
        self.several = self.slice(Role.SPREAD, bitmaps.HAS_NUMBER)

    def slice(self, role: str, bit: int) -> int:
        """One slice: of the smallest numbers, or where the largest differ."""
        known = self._decoded.get((role, bit))
        if known is None:
            stored = self._stored.get((role, bit))
            known = 0 if stored is None else bitmaps.decode(stored)
            self._decoded[role, bit] = known
        return known

    def bits(self) -> list[int]:
        """The bits that some number has."""
        return sorted({bit for _, bit in self._stored} - {bitmaps.HAS_NUMBER})

    @property
    def low(self) -> bitmaps.Slices:
        """The slices of the smallest numbers."""
        return _Low(self)

    @property
    def high(self) -> bitmaps.Slices:
        """The slices of the largest numbers."""
        return _High(self)

    def sample(self, used: int, within: int) -> list[int]:
        """The smallest and largest numbers of some traces, from all over the block."""
        few = bitmaps.count(within) <= FEW_TRACES
        chosen, size = (_all, used) if few else (_windows, min(used, _WINDOWS * _WINDOW))
        sample: list[int] = []
        for slices, there in ((self.low, self.there), (self.high, self.several)):
            positions = bitmaps.positions(chosen(there & within, used))
            if positions:
                own = {bit: chosen(slices.get(bit, 0), used) for bit in self.bits()}
                found = bitmaps.numbers(own, size)
                sample += [found[position] ^ _SIGN for position in positions]
        return sample


class _Low:
    """The slices of the smallest numbers."""

    __slots__ = ("_sliced",)

    def __init__(self, sliced: StoredSlices) -> None:
        self._sliced = sliced

    def get(self, bit: int, otherwise: int, /) -> int:
        return self._sliced.slice(Role.LOW, bit)


class _High(_Low):
    """The slices of the largest numbers: those of the smallest, changed where they differ."""

    __slots__ = ()

    def get(self, bit: int, otherwise: int, /) -> int:
        return self._sliced.slice(Role.LOW, bit) ^ self._sliced.slice(Role.SPREAD, bit)


# Traces of a block that a sample takes: so many stretches of so many positions.
_WINDOWS = 8
_WINDOW = 256


def _windows(bits: int, used: int) -> int:
    """Some stretches of a set, joined."""
    if used <= _WINDOWS * _WINDOW or not bits:
        return bits
    stored = bits.to_bytes((used + 7) >> 3, "little")
    step = len(stored) / _WINDOWS
    starts = [int(number * step) for number in range(_WINDOWS)]
    return int.from_bytes(
        b"".join([stored[start : start + (_WINDOW >> 3)] for start in starts]), "little"
    )


def _all(bits: int, used: int) -> int:
    return bits


_SIGN = 1 << (bitmaps.WIDTH - 1)


def partition(slices: bitmaps.Slices, there: int, starts: Sequence[int]) -> dict[int, int]:
    """The positions whose number lies in each cell: after how many of the ascending starts.

    The bits are followed from the top, but only as far as a start lies between the
    numbers that agree in the bits so far.
    """
    first = bisect_right(starts, 0)
    found: dict[int, int] = {}
    if first == len(starts):
        return {first: there} if there else found
    # Positions, the first of the numbers that begin as theirs do, and the starts among these.
    nodes = [(there, 0, first, len(starts))] if there else []
    for bit in range(bitmaps.WIDTH - 1, -1, -1):
        if not nodes:
            break
        having = slices.get(bit, 0)
        if bit == bitmaps.WIDTH - 1:
            having = there & ~having  # set means negative
        deeper = []
        for members, begin, first, last in nodes:
            middle = begin + (1 << bit)
            between = bisect_left(starts, middle, first, last)
            ones = members & having
            zeros = members ^ ones
            if zeros:
                if first == between:
                    found[first] = found.get(first, 0) | zeros
                else:
                    deeper.append((zeros, begin, first, between))
            if ones:
                # A start at the very first of the numbers is before all of them.
                if between < last and starts[between] == middle:
                    between += 1
                if between == last:
                    found[between] = found.get(between, 0) | ones
                else:
                    deeper.append((ones, middle, between, last))
        nodes = deeper
    return found


def cells_of_slices(several: Sequence[StoredSlices], cuts: Cuts) -> Cells:
    """The cells of numbers that the index stores, over all signatures."""
    lows: dict[int, int] = {}
    highs: dict[int, int] = {}
    alike = len(several) < 2
    for sliced in several:
        low = partition(sliced.low, sliced.there, cuts.starts)
        high = low
        if sliced.several:
            alike = False
            changed = partition(sliced.high, sliced.several, cuts.starts)
            high = {cell: members & ~sliced.several for cell, members in low.items()}
            for cell, members in changed.items():
                high[cell] = high.get(cell, 0) | members
        for total, parts in ((lows, low), (highs, high)):
            for cell, members in parts.items():
                total[cell] = total.get(cell, 0) | members
    smallest = _planes(lows, sorted(lows))
    if alike:
        return Cells(smallest, smallest, cuts)
    return Cells(smallest, _planes(highs, sorted(highs, reverse=True)), cuts)


def _planes(members: Mapping[int, int], order: Sequence[int]) -> Planes:
    """The number of the first cell, in an order, that each position is in; from 1."""
    planes = [0] * (max(members, default=0) + 1).bit_length()
    seen = 0
    for cell in order:
        fresh = members[cell] & ~seen
        seen |= fresh
        for bit in range(len(planes)):
            if (cell + 1) >> bit & 1:
                planes[bit] |= fresh
    return planes


# ------------------------------------------------------------- numbers in a list


def united(several: Sequence[Extremes]) -> Extremes:
    """The smallest and largest numbers over several signatures."""
    if len(several) == 1:
        return several[0]
    low: dict[int, int] = {}
    high: dict[int, int] = {}
    for numbers in several:
        for position, least, most in zip(*numbers):
            low[position] = min(least, low.get(position, least))
            high[position] = max(most, high.get(position, most))
    positions = sorted(low)
    return Extremes(
        positions, list(map(low.__getitem__, positions)), list(map(high.__getitem__, positions))
    )


def cells_of(numbers: Extremes, cuts: Cuts) -> Cells:
    """The cells that numbers lie in."""
    low = _cells(numbers.positions, numbers.low, cuts)
    if numbers.high == numbers.low:
        return Cells(low, low, cuts)
    return Cells(low, _cells(numbers.positions, numbers.high, cuts), cuts)


def _cells(positions: Sequence[int], numbers: Sequence[int], cuts: Cuts) -> Planes:
    members: dict[int, list[int]] = {}
    for position, number in zip(positions, numbers):
        members.setdefault(bisect_right(cuts.starts, number), []).append(position)
    sets = {cell: bitmaps.of_positions(chosen) for cell, chosen in members.items()}
    return _planes(sets, sorted(sets))


def sampled(numbers: Extremes, most: int) -> list[int]:
    """Some of the numbers, evenly; the largest where they are others than the smallest."""
    step = max(1, len(numbers.positions) // max(most, 1))
    low, high = numbers.low[::step], numbers.high[::step]
    return [*low, *(most for least, most in zip(low, high) if most != least)]


# -------------------------------------------------------------------- the fields


def _type(name: NumberField) -> Type:
    """What the numbers of a field are; those among texts are doubles."""
    row = storage.NAMED.get((name.kind, name.key))
    return Type.DOUBLE if row is None else row.type


def _value(name: NumberField, place: int) -> Union[int, float]:
    """The number that an ordered integer stands for, in the unit of the field."""
    return intervals.number_of(_type(name), place ^ _SIGN)


def _start(name: NumberField, value: Union[int, float]) -> int:
    """The first ordered integer that is not below a constant."""
    return intervals.bounds_of(_type(name), value)[0]


# ---------------------------------------------------------------------- the cuts


def choose_cuts(name: NumberField, sample: Iterable[int]) -> Cuts:
    """The cuts of a field, chosen from some of its numbers."""
    counts = Counter(sample)
    places = sorted(counts)
    cumulative = list(accumulate(map(counts.__getitem__, places)))
    found: dict[int, Union[int, float]] = {}
    for low, high in gaps(cumulative):
        value = _readable(name, _value(name, places[low]), _value(name, places[high]))
        if value is not None:
            found[_start(name, value)] = value
    starts = sorted(found)
    return Cuts([found[start] for start in starts], starts)


def _readable(
    name: NumberField, low: Union[int, float], high: Union[int, float]
) -> Optional[Union[int, float]]:
    """A readable number above ``low`` and not above ``high``."""
    if not low < high:
        return None
    if (name.kind, name.key) == ("trace", "timestamp_ms"):
        for unit in _TIME_UNITS:
            value = int(high) // unit * unit
            if value > low:
                return value
    number = roundest(low, high)
    if number == number.to_integral_value() and abs(number) < 2**53:
        return int(number)
    return _as_float(number, low, high)


def _as_float(
    number: Decimal, low: Union[int, float], high: Union[int, float]
) -> Union[int, float]:
    value = float(number)
    return value if low < value <= high else high


_TIME_UNITS = (86_400_000, 21_600_000, 3_600_000, 600_000, 60_000, 10_000, 1_000)
