"""Numbers of traces, bit by bit (see bitmaps.py), and which of them lie in intervals."""

from __future__ import annotations

from collections.abc import Iterable

from insights_engine import bitmaps, intervals
from insights_engine.groups import Group
from insights_engine.intervals import Intervals

Pair = tuple[int, int]

#: Bits of numbers that are read together.  Of N traces about log2(N) bits, counted
#: from the first in which they differ, tell all but the equal ones from a constant.
READ_AT_ONCE = 18


class Series:
    """The numbers of a key: the smallest and largest of each trace, bit by bit."""

    def __init__(self, low: dict[int, int], spread: dict[int, int]) -> None:
        # Bit: term.
        self._low = low
        self._spread = spread

    def terms(self) -> Iterable[int]:
        """The terms that are read in any case; lower bits seldom matter."""
        for terms in (self._low, self._spread):
            for bit in sorted(terms, reverse=True)[: 1 + READ_AT_ONCE]:
                yield terms[bit]

    def slices(self, group: Group) -> dict[int, int]:
        """All slices of the smallest numbers, by bit."""
        group.fetch(self._low.values())
        return {bit: group.union((term,)) for bit, term in self._low.items()}

    def there(self, group: Group) -> int:
        """The positions that have a number."""
        term = self._low.get(bitmaps.HAS_NUMBER)
        return 0 if term is None else group.union((term,))

    def lowest(self, group: Group) -> bitmaps.Slices:
        """The slices of the smallest numbers."""
        return _Slices(group, self._low)

    def highest(self, group: Group) -> bitmaps.Slices:
        """The slices of the largest numbers."""
        low = _Slices(group, self._low)
        if bitmaps.HAS_NUMBER not in self._spread:
            return low
        return _Largest(low, _Slices(group, self._spread))

    def within(self, group: Group, wanted: Intervals) -> Pair:
        """The traces with a number in one of the intervals."""
        there = self.there(group)
        if not there or not wanted:
            return 0, 0
        if wanted == intervals.ALL:
            return there, there
        low = self.lowest(group)
        inside = _inside(low, there, wanted)
        if bitmaps.HAS_NUMBER not in self._spread:
            return inside, inside
        several = group.union((self._spread[bitmaps.HAS_NUMBER],)) & there
        if not several:
            return inside, inside
        high = _Largest(low, _Slices(group, self._spread))
        must = inside | _inside(high, several, wanted)
        may = must
        for start, end in wanted:
            if start == 0 or end == intervals.LAST:
                continue  # if any number is inside, the smallest or the largest is
            # Some number in between, which is not known, may be the one.
            less, equal = bitmaps.slices_below(low, several, end ^ FLIP)
            below, _ = bitmaps.slices_below(high, several, start ^ FLIP)
            may |= (less | equal) & ~below
        return must, may


class _Slices:
    """Slices that are read when they are asked for, some at a time from the top."""

    def __init__(self, group: Group, terms: dict[int, int]) -> None:
        self._group = group
        self._terms = terms

    def get(self, bit: int, otherwise: int, /) -> int:
        term = self._terms.get(bit)
        if term is None:
            return otherwise
        if not self._group.has(term):
            rest = sorted((slot for slot in self._terms if slot <= bit), reverse=True)
            self._group.fetch(self._terms[slot] for slot in rest[:READ_AT_ONCE])
        return self._group.union((term,))


class _Largest:
    """The slices of the largest numbers: those of the smallest, changed where they differ."""

    def __init__(self, low: bitmaps.Slices, spread: bitmaps.Slices) -> None:
        self._low = low
        self._spread = spread

    def get(self, bit: int, otherwise: int, /) -> int:
        return self._low.get(bit, otherwise) ^ self._spread.get(bit, otherwise)


#: From the ordered number back to the pattern that the slices hold.
FLIP = 1 << (bitmaps.WIDTH - 1)


def _inside(slices: bitmaps.Slices, there: int, wanted: Intervals) -> int:
    found = 0
    for start, end in wanted:
        inside = there
        if end < intervals.LAST:
            less, equal = bitmaps.slices_below(slices, there, end ^ FLIP)
            inside = less | equal
        if start > 0:
            below, _ = bitmaps.slices_below(slices, inside, start ^ FLIP)
            inside &= ~below
        found |= inside
    return found
