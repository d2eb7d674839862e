"""The numbers of traces, cut into cells: what thresholds are chosen from.

The numbers of a field are compared as `bitmaps.ordered` orders them, so that a cell
holds exactly what the raw predicate says is between two constants.  Where to cut is
chosen once, from a sample of the traces and without a look at any target, and at
numbers that are good to read; of each trace it is then kept in which cell its
smallest and its largest number lie, a byte each.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Callable, NamedTuple, Optional, Union

from insights_engine import bitmaps, intervals, tree
from insights_engine.candidates import Name
from insights_engine.columns import flags
from insights_engine.thresholds import roundest

#: Cells of a field: more than a search compares, for bases unlike the sample.
_EVEN = 64
_TAIL = 6
#: How far a cut may be moved to be good to read, as a part of a cell.
_FREEDOM = 0.4
#: Numbers of a field that cuts are chosen from.
SAMPLE = 20_000

Slices = Mapping[tuple[str, int], bytes]


class Numbers(NamedTuple):
    """The smallest and largest number of each trace that has one, as ordered integers."""

    positions: Sequence[int]
    low: Sequence[int]
    high: Sequence[int]


class Cuts(NamedTuple):
    """Constants, ascending, and the first ordered integer that is not below each."""

    values: Sequence[Union[int, float]]
    starts: Sequence[int]


class Cells:
    """The cell of the smallest and largest number by position, from 1; 0: there is none.

    They are the same object where no trace has two different numbers.
    """

    __slots__ = ("cuts", "high", "low", "whole")

    def __init__(self, low: bytes, high: bytes, cuts: Cuts) -> None:
        self.low = low
        self.high = high
        self.cuts = cuts
        counts = histogram(low)
        #: How many traces have their smallest, and their largest, number in each cell.
        self.whole = (counts, counts if high is low else histogram(high))

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return len(self.low) * (1 if self.high is self.low else 2) + 1_000

    def counts(self, chosen: Callable[[bytes], bytes]) -> tuple[dict[int, int], dict[int, int]]:
        """The same of some traces, which ``chosen`` picks."""
        counts = histogram(chosen(self.low))
        return counts, counts if self.high is self.low else histogram(chosen(self.high))

    def members(self, op: str, cut: int) -> int:
        """The positions with some number at or above a cut (``>=``), or below it (``<``)."""
        if op == ">=":
            table = bytes(48 + (cell > cut) for cell in range(256))
            digits = self.high.translate(table)
        else:
            table = bytes(48 + (0 < cell <= cut) for cell in range(256))
            digits = self.low.translate(table)
        return int(digits[::-1], 2)


def histogram(cells: bytes) -> dict[int, int]:
    """How often each cell occurs."""
    return {cell: cells.count(cell) for cell in set(cells) if cell}


# ---------------------------------------------------------------------- decoding


def decode(slices: Slices, used: int) -> Numbers:
    """The numbers that the slices of roles ``n`` and ``x`` of one signature stand for."""
    there = slices.get(("n", bitmaps.HAS_NUMBER))
    if there is None:
        return Numbers((), (), ())
    positions = bitmaps.stored_positions(there)
    if 8 * len(positions) < used:
        return _decode_few(slices, positions)
    low = _lanes(slices, "n", used)
    spread = slices.get(("x", bitmaps.HAS_NUMBER))
    high = low
    if spread is not None:
        high = array("Q", low)
        others = _lanes(slices, "x", used)
        for position in bitmaps.stored_positions(spread):
            high[position] = low[position] ^ others[position]
    ordered = [number ^ _SIGN for number in map(low.__getitem__, positions)]
    if high is low:
        return Numbers(positions, ordered, ordered)
    return Numbers(
        positions, ordered, [number ^ _SIGN for number in map(high.__getitem__, positions)]
    )


def _decode_few(slices: Slices, positions: Sequence[int]) -> Numbers:
    low = dict.fromkeys(positions, _SIGN)
    changed: dict[int, int] = {}
    for (role, bit), members in slices.items():
        if bit == bitmaps.HAS_NUMBER:
            continue
        value = 1 << bit
        if role == "n":
            for position in bitmaps.stored_positions(members):
                low[position] ^= value
        else:
            for position in bitmaps.stored_positions(members):
                changed[position] = changed.get(position, 0) | value
    ordered = [low[position] for position in positions]
    if not changed:
        return Numbers(positions, ordered, ordered)
    return Numbers(
        positions,
        ordered,
        [number ^ changed.get(position, 0) for position, number in zip(positions, ordered)],
    )


def _lanes(slices: Slices, role: str, used: int) -> array[int]:
    """The pattern at each position; the bits of eight slices become a byte at a time."""
    bytes_of = bytearray(8 * used)
    for lane in range(8):
        digits = 0
        for bit in range(8):
            members = slices.get((role, 8 * lane + bit))
            if members is not None:
                bits = bitmaps.decode(members)
                digits |= int.from_bytes(flags(bits, used), "little") << bit
        if digits:
            bytes_of[lane::8] = digits.to_bytes(used, "little")
    found = array("Q", bytes(bytes_of))
    if sys.byteorder == "big":
        found.byteswap()
    return found


_SIGN = 1 << (bitmaps.WIDTH - 1)


def united(several: Sequence[Numbers]) -> Numbers:
    """The smallest and largest numbers over several signatures."""
    if len(several) == 1:
        return several[0]
    low: dict[int, int] = {}
    high: dict[int, int] = {}
    for numbers in several:
        for position, least, most in zip(*numbers):
            known = low.get(position)
            if known is None:
                low[position] = least
                high[position] = most
            else:
                if least < known:
                    low[position] = least
                if most > high[position]:
                    high[position] = most
    positions = sorted(low)
    return Numbers(
        positions, list(map(low.__getitem__, positions)), list(map(high.__getitem__, positions))
    )


def cells_of(numbers: Numbers, cuts: Cuts, used: int) -> Cells:
    """The cells that numbers lie in."""
    low = _cells(numbers.positions, numbers.low, cuts, used)
    if numbers.high is numbers.low or numbers.high == numbers.low:
        return Cells(low, low, cuts)
    return Cells(low, _cells(numbers.positions, numbers.high, cuts, used), cuts)


def _cells(positions: Sequence[int], numbers: Sequence[int], cuts: Cuts, used: int) -> bytes:
    found = bytearray(used)
    starts = cuts.starts
    for position, number in zip(positions, numbers):
        found[position] = bisect_right(starts, number) + 1
    return bytes(found)


# -------------------------------------------------------------------- the fields


def is_whole(name: Name) -> bool:
    """Whether numbers are stored as 64-bit integers, not as doubles."""
    kind, key = name[1], name[2]
    if kind == "span":
        return True
    return kind == "trace" and key in tree.TRACE_NUMBER_FIELDS and not key.endswith("_cost")


def _value(name: Name, place: int) -> Union[int, float]:
    """The number that an ordered integer stands for, in the unit of the field."""
    pattern = place ^ _SIGN
    if not is_whole(name):
        return bitmaps.double_of_pattern(pattern)
    number = pattern - (1 << bitmaps.WIDTH) if pattern & _SIGN else pattern
    return number / 1e6 if name[1] == "span" else number


def _start(name: Name, value: Union[int, float]) -> int:
    """The first ordered integer that is not below a constant."""
    if name[1] == "span":
        return intervals.bounds_of_duration(float(value))[0]
    if not is_whole(name):
        return intervals.bounds_of_double(float(value))[0]
    if isinstance(value, float):
        return intervals.bounds_among_integers(value)[0]
    return intervals.bounds_of_integer(value)[0]


# ---------------------------------------------------------------------- the cuts


def choose_cuts(name: Name, sample: Iterable[int]) -> Cuts:
    """Where to cut a field, of some of its numbers."""
    places: list[int] = []
    cumulative: list[int] = []
    for count, place in enumerate(sorted(sample), 1):
        if places and places[-1] == place:
            cumulative[-1] = count
        else:
            places.append(place)
            cumulative.append(count)
    found: dict[int, Union[int, float]] = {}
    for low, high in _gaps(cumulative):
        value = _readable(name, _value(name, places[low]), _value(name, places[high]))
        if value is not None:
            found[_start(name, value)] = value
    starts = sorted(found)
    return Cuts([found[start] for start in starts], starts)


def _gaps(cumulative: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of values, by number: cut somewhere above the first, not above the second."""
    if len(cumulative) <= _EVEN + 2 * _TAIL:
        return [(number - 1, number) for number in range(1, len(cumulative))]
    total = cumulative[-1]
    step = 1 / (_EVEN + 1)
    windows = [(k * step, step) for k in range(1, _EVEN + 1)]
    for k in range(1, _TAIL + 1):
        windows += [(step / 2**k, step / 2**k), (1 - step / 2**k, step / 2**k)]
    found = []
    for quantile, width in windows:
        low = bisect_right(cumulative, (quantile - _FREEDOM * width) * total)
        high = bisect_right(cumulative, (quantile + _FREEDOM * width) * total)
        if low < high < len(cumulative):
            found.append((low, high))
        else:
            # A value that is so frequent on its own: below it, and above it.
            found += [(at - 1, at) for at in (low, low + 1) if 0 < at < len(cumulative)]
    return found


def _readable(
    name: Name, low: Union[int, float], high: Union[int, float]
) -> Optional[Union[int, float]]:
    """A number above ``low`` and not above ``high`` that is good to read."""
    if not low < high:
        return None
    if name[1:3] == ("trace", "timestamp_ms"):
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


def sampled(numbers: Numbers, most: int) -> list[int]:
    """Some of the numbers, evenly."""
    step = max(1, len(numbers.positions) // max(most, 1))
    found = list(numbers.low[::step])
    if numbers.high is not numbers.low:
        found += numbers.high[::step]
    return found
