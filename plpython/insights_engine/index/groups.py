"""Blocks as a reader needs them, and their postings as sets of positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Callable, Optional

from insights_engine.base import plans
from insights_engine.sets import bitmaps

Terms = tuple[int, ...]


@lru_cache(maxsize=64)
def all_positions(used: int) -> int:
    """The set of all positions that were given out; one object for each number."""
    return (1 << used) - 1


class Block:
    """A block as the reader needs it; ``start`` is its place in the group."""

    __slots__ = (
        *("block", "experiment_id", "first_ms", "last_ms", "live", "live_count", "start", "used"),
    )

    def __init__(self, row: Any) -> None:
        self.block: int = row["block"]
        self.experiment_id: int = row["experiment_id"]
        self.used: int = row["used"]
        stored: Optional[bytes] = row["live"]
        #: The positions that stand for a trace.
        self.live = all_positions(self.used) if stored is None else bitmaps.decode(stored)
        self.live_count: int = row["live_count"]
        self.first_ms: int = row["first_ms"]
        self.last_ms: int = row["last_ms"]
        self.start = 0


class Group:
    """Some blocks side by side, as one range of positions; each starts at a whole byte.

    The universe is all positions that were given out, whether their trace is there
    still or not: what conditions say of a block must not depend on that.
    """

    def __init__(self, plpy: Any, blocks: Sequence[Block]) -> None:
        self._plpy = plpy
        self.blocks = list(blocks)
        self._bytes = 0
        self._starts: dict[int, int] = {}
        #: By term and the place where the block starts.
        self._rows: dict[int, dict[int, bytes]] = {}
        self._unions: dict[Terms, int] = {}
        for block in self.blocks:
            block.start = self._bytes * 8
            self._starts[block.block] = self._bytes
            self._bytes += (block.used + 7) >> 3
        self.universe = self.joined([all_positions(block.used) for block in self.blocks])

    def joined(self, sets: Iterable[int]) -> int:
        """One set, of a set of positions for each block."""
        parts = [
            one.to_bytes((block.used + 7) >> 3, "little") for block, one in zip(self.blocks, sets)
        ]
        return int.from_bytes(b"".join(parts), "little")

    def divided(self, bits: int) -> list[int]:
        """A set of positions for each block, of one set."""
        if len(self.blocks) == 1:
            return [bits]
        stored = memoryview(bits.to_bytes(self._bytes, "little"))
        return [
            int.from_bytes(stored[start : start + ((block.used + 7) >> 3)], "little")
            for block, start in zip(self.blocks, self._starts.values())
        ]

    def fetch(self, terms: Iterable[int]) -> None:
        """Reads the postings of terms that were not read yet."""
        wanted = sorted(set(terms) - self._rows.keys())
        if not wanted:
            return
        for term in wanted:
            self._rows[term] = {}
        for row in plans.run(
            self._plpy,
            "select p.block, p.term, p.members from insights.posting p"
            " where p.block = any($1) and p.term = any($2)",
            ("int[]", "int[]"),
            (list(self._starts), wanted),
        ):
            self._rows[row["term"]][self._starts[row["block"]]] = row["members"]

    def has(self, term: int) -> bool:
        """Whether the postings of a term were read."""
        return term in self._rows

    def union(self, terms: Terms) -> int:
        """The positions that have at least one of the terms, dead ones among them."""
        if not terms:
            return 0
        known = self._unions.get(terms)
        if known is not None:
            return known
        sparse: Optional[bytearray] = None
        # By block: a bitmap as it is, or the union of several.
        alone: dict[int, bytes] = {}
        united: dict[int, int] = {}
        for term in terms:
            for start, members in self._rows[term].items():
                if bitmaps.is_list(members):
                    if sparse is None:
                        sparse = bytearray(self._bytes)
                    for position in bitmaps.listed_positions(members):
                        sparse[start + (position >> 3)] |= 1 << (position & 7)
                    continue
                bitmap = bitmaps.stored_bitmap(members)
                if start in united:
                    united[start] |= int.from_bytes(bitmap, "little")
                elif start in alone:
                    first = int.from_bytes(alone.pop(start), "little")
                    united[start] = first | int.from_bytes(bitmap, "little")
                else:
                    alone[start] = bitmap
        found = 0 if sparse is None else int.from_bytes(sparse, "little")
        if alone or united:
            parts = []
            for block in self.blocks:
                start = block.start >> 3
                size = (block.used + 7) >> 3
                if start in united:
                    parts.append(united[start].to_bytes(size, "little"))
                else:
                    parts.append(alone.get(start) or bytes(size))
            found |= int.from_bytes(b"".join(parts), "little")
        self._unions[terms] = found
        return found

    def members(self, term: int, block: Block) -> int:
        """The positions in one block that have a term."""
        members = self._rows[term].get(block.start >> 3)
        return 0 if members is None else bitmaps.decode(members)

    def of_blocks(self, chosen: Callable[[Block], bool]) -> int:
        """All positions of some of the blocks."""
        found = 0
        for block in self.blocks:
            if chosen(block):
                found |= ((1 << block.used) - 1) << block.start
        return found

    def places(self, bits: int) -> tuple[list[int], list[int]]:
        """Blocks and positions in them, of a set."""
        numbers: list[int] = []
        places: list[int] = []
        for block in self.blocks:
            part = bits >> block.start & ((1 << block.used) - 1)
            if part:
                within = bitmaps.positions(part)
                places += within
                numbers += [block.block] * len(within)
        return numbers, places

    def at(self, numbers: Sequence[int], places: Sequence[int]) -> int:
        """The set of positions that are in the group, of blocks and positions."""
        bitmap = bytearray(self._bytes)
        for number, place in zip(numbers, places):
            start = self._starts.get(number)
            if start is not None:
                bitmap[start + (place >> 3)] |= 1 << (place & 7)
        return int.from_bytes(bitmap, "little")
