"""Sets of traces turned into sets of sessions, many at a time.

A discovery over sessions asks of every fact in which sessions some trace has it, or
all traces do.  Going through the traces of each fact would take seconds, so many facts
go through together: a trace is a record of some bytes, of which each bit is a fact, or
each byte the number of a cell.  The records are put in such an order that those of a
session are as far apart as there are sessions.  "Some trace has it" is then a handful
of operations on integers that are as long as all records together.
"""

from __future__ import annotations

import operator
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Callable, NamedTuple

from insights_engine.base.interrupts import go_on
from insights_engine.columns.cells import Cells, Cuts, bytes_of
from insights_engine.columns.item_sets import ALL_POSITIONS, ItemSets
from insights_engine.columns.names import NumberField
from insights_engine.columns.parts import Part
from insights_engine.index.groups import all_positions
from insights_engine.sets import bitmaps

#: The largest byte that can be compared: cells have smaller numbers.
_MOST = 127


class Sizes(NamedTuple):
    """How much is worked on together; the sets of sessions are the same for all sizes."""

    #: Records of a session that are folded in one step; more of them in several.
    at_once: int = 16
    #: Bytes of a record.
    widest: int = 64
    #: Sessions of a part.
    positions: int = bitmaps.POSITIONS


_USUAL = Sizes()

# Of a position: its session, and two places.
_FOLD_BYTES = 24
# Of a field: about as many bits of cells.
_PLANES = 12

#: How two bytes become one, by the byte that changes no other.
OR, LEAST = 0, _MOST


def _repeated(byte: int, length: int) -> int:
    return int.from_bytes(bytes([byte]) * length, "little")


def _combination(neutral: int, length: int) -> Callable[[int, int], int]:
    """Of each two bytes the bits of both, or the smaller one; both are `_MOST` at most then."""
    if neutral == OR:
        return operator.or_
    high = _repeated(128, length)

    def least(one: int, other: int) -> int:
        # The highest bit of each byte where the first is not smaller, then all below it.
        larger = ((one | high) - other) & high
        larger -= larger >> 7
        return one ^ ((one ^ other) & larger)

    return least


def _records(columns: bytes, width: int) -> list[bytes]:
    return [columns[start : start + width] for start in range(0, len(columns), width)]


def _getter(places: Sequence[int]) -> Callable[[Sequence[bytes]], Iterable[bytes]]:
    """Look up the records at some places."""
    if len(places) < 2:
        return lambda records: [records[place] for place in places]
    return itemgetter(*places)


class _Step:
    """Folds records that belong together, some of them into one."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        """``groups``: the places of records that belong together, the largest groups first."""
        self._groups = len(groups)
        #: Where each layer ends: the first record of each group, the second of those with two, ...
        self._ends: list[int] = []
        places: list[int] = []
        rank, size = 0, len(groups)
        while size:
            places += map(itemgetter(rank), groups[:size])
            self._ends.append(len(places))
            rank += 1
            while size and len(groups[size - 1]) == rank:
                size -= 1
        self._get = _getter(places)

    def __call__(self, records: Sequence[bytes], width: int, neutral: int) -> bytes:
        ordered = b"".join(self._get(records))
        length = self._groups * width
        found = int.from_bytes(ordered[:length], "little")
        combined = _combination(neutral, length)
        fill = bytes([neutral])
        for start, end in zip(self._ends, self._ends[1:]):
            layer = ordered[start * width : end * width].ljust(length, fill)
            found = combined(found, int.from_bytes(layer, "little"))
        return found.to_bytes(length, "little")


class _Fold:
    """The traces of a part, by session."""

    def __init__(self, sessions: Sequence[int], at_once: int) -> None:
        """``sessions``: the number of each position's session, -1 where there is none.

        ``at_once``: how many records are folded in one step.
        """
        self._steps: list[_Step] = []
        of_owner: defaultdict[int, list[int]] = defaultdict(list)
        for place, owner in zip(ALL_POSITIONS, sessions):
            of_owner[owner].append(place)
        of_owner.pop(-1, None)
        while True:
            groups = list(of_owner.items())
            if max((len(own) for own in of_owner.values()), default=0) > at_once:
                groups = [
                    (owner, own[start : start + at_once])
                    for owner, own in groups
                    for start in range(0, len(own), at_once)
                ]
            groups.sort(key=lambda group: -len(group[1]))
            self._steps.append(_Step([own for _, own in groups]))
            if len(groups) == len(of_owner):
                break
            of_owner = defaultdict(list)
            for place, (owner, _) in zip(ALL_POSITIONS, groups):
                of_owner[owner].append(place)
        owners = [owner for owner, _ in groups]
        #: The sessions are between these.
        self.low = min(owners, default=0)
        self.high = max(owners, default=-1) + 1
        # After the last record there is one for sessions that have no trace here.
        found = [len(owners)] * (self.high - self.low)
        for place, owner in zip(ALL_POSITIONS, owners):
            found[owner - self.low] = place
        self._spread = _getter(found)

    def __call__(self, columns: bytes, width: int, neutral: int) -> bytes:
        """By session the fold of the records of its traces."""
        for step in self._steps:
            columns = step(_records(columns, width), width, neutral)
        records = _records(columns, width)
        records.append(bytes([neutral]) * width)
        return b"".join(self._spread(records))


class SessionPart(Part):
    """Some sessions, by number."""

    def __init__(self, space: Space, number: int, item_sets: ItemSets, target: int) -> None:
        super().__init__(item_sets.used, all_positions(item_sets.used), target)
        self._space = space
        self._number = number
        self._item_sets = item_sets

    def item_sets(self) -> ItemSets:
        return self._item_sets

    def cells(self, cuts: Mapping[NumberField, Cuts]) -> dict[NumberField, Cells]:
        return {name: of_parts[self._number] for name, of_parts in self._space.cells(cuts).items()}

    def sample(self, names: Sequence[NumberField]) -> dict[NumberField, Sequence[int]]:
        raise TypeError("where to cut is chosen by the numbers of traces")

    def trace_ids(self) -> Sequence[None]:
        raise TypeError("sessions are no traces")


class Space:
    """The sessions that traces of some parts belong to, and what these have.

    ``every``: a session has what all of its traces have; otherwise what some trace has.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        numbers: Sequence[Sequence[int]],
        every: bool,
        look: Callable[[], None] = go_on,
        sizes: Sizes = _USUAL,
    ) -> None:
        """``numbers``: for each part the number of the session at each position; 0: none.

        ``look`` is called now and then: what it raises ends the computation.
        """
        self._parts = parts
        self._look = look
        self._sizes = sizes
        #: Of how many parts sets of traces have to be given.
        self.parts_given = len(parts)
        self._every = every
        known: dict[int, int] = {}
        #: For each part the session at each position of its base, -1: none.
        self._sessions: list[array[int]] = []
        self._folds: list[_Fold] = []
        for part, column in zip(parts, numbers):
            look()
            for number in dict.fromkeys(bitmaps.chosen(column, part.base)):
                if number:
                    known.setdefault(number, len(known))
            flags = bitmaps.flags(part.base, part.used)
            found = [known.get(number, -1) if flag else -1 for number, flag in zip(column, flags)]
            self._sessions.append(array("i", found))
            self._folds.append(_Fold(found, sizes.at_once))
        #: The number of each session, as it was given.
        self.numbers = array("i", known)
        #: How many sessions there are.
        self.size = len(known)
        self._item_sets: list[ItemSets] = []
        self._cells: dict[NumberField, tuple[Cuts, list[Cells]]] = {}
        #: How many traces each has, if that matters.
        self._counts: Counter[int] = Counter()
        for own in self._sessions if every else ():
            self._counts.update(own)

    def size_with(self, number_fields: int) -> int:
        """About how many bytes of memory it takes, once so many fields were looked at."""
        per_position = _FOLD_BYTES * sum([part.used for part in self._parts])
        of_cells = number_fields * _PLANES * (self.size // 7)
        return per_position + of_cells + sum([one.size for one in self._item_sets])

    # ---------------------------------------------------------------------- sets

    def set_of(self, sets: Sequence[int]) -> int:
        """The sessions that match, of which traces of each part do."""
        return next(iter(self.sets_of([[bits] for bits in sets])), 0)

    def sets_of(self, several: Sequence[Sequence[int]]) -> list[int]:
        """The same of several sets, given together for each part."""
        count = max(map(len, several), default=0)
        return self._sets(count, lambda number, start, end: several[number][start:end])

    def _sets(self, count: int, of_part: Callable[[int, int, int], Sequence[int]]) -> list[int]:
        """``of_part`` gives those from one number up to another, in a part by its number."""
        found: list[int] = []
        for start in range(0, count, 8 * self._sizes.widest):
            end = min(count, start + 8 * self._sizes.widest)

            def columns(number: int) -> list[bytes]:
                self._look()
                part, sets = self._parts[number], of_part(number, start, end)  # noqa: B023
                return [
                    self._column(part, sets[first : first + 8]) for first in range(0, len(sets), 8)
                ]

            width = -(-(end - start) // 8)
            for column in self._folded(width, columns, OR):
                self._look()
                found += [_plane(column, bit) for bit in range(8)]
        everything = all_positions(self.size)
        return [everything & ~bits if self._every else bits for bits in found[:count]]

    def _column(self, part: Part, sets: Sequence[int]) -> bytes:
        """Up to eight sets of traces as a byte for each."""
        column = 0
        for bit, members in enumerate(sets):
            members = part.base & ~members if self._every else part.base & members
            if members:
                column |= int.from_bytes(bitmaps.flags(members, part.used), "little") << bit
        return column.to_bytes(part.used, "little")

    def _folded(
        self, width: int, columns: Callable[[int], Sequence[bytes]], neutral: int
    ) -> list[bytes]:
        """Columns of a byte for each position of a part, given its number: one for each session."""
        length = self.size * width
        found = _repeated(neutral, length)
        combined = _combination(neutral, length)
        fill = bytes([neutral])
        for number, (part, fold) in enumerate(zip(self._parts, self._folds)):
            together = bytearray(part.used * width)
            for place, column in enumerate(columns(number)):
                together[place::width] = column
            own = fold(bytes(together), width, neutral)
            own = own.rjust(fold.high * width, fill).ljust(length, fill)
            found = combined(found, int.from_bytes(own, "little"))
        sessions = found.to_bytes(length, "little")
        return [sessions[place::width] for place in range(width)]

    # --------------------------------------------------------------------- parts

    def as_parts(self, target: int) -> list[Part]:
        """The sessions as parts, of which a target is given."""
        if not self._item_sets:
            self._item_sets = self._read()
        found: list[Part] = []
        for number, sets in enumerate(self._item_sets):
            found.append(SessionPart(self, number, sets, self.part_of(target, number)))
        return found

    def part_of(self, sessions: int, number: int) -> int:
        """Of a set of sessions those in one of the parts."""
        positions = self._sizes.positions
        return sessions >> number * positions & all_positions(positions)

    def _read(self) -> list[ItemSets]:
        lists, sets = self._items()
        doubts: Mapping[int, Sequence[bytes]] = dict.fromkeys(
            {item for part in self._parts for item in part.item_sets().doubts}, ()
        )
        found = []
        for start in range(0, self.size, self._sizes.positions):
            used = min(self._sizes.positions, self.size - start)
            own, listed = {}, {}
            for item, bits in sets.items():
                self._look()
                own[item] = bits >> start & all_positions(used)
            for item, some in lists.items():
                self._look()
                listed[item] = _between(some, start, used)
            found.append(ItemSets.of_sets(listed, own, doubts, used, self._look))
        return found

    def _items(self) -> tuple[dict[int, Sequence[int]], dict[int, int]]:
        """The sessions of each item: as numbers of those that are few, as sets of others."""
        listed: dict[int, array[int]] = {}
        large: dict[int, None] = {}
        for part, sessions in zip(self._parts, self._sessions):
            facts = part.item_sets().facts
            for place, item in enumerate(facts.listed_items):
                self._look()
                own = map(sessions.__getitem__, facts.listed(place))
                listed.setdefault(item, array("i")).extend(own)
            large.update(zip(facts.bitmap_items, repeat(None)))
        lists: dict[int, Sequence[int]] = {}
        for item, found in listed.items():
            self._look()
            if item not in large:
                counts = Counter(found)
                counts.pop(-1, None)
                if self._every:
                    for one in [one for one in counts if counts[one] < self._counts[one]]:
                        del counts[one]
                lists[item] = array("i", sorted(counts))
        items = list(large)

        def sets(number: int, start: int, end: int) -> list[int]:
            own = self._parts[number].item_sets().sets(items[start:end])
            return [own.get(item, 0) for item in items[start:end]]

        return lists, dict(zip(items, self._sets(len(items), sets)))

    # --------------------------------------------------------------------- cells

    def cells(self, cuts: Mapping[NumberField, Cuts]) -> dict[NumberField, list[Cells]]:
        """Of a few fields, for each part, the cells that decide about ``<``, and about ``>=``.

        If some trace is enough that is the one of the smallest, and of the largest,
        number; if every trace has to, the one of the trace that comes last to it.
        """
        lacking = {
            name: chosen
            for name, chosen in cuts.items()
            if name not in self._cells or self._cells[name][0] != chosen
        }
        if lacking:
            self._fold_cells(lacking)
        return {name: self._cells[name][1] for name in cuts}

    def _fold_cells(self, cuts: Mapping[NumberField, Cuts]) -> None:
        low, high = _LAST if self._every else _FIRST

        def columns(number: int) -> list[bytes]:
            part = self._parts[number]
            found = []
            of_part = part.cells(cuts)
            for name in cuts:
                cells = of_part[name]
                lows = bytes_of(cells.low, part.used)
                highs = lows if cells.high is cells.low else bytes_of(cells.high, part.used)
                found += [lows.translate(low.into), highs.translate(high.into)]
            return found

        folded = iter(self._folded(2 * len(cuts), columns, LEAST))
        for name, chosen in cuts.items():
            lows, highs = next(folded).translate(low.back), next(folded).translate(high.back)
            width = max(max(lows, default=0), max(highs, default=0)).bit_length()
            cells = []
            for start in range(0, self.size, self._sizes.positions):
                own = [one[start : start + self._sizes.positions] for one in (lows, highs)]
                planes = [[_plane(one, bit) for bit in range(width)] for one in own]
                cells.append(Cells(planes[0], planes[1], chosen))
            self._cells[name] = chosen, cells


class Enlarged(Space):
    """The sessions of some traces and of more beside, where those of the first are known.

    Some trace of a session has what some of the first or some of the others has, and so
    for all of them: a session of the first is like one more trace.
    """

    def __init__(
        self,
        known: Space,
        others: Sequence[Part],
        numbers: Sequence[Sequence[int]],
        every: bool,
        look: Callable[[], None] = go_on,
        sizes: Sizes = _USUAL,
    ) -> None:
        """``numbers``: of the others, as those of the first; so are the ``sizes``."""
        self._known = known
        parts = known.as_parts(0)
        starts = range(0, known.size, sizes.positions)
        own = [known.numbers[start : start + sizes.positions] for start in starts]
        super().__init__([*parts, *others], [*own, *numbers], every, look, sizes)
        self.parts_given = known.parts_given + len(others)

    def sets_of(self, several: Sequence[Sequence[int]]) -> list[int]:
        first = self._known.sets_of(several[: self._known.parts_given])
        sessions = [
            [self._known.part_of(bits, number) for bits in first]
            for number in range(-(-self._known.size // self._sizes.positions))
        ]
        return super().sets_of([*sessions, *several[self._known.parts_given :]])


class _Order(NamedTuple):
    """What bytes are replaced by so that the smallest is the one that is wanted, and back."""

    into: bytes
    back: bytes


def _order(key: Callable[[int], int]) -> _Order:
    """Numbers of cells, 0 for none, are sorted by a key."""
    into = [key(number) for number in range(_MOST + 1)]
    back = {place: number for number, place in reversed(list(enumerate(into)))}
    rest = bytes(range(_MOST + 1, 256))
    return _Order(
        bytes(into) + rest, bytes([back.get(place, 0) for place in range(_MOST + 1)]) + rest
    )


# The smallest cell, and the largest; none at all only if all have none.
_FIRST = (_order(lambda cell: cell - 1 if cell else _MOST), _order(lambda cell: _MOST - cell))
# The largest, and the smallest; none at all if one has none.
_LAST = (_order(lambda cell: _MOST - cell if cell else 0), _order(lambda cell: cell))


def _between(numbers: Sequence[int], start: int, used: int) -> array[int]:
    """Those of ascending numbers that are in a range, counted from its start."""
    first, last = (bisect_left(numbers, edge) for edge in (start, start + used))
    return array("H", [number - start for number in numbers[first:last]])


_BITS = [bytes([48 + (byte >> bit & 1) for byte in range(256)]) for bit in range(8)]


def _plane(column: bytes, bit: int) -> int:
    """The places whose byte has a bit."""
    return int(column[::-1].translate(_BITS[bit]), 2) if column else 0
