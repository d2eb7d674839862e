"""What the index knows about a filter: two sets of positions.

*Must*: these traces match for sure.  *May*: no others can.  A filter becomes a
tree of conditions, each of which gives both for a group of blocks.  Where must
and may are the same the index alone answers; the raw predicate settles the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, Callable, Optional

from insights_engine.index.groups import Group, Terms
from insights_engine.index.slices import Pair, Series
from insights_engine.sets import bitmaps
from insights_engine.sets.intervals import Intervals


class Condition(ABC):
    """A condition on traces."""

    def parts(self) -> Sequence[Condition]:
        """The conditions it consists of."""
        return ()

    def terms(self) -> Iterable[int]:
        """The terms whose postings it needs."""
        return ()

    @abstractmethod
    def bounds(self, group: Group) -> Pair:
        """Must and may, within the group's universe."""


class Constant(Condition):
    """True or false everywhere."""

    def __init__(self, holds: bool) -> None:
        self._holds = holds

    def bounds(self, group: Group) -> Pair:
        return (group.universe, group.universe) if self._holds else (0, 0)


class Unknown(Condition):
    """What the index cannot say anything about."""

    def bounds(self, group: Group) -> Pair:
        return 0, group.universe


class Junction(Condition):
    """AND or OR."""

    def __init__(self, items: Sequence[Condition]) -> None:
        self._items = items

    def parts(self) -> Sequence[Condition]:
        return self._items

    def terms(self) -> Iterable[int]:
        for item in self._items:
            yield from item.terms()


class All(Junction):
    """AND."""

    def bounds(self, group: Group) -> Pair:
        must = may = group.universe
        for item in self._items:
            sure, possible = item.bounds(group)
            must &= sure
            may &= possible
            if not may:
                break
        return must, may


class Some(Junction):
    """OR."""

    def bounds(self, group: Group) -> Pair:
        must = may = 0
        for item in self._items:
            sure, possible = item.bounds(group)
            must |= sure
            may |= possible
        return must, may


class Complement(Condition):
    """NOT."""

    def __init__(self, item: Condition) -> None:
        self._item = item

    def parts(self) -> Sequence[Condition]:
        return (self._item,)

    def terms(self) -> Iterable[int]:
        return self._item.terms()

    def bounds(self, group: Group) -> Pair:
        must, may = self._item.bounds(group)
        return group.universe & ~may, group.universe & ~must


class Facts(Condition):
    """Traces with one of some terms for sure, with one of others perhaps.

    ``within`` turns it into "has one of these, but none of those".
    """

    def __init__(self, sure: Terms, unsure: Terms, within: Optional[Facts] = None) -> None:
        self._sure = sure
        self._unsure = unsure
        self._within = within

    def terms(self) -> Iterable[int]:
        yield from self._sure
        yield from self._unsure
        if self._within is not None:
            yield from self._within.terms()

    def bounds(self, group: Group) -> Pair:
        must = group.union(self._sure) & group.universe
        may = must | group.union(self._unsure) & group.universe
        if self._within is not None:
            sure, possible = self._within.bounds(group)
            return sure & ~may, possible & ~must
        return must, may


class Numbers(Condition):
    """Traces with a number in some intervals, in one of some series."""

    def __init__(self, series: Sequence[Series], wanted: Intervals, unsure: Terms) -> None:
        self._series = series
        self._wanted = wanted
        self._unsure = unsure

    def terms(self) -> Iterable[int]:
        for series in self._series:
            yield from series.terms()
        yield from self._unsure

    def bounds(self, group: Group) -> Pair:
        must, may = 0, group.union(self._unsure)
        for series in self._series:
            sure, possible = series.within(group, self._wanted)
            must |= sure
            may |= possible
        return must & group.universe, (must | may) & group.universe


class Times(Condition):
    """Traces that began in some intervals; most blocks lie wholly inside or outside."""

    def __init__(self, plpy: Any, series: Series, wanted: Intervals) -> None:
        self._plpy = plpy
        self._series = series
        self._wanted = wanted

    def bounds(self, group: Group) -> Pair:
        found = 0
        divided = []
        for block in group.blocks:
            first, last = _place(block.first_ms), _place(block.last_ms)
            if any(low <= first and last <= high for low, high in self._wanted):
                found |= ((1 << block.used) - 1) << block.start
            elif any(first <= high and low <= last for low, high in self._wanted):
                divided.append(block)
        if divided:
            part = Group(self._plpy, [copy(block) for block in divided])
            part.fetch(self._series.terms())
            inside, _ = self._series.within(part, self._wanted)
            for block, own in zip(divided, part.blocks):
                found |= (inside >> own.start & ((1 << own.used) - 1)) << block.start
        found &= group.universe
        return found, found


def _place(milliseconds: int) -> int:
    return bitmaps.ordered(bitmaps.pattern_of_integer(milliseconds))


class NotNumbers(Condition):
    """Some value is not a number of ``item``: ``NOT IN`` with numbers only.

    A text that reads as no number counts too.
    """

    def __init__(self, there: Condition, any_number: Condition, outside: Condition) -> None:
        self._items = (there, any_number, outside)

    def parts(self) -> Sequence[Condition]:
        return ()

    def terms(self) -> Iterable[int]:
        for item in self._items:
            yield from item.terms()

    def bounds(self, group: Group) -> Pair:
        there, any_number, outside = (item.bounds(group) for item in self._items)
        return there[0] & ~any_number[1] | outside[0], there[1]


class OfBlocks(Condition):
    """The traces of some experiments."""

    def __init__(self, holds: Callable[[int], bool]) -> None:
        self._holds = holds

    def bounds(self, group: Group) -> Pair:
        found = group.of_blocks(lambda block: self._holds(block.experiment_id)) & group.universe
        return found, found


class Listed(Condition):
    """Traces named by their ids."""

    def __init__(self, blocks: Sequence[int], positions: Sequence[int]) -> None:
        self._blocks = blocks
        self._positions = positions

    def bounds(self, group: Group) -> Pair:
        found = group.at(self._blocks, self._positions) & group.universe
        return found, found
