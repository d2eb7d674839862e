"""Works out the cells of large blocks when the index is written; see `stored_cells`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from insights_engine.columns import cells, stored_cells
from insights_engine.columns.candidates import Items
from insights_engine.columns.cells import Cells, Cuts
from insights_engine.columns.names import NumberField
from insights_engine.columns.parts import FIELDS_AT_ONCE, Indexed
from insights_engine.index.groups import Block, all_positions
from insights_engine.index.large_blocks import Task

#: Blocks that one call works out: about a third of a second each.
AT_ONCE = 2


def store(plpy: Any, tasks: Sequence[Task]) -> int:
    """Stores the cells of some blocks: of so many at most; of how many."""
    items = Items()
    items.read(plpy)
    stored = 0
    for task in tasks[:AT_ONCE]:
        sample = [block.block for block in task.sample]
        cuts = stored_cells.cuts_of(plpy, sample) or _chosen(plpy, items, task.sample)
        found = worked_out(plpy, items, task.block, cuts)
        stored_cells.write(plpy, task.block.block, task.block.used, sample, found)
        # Without any number there is nothing to store, and nothing more to be done.
        stored += bool(found)
    return stored


def worked_out(
    plpy: Any, items: Items, block: Block, cuts: dict[NumberField, Cuts]
) -> dict[NumberField, Cells]:
    """The cells of a block, of its postings."""
    # A field that is not cut has none, which is stored, too.
    found = {name: Cells([], [], chosen) for name, chosen in cuts.items() if not chosen.values}
    for names in _some([name for name in cuts if name not in found]):
        part = _part(plpy, items, block)
        found.update(part.worked_out({name: cuts[name] for name in names}))
    return found


def wrong(plpy: Any, items: Items, block: Block) -> Iterator[NumberField]:
    """The fields whose stored cells are not what the postings of a block say."""
    cuts = stored_cells.cuts_in(plpy, block.block)
    expected = worked_out(plpy, items, block, cuts)
    for names in _some(list(cuts)):
        stored = stored_cells.read(plpy, block.block, {name: cuts[name] for name in names})
        for name in names:
            found, right = stored.get(name), expected[name]
            if found is None or (found.low, found.high) != (right.low, right.high):
                yield name


def _chosen(plpy: Any, items: Items, sample: Sequence[Block]) -> dict[NumberField, Cuts]:
    """The cuts that a session would choose, of all fields."""
    found = {}
    for names in _some(sorted(items.slices)):
        numbers: dict[NumberField, list[int]] = {name: [] for name in names}
        for block in sample:
            for name, some in _part(plpy, items, block).sample(names).items():
                numbers[name] += some
        found.update({name: cells.choose_cuts(name, some) for name, some in numbers.items()})
    return found


def _part(plpy: Any, items: Items, block: Block) -> Indexed:
    return Indexed(plpy, items, block, all_positions(block.used), 0, {})


def _some(names: Sequence[NumberField]) -> Iterator[Sequence[NumberField]]:
    for start in range(0, len(names), FIELDS_AT_ONCE):
        yield names[start : start + FIELDS_AT_ONCE]
