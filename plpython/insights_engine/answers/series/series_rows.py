"""The columns of a time bucket: counts, percentiles of latencies, sums.

Latencies are summed up by percentiles as PostgreSQL's ``percentile_cont`` has them: between
the two nearest by rank, in a straight line.  Costs are summed without rounding between
them.  Everything is written as PostgreSQL writes it in an array, since a series goes
there column by column: making a row of each bucket takes several times as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Optional

from insights_engine.answers.series.timelines import SlicedBytes
from insights_engine.index import sessions
from insights_engine.sets import bitmaps

#: The columns of a time bucket beside its start.
COLUMNS = ("matched", "total", "errors", "p50_ms", "p95_ms", "p99_ms", "tokens", "cost")

PERCENTILES = (0.5, 0.95, 0.99)
#: Costs are summed as multiples of two to the power of this, of which every double is one,
#: and those of the smallest doubles whose last bits are zero.
FINEST = -1200


class Integers:
    """Integers of some traces: whole bytes of slices, and single numbers."""

    __slots__ = ("_parts", "_within", "others")

    def __init__(self) -> None:
        self._within: list[bytes] = []
        self._parts: list[dict[int, bytes]] = []
        self.others: list[int] = []

    def add(self, part: SlicedBytes, within: bytes) -> None:
        """Add those of a part that are ``within`` and have a number."""
        chosen = int.from_bytes(part.there, "little") & int.from_bytes(within, "little")
        if chosen:
            size = len(within)
            self._within.append(chosen.to_bytes(size, "little"))
            self._parts.append(part.slices)

    def percentiles(self, fractions: Sequence[float]) -> list[Optional[float]]:
        """The percentiles of all of them."""
        if not self._parts:
            return percentiles(sorted(self.others), fractions)
        if self.others:
            patterns = [bitmaps.pattern_of_integer(number) for number in self.others]
            size = (len(patterns) + 7) >> 3
            slices = bitmaps.transpose(patterns)
            part = {bit: bits.to_bytes(size, "little") for bit, bits in slices.items()}
            all_there = ((1 << len(patterns)) - 1).to_bytes(size, "little")
            self.add(SlicedBytes(all_there, part), all_there)
            self.others = []
        return percentiles_of_slices(*self._joined(), fractions)

    def _joined(self) -> tuple[int, dict[int, int]]:
        """Which have a number, and the slices, as sets of places in all parts."""
        if len(self._parts) == 1:
            (part,) = self._parts
            slices = {bit: int.from_bytes(own, "little") for bit, own in part.items()}
            return int.from_bytes(self._within[0], "little"), slices
        found = {}
        for bit in set().union(*self._parts):
            rows = (
                part.get(bit) or bytes(len(within))
                for part, within in zip(self._parts, self._within)
            )
            found[bit] = int.from_bytes(b"".join(rows), "little")
        return int.from_bytes(b"".join(self._within), "little"), found


class TimeBucket:
    """The traces of a time bucket, summed up."""

    __slots__ = (
        *("costs", "errors", "latencies", "matched"),
        *("sessions", "spent", "tokens", "total"),
    )

    def __init__(self) -> None:
        self.total = self.matched = self.errors = 0
        self.latencies = Integers()
        self.tokens: Optional[int] = None
        #: The sum of costs, in multiples of a power of two; further costs by themselves.
        self.spent: Optional[int] = None
        self.costs: list[float] = []
        #: Numbers of sessions with a trace, with a match, and with a failed match; for
        #: ``session_all`` with a trace that is none.
        self.sessions: tuple[set[int], set[int], set[int]] = (set(), set(), set())

    def add_tokens(self, tokens: Iterable[int]) -> None:
        """Add the tokens of some traces."""
        self.tokens = sum(tokens) + (self.tokens or 0)

    def counts(self, unit: str) -> tuple[str, str, str]:
        """How many match, how many there are, and how many failed."""
        total, matched, errors = self.total, self.matched, self.errors
        if unit != sessions.TRACE:
            total, matched, errors = map(len, self.sessions)
            if unit == sessions.SESSION_ALL:
                matched, errors = total - matched, total - errors
        return str(matched), str(total), str(errors)

    def row(self, unit: str) -> Row:
        """The columns of the time bucket."""
        cost = None
        if self.spent is not None or self.costs:
            cost = total_of(self.costs, self.spent or 0)
        numbers = self.latencies.percentiles(PERCENTILES)
        return (*self.counts(unit), *texts_of(*numbers, self.tokens, cost))


#: The `COLUMNS` of a bucket, as PostgreSQL writes them in an array.
Row = tuple[str, ...]
NULL = "NULL"
NOTHING: Row = ("0",) * 3 + (NULL,) * 5


def texts_of(*numbers: Optional[float]) -> Iterator[str]:
    return (NULL if number is None else repr(number) for number in numbers)


#: The columns of buckets in succession, each as one text.
Columns = tuple[str, ...]


def columns_of(rows: Sequence[Row]) -> Columns:
    return tuple(map(",".join, zip(*rows)))


def nothing(size: int) -> Columns:
    """The columns of so many buckets without traces."""
    return tuple(",".join([text] * size) for text in NOTHING)


def texts_of_percentiles(parts: Iterable[Sequence[int]]) -> list[list[str]]:
    """The columns of the percentiles of some numbers each."""
    rows = [texts_of(*percentiles(sorted(numbers), PERCENTILES)) for numbers in parts]
    return [list(texts) for texts in zip(*rows)]


def texts_of_totals(parts: Iterable[Sequence[float]]) -> list[str]:
    """The column of the sums of some numbers each."""
    return [repr(total_of(numbers, 0)) if numbers else NULL for numbers in parts]


def percentiles(ranked: Sequence[int], fractions: Sequence[float]) -> list[Optional[float]]:
    """Percentiles of ascending integers as ``percentile_cont`` has them; None of no numbers."""
    found: list[Optional[float]] = []
    for below, above, share in _ranks(len(ranked), tuple(fractions)):
        low = float(ranked[below])
        found.append(low + share * (float(ranked[above]) - low) if share else low)
    return found or [None] * len(fractions)


@lru_cache(maxsize=2000)
def _ranks(size: int, fractions: tuple[float, ...]) -> tuple[tuple[int, int, float], ...]:
    """Between which ranks percentiles of so many numbers are, and how far from the first."""
    if not size:
        return ()
    ranks = [fraction * (size - 1) for fraction in fractions]
    return tuple((math.floor(rank), math.ceil(rank), rank - math.floor(rank)) for rank in ranks)


def percentiles_of_slices(
    within: int, slices: Mapping[int, int], fractions: Sequence[float]
) -> list[Optional[float]]:
    """The same of sliced integers."""
    total = bitmaps.count(within)
    if not total:
        return [None] * len(fractions)
    # Negative ones have the highest bit, and are the smallest.
    top = bitmaps.WIDTH - 1
    ordered = [(bit, slices[bit]) for bit in sorted(slices, reverse=True)]
    if top in slices:
        ordered[0] = (top, within & ~slices[top])
    offset = 1 << top if top in slices else 0

    def ranked(rank: int) -> tuple[int, int]:
        """The number of a rank from 0, and the last rank that has it."""
        last, left, members, number = rank, rank, within, 0
        size = total
        for bit, having in ordered:
            upper = members & having
            above = bitmaps.count(upper)
            below = size - above
            if left < below:
                members ^= upper
                size = below
            else:
                left -= below
                members, size = upper, above
                number |= 1 << bit
        return number - offset, last - left + size - 1

    found: list[Optional[float]] = []
    for fraction in fractions:
        rank = fraction * (total - 1)
        below, above = math.floor(rank), math.ceil(rank)
        number, last = ranked(below)
        low = high = float(number)
        if above > last:
            high = float(ranked(above)[0])
        found.append(low if below == above else low + (rank - below) * (high - low))
    return found


def sum_of(within: int, slices: Mapping[int, bytes], sign: int) -> int:
    """The sum of sliced integers."""
    total = 0
    for bit, own in slices.items():
        found = bitmaps.count(int.from_bytes(own, "little") & within) << bit
        total += -found if bit == sign else found
    return total


def total_of(numbers: Sequence[float], further: int) -> float:
    """The sum of doubles and of a multiple of the finest one."""
    try:
        if not further:
            return math.fsum(numbers)
        return math.fsum((*numbers, float(Fraction(further, 1 << -FINEST))))
    except ValueError:  # infinities of both signs
        return math.nan
    except OverflowError:  # on the way at least
        exact = sum(map(Fraction, numbers), Fraction(further, 1 << -FINEST))
        try:
            return float(exact)
        except OverflowError:
            return math.inf if exact > 0 else -math.inf
