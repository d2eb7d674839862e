"""Numbers of traces, bit by bit (see bitmaps.py), and which of them lie in intervals."""

from __future__ import annotations

from collections.abc import Iterable

from insights_engine.index.groups import Block, Group
from insights_engine.sets import bitmaps, intervals
from insights_engine.sets.intervals import Intervals

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
        spread = self._spread.get(bitmaps.HAS_NUMBER)
        several = 0 if spread is None else group.union((spread,)) & there
        # Block by block: in most of them a few slices tell all numbers from a constant.
        pairs = []
        for block, own, different in zip(
            group.blocks, group.divided(there), group.divided(several)
        ):
            low = _OfBlock(group, block, self._low)
            inside = _inside(low, own, wanted)
            if different:
                high = _Largest(low, _OfBlock(group, block, self._spread))
                pairs.append(_between(low, high, inside, different, wanted))
            else:
                pairs.append((inside, inside))
        must = group.joined([sure for sure, _ in pairs])
        if not several:
            return must, must
        return must, group.joined([possible for _, possible in pairs])


def _between(
    low: bitmaps.Slices, high: bitmaps.Slices, inside: int, several: int, wanted: Intervals
) -> Pair:
    """Must and may, where the smallest number of some is inside and ``several`` have more."""
    must = inside | _inside(high, several, wanted)
    may = must
    for start, end in wanted:
        if start == 0 or end == intervals.LAST:
            continue  # if any number is inside, the smallest or the largest is
        # Some number in between, which is not known, may be the one.
        may |= bitmaps.below(low, several, end + 1) & ~bitmaps.below(high, several, start)
    return must, may


def _inside(slices: bitmaps.Slices, there: int, wanted: Intervals) -> int:
    found = 0
    for start, end in wanted:
        inside = bitmaps.below(slices, there, end + 1)
        found |= inside & ~bitmaps.below(slices, inside, start)
    return found


class _Slices:
    """Slices that are read when they are asked for, some at a time from the top."""

    def __init__(self, group: Group, terms: dict[int, int]) -> None:
        self._group = group
        self._terms = terms

    def get(self, bit: int, otherwise: int, /) -> int:
        term = self._terms.get(bit)
        if term is None:
            return otherwise
        _fetch(self._group, self._terms, bit)
        return self._group.union((term,))


class _OfBlock:
    """The slices of one block of a group, of which each is read and decoded but once."""

    def __init__(self, group: Group, block: Block, terms: dict[int, int]) -> None:
        self._group = group
        self._block = block
        self._terms = terms
        self._known: dict[int, int] = {}

    def get(self, bit: int, otherwise: int, /) -> int:
        term = self._terms.get(bit)
        if term is None:
            return otherwise
        known = self._known.get(bit)
        if known is None:
            _fetch(self._group, self._terms, bit)
            known = self._known[bit] = self._group.members(term, self._block)
        return known


def _fetch(group: Group, terms: dict[int, int], bit: int) -> None:
    """Reads a slice unless it was read, and with it some of those below."""
    if not group.has(terms[bit]):
        rest = sorted((slot for slot in terms if slot <= bit), reverse=True)
        group.fetch(terms[slot] for slot in rest[:READ_AT_ONCE])


class _Largest:
    """The slices of the largest numbers: those of the smallest, changed where they differ."""

    def __init__(self, low: bitmaps.Slices, spread: bitmaps.Slices) -> None:
        self._low = low
        self._spread = spread

    def get(self, bit: int, otherwise: int, /) -> int:
        return self._low.get(bit, otherwise) ^ self._spread.get(bit, otherwise)
