"""What a session keeps of the index between calls, and why that is right.

A block is written once: what its postings say about a filter never changes, so must
and may of filters and of their predicates are kept by block, as Lucene keeps the
results of filters by segment.  What does change, which blocks there are and which of their
positions are live, is read anew whenever the version of the index does, which
every transaction that writes it replaces by a random one.

What the raw predicate said about positions that the index left open is kept, too:
must and may come closer to each other.  A trace that changes is pending until it has
left its position, and pending traces are asked about again by each call, so an
answer about a position that is live and not pending stays right.

Nothing is kept for conditions with ``now()`` in them.
"""

from __future__ import annotations

import re
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Callable, NamedTuple, Optional, Protocol, TypeVar

from insights_engine.index.groups import Block
from insights_engine.index.planner import Planner
from insights_engine.sets import bitmaps

Items = TypeVar("Items")

#: Bytes kept if the setting ``insights.cache`` says nothing.
DEFAULT_BYTES = 64 * 2**20
#: Filters and experiments have many texts; more of them than these start anew.
_MOST_LISTS = 50

# A dictionary's entry with what it refers to, and the head of an integer.
_ENTRY_BYTES = 200
_INTEGER_BYTES = 28


class Sized(Protocol):
    """Something that is known of a block."""

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""


class Column(NamedTuple):
    """A number for each position of a block, right for the positions of ``known``."""

    known: int
    numbers: array[Any]

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        stored = self.numbers.itemsize * len(self.numbers)
        return _INTEGER_BYTES + (self.known.bit_length() >> 3) + stored


class Known:
    """What is known of a filter in a block; ``may is must`` where that is everything."""

    __slots__ = ("_count", "may", "must")

    def __init__(self, must: int, may: int) -> None:
        self.must = must
        self.may = must if must == may else may
        self._count = -1

    def count(self) -> int:
        """How many positions match for sure."""
        if self._count < 0:
            self._count = bitmaps.count(self.must)
        return self._count

    def within(self, universe: int) -> Known:
        """The same of some of the positions."""
        must = self.must & universe
        return Known(must, must if self.may is self.must else self.may & universe)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        size = _INTEGER_BYTES + (self.must.bit_length() >> 3)
        if self.may is not self.must:
            size += _INTEGER_BYTES + (self.may.bit_length() >> 3)
        return size


class Cache:
    """What is kept of one installation of the index."""

    def __init__(self) -> None:
        self._installation = ""
        self._lists: dict[Any, tuple[str, list[Block]]] = {}
        self._planners: dict[Any, tuple[str, Planner]] = {}
        #: Bounds, columns and the like, by what they are about and block.
        self._known: OrderedDict[Any, dict[int, Any]] = OrderedDict()
        self._sizes: dict[Any, int] = {}
        self._columns: dict[int, dict[Any, tuple[Any, int]]] = {}
        self._items: Any = None
        self._bytes = 0
        self.limit = DEFAULT_BYTES

    def open(self, installation: str, limit: int) -> None:
        """Forgets what belongs to another installation, or exceeds ``limit`` bytes.

        With a limit of 0 nothing at all is kept from one call to the next.
        """
        if installation != self._installation or not limit:
            self._lists.clear()
            self._planners.clear()
            self._known.clear()
            self._sizes.clear()
            self._columns.clear()
            self._items = None
            self._bytes = 0
            self._installation = installation
        self.limit = limit
        self._shrink()

    def blocks(self, scope: Any, version: str) -> Optional[list[Block]]:
        """The blocks of some experiments, if they are those of this version."""
        known = self._lists.get(scope)
        return known[1] if known is not None and known[0] == version else None

    def keep_blocks(self, scope: Any, version: str, blocks: list[Block]) -> None:
        """Keeps the blocks of some experiments; what is known of those that are gone is dropped."""
        known = self._lists.get(scope)
        if known is not None:
            gone = {block.block for block in known[1]} - {block.block for block in blocks}
            self._drop_columns(gone)
            for key, table in self._known.items() if gone else ():
                for block in gone & table.keys():
                    self._count(key, -_size(table.pop(block)))
        elif len(self._lists) >= _MOST_LISTS:
            self._lists.clear()
        self._lists[scope] = (version, blocks)

    def planner(self, scope: Any, version: str, make: Callable[[], Planner]) -> Planner:
        """The planner for some experiments, with what it has looked up in this version."""
        known = self._planners.get(scope)
        if known is None or known[0] != version:
            if known is None and len(self._planners) >= _MOST_LISTS:
                self._planners.clear()
            known = self._planners[scope] = (version, make())
        return known[1]

    def known(self, key: Any) -> dict[int, Known]:
        """By block what is known; only to be looked at."""
        found = self._known.get(key)
        if found is None:
            return {}
        self._known.move_to_end(key)
        return found

    def columns(self, key: Any) -> Mapping[int, Any]:
        """By block columns, or what else was kept under the key; only to be looked at."""
        return self.known(key)

    def keep(self, key: Any, fresh: Mapping[int, Sized]) -> None:
        """Adds what has become known, unless it alone is more than may be kept."""
        size = sum(map(_size, fresh.values()))
        if size > self.limit:
            return
        table = self._known.setdefault(key, {})
        for block in fresh.keys() & table.keys():
            size -= _size(table[block])
        table.update(fresh)
        self._known.move_to_end(key)
        self._count(key, size)
        self._shrink()

    # ------------------------------------------------- what discoveries look at

    def items(self, make: Callable[[], Items]) -> Items:
        """What the vocabulary can be counted as; it grows with the vocabulary."""
        if self._items is None:
            self._items = make()
        found: Items = self._items
        return found

    def column(self, block: int, what: Any) -> Any:
        """What is known of a block beside the pairs; None if that is not known."""
        known = self._columns.get(block, {}).get(what)
        return None if known is None else known[0]

    def keep_column(self, block: int, what: Any, column: Any, size: int) -> None:
        """Keeps it, in place of what was known, if there is room.

        Discoveries go through all blocks, time and again in the same order: if not
        all of them can be kept, dropping the oldest would have none of them kept.
        """
        columns = self._columns.setdefault(block, {})
        before = columns.get(what)
        more = size if before is None else size - before[1]
        if self._bytes + more <= self.limit:
            columns[what] = (column, size)
            self._bytes += more

    def _drop_columns(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            dropped = self._columns.pop(block, {})
            self._bytes -= sum(size for _, size in dropped.values())

    def _count(self, key: Any, size: int) -> None:
        self._sizes[key] = self._sizes.get(key, 0) + size
        self._bytes += size

    def _shrink(self) -> None:
        # What was asked about is worth more than what might be.
        while self._bytes > self.limit and self._columns:
            self._drop_columns([next(iter(self._columns))])
        while self._bytes > self.limit:
            key, _ = self._known.popitem(last=False)
            self._bytes -= self._sizes.pop(key)


def _size(known: Sized) -> int:
    return _ENTRY_BYTES + known.nbytes


def cached_bytes(setting: Optional[str]) -> int:
    """The limit that the setting ``insights.cache`` asks for: ``'64MB'``, ``'0'``.

    What is not a size like that is taken as no setting at all: a setting that
    only affects speed must not make an answer fail.
    """
    found = _SIZE.fullmatch((setting or "").strip())
    if found is None:
        return DEFAULT_BYTES
    return int(found[1]) * _UNITS[found[2].lower()]


_SIZE = re.compile(r"([0-9]{1,12})\s*(B|kB|MB|GB|)", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30}

#: The session's.
CACHE = Cache()
