"""Answers from the index, completed from MLflow's tables.

The index answers for the traces it knows; traces that changed since (`pending`),
and traces for which its bounds differ, are asked about one by one with the raw
predicate.  Everything an answer is made of is read in one snapshot: pending
traces are pending there, whatever a refresh commits meanwhile.

Each function returns None where the index is of no use: it is not built, has
missed a change, the caller may not read all of MLflow's tables, or the traces to
be asked about one by one are too many.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from insights_engine import bitmaps, plans, tree
from insights_engine.bounds import Block, Condition, Group, Planner
from insights_engine.statement import Statement

#: More pending traces than these, and the index is left alone.
MOST_PENDING = 2000
#: Undecided traces that are asked about one by one in any case, ...
FEW_UNDECIDED = 2000
#: ... and the share of all traces up to which it beats asking about all of them.
UNDECIDED_SHARE = 0.05
#: Positions looked at together: bounds what a call holds in memory.
GROUP = 128 * bitmaps.POSITIONS
#: A page begins with the newest blocks and grows by this factor.
FIRST_GROUP = 2 * bitmaps.POSITIONS
GROWTH = 4

_TABLES = (
    "trace_info",
    "spans",
    "trace_tags",
    "trace_request_metadata",
    "assessments",
    "entity_associations",
)
_SESSION_MARK = '"mlflow.trace.session":'


class Index:
    """The index as one snapshot shows it, for some experiments."""

    def __init__(
        self,
        plpy: Any,
        statement: Statement,
        blocks: Sequence[Block],
        pending: Sequence[str],
    ) -> None:
        self._plpy = plpy
        self._statement = statement
        self.blocks = blocks
        #: The traces that have to be asked about one by one.
        self.pending = list(pending)
        self.planner = Planner(plpy, statement.schema, statement.experiments, statement.now_ms)
        self._away: tuple[list[int], list[int]] = ([], [])
        if self.pending:
            rows = plans.run(
                plpy,
                "select t.block, t.position from insights.trace t where t.trace_id = any($1)",
                ("text[]",),
                (self.pending,),
            )
            self._away = ([row["block"] for row in rows], [row["position"] for row in rows])

    @property
    def most_undecided(self) -> int:
        """How many undecided traces are worth asking about one by one."""
        return max(
            FEW_UNDECIDED, int(UNDECIDED_SHARE * sum(block.live_count for block in self.blocks))
        )

    def groups(self, first: int = GROUP, growth: int = 1) -> Iterator[Group]:
        """The blocks, newest first, as groups of limited size."""
        limit, size = first, 0
        taken: list[Block] = []
        for block in self.blocks:
            if taken and size + block.used > limit:
                yield self._group(taken)
                limit, size = min(limit * growth, GROUP), 0
                taken = []
            taken.append(block)
            size += block.used
        if taken:
            yield self._group(taken)

    def _group(self, blocks: Sequence[Block]) -> Group:
        group = Group(self._plpy, blocks)
        if self._away[0]:
            group.universe &= ~group.at(*self._away)
        return group

    def ids(self, group: Group, bits: int) -> list[str]:
        """The trace ids at some positions."""
        if not bits:
            return []
        rows = plans.run(
            self._plpy,
            "select t.trace_id from unnest($1, $2) as u (block, position)"
            " join insights.trace t on t.block = u.block and t.position = u.position",
            ("int[]", "smallint[]"),
            group.places(bits),
        )
        return [row["trace_id"] for row in rows]


def open_index(plpy: Any, statement: Statement, nodes: Sequence[tree.Node]) -> Optional[Index]:
    """The index, ready to answer ``nodes``; None where it is of no use."""
    # Row security of MLflow's tables hides rows from some roles; the index cannot.
    (state,) = plans.run(
        plpy,
        "select coalesce((select s.built and s.trusted >= m.last_value"
        f" from insights.state s, insights.missed m), false) and {_readable(statement)} as usable",
    )
    if not state["usable"]:
        return None
    pending = plans.run(
        plpy, "select p.trace_id from insights.pending p limit $1", ("int",), (20 * MOST_PENDING,)
    )
    changed = {row["trace_id"] for row in pending}
    if len(changed) > MOST_PENDING or len(pending) == 20 * MOST_PENDING:
        return None
    if changed and any(_assesses(node) for node in nodes):
        changed |= _same_sessions(plpy, statement, list(changed))
        if len(changed) > MOST_PENDING:
            return None
    blocks = _blocks(plpy, statement.experiments)
    return Index(plpy, statement, blocks, sorted(changed))


def _readable(statement: Statement) -> str:
    """The condition that the caller may read every row of MLflow's tables."""
    names = [f"'{statement.schema}.{table}'" for table in _TABLES]
    return " and ".join(
        f"pg_catalog.has_table_privilege({name}, 'select')"
        f" and not pg_catalog.row_security_active({name})"
        for name in names
    )


def _blocks(plpy: Any, experiments: Optional[Sequence[int]]) -> list[Block]:
    chosen = "" if experiments is None else " and b.experiment_id = any($1)"
    rows = plans.run(
        plpy,
        "select b.block, b.experiment_id, b.used, b.live_count, b.first_ms, b.last_ms,"
        " case when b.live_count < b.used then b.live end as live"
        f" from insights.block b where b.live_count > 0{chosen} order by b.last_ms desc",
        () if experiments is None else ("int[]",),
        () if experiments is None else (list(experiments),),
    )
    return [Block(row) for row in rows]


def _assesses(node: tree.Node) -> bool:
    """Whether a filter asks about assessments, which may belong to a whole session."""
    if isinstance(node, (tree.And, tree.Or)):
        return any(_assesses(item) for item in node.items)
    if isinstance(node, tree.Not):
        return _assesses(node.item)
    if isinstance(node, (tree.AnySpan, tree.CountSpans, tree.AggregateSpans)):
        return False
    return isinstance(node.field, tree.Assessment)


def _same_sessions(plpy: Any, statement: Statement, changed: Sequence[str]) -> set[str]:
    """The traces to which changed traces lend assessments, or lent them when indexed."""
    schema = statement.schema
    rows = plans.run(
        plpy,
        f"select t.request_id from {schema}.trace_info t where t.session_id in ("
        " select c.session_id from insights.carrier c where c.trace_id = any($1)"
        f" union all select c.session_id from {schema}.trace_info c"
        f" join {schema}.assessments a on a.trace_id = c.request_id"
        " where c.request_id = any($1) and pg_catalog.strpos(a.assessment_metadata, $2) > 0"
        ") limit $3",
        ("text[]", "text", "int"),
        (list(changed), _SESSION_MARK, MOST_PENDING + 1),
    )
    return {row["request_id"] for row in rows}


# -------------------------------------------------------------------- counting


def counts(
    plpy: Any,
    statement: Statement,
    nodes: Sequence[tree.Node],
    joint: Sequence[int] = (),
) -> Optional[list[int]]:
    """The number of traces that match each node, then of those that match all ``joint`` ones."""
    index = open_index(plpy, statement, nodes)
    if index is None:
        return None
    conditions = [index.planner.plan(node) for node in nodes]
    terms = {term for condition in conditions for term in condition.terms()}
    totals = [0] * (len(nodes) + 1)
    open_ids = list(index.pending)
    undecided = 0
    for group in index.groups():
        group.fetch(terms)
        pairs = [condition.bounds(group) for condition in conditions]
        open_bits = 0
        for must, may in pairs:
            open_bits |= may & ~must
        undecided += bitmaps.count(open_bits)
        if undecided > index.most_undecided:
            return None
        open_ids += index.ids(group, open_bits)
        both = ~open_bits
        for number, (must, _) in enumerate(pairs):
            totals[number] += bitmaps.count(must & ~open_bits)
            if number in joint:
                both &= must
        if joint:
            totals[-1] += bitmaps.count(both)
    if open_ids:
        rest = _raw_counts(plpy, statement.again(), nodes, joint, open_ids)
        totals = [total + more for total, more in zip(totals, rest)]
    return totals


def _raw_counts(
    plpy: Any,
    statement: Statement,
    nodes: Sequence[tree.Node],
    joint: Sequence[int],
    ids: Sequence[str],
) -> list[int]:
    """The same counts among given traces, by the raw predicate."""
    flags = ", ".join(
        f"{statement.condition(node, 'probe')} as f{number}" for number, node in enumerate(nodes)
    )
    together = " and ".join(f"f{number}" for number in joint) or "false"
    columns = [f"count(*) filter (where f{number}) as c{number}" for number in range(len(nodes))]
    columns.append(f"count(*) filter (where {together}) as c{len(nodes)}")
    given = statement.params.add(list(ids), "text[]")
    sql = (
        f"select {', '.join(columns)} from (select {flags} from {statement.traces}"
        f" where t.request_id = any({given}) and {statement.scope()} offset 0) t"
    )
    (row,) = statement.run(plpy, sql)
    return [int(row[f"c{number}"]) for number in range(len(columns))]


# ------------------------------------------------------------------------ pages


def newest(
    plpy: Any,
    statement: Statement,
    node: tree.Node,
    limit: int,
    before_ms: Optional[int],
) -> Optional[tuple[list[str], list[str]]]:
    """Traces among which are the ``limit`` newest that match: surely, and perhaps.

    ``before_ms``: only traces that began then or earlier.  Pending traces are
    always among the second.
    """
    index = open_index(plpy, statement, (node,))
    if index is None:
        return None
    condition = index.planner.plan(node)
    times = index.planner.timestamps()
    terms = {*condition.terms(), *times.terms()}
    sure_ids: list[str] = []
    open_ids = list(index.pending)
    found = 0
    # The oldest sure one; once they are enough, nothing older is wanted.
    oldest_ms: Optional[int] = None
    sure_count = 0
    for group in index.groups(FIRST_GROUP, GROWTH):
        enough = oldest_ms is not None and sure_count >= limit
        if enough and group.blocks[0].last_ms < (oldest_ms or 0):
            break
        group.fetch(terms)
        must, may = condition.bounds(group)
        slices = times.lowest(group)
        tied_with_start = 0
        if before_ms is not None:
            less, tied_with_start = bitmaps.slices_below(
                slices, may, bitmaps.pattern_of_integer(before_ms)
            )
            may = less | tied_with_start
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
            own_ms = _least(slices, chosen)
            oldest_ms = own_ms if oldest_ms is None else min(oldest_ms, own_ms)
            if bitmaps.count(sure | tied) >= limit:
                older, _ = bitmaps.slices_below(
                    slices, undecided, bitmaps.pattern_of_integer(own_ms)
                )
                undecided &= ~older
        if bitmaps.count(chosen) > limit + FEW_UNDECIDED:
            return None
        found += bitmaps.count(undecided)
        if found > FEW_UNDECIDED:
            return None
        sure_ids += index.ids(group, chosen)
        open_ids += index.ids(group, undecided)
    return sure_ids, open_ids


def _least(slices: bitmaps.Slices, within: int) -> int:
    """The smallest number of the members of a set."""
    value = 0
    for bit in range(bitmaps.WIDTH - 1, -1, -1):
        members = slices.get(bit, 0)
        if bit == bitmaps.WIDTH - 1:
            negative = within & members
            if negative:
                within = negative
                value -= 1 << bit
            continue
        without = within & ~members
        if without:
            within = without
        else:
            value += 1 << bit
    return value


def matches(
    plpy: Any, statement: Statement, node: tree.Node, most: int
) -> Optional[tuple[list[str], list[str]]]:
    """All traces that match, surely and perhaps, if they are no more than ``most``."""
    index = open_index(plpy, statement, (node,))
    if index is None:
        return None
    condition = index.planner.plan(node)
    terms = set(condition.terms())
    sure_ids: list[str] = []
    open_ids = list(index.pending)
    found = 0
    for group in index.groups():
        group.fetch(terms)
        must, may = condition.bounds(group)
        found += bitmaps.count(may)
        if found > most:
            return None
        sure_ids += index.ids(group, must)
        open_ids += index.ids(group, may & ~must)
    return sure_ids, open_ids


# ------------------------------------------------------------------- explaining


def explained(plpy: Any, statement: Statement, node: tree.Node) -> Iterator[tuple[str, Any]]:
    """What the index contributes to an answer, step by step.

    Gives ("unused", reason), or ("index", blocks and pending), then for each
    predicate ("predicate", (node, hits, must, undecided, ms)), then
    ("whole", (must, undecided, ms)).
    """
    started = time.perf_counter()
    index = open_index(plpy, statement, (node,))
    if index is None:
        yield "unused", _reason(plpy, statement)
        return
    yield "index", (len(index.blocks), len(index.pending), _since(started))
    started = time.perf_counter()
    whole = index.planner.plan(node)
    leaves = list(index.planner.hits)
    yield "vocabulary", (sum(hits for _, hits, _ in leaves), _since(started))
    for part, hits, condition in leaves:
        yield "predicate", (part, hits, *_measured(index, condition))
    yield "whole", _measured(index, whole)


def _measured(index: Index, condition: Condition) -> tuple[int, int, float]:
    started = time.perf_counter()
    sure = undecided = 0
    terms = set(condition.terms())
    for group in index.groups():
        group.fetch(terms)
        must, may = condition.bounds(group)
        sure += bitmaps.count(must)
        undecided += bitmaps.count(may & ~must)
    return sure, undecided, _since(started)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _reason(plpy: Any, statement: Statement) -> str:
    rows = plans.run(
        plpy,
        f"select s.built, s.trusted >= m.last_value as trusted, {_readable(statement)} as readable"
        " from insights.state s, insights.missed m",
    )
    if not len(rows) or not rows[0]["built"]:
        return "it is not built yet (insights index)"
    if not rows[0]["readable"]:
        return "it is for those only who may read every row of MLflow's tables"
    if not rows[0]["trusted"]:
        return "it has missed a change (insights_rebuild)"
    return "too many traces are pending (insights_refresh)"
