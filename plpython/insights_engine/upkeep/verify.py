"""Proves that the index says what MLflow's tables say.

Everything is read in one snapshot.  The facts of each block's traces are collected
again and compared with its postings; pending traces, and those that borrow
assessments from pending ones, are left out, as readers do not ask the index
about them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Optional

from insights_engine.base import plans
from insights_engine.columns.candidates import Items
from insights_engine.exact.rawsql import SESSION_MARK
from insights_engine.facts.facts import Facts
from insights_engine.facts.rows import Placed, Reader
from insights_engine.facts.terms import Role
from insights_engine.index import integrity, stored_sessions
from insights_engine.index.groups import Block
from insights_engine.language.errors import visible
from insights_engine.sets import bitmaps
from insights_engine.upkeep import cell_writer, postings

_CHUNK = 1_000
_PENDING = "select p.trace_id from insights.pending p"


class Problem(NamedTuple):
    """What is wrong, and with which trace, if with one."""

    trace_id: Optional[str]
    problem: str


def verify(plpy: Any, schema: str, limit: int) -> Iterator[Problem]:
    """Up to ``limit`` problems; none: the index is right."""
    return islice(_problems(plpy, schema), limit)


def _problems(plpy: Any, schema: str) -> Iterator[Problem]:
    integrity.guard(plpy, writing=True)
    (state,) = plans.run(
        plpy,
        "select s.built, s.awaited is null and s.trusted >= m.last_value as trusted,"
        " s.fingerprint = insights.fingerprint() as watched, insights.unwatched() as trigger"
        " from insights.missed m left join insights.state s on true",
    )
    if not state["built"]:
        yield Problem(None, "the index is not built")
    elif not state["trusted"]:
        yield Problem(None, "changes were missed, and not caught up with yet")
    elif not state["watched"]:
        yield Problem(
            None, "triggers or tables have changed, and it is not caught up with that yet"
        )
    if state["trigger"] is not None:
        yield Problem(None, state["trigger"])
    yield from _membership(plpy, schema, bool(state["built"]))
    yield from _carriers(plpy, schema)
    yield from _vocabulary(plpy)
    sessions = _pending_sessions(plpy, schema)
    blocks = plans.run(
        plpy,
        "select b.block, b.experiment_id, b.used, b.live, b.live_count, b.first_ms, b.last_ms"
        " from insights.block b order by b.block",
    )
    items = Items()
    items.read(plpy)
    for row in blocks:
        yield from _Check(plpy, schema, row, sessions).problems()
        yield from _cells(plpy, items, Block({**row, "live": None}))


# ------------------------------------------------------------- whole tables


def _membership(plpy: Any, schema: str, built: bool) -> Iterator[Problem]:
    """Traces are in the index or pending, and nothing else is in the index."""
    if built:
        for row in _rows(
            plpy,
            f"select t.request_id as trace_id from {schema}.trace_info t"
            " where not exists (select from insights.trace i where i.trace_id = t.request_id)"
            f" and t.request_id not in ({_PENDING})",
        ):
            yield Problem(row["trace_id"], "is neither indexed nor pending")
    for row in _rows(
        plpy,
        "select i.trace_id from insights.trace i where not exists"
        f" (select from {schema}.trace_info t where t.request_id = i.trace_id)"
        f" and i.trace_id not in ({_PENDING})",
    ):
        yield Problem(row["trace_id"], "is indexed, but gone and not pending")
    for row in _rows(
        plpy,
        "select i.trace_id, i.block from insights.trace i"
        " where not exists (select from insights.block b where b.block = i.block)",
    ):
        yield Problem(row["trace_id"], f"is in block {row['block']}, which is not there")
    for table in ("cells", "sessions"):
        for row in _rows(
            plpy,
            f"select distinct c.block from insights.{table} c"
            " where not exists (select from insights.block b where b.block = c.block)",
        ):
            yield Problem(None, f"{table} of block {row['block']}, which is not there")
    for row in _rows(
        plpy,
        # From one block to the next by the index: there are thousands of postings in each.
        "with recursive found as ("
        " (select p.block from insights.posting p order by p.block limit 1)"
        " union all select n.block from found f cross join lateral ("
        "  select p.block from insights.posting p where p.block > f.block"
        "  order by p.block limit 1) n)"
        " select f.block from found f"
        " where not exists (select from insights.block b where b.block = f.block)",
    ):
        yield Problem(None, f"postings of block {row['block']}, which is not there")


def _cells(plpy: Any, items: Items, block: Block) -> Iterator[Problem]:
    """What is stored of the numbers of a block for discoveries."""
    try:
        for name in cell_writer.wrong(plpy, items, block):
            field = _named(name.kind, name.key)
            if name.span_name:
                field += f" of {visible(name.span_name, 100)}"
            yield Problem(None, f"block {block.block} has other cells than numbers of {field}")
    except (IndexError, TypeError, ValueError, zlib.error):
        yield Problem(None, f"cells of block {block.block} cannot be read")


def _carriers(plpy: Any, schema: str) -> Iterator[Problem]:
    for row in _rows(
        plpy,
        "select coalesce(k.trace_id, c.trace_id) as trace_id from insights.carrier k full join ("
        f" select t.request_id as trace_id, t.session_id from {schema}.trace_info t"
        " where t.session_id is not null and t.request_id in ("
        f"  select a.trace_id from {schema}.assessments a"
        f"  where pg_catalog.strpos(a.assessment_metadata, '{SESSION_MARK}') > 0)) c"
        " on c.trace_id = k.trace_id"
        " where k.session_id is distinct from c.session_id"
        f" and coalesce(k.trace_id, c.trace_id) not in ({_PENDING})",
    ):
        yield Problem(row["trace_id"], "lends assessments to another session than is noted")


def _vocabulary(plpy: Any) -> Iterator[Problem]:
    for row in _rows(
        plpy,
        f"select t.kind, t.key from insights.term t where t.role = '{Role.VALUE}'"
        " group by t.kind, t.key"
        ' having count(*) > coalesce((select v."values" from insights.vocabulary v'
        " where v.kind = t.kind and v.key = t.key), 0)",
    ):
        yield Problem(None, f"{_named(row['kind'], row['key'])} has more values than counted")


def _pending_sessions(plpy: Any, schema: str) -> set[str]:
    """The sessions to which pending traces lend assessments, or did when indexed."""
    rows = _rows(
        plpy,
        f"select k.session_id from insights.carrier k where k.trace_id in ({_PENDING})"
        f" union select t.session_id from {schema}.trace_info t"
        f" join {schema}.assessments a on a.trace_id = t.request_id"
        f" where t.session_id is not null and t.request_id in ({_PENDING})"
        f" and pg_catalog.strpos(a.assessment_metadata, '{SESSION_MARK}') > 0",
    )
    return {row["session_id"] for row in rows}


def _rows(plpy: Any, sql: str) -> Iterator[dict[str, Any]]:
    yield from plpy.cursor(sql)


# ------------------------------------------------------------------- a block


class _Check:
    """A block, its traces and what they should say."""

    def __init__(self, plpy: Any, schema: str, block: dict[str, Any], sessions: set[str]) -> None:
        self._plpy = plpy
        self._schema = schema
        self._block: int = block["block"]
        self._used: int = block["used"]
        self._row = block
        self._sessions = sessions
        self._traces = plans.run(
            plpy,
            "select i.trace_id, i.position, i.row_count, i.spans, i.assessments, t.experiment_id,"
            f" t.timestamp_ms, t.session_id, i.trace_id in ({_PENDING}) as pending"
            f" from insights.trace i left join {schema}.trace_info t on t.request_id = i.trace_id"
            " where i.block = $1 order by i.position",
            ("int",),
            (self._block,),
        )
        self._ids = {row["position"]: row["trace_id"] for row in self._traces}

    def problems(self) -> Iterator[Problem]:
        yield from self._places()
        placed = []
        for row in self._traces:
            # What is gone, or out of place, has been reported.
            if row["pending"] or row["experiment_id"] is None or row["position"] >= self._used:
                continue
            if row["session_id"] is not None and row["session_id"] in self._sessions:
                continue
            if row["experiment_id"] != self._row["experiment_id"]:
                yield Problem(row["trace_id"], "is in a block of another experiment")
                continue
            if not self._row["first_ms"] <= row["timestamp_ms"] <= self._row["last_ms"]:
                yield Problem(row["trace_id"], "began outside of its block's time")
            placed.append(Placed(row["position"], row["trace_id"], row["experiment_id"]))
        facts = Facts(postings.Stored(self._plpy, growing=False))
        yield from self._stored_sessions(placed)
        yield from self._rollups(facts, placed)
        yield from self._postings(facts, placed)

    def _places(self) -> Iterator[Problem]:
        live = bitmaps.decode(self._row["live"])
        if bitmaps.count(live) != self._row["live_count"]:
            yield Problem(None, f"block {self._block} counts its live positions wrongly")
        for position in bitmaps.positions(live):
            if position not in self._ids:
                yield Problem(None, f"block {self._block} has no trace at position {position}")
        for position, trace_id in self._ids.items():
            if not live >> position & 1 or position >= self._used:
                yield Problem(trace_id, f"is not live in block {self._block}")

    def _stored_sessions(self, placed: Sequence[Placed]) -> Iterator[Problem]:
        """Compares what is stored of sessions, if anything is."""
        of_trace = {row["trace_id"]: row["session_id"] for row in self._traces}
        for stored in stored_sessions.read(self._plpy, (self._block,)):
            ids = [None, *stored.ids]
            for trace in placed:
                place = stored.places[trace.position : trace.position + 1]
                if not place or place[0] >= len(ids) or ids[place[0]] != of_trace[trace.trace_id]:
                    yield Problem(trace.trace_id, "is stored with another session")

    def _rollups(self, facts: Facts, placed: Sequence[Placed]) -> Iterator[Problem]:
        """Collects the facts, and compares the rollups."""
        reader = Reader(self._plpy, self._schema)
        stored = {row["position"]: row for row in self._traces}
        for start in range(0, len(placed), _CHUNK):
            rollups = reader.collect(facts, placed[start : start + _CHUNK])
            for position, rollup in rollups.items():
                row = stored[position]
                # Its parts stand in the order in which the spans came, which may be any.
                if sorted((rollup.spans or "").split()) != sorted((row["spans"] or "").split()):
                    yield Problem(row["trace_id"], "has another rollup of its spans")
                if rollup.rows != row["row_count"]:
                    yield Problem(row["trace_id"], "has another number of rows")
                if rollup.assessments != row["assessments"]:
                    yield Problem(row["trace_id"], "has another rollup of its assessments")

    def _postings(self, facts: Facts, placed: Sequence[Placed]) -> Iterator[Problem]:
        checked = 0
        for trace in placed:
            checked |= 1 << trace.position
        settled = postings.Settled(self._plpy, facts, growing=False)
        members = settled.members([postings.Extent(self._block, 0, self._used)])
        collected = {term: bitmaps.decode(stored) for _, term, stored in members}
        numbers = postings.look_up(self._plpy, list(collected))
        expected = {
            numbers[term]: (term, bits) for term, bits in collected.items() if term in numbers
        }
        for term, bits in collected.items():
            if term not in numbers:
                yield from self._at(bits, f"{_fact(term)} is not in the vocabulary")
        plan = self._plpy.prepare(
            "select p.term, p.members, t.term is not null as known, t.kind, t.key, t.signature,"
            " t.role::text as role, t.slot, t.value from insights.posting p"
            " left join insights.term t on t.term = p.term where p.block = $1",
            ["int"],
        )
        for row in self._plpy.cursor(plan, [self._block]):
            _, wanted = expected.pop(row["term"], (None, 0))
            try:
                stored = bitmaps.decode(row["members"])
            except (IndexError, ValueError, zlib.error):
                yield Problem(None, f"a posting of block {self._block} cannot be read")
                continue
            if not row["known"]:
                yield from self._at(stored & checked, f"has term {row['term']}, which is not there")
                continue
            term = (*(row[name] for name in ("kind", "key", "signature", "role", "slot", "value")),)
            yield from self._at(stored & checked & ~wanted, f"has wrongly {_fact(term)}")
            yield from self._at(wanted & ~stored, f"lacks {_fact(term)}")
        for term, wanted in expected.values():
            yield from self._at(wanted, f"lacks {_fact(term)}")

    def _at(self, bits: int, problem: str) -> Iterator[Problem]:
        for position in bitmaps.positions(bits):
            yield Problem(self._ids[position], problem)


_ROLES = {
    Role.VALUE: "the value",
    Role.BUCKET: "the bucket",
    Role.PRESENT: "that it is there",
    Role.UNKNOWN: "that it is not captured, in respect",
    Role.LOW: "bit",
    Role.SPREAD: "differing bit",
}


def _named(kind: str, key: str) -> str:
    return visible(f"{kind} {key}" if key else kind, 100)


def _fact(term: tuple[Any, ...]) -> str:
    kind, key, signature, role, slot, value = term
    of = f" of signature {signature}" if signature else ""
    what = visible(value, 100) if role == Role.VALUE else "" if role == Role.PRESENT else str(slot)
    return f"of {_named(kind, key)}{of} {_ROLES.get(role, role)} {what}".rstrip()
