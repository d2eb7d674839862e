"""Puts small blocks together, and drops the positions of traces that have left.

Size-tiered, as in Lucene: blocks of about the same size are merged once there
are `FACTOR` of them, so a trace is moved a logarithmic number of times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from insights_engine.base import plans
from insights_engine.sets import bitmaps
from insights_engine.upkeep.postings import insert

#: Blocks of one tier that are merged; the sizes within a tier differ by this factor.
FACTOR = 8
#: Positions of the blocks that one call merges; more are left to the next.
MOST_POSITIONS = 2 * bitmaps.POSITIONS
_AT_ONCE = 20_000


class Block(NamedTuple):
    """A row of ``insights.block``."""

    block: int
    experiment_id: int
    used: int
    live: int
    live_count: int
    first_ms: int
    last_ms: int


def blocks_of(plpy: Any, experiments: Iterable[int]) -> list[Block]:
    """The blocks of some experiments, by experiment and time."""
    rows = plans.run(
        plpy,
        "select b.block, b.experiment_id, b.used, b.live, b.live_count, b.first_ms, b.last_ms"
        " from insights.block b where b.experiment_id = any($1)"
        " order by b.experiment_id, b.first_ms, b.block",
        ("int[]",),
        (sorted(set(experiments)),),
    )
    return [Block(**{**row, "live": bitmaps.decode(row["live"])}) for row in rows]


def vacate(plpy: Any, trace_ids: Sequence[str]) -> set[int]:
    """Takes traces out of the blocks they are in; the experiments of these blocks."""
    rows = plans.run(
        plpy,
        "delete from insights.trace t using pg_catalog.unnest($1) as g (trace_id)"
        " where t.trace_id = g.trace_id returning t.block, t.position",
        ("text[]",),
        (list(trace_ids),),
    )
    left: dict[int, list[int]] = {}
    for row in rows:
        left.setdefault(row["block"], []).append(row["position"])
    if not left:
        return set()
    blocks = plans.run(
        plpy,
        "select b.block, b.experiment_id, b.used, b.live from insights.block b"
        " where b.block = any($1)",
        ("int[]",),
        (sorted(left),),
    )
    changed: list[tuple[int, bytes, int]] = []
    empty: list[int] = []
    for row in blocks:
        gone = bitmaps.decode(bitmaps.encode(sorted(left[row["block"]]), row["used"]))
        live = bitmaps.decode(row["live"]) & ~gone
        if live:
            changed.append(
                (row["block"], bitmaps.encode_set(live, row["used"]), bitmaps.count(live))
            )
        else:
            empty.append(row["block"])
    if changed:
        plans.run(
            plpy,
            "update insights.block b set live = c.live, live_count = c.live_count from rows from"
            " (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))"
            " as c (block, live, live_count) where b.block = c.block",
            ("int[]", "bytea[]", "int[]"),
            [list(column) for column in zip(*changed)],
        )
    drop(plpy, empty)
    return {row["experiment_id"] for row in blocks}


def drop(plpy: Any, blocks: Sequence[int]) -> None:
    """Deletes blocks with all that is stored of them, but for their traces."""
    if blocks:
        for table in ("posting", "cells", "sessions", "block"):
            plans.run(
                plpy,
                f"delete from insights.{table} d where d.block = any($1)",
                ("int[]",),
                (list(blocks),),
            )


def merge(plpy: Any, experiments: Iterable[int]) -> int:
    """Merges what should be merged in some experiments; how many blocks went into it."""
    merged = 0
    left = MOST_POSITIONS
    for _, found in groupby(blocks_of(plpy, experiments), key=lambda block: block.experiment_id):
        blocks = list(found)
        while True:
            chosen = choose(blocks)
            if not chosen or sum(block.used for block in chosen) > left:
                break
            left -= sum(block.used for block in chosen)
            made = rewrite(plpy, chosen)
            merged += len(chosen)
            blocks = [block for block in blocks if block not in chosen]
            blocks.append(made)
            blocks.sort(key=lambda block: (block.first_ms, block.block))
    return merged


def choose(blocks: Sequence[Block]) -> list[Block]:
    """The blocks of an experiment, in order of time, that should become one; or none."""
    tiers: dict[int, list[Block]] = {}
    for block in blocks:
        tier, size = 0, FACTOR
        while size <= block.live_count:
            tier, size = tier + 1, size * FACTOR
        tiers.setdefault(tier, []).append(block)
    for _, tier_blocks in sorted(tiers.items()):
        if len(tier_blocks) < FACTOR:
            continue
        # Of as many as fit into one block, those that lie closest together in time.
        best: list[Block] = []
        for start in range(len(tier_blocks)):
            total = 0
            run: list[Block] = []
            for block in tier_blocks[start : start + FACTOR]:
                total += block.live_count
                if total > bitmaps.POSITIONS:
                    break
                run.append(block)
            if len(run) > len(best) or (
                len(run) == len(best) > 0 and _duration(run) < _duration(best)
            ):
                best = run
        if len(best) > 1:
            return best
    for block in blocks:
        if 2 * block.live_count < block.used:
            return [block]
    return []


def _duration(blocks: Sequence[Block]) -> int:
    return max(block.last_ms for block in blocks) - min(block.first_ms for block in blocks)


def rewrite(plpy: Any, blocks: Sequence[Block]) -> Block:
    """Makes one block of the live positions of some."""
    used = sum(block.live_count for block in blocks)
    first_ms = min(block.first_ms for block in blocks)
    last_ms = max(block.last_ms for block in blocks)
    made = add_block(plpy, blocks[0].experiment_id, used, first_ms, last_ms)
    moves: dict[int, list[int]] = {}
    start = 0
    for block in blocks:
        moves[block.block] = _moves(block, start)
        start += block.live_count
    insert(plpy, _merged(plpy, moves, made, used))
    for block in blocks:
        olds = bitmaps.positions(block.live)
        news = [moves[block.block][old] for old in olds]
        plans.run(
            plpy,
            "update insights.trace t set block = $1, position = m.new from rows from"
            " (pg_catalog.unnest($3), pg_catalog.unnest($4)) as m (old, new)"
            " where t.block = $2 and t.position = m.old",
            ("int", "int", "smallint[]", "smallint[]"),
            (made, block.block, olds, news),
        )
    drop(plpy, [block.block for block in blocks])
    return Block(made, blocks[0].experiment_id, used, (1 << used) - 1, used, first_ms, last_ms)


def _moves(block: Block, start: int) -> list[int]:
    """Of each position of a block the new one; -1 where the trace has left."""
    moves = [-1] * block.used
    for new, old in enumerate(bitmaps.positions(block.live), start):
        moves[old] = new
    return moves


def _merged(
    plpy: Any, moves: dict[int, list[int]], made: int, used: int
) -> Iterator[tuple[int, int, bytes]]:
    """The postings of the new block, by term."""
    plan = plpy.prepare(
        "select p.term, p.block, p.members from insights.posting p where p.block = any($1)"
        " order by p.term",
        ["int[]"],
    )
    cursor = plpy.cursor(plan, [list(moves)])

    def rows() -> Iterator[tuple[int, int, bytes]]:
        while True:
            some = cursor.fetch(1_000)
            for row in some:
                yield row["term"], row["block"], row["members"]
            if len(some) < 1_000:
                cursor.close()
                return

    order = {block: number for number, block in enumerate(moves)}
    for term, found in groupby(rows(), key=itemgetter(0)):
        positions: list[int] = []
        several = list(found)
        if len(several) > 1:
            several.sort(key=lambda row: order[row[1]])
        for _, block, members in several:
            positions += map(moves[block].__getitem__, bitmaps.stored_positions(members))
        if -1 in positions:
            positions = [position for position in positions if position >= 0]
        if positions:
            yield made, term, bitmaps.encode(positions, used)


def add_block(plpy: Any, experiment_id: int, used: int, first_ms: int, last_ms: int) -> int:
    """A new block, all of whose positions are live."""
    rows = plans.run(
        plpy,
        "insert into insights.block (experiment_id, used, live, live_count, first_ms, last_ms)"
        " values ($1, $2, $3, $2, $4, $5) returning block",
        ("int", "int", "bytea", "bigint", "bigint"),
        (experiment_id, used, bitmaps.encode_set((1 << used) - 1, used), first_ms, last_ms),
    )
    return int(rows[0]["block"])
