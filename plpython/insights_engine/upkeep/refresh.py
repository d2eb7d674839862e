"""Keeps the index up to date; the only writer of its tables.

Every call is part of one transaction, so that a reader's snapshot has both the
old state of the index and the traces as pending, or neither.  Pending traces are
taken before MLflow's tables are read: what is committed in between has noted its
traces again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from insights_engine.base import plans
from insights_engine.exact.rawsql import SESSION_MARK
from insights_engine.facts.facts import Facts
from insights_engine.facts.rows import Placed, Reader, Rollups
from insights_engine.index import integrity, large_blocks, stored_sessions
from insights_engine.language.errors import InsightsError
from insights_engine.sets import bitmaps
from insights_engine.upkeep import catch_up, merging, postings, set_aside

#: lock_not_available
_LOCKED = "55P03"
#: How long a rebuild between two of its transactions keeps others away: between them no lock
#: says that it is under way.
_LEASE_SECONDS = 10

# Traces whose rows are read together, and bounds on what a batch keeps in memory.
_CHUNK = 1_000
_MOST_TEXTS = 300_000
_MOST_FACTS = 1_000_000
_MOST_BLOCKS = 250
# MLflow notes a trace again with nearly every statement.
_NOTES_OF_A_TRACE = 40
_COUNTED = 1_000_000


class Trace(NamedTuple):
    """A trace to be indexed, in the order of blocks."""

    experiment_id: int
    timestamp_ms: int
    trace_id: str


def refresh(plpy: Any, schema: str, max_traces: int) -> dict[str, Any]:
    """Indexes up to ``max_traces`` pending traces, and merges small blocks.

    Traces that share a session with them may come on top.  What was missed is made up for
    first.  ``busy``: another session is at it, or older transactions have to be waited for;
    nothing was done.
    """
    if not _locked(plpy, schema) or not catch_up.catch_up(plpy, schema, mark_to_be_built):
        return {"indexed": 0, "removed": 0, "merged": 0, "pending": _pending(plpy), "busy": True}
    ids = _take_pending(plpy, max_traces)
    if ids:
        _change_version(plpy)
    parts = set_aside.work(plpy, ids, lambda some: _index(plpy, schema, some), str) if ids else []
    indexed = sum(part[0] for part in parts)
    removed = sum(part[1] for part in parts)
    experiments: set[int] = set().union(*(part[2] for part in parts))
    merged = merging.merge(plpy, experiments) if experiments else 0
    if _unfinished(plpy):
        indexed += _build_next(plpy, schema, max_traces)["indexed"]
    else:
        _complete(plpy, schema)
    return {
        "indexed": indexed,
        "removed": removed,
        "merged": merged,
        "pending": _pending(plpy),
        "busy": False,
    }


def _unfinished(plpy: Any) -> bool:
    """Whether the index has begun to be built, and nobody has ended it."""
    (state,) = plans.run(
        plpy, "select not s.built and s.indexed_through <> '' as begun from insights.state s"
    )
    return bool(state["begun"])


def _complete(plpy: Any, schema: str) -> int:
    """Stores some of what large blocks lack beside their postings; of how many blocks.

    If the largest blocks of an experiment have changed, then so have the cells of all.
    """
    stored = stored_sessions.complete(plpy, schema)
    tasks = large_blocks.without_cells(plpy)
    if tasks:
        # What reads numbers; as a rule it is not needed.
        from insights_engine.upkeep import cell_writer

        stored += cell_writer.store(plpy, tasks)
    return stored


def _change_version(plpy: Any) -> None:
    """Has sessions forget which blocks there are, once this transaction is committed.

    Where nothing has gone unnoticed up to here, nothing older will have to be caught up with.
    """
    plans.run(
        plpy,
        "update insights.state s set version = pg_catalog.gen_random_uuid(),"
        " horizon = case when s.awaited is null"
        " and s.trusted >= (select m.last_value from insights.missed m)"
        " and s.fingerprint = insights.fingerprint()"
        " then pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) else s.horizon end",
    )


def _locked(plpy: Any, schema: str) -> bool:
    """Whether the index is ours until the transaction ends.

    Refuses where it would be written wrongly, or where MLflow's tables would run code.
    """
    (row,) = plans.run(
        plpy,
        "select pg_catalog.current_setting('transaction_isolation') as isolation,"
        " insights.may_read() as readable",
    )
    if row["isolation"] not in ("read committed", "read uncommitted"):
        # It has to see what was committed after the pending traces were taken.
        raise InsightsError("The index is refreshed in transactions that are READ COMMITTED.")
    if not row["readable"]:
        raise InsightsError(
            "The index is written by roles only that may read every row of MLflow's tables",
            "42501",
            hint="Use the role that owns these tables.",
        )
    try:
        # Only those may take this lock who may write the table: nobody else can keep them
        # away.
        plpy.execute("lock table insights.lease in exclusive mode nowait")
    except plpy.SPIError as error:
        if str(error.sqlstate) != _LOCKED:
            raise
        return False
    (lease,) = plans.run(
        plpy,
        "select l.process <> pg_catalog.pg_backend_pid() and l.renewed_at"
        " > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1) as taken"
        " from insights.lease l",
        ("int",),
        (_LEASE_SECONDS,),
    )
    if lease["taken"]:
        return False
    # Under these locks no column changes its type, and no table gives way to a view.
    tables = ", ".join(f"{schema}.{table}" for table in _READ)
    plpy.execute(f"lock table {tables} in access share mode")
    integrity.guard(plpy, writing=True)
    return True


_READ = (
    "trace_info",
    "spans",
    "trace_tags",
    "trace_request_metadata",
    "assessments",
    "entity_associations",
)


def renew_lease(plpy: Any) -> None:
    """Keeps the index to this session until its next transaction."""
    plans.run(
        plpy,
        "update insights.lease set process = pg_catalog.pg_backend_pid(),"
        " renewed_at = pg_catalog.clock_timestamp()",
    )


def end_lease(plpy: Any) -> None:
    """Lets others write the index again, once this transaction is committed."""
    plans.run(plpy, "update insights.lease set process = null, renewed_at = null")


def _pending(plpy: Any) -> int:
    """How many pending notes there are; above a million, a million."""
    (row,) = plans.run(
        plpy,
        "select count(*) as found from (select from insights.pending p limit $1) p",
        ("int",),
        (_COUNTED,),
    )
    return int(row["found"])


def _take_pending(plpy: Any, max_traces: int) -> list[str]:
    (row,) = plans.run(
        plpy,
        "with wanted as materialized (select distinct n.trace_id from"
        " (select p.trace_id from insights.pending p"
        # Those of the future are traces that could not be indexed (set_aside.py).
        " where p.noted_at <= pg_catalog.clock_timestamp() limit $2) n limit $1),"
        " gone as (delete from insights.pending p using wanted w"
        " where p.trace_id = w.trace_id returning p.trace_id)"
        " select pg_catalog.array_agg(distinct g.trace_id) as ids from gone g",
        ("int", "bigint"),
        (max_traces, max_traces * _NOTES_OF_A_TRACE),
    )
    return list(row["ids"] or ())


def _index(plpy: Any, schema: str, ids: Sequence[str]) -> tuple[int, int, set[int]]:
    """Puts traces into new blocks; how many, how many are gone, the experiments touched."""
    ids = [*ids, *_same_sessions(plpy, schema, ids)]
    experiments = merging.vacate(plpy, ids)
    traces = _existing(plpy, schema, ids)
    experiments |= add(plpy, schema, traces)
    return len(traces), len(ids) - len(traces), experiments


def _existing(plpy: Any, schema: str, ids: Sequence[str]) -> list[Trace]:
    rows = plans.run(
        plpy,
        "select t.experiment_id, t.timestamp_ms, t.request_id as trace_id"
        " from pg_catalog.unnest($1) as g (trace_id) cross join lateral ("
        f" select * from {schema}.trace_info t where t.request_id = g.trace_id offset 0) t",
        ("text[]",),
        (list(ids),),
    )
    return sorted(Trace(row["experiment_id"], row["timestamp_ms"], row["trace_id"]) for row in rows)


def _same_sessions(plpy: Any, schema: str, ids: Sequence[str]) -> list[str]:
    """Indexed traces to which these lend assessments, or lent them; notes who lends."""
    (before,) = plans.run(
        plpy,
        "with gone as (delete from insights.carrier k using pg_catalog.unnest($1) as g (trace_id)"
        " where k.trace_id = g.trace_id returning k.session_id)"
        " select pg_catalog.array_agg(distinct g.session_id) as sessions from gone g",
        ("text[]",),
        (list(ids),),
    )
    (now,) = plans.run(
        plpy,
        "with found as (insert into insights.carrier (trace_id, session_id)"
        " select t.request_id, t.session_id from pg_catalog.unnest($1) as g (trace_id)"
        f" join {schema}.trace_info t on t.request_id = g.trace_id"
        f" where t.session_id is not null and exists (select from {schema}.assessments a"
        " where a.trace_id = t.request_id"
        f" and pg_catalog.strpos(a.assessment_metadata, '{SESSION_MARK}') > 0 offset 0)"
        " returning session_id)"
        " select pg_catalog.array_agg(distinct f.session_id) as sessions from found f",
        ("text[]",),
        (list(ids),),
    )
    sessions = sorted({*(before["sessions"] or ()), *(now["sessions"] or ())})
    if not sessions:
        return []
    rows = plans.run(
        plpy,
        # Through the index on (experiment, session).
        f"select i.trace_id from {schema}.experiments e cross join lateral ("
        f" select t.request_id from {schema}.trace_info t"
        " where t.experiment_id = e.experiment_id and t.session_id = any($1) offset 0) t"
        " cross join lateral (select i.trace_id from insights.trace i"
        " where i.trace_id = t.request_id offset 0) i",
        ("text[]",),
        (sessions,),
    )
    return sorted({row["trace_id"] for row in rows} - set(ids))


def add(plpy: Any, schema: str, traces: Sequence[Trace]) -> set[int]:
    """Indexes traces that are in no block, given in order; their experiments."""
    start = 0
    while start < len(traces):
        with _uncollected():
            start = _add_batch(plpy, schema, traces, start)
        if start > _CHUNK:
            # The facts refer to each other.
            gc.collect()
    return {trace.experiment_id for trace in traces}


def _add_batch(plpy: Any, schema: str, traces: Sequence[Trace], start: int) -> int:
    """Indexes traces from ``start`` on; where the next batch starts."""
    batch = Batch(plpy, schema)
    while start < len(traces):
        chunk = traces[start : start + _CHUNK]
        if batch.full(len(chunk)):
            break
        batch.add(chunk)
        start += len(chunk)
    batch.write()
    return start


@contextmanager
def _uncollected() -> Iterator[None]:
    """Garbage collection would go through all the facts time and again, to find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Batch:
    """Traces whose facts are collected together: a block for each experiment."""

    def __init__(self, plpy: Any, schema: str) -> None:
        self._plpy = plpy
        self._reader = Reader(plpy, schema)
        self._facts = Facts(postings.Stored(plpy, growing=True))
        self._traces: list[Trace] = []
        self._experiments: set[int] = set()
        self._rollups: dict[int, Rollups] = {}

    def full(self, more: int) -> bool:
        """Whether ``more`` traces are better put into another batch."""
        return (
            len(self._traces) + more > bitmaps.POSITIONS
            or len(self._experiments) > _MOST_BLOCKS
            or self._facts.text_count > _MOST_TEXTS
            or self._facts.size() > _MOST_FACTS
        )

    def add(self, traces: Sequence[Trace]) -> None:
        """Collects the facts of traces, which come after those before in order."""
        start = len(self._traces)
        self._traces += traces
        self._experiments.update(trace.experiment_id for trace in traces)
        placed = [
            Placed(position, trace.trace_id, trace.experiment_id)
            for position, trace in enumerate(traces, start)
        ]
        self._rollups.update(self._reader.collect(self._facts, placed))

    def write(self) -> None:
        """Stores blocks, postings and rollups."""
        extents: list[postings.Extent] = []
        start = 0
        while start < len(self._traces):
            experiment = self._traces[start].experiment_id
            end = start
            while end < len(self._traces) and self._traces[end].experiment_id == experiment:
                end += 1
            block = merging.add_block(
                self._plpy,
                experiment,
                end - start,
                self._traces[start].timestamp_ms,
                self._traces[end - 1].timestamp_ms,
            )
            extents.append(postings.Extent(block, start, end - start))
            start = end
        self._write_traces(extents)
        postings.write(self._plpy, self._facts, extents)

    def _write_traces(self, extents: Sequence[postings.Extent]) -> None:
        nothing = Rollups(None, None, 0)
        for extent in extents:
            numbers = range(extent.start, extent.start + extent.used)
            rollups = [self._rollups.get(number, nothing) for number in numbers]
            plans.run(
                self._plpy,
                "insert into insights.trace"
                " (trace_id, block, position, row_count, spans, assessments)"
                " select w.trace_id, $1, w.n - 1, w.row_count, w.spans, w.assessments"
                " from rows from (pg_catalog.unnest($2), pg_catalog.unnest($3),"
                " pg_catalog.unnest($4), pg_catalog.unnest($5)) with ordinality"
                " as w (trace_id, row_count, spans, assessments, n)",
                ("int", "text[]", "int[]", "text[]", "text[]"),
                (
                    extent.block,
                    [self._traces[number].trace_id for number in numbers],
                    [rollup.rows for rollup in rollups],
                    [rollup.spans for rollup in rollups],
                    [rollup.assessments for rollup in rollups],
                ),
            )


# ------------------------------------------------------------------- building


def build(plpy: Any, schema: str, max_traces: int, leased: bool) -> dict[str, Any]:
    """Indexes the next traces of a database that had traces before it had an index.

    ``leased``: for a session that goes on until it is done, which keeps others away.
    ``done``: the index is built, and what large blocks have beside it.
    ``busy``: nothing could be done yet.
    """
    if not _locked(plpy, schema):
        return {"indexed": 0, "done": False, "busy": True}
    if leased:
        renew_lease(plpy)
    found = _build_next(plpy, schema, max_traces)
    if leased and found["done"]:
        end_lease(plpy)
    return found


def _build_next(plpy: Any, schema: str, max_traces: int) -> dict[str, Any]:
    (state,) = plans.run(plpy, "select s.built, s.indexed_through from insights.state s")
    if state["built"]:
        return {"indexed": 0, "done": not _complete(plpy, schema), "busy": False}
    _change_version(plpy)
    through = state["indexed_through"] or ""
    if through == _BEGIN:
        catch_up.trust_anew(plpy)
        _set_through(plpy, _CLEAR)
        return {"indexed": 0, "done": False, "busy": False}
    if through == _CLEAR:
        if not _clear(plpy):
            return {"indexed": 0, "done": False, "busy": False}
        _set_through(plpy, _AFTER)
        through = _AFTER
    if through == _AFTER:
        # What was missed before is seen only when those have ended who missed it.
        if not catch_up.awaited_have_ended(plpy):
            return {"indexed": 0, "done": False, "busy": True}
        # What these have noted is read from here on.
        plans.run(
            plpy,
            "delete from insights.pending p using insights.state s where p.transaction < s.awaited",
        )
        plans.run(
            plpy, "update insights.state set horizon = coalesce(awaited, horizon), awaited = null"
        )
        through = ""
    if not through:
        _note_carriers(plpy, schema)
    found = plans.run(
        plpy,
        "select t.experiment_id, t.timestamp_ms, t.trace_id, i.trace_id is not null as indexed"
        f" from (select t.experiment_id, t.timestamp_ms, {_ID} as trace_id"
        f" from {schema}.trace_info t"
        # The index on (experiment, time) serves the first condition.
        " where (t.experiment_id, t.timestamp_ms) >= ($1, $2)"
        f" and (t.experiment_id, t.timestamp_ms, {_ID}) > ($1, $2, $3)"
        f" order by t.experiment_id, t.timestamp_ms, {_ID} limit $4) t"
        " left join lateral (select i.trace_id from insights.trace i"
        " where i.trace_id = t.trace_id offset 0) i on true"
        " order by t.experiment_id, t.timestamp_ms, t.trace_id",
        ("int", "bigint", "text", "int"),
        (*_place(through), max_traces),
    )
    traces = [
        Trace(row["experiment_id"], row["timestamp_ms"], row["trace_id"])
        for row in found
        if not row["indexed"]
    ]
    parts = set_aside.work(
        plpy, traces, lambda some: (len(some), add(plpy, schema, some)), lambda one: one.trace_id
    )
    merging.merge(plpy, set().union(*(part[1] for part in parts)))
    done = len(found) < max_traces
    if found:
        last = found[len(found) - 1]
        through = f"{last['experiment_id']} {last['timestamp_ms']} {last['trace_id']}"
    if done:
        plans.run(plpy, "update insights.state set built = true")
    _set_through(plpy, "" if done else through)
    # Only now is it known which blocks are the largest.
    done = done and not _complete(plpy, schema)
    return {"indexed": sum(part[0] for part in parts), "done": done, "busy": False}


def start_over(plpy: Any, schema: str, leased: bool) -> dict[str, Any]:
    """Has the index built anew, by `build`; until then it is not used."""
    if not _locked(plpy, schema):
        return {"busy": True}
    if leased:
        renew_lease(plpy)
    mark_to_be_built(plpy)
    return {"busy": False}


def mark_to_be_built(plpy: Any) -> None:
    """Has `build` begin from nothing."""
    _change_version(plpy)
    plans.run(
        plpy,
        "update insights.state set built = false, awaited = null, indexed_through = $1",
        ("text",),
        (_BEGIN,),
    )


def _clear(plpy: Any) -> bool:
    """Deletes some of the index; whether it is empty now.

    Rows are deleted, because readers may still be using them.
    """
    rows = plans.run(
        plpy,
        "select b.block from insights.block b order by b.block limit $1",
        ("int",),
        (_CLEARED,),
    )
    if rows:
        blocks = [row["block"] for row in rows]
        plans.run(
            plpy, "delete from insights.trace t where t.block = any($1)", ("int[]",), (blocks,)
        )
        merging.drop(plpy, blocks)
        return False
    for table in (
        "posting",
        "cells",
        "sessions",
        "trace",
        "term",
        "vocabulary",
        "signature",
        "carrier",
    ):
        plans.run(plpy, f"delete from insights.{table}")
    return True


def _set_through(plpy: Any, through: str) -> None:
    plans.run(plpy, "update insights.state set indexed_through = $1", ("text",), (through,))


#: A trace's id as the index compares it.
_ID = 't.request_id collate "C"'

# In insights.state.indexed_through: the index is to be built anew, ...
_BEGIN = "begin"
# ... is to be cleared, and then to be built ...
_CLEAR = "clear"
# ... from the first trace on, as soon as the awaited transactions have ended.
_AFTER = "after"

# Blocks that are deleted in one transaction.
_CLEARED = 16


def _place(through: str) -> tuple[int, int, str]:
    """Experiment, time and id of the trace that the last batch ended with."""
    if not through:
        return -(2**31), -(2**63), ""
    experiment, timestamp, trace_id = through.split(" ", 2)
    return int(experiment), int(timestamp), trace_id


def _note_carriers(plpy: Any, schema: str) -> None:
    """Notes who lends assessments, which must be known before anyone borrows."""
    plans.run(
        plpy,
        "insert into insights.carrier (trace_id, session_id)"
        f" select t.request_id, t.session_id from {schema}.trace_info t"
        " where t.session_id is not null and t.request_id in ("
        f" select a.trace_id from {schema}.assessments a"
        f" where pg_catalog.strpos(a.assessment_metadata, '{SESSION_MARK}') > 0)"
        " on conflict (trace_id) do update set session_id = excluded.session_id",
    )
