"""Answers from the index, completed from MLflow's tables.

Each function returns None where the index is of no use: it is not built, has
missed a change, the caller may not read all of MLflow's tables, or very many traces
would have to be asked about.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from insights_engine.base import plans
from insights_engine.exact import given
from insights_engine.exact.statement import Statement
from insights_engine.index.conditions import Condition
from insights_engine.index.groups import Group
from insights_engine.index.index_reader import (
    GROUP,
    UNDECIDED_SHARE,
    Index,
    decided_sets,
    open_index,
    prepare,
    read_state,
)
from insights_engine.index.planner import Planner
from insights_engine.language import tree
from insights_engine.sets import bitmaps, intervals

#: A page begins with the newest blocks and grows by this factor.
FIRST_GROUP = 2 * bitmaps.POSITIONS
GROWTH = 4


# -------------------------------------------------------------------- counting


def counts(
    plpy: Any,
    statement: Statement,
    nodes: Sequence[tree.Node],
    joint: Sequence[int] = (),
) -> Optional[list[int]]:
    """The number of traces that match each node, then of those that match all ``joint`` ones."""
    index = open_index(plpy, statement, nodes, UNDECIDED_SHARE)
    if index is None:
        return None
    filters = [prepare(node) for node in nodes]
    totals = [0] * (len(nodes) + 1)
    for sets in decided_sets(index, filters):
        for number, known in enumerate(sets):
            totals[number] += known.count()
        if joint:
            both = sets[joint[0]].must
            for number in joint[1:]:
                both &= sets[number].must
            totals[-1] += bitmaps.count(both)
    if index.overcharged:
        return None
    if index.pending:
        rest = _counts_of_given(plpy, statement.again(), nodes, joint, index.pending)
        totals = [total + more for total, more in zip(totals, rest)]
    return totals


def _counts_of_given(
    plpy: Any,
    statement: Statement,
    nodes: Sequence[tree.Node],
    joint: Sequence[int],
    trace_ids: Sequence[str],
) -> list[int]:
    """The same counts among given traces, by exact SQL."""
    flags = [f"t.matches[{number}]" for number in range(1, len(nodes) + 1)]
    together = " and ".join(flags[number] for number in joint) or "false"
    counts = ", ".join(f"count(*) filter (where {flag})" for flag in (*flags, together))
    (row,) = statement.run(
        plpy,
        f"select array[{counts}] as counts"
        f" from ({given.select(statement, trace_ids, nodes)} offset 0) t",
    )
    return list(row["counts"])


# ------------------------------------------------------------------------ pages


class Settled(enum.Enum):
    """What a search asks of a filter that the index leaves open."""

    #: Some traces may be left open.
    WHATEVER = 0
    #: It has been settled for all traces, or the index is of no use.
    ALREADY = 1
    #: It is to be settled now, by asking about all traces.
    EVERYWHERE = 2


def newest(
    plpy: Any,
    statement: Statement,
    node: tree.Node,
    limit: int,
    before_ms: Optional[int],
    settled: Settled = Settled.WHATEVER,
) -> Optional[tuple[list[str], list[str]]]:
    """Traces among which are the ``limit`` newest that match: surely, and perhaps.

    ``before_ms``: only traces that began then or earlier.  Pending traces are
    always among the second; others are only where ``settled`` allows it.
    """
    index = open_index(plpy, statement, (node,))
    if index is None:
        return None
    one = prepare(node)
    if settled is Settled.ALREADY and not index.is_settled(one):
        return None
    if settled is Settled.EVERYWHERE:
        if sum(block.used for block in index.blocks) > GROUP:
            return None
        index.settle_everywhere((one,))
    times = index.planner.timestamps()
    sure_ids: list[str] = []
    open_ids = list(index.pending)
    found = 0
    # The oldest sure one; once they are enough, nothing older is wanted.
    oldest_ms: Optional[int] = None
    sure_count = 0
    for blocks in index.batches(FIRST_GROUP, GROWTH):
        enough = oldest_ms is not None and sure_count >= limit
        if enough and blocks[0].last_ms < (oldest_ms or 0):
            break
        (pairs,) = index.bounds((one,), blocks)
        if settled is Settled.EVERYWHERE:
            pairs = index.settle(one, blocks, pairs)
        group = Group(plpy, blocks)
        group.fetch(times.terms())
        must = group.joined([pair.must for pair in pairs])
        may = group.joined([pair.may for pair in pairs])
        slices = times.lowest(group)
        tied_with_start = 0
        if before_ms is not None:
            less = bitmaps.below(slices, may, intervals.ZERO + before_ms)
            may = bitmaps.below(slices, may, intervals.ZERO + before_ms + 1)
            tied_with_start = may & ~less
            must &= may
        if not may:
            continue
        # What is undecided may come to nothing, so that many sure ones are needed,
        # beside those that began when the page before ended: it may have had them.
        sure, tied = bitmaps.largest(slices, must & ~tied_with_start, limit)
        chosen = sure | tied | must & tied_with_start
        undecided = may & ~must
        if chosen:
            sure_count += bitmaps.count(sure | tied)
            own_ms = bitmaps.least(slices, chosen)
            oldest_ms = own_ms if oldest_ms is None else min(oldest_ms, own_ms)
            if bitmaps.count(sure | tied) >= limit:
                undecided &= ~bitmaps.below(slices, undecided, intervals.ZERO + own_ms)
        if bitmaps.count(chosen) > limit + index.few_undecided:
            return None
        found += bitmaps.count(undecided)
        if found > index.few_undecided:
            return None
        sure_ids += index.ids(blocks, group.divided(chosen))
        open_ids += index.ids(blocks, group.divided(undecided))
    return sure_ids, open_ids


def matches(
    plpy: Any, statement: Statement, node: tree.Node, most: int
) -> Optional[tuple[list[str], list[str]]]:
    """All traces that match, surely and perhaps, if they are no more than ``most``."""
    index = open_index(plpy, statement, (node,))
    if index is None:
        return None
    sure_ids: list[str] = []
    open_ids = list(index.pending)
    found = 0
    for blocks in index.batches():
        (pairs,) = index.bounds((prepare(node),), blocks)
        found += sum(bitmaps.count(pair.may) for pair in pairs)
        if found > most:
            return None
        sure_ids += index.ids(blocks, [pair.must for pair in pairs])
        open_ids += index.ids(blocks, [pair.may & ~pair.must for pair in pairs])
    return sure_ids, open_ids


# ------------------------------------------------------------------- explaining


def explained(plpy: Any, statement: Statement, node: tree.Node) -> Iterator[tuple[str, Any]]:
    """What the index contributes to an answer, step by step.

    Gives ("unused", reason), or ("index", blocks and pending), then for each
    predicate ("predicate", (node, hits, must, undecided, ms)), then
    ("whole", (must, undecided, ms, how many undecided ones are asked one by one)) and
    ("pending", traces that are asked about as they have changed).
    Nothing that the session keeps is used for that.
    """
    started = time.perf_counter()
    index = open_index(plpy, statement, (node,), UNDECIDED_SHARE)
    if index is None:
        yield "unused", _reason(plpy, statement)
        return
    yield "index", (len(index.blocks), len(index.pending), _since(started))
    started = time.perf_counter()
    planner = Planner(plpy, statement.schema, statement.experiments)
    planner.now_ms = statement.now_ms
    whole = planner.plan(node)
    leaves = list(planner.hits)
    yield "vocabulary", (sum(hits for _, hits, _ in leaves), _since(started))
    for part, hits, condition in leaves:
        yield "predicate", (part, hits, *_measured(index, condition))
    yield "whole", (*_measured(index, whole), index.most_undecided)
    yield "pending", _in_scope(plpy, statement.again(), index.pending)


def _in_scope(plpy: Any, statement: Statement, ids: Sequence[str]) -> int:
    """How many of some traces are there, in the experiments that were asked for."""
    if not ids:
        return 0
    (row,) = statement.run(
        plpy,
        f"select count(*) as found from {statement.traces} where {given.condition(statement, ids)}",
    )
    return int(row["found"])


def _measured(index: Index, condition: Condition) -> tuple[int, int, float]:
    started = time.perf_counter()
    sure = undecided = 0
    terms = set(condition.terms())
    for blocks in index.batches():
        group = Group(index.plpy, blocks)
        group.fetch(terms)
        must, may = condition.bounds(group)
        universe = group.joined([index.universe(block) for block in blocks])
        sure += bitmaps.count(must & universe)
        undecided += bitmaps.count(may & ~must & universe)
    return sure, undecided, _since(started)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _reason(plpy: Any, statement: Statement) -> str:
    state = read_state(plpy, statement)
    if state is None:
        (row,) = plans.run(
            plpy,
            "select current_user::text as role, i.reader_role from insights.installation i",
        )
        return f"role {row['role']} may not read it (grant {row['reader_role']} to {row['role']})"
    if not state["readable"]:
        return "it is for those only who may read every row of MLflow's tables"
    if not state["built"]:
        return "it is not built yet (insights index)"
    if not state["watched"]:
        (row,) = plans.run(plpy, "select insights.unwatched() as trigger")
        if row["trigger"] is not None:
            return f"changes go unnoticed, as {row['trigger']} (insights install)"
        return "triggers or tables have changed since (insights_refresh catches up)"
    if not state["complete"]:
        return "it has missed a change (insights_refresh catches up)"
    return (
        "too many traces are pending (insights_refresh): exact SQL answers for all"
        " traces, and discoveries read the facts of those that are pending"
    )
