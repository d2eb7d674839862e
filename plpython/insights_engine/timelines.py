"""The numbers of a block's traces in the order of time.

The index has them as slices, which suit one question about all traces.  A series asks
about hundreds of small parts of a block; for it they are spread out, once a session, as
they never change for a block.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple

from insights_engine import bitmaps
from insights_engine.bounds import Block, Group, all_positions
from insights_engine.cache import CACHE, Column
from insights_engine.indexed import GROUP, Index

FIELDS = ("execution_time_ms", "total_tokens", "total_cost")
_COST = "total_cost"
_KEYS = ("times", "order", *FIELDS, *(f"has {name}" for name in FIELDS))


class Timeline(NamedTuple):
    """The traces of a block, dead ones among them, in the order of time."""

    #: When they began, ms.
    times: array[int]
    #: At which positions they are.
    order: array[int]
    #: Of each of FIELDS the number, and 0 or 1 for whether there is one.
    numbers: tuple[array[Any], ...]
    there: tuple[bytes, ...]
    #: Positions whose cost is there, but no finite number.
    odd: int


def timelines(index: Index, blocks: Sequence[Block]) -> Iterator[Timeline]:
    """The timeline of each block, in their order."""
    for first in range(0, len(blocks), GROUP // bitmaps.POSITIONS):
        yield from _some(index, blocks[first : first + GROUP // bitmaps.POSITIONS])


def _some(index: Index, blocks: Sequence[Block]) -> Iterator[Timeline]:
    kept = [CACHE.columns(("timeline", key)) for key in _KEYS]
    known = {
        block.block: [columns[block.block] for columns in kept]
        for block in blocks
        if all(block.block in columns for columns in kept)
    }
    lacking = [block for block in blocks if block.block not in known]
    if lacking:
        known.update(_read(index, lacking))
        for number, key in enumerate(_KEYS):
            CACHE.keep_columns(
                ("timeline", key),
                {block.block: known[block.block][number] for block in lacking},
            )
    size = len(FIELDS)
    for block in blocks:
        times, order, *rest = known[block.block]
        yield Timeline(
            times.numbers,
            order.numbers,
            tuple(column.numbers for column in rest[:size]),
            tuple(column.numbers.tobytes() for column in rest[size:]),
            all_positions(block.used) & ~rest[size - 1].known,
        )


def _read(index: Index, blocks: Sequence[Block]) -> dict[int, list[Column]]:
    """By block the columns of _KEYS."""
    # The places of blocks in a group belong to the group.
    group = Group(index.plpy, [copy(block) for block in blocks])
    times = _divided(group, index.planner.timestamps().slices(group))
    fields = []
    for name in FIELDS:
        series, odd = index.planner.column(name)
        slices = _divided(group, series.slices(group))
        group.fetch(odd)
        fields.append((name, slices, group.divided(group.union(odd))))
    found: dict[int, list[Column]] = {}
    for number, block in enumerate(blocks):
        used = block.used
        every = all_positions(used)
        own = bitmaps.integers(bitmaps.numbers(times[number], used))
        order = array("H", sorted(range(used), key=own.__getitem__))
        columns = [_column([own[place] for place in order], "q"), Column(every, order)]
        there = []
        for name, slices, odd_ones in fields:
            patterns = bitmaps.numbers(slices[number], used)
            values = bitmaps.doubles(patterns) if name == _COST else bitmaps.integers(patterns)
            column = _column([values[place] for place in order], values.typecode)
            columns.append(column._replace(known=every & ~odd_ones[number]))
            flags = bitmaps.flags(slices[number].get(bitmaps.HAS_NUMBER, 0), used)
            there.append(_column([flags[place] for place in order], "B"))
        found[block.block] = columns + there
    return found


def _column(numbers: Sequence[Any], typecode: str) -> Column:
    return Column(0, array(typecode, numbers))


def _divided(group: Group, slices: dict[int, int]) -> list[dict[int, int]]:
    """Slices for each block."""
    found: list[dict[int, int]] = [{} for _ in group.blocks]
    for bit, members in slices.items():
        for own, part in zip(found, group.divided(members)):
            own[bit] = part
    return found
