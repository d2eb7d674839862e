"""How often each number occurs in a column of a block, where most of it is asked about.

A facet over everything would count 200,000 numbers to sum up what is always the same:
a session keeps the counts of all positions of a block that the index answers for, and
counts only what a question leaves out.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from insights_engine.index.cache import CACHE
from insights_engine.index.groups import Block
from insights_engine.sets import bitmaps


class Whole(NamedTuple):
    """How often each number occurs at some positions."""

    positions: int
    numbers: array[int]
    counts: array[int]

    @classmethod
    def of(cls, positions: int, counts: Mapping[int, int]) -> Whole:
        """Made of the counts by number."""
        return cls(positions, array("i", counts.keys()), array("i", counts.values()))

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return (self.positions.bit_length() >> 3) + 8 * len(self.numbers)

    def by_number(self) -> dict[int, int]:
        """The counts by number."""
        return dict(zip(self.numbers, self.counts))


def of_some(
    key: Hashable, block: Block, universe: int, column: Sequence[int], bits: int
) -> Mapping[int, int]:
    """How often each number occurs in a column at some positions of a block.

    ``universe`` are those for which the index answers, and ``key`` stands for what the
    column is of.  A number that does not occur may be there with 0.
    """
    if 2 * bitmaps.count(bits) <= bitmaps.count(universe):
        return Counter(bitmaps.chosen(column, bits))
    own_key = ("occurrences", key)
    known = CACHE.columns(own_key).get(block.block)
    if not isinstance(known, Whole) or known.positions != universe:
        known = Whole.of(universe, Counter(bitmaps.chosen(column, universe)))
        CACHE.keep(own_key, {block.block: known})
    found = known.by_number()
    for number, count in Counter(bitmaps.chosen(column, universe & ~bits)).items():
        found[number] -= count
    return found
