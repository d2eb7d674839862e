"""The sets of traces that have each item, laid out for quick counting.

Most items are rare: their positions stand one after the other in one array, so
that counting how many of each are in a set is one pass over it, done by C code.
The others are bitmaps: an intersection and a population count each.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import accumulate
from operator import itemgetter
from typing import Callable, Optional

from insights_engine.base.interrupts import go_on
from insights_engine.index.groups import all_positions
from insights_engine.sets import bitmaps

# Of an item that is kept as an integer: its object, and what refers to it.
_BITMAP_BYTES = 44
# Of a position that is listed: the number, and what refers to it.
_POSITION_BYTES = 10
# Of an item that is listed: its numbers, and its place in the dictionary.
_LISTED_BYTES = 120
# Of one that makes facts uncertain: its place in the dictionary.
_DOUBT_BYTES = 100


#: Every position once, to be referred to: each integer of its own would take 32 bytes.
ALL_POSITIONS = tuple(range(bitmaps.POSITIONS))


class _Sets:
    """The sets of some items."""

    __slots__ = (
        *("_flags_of", "_positions", "bitmap_counts", "bitmap_items", "bitmaps", "ends"),
        "listed_items",
    )

    def __init__(self) -> None:
        self.listed_items = array("i")
        #: Where the positions of each end; they begin where those before end.
        self.ends = array("I")
        self._positions = array("H")
        #: Gets the flags of all of them from those of a set.
        self._flags_of: Optional[Callable[[bytes], tuple[int, ...]]] = None
        self.bitmap_items = array("i")
        self.bitmaps: list[int] = []
        self.bitmap_counts = array("I")

    def add_list(self, item: int, positions: array[int]) -> None:
        """An item with few positions, ascending."""
        self.listed_items.append(item)
        self._positions.extend(positions)
        self.ends.append(len(self._positions))

    def add_bitmap(self, item: int, bits: int) -> None:
        """An item with many."""
        self.bitmap_items.append(item)
        self.bitmaps.append(bits)
        self.bitmap_counts.append(bitmaps.count(bits))

    def size(self) -> int:
        """About how many bytes of memory they take."""
        return (
            _POSITION_BYTES * len(self._positions)
            + _LISTED_BYTES * len(self.listed_items)
            + sum(_BITMAP_BYTES + bits.bit_length() // 7 for bits in self.bitmaps)
        )

    def add_counts(self, totals: list[int], within: Optional[bytes], bits: int) -> None:
        """Add the number of members of each item; of those in a set, unless it is None."""
        if within is None:
            start = 0
            for item, end in zip(self.listed_items, self.ends):
                totals[item] += end - start
                start = end
            for item, members in zip(self.bitmap_items, self.bitmap_counts):
                totals[item] += members
            return
        if self._flags_of is None:
            # Position 0 twice comes first: of several it gives a tuple, of one it would not.
            self._flags_of = itemgetter(0, 0, *map(ALL_POSITIONS.__getitem__, self._positions))
        # How many members of the set there are up to each place of the array.
        hits = list(accumulate(self._flags_of(within)))
        before = hits[1]
        for item, end in zip(self.listed_items, self.ends):
            until = hits[end + 1]
            if until != before:
                totals[item] += until - before
                before = until
        count = bitmaps.count
        for item, members in zip(self.bitmap_items, self.bitmaps):
            totals[item] += count(members & bits)

    def listed(self, place: int) -> array[int]:
        """The positions of the item at a place of ``listed_items``."""
        return self._positions[self.ends[place - 1] if place else 0 : self.ends[place]]


class ItemSets:
    """The items of some traces, with the positions that have each.

    Items that make facts uncertain are seldom counted: their positions stay as they are
    stored, or are not given at all.
    """

    __slots__ = ("_doubts", "_last", "_places", "facts", "size", "used")

    def __init__(
        self,
        postings: Iterable[tuple[int, bytes]],
        items: Mapping[int, Sequence[int]],
        doubts: Mapping[int, Sequence[bytes]],
        used: int,
        look: Callable[[], None] = go_on,
    ) -> None:
        """Of (term, its positions as stored) and the facts that each term is part of.

        ``doubts``: the items that are no facts, with their positions, if they are known.
        ``look`` is called now and then: what it raises ends the computation.
        """
        first: dict[int, bytes] = {}
        several: dict[int, list[bytes]] = {}
        for term, members in postings:
            look()
            for item in items[term]:
                if item not in first:
                    first[item] = members
                elif item in several:
                    several[item].append(members)
                else:
                    several[item] = [first[item], members]
        facts = _Sets()
        for item, members in first.items():
            look()
            if item in several and all(map(bitmaps.is_list, several[item])):
                listed: set[int] = set()
                for one in several[item]:
                    listed.update(bitmaps.listed_positions(one))
                if len(listed) <= LONGEST_LIST:
                    facts.add_list(item, array("H", sorted(listed)))
                else:
                    facts.add_bitmap(item, bitmaps.of_positions(sorted(listed)))
            elif item in several:
                bits = united(several[item], used)
                if bitmaps.count(bits) <= LONGEST_LIST:
                    facts.add_list(item, array("H", bitmaps.positions(bits)))
                else:
                    facts.add_bitmap(item, bits)
            elif bitmaps.is_list(members):
                facts.add_list(item, bitmaps.listed_positions(members))
            else:
                facts.add_bitmap(item, bitmaps.bits_of_bitmap(members))
        self._set(facts, doubts, used)

    @classmethod
    def of_sets(
        cls,
        lists: Mapping[int, array[int]],
        sets: Mapping[int, int],
        doubts: Mapping[int, Sequence[bytes]],
        used: int,
        look: Callable[[], None] = go_on,
    ) -> ItemSets:
        """Of the positions of facts, ascending, where they are few, and the sets of others."""
        facts = _Sets()
        for item, positions in lists.items():
            look()
            if len(positions) > LONGEST_LIST:
                facts.add_bitmap(item, bitmaps.of_positions(positions))
            elif positions:
                facts.add_list(item, positions)
        for item, bits in sets.items():
            look()
            if bitmaps.count(bits) > LONGEST_LIST:
                facts.add_bitmap(item, bits)
            elif bits:
                facts.add_list(item, array("H", bitmaps.positions(bits)))
        found = cls.__new__(cls)
        found._set(facts, doubts, used)
        return found

    def _set(self, facts: _Sets, doubts: Mapping[int, Sequence[bytes]], used: int) -> None:
        self.used = used
        #: The facts.
        self.facts = facts
        self._doubts = doubts
        self._places: Optional[dict[int, int]] = None
        # The last base, and the number of its members that have each fact.
        self._last: tuple[int, array[int]] = (-1, array("I"))
        self.size = facts.size() + sum(
            [_DOUBT_BYTES + sum(map(len, stored)) for stored in doubts.values()]
        )

    def add_counts(self, totals: list[int], within: Optional[int]) -> None:
        """Add the number of members of each fact in a set; None: in all positions."""
        if within is None:
            self.facts.add_counts(totals, None, 0)
        elif within:
            self.facts.add_counts(totals, bitmaps.flags(within, self.used), within)

    def add_base_counts(self, totals: list[int], base: int) -> None:
        """The counts in a set that is counted again and again: the base of a discovery."""
        if base == all_positions(self.used):
            self.add_counts(totals, None)
            return
        items = [*self.facts.listed_items, *self.facts.bitmap_items]
        if self._last[0] != base:
            counts = [0] * len(totals)
            self.add_counts(counts, base)
            self._last = base, array("I", [counts[item] for item in items])
        for item, members in zip(items, self._last[1]):
            totals[item] += members

    @property
    def doubts(self) -> Set[int]:
        """The items that are there and no facts."""
        return self._doubts.keys()

    def sets(self, items: Iterable[int]) -> dict[int, int]:
        """The sets of some items; those without positions are left out."""
        facts = self.facts
        if self._places is None:
            self._places = {item: place for place, item in enumerate(facts.listed_items)}
            self._places.update({item: ~place for place, item in enumerate(facts.bitmap_items)})
        found: dict[int, int] = {}
        for item in items:
            place = self._places.get(item)
            if place is not None:
                found[item] = (
                    facts.bitmaps[~place]
                    if place < 0
                    else bitmaps.of_positions(facts.listed(place))
                )
            elif self._doubts.get(item):
                found[item] = united(self._doubts[item], self.used)
        return found


#: Longest list of positions; longer ones are bitmaps.
LONGEST_LIST = 100


def united(stored: Sequence[bytes], used: int) -> int:
    """The union of sets as stored."""
    sparse: Optional[bytearray] = None
    found = 0
    for members in stored:
        if bitmaps.is_list(members):
            if sparse is None:
                sparse = bytearray((used + 7) >> 3)
            for position in bitmaps.listed_positions(members):
                sparse[position >> 3] |= 1 << (position & 7)
        else:
            found |= bitmaps.bits_of_bitmap(members)
    return found if sparse is None else found | int.from_bytes(sparse, "little")
