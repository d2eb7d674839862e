"""The sets of all items in some traces, in a form in which counting is quick.

Most items are rare: their positions stand one after the other in one array, so
that counting how many of each are in a set is one pass over it, done by C code.
The others are bitmaps: an intersection and a population count each.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Optional

from insights_engine import bitmaps

# Of an item that is kept as an integer: its object, and the places that refer to it.
_BITMAP_BYTES = 44


class Columns:
    """The items that some traces have, with their positions."""

    __slots__ = (
        *("_bitmap_counts", "_bitmap_items", "_bitmaps", "_ends", "_listed_items"),
        *("_places", "_positions", "_starts", "size", "used"),
    )

    def __init__(
        self, postings: Iterable[tuple[int, bytes]], items: Mapping[int, Sequence[int]], used: int
    ) -> None:
        """Of (term, its positions as stored) and the items that each term is part of."""
        self.used = used
        first: dict[int, bytes] = {}
        several: dict[int, list[bytes]] = {}
        for term, members in postings:
            for item in items.get(term, ()):
                if item not in first:
                    first[item] = members
                elif item in several:
                    several[item].append(members)
                else:
                    several[item] = [first[item], members]
        listed = array("i")
        starts = array("I")
        ends = array("I")
        positions = array("H")
        self._bitmap_items = array("i")
        self._bitmaps: list[int] = []
        for item, members in first.items():
            if item not in several and bitmaps.is_list(members):
                listed.append(item)
                starts.append(len(positions))
                positions.frombytes(memoryview(members)[1:])
                ends.append(len(positions))
            elif item not in several:
                self._bitmap_items.append(item)
                self._bitmaps.append(bitmaps.bits_of_bitmap(members))
        if sys.byteorder == "big":
            positions.byteswap()
        for item, stored in several.items():
            bits = _united(stored, used)
            if bitmaps.count(bits) <= _LONGEST_LIST:
                listed.append(item)
                starts.append(len(positions))
                positions.extend(bitmaps.positions(bits))
                ends.append(len(positions))
            else:
                self._bitmap_items.append(item)
                self._bitmaps.append(bits)
        self._listed_items = listed
        self._starts = starts
        self._ends = ends
        self._positions = positions
        self._bitmap_counts = array("I", map(bitmaps.count, self._bitmaps))
        self._places: Optional[dict[int, int]] = None
        #: About how many bytes of memory this takes.
        self.size = (
            2 * len(positions)
            + 12 * len(listed)
            + len(self._bitmaps) * (_BITMAP_BYTES + (used >> 3) * 16 // 15)
        )

    def add_counts(self, totals: list[int], within: Optional[int]) -> None:
        """Adds the number of members of each item in a set; None: in all positions."""
        if within is None:
            for item, start, end in zip(self._listed_items, self._starts, self._ends):
                totals[item] += end - start
            for item, members in zip(self._bitmap_items, self._bitmap_counts):
                totals[item] += members
            return
        if not within:
            return
        # How many members of the set come before each place of the array.
        before = list(accumulate(map(flags(within, self.used).__getitem__, self._positions)))
        before.append(0)  # what comes before the first, at index -1
        starts, ends = self._starts, self._ends
        for item, start, end in zip(self._listed_items, starts, ends):
            totals[item] += before[end - 1] - before[start - 1]
        count = bitmaps.count
        for item, bits in zip(self._bitmap_items, self._bitmaps):
            totals[item] += count(bits & within)

    def sets(self, items: Iterable[int]) -> dict[int, int]:
        """The sets of some items, as far as there are any."""
        if self._places is None:
            self._places = {
                **{item: place for place, item in enumerate(self._listed_items)},
                **{item: ~place for place, item in enumerate(self._bitmap_items)},
            }
        found: dict[int, int] = {}
        for item in items:
            place = self._places.get(item)
            if place is None:
                continue
            if place < 0:
                found[item] = self._bitmaps[~place]
            else:
                listed = self._positions[self._starts[place] : self._ends[place]]
                found[item] = bits_of(listed)
        return found

    def members(self) -> Iterator[tuple[int, Sequence[int]]]:
        """The positions of each item, ascending."""
        for item, start, end in zip(self._listed_items, self._starts, self._ends):
            yield item, self._positions[start:end]
        for item, bits in zip(self._bitmap_items, self._bitmaps):
            yield item, bitmaps.positions(bits)


_LONGEST_LIST = 100

_ZEROS_AND_ONES = bytes(byte & 1 for byte in range(256))


def flags(bits: int, used: int) -> bytes:
    """For each position given out whether it is in a set, as 0 or 1."""
    # The digits, lowest first; the one above the highest makes them complete.
    return bin(bits | 1 << used)[:2:-1].encode().translate(_ZEROS_AND_ONES)


def bits_of(positions: Sequence[int]) -> int:
    """The set of ascending positions."""
    if not positions:
        return 0
    bitmap = bytearray((positions[-1] >> 3) + 1)
    for position in positions:
        bitmap[position >> 3] |= 1 << (position & 7)
    return int.from_bytes(bitmap, "little")


def _united(stored: Sequence[bytes], used: int) -> int:
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
