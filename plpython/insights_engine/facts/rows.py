"""Reads MLflow's rows of some traces, and has their facts collected."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, Optional

from insights_engine.base import interrupts
from insights_engine.exact.rawsql import SESSION_MARK
from insights_engine.facts.facts import Facts
from insights_engine.language import storage
from insights_engine.language.storage import Indexed, Source

#: Longer contents of spans are not decoded; long ones are read one by one.
LONGEST_CONTENT = 4 * 1024 * 1024
_LONG_CONTENT = 64 * 1024
#: Characters of an assessment's value that its rollup keeps.
_LONGEST_SHOWN = 250
_AT_ONCE = 500


class Placed(NamedTuple):
    """A trace and the position that its facts get."""

    position: int
    trace_id: str
    experiment_id: int


class Rollups(NamedTuple):
    """What ``insights.trace`` shows of a trace."""

    spans: Optional[str]
    assessments: Optional[str]
    #: Rows that were read of the trace, apart from the one of ``trace_info``.
    rows: int


class Reader:
    """Reads traces; its plans serve one call."""

    def __init__(self, plpy: Any, schema: str) -> None:
        self._plpy = plpy
        self._schema = schema
        self._plans: dict[str, Any] = {}
        self._with_sessions = self._are_lent()

    def _are_lent(self) -> bool:
        """Whether traces of a session may lend each other assessments."""
        (row,) = self._plpy.execute("select exists (select from insights.carrier) as found")
        return bool(row["found"])

    def collect(self, facts: Facts, traces: Sequence[Placed]) -> dict[int, Rollups]:
        """Has the facts of traces collected, whose positions ascend; their rollups.

        Traces that are no longer there have no facts, and no rollup unless rows are left of
        them.  What is counted here `catch_up` counts again.
        """
        assessed = self._assessments(traces)
        linked = self._links(traces)
        lent = self._lent_assessments(traces) if self._with_sessions else {}
        shown: dict[int, Optional[str]] = {}
        counted = [len(assessed.get(n, ())) for n in range(len(traces))]
        for (_, n), links in linked.items():
            counted[n] += len(links)
        ascending = 0
        for row in self._traces(traces):
            n = row["n"] - 1
            if n < ascending:
                raise RuntimeError("traces did not come in the order of their positions")
            ascending = n
            position = traces[n].position
            facts.add_trace(position, row)
            for kind in storage.ENTRIES:
                if row[f"{kind}_keys"]:
                    counted[n] += len(row[f"{kind}_keys"])
                    facts.add_pairs(position, kind, row[f"{kind}_keys"], row[f"{kind}_values"])
            for link in storage.LINKS:
                for to in (row.get(f"{link.name}_entry"), *linked.get((link.column, n), ())):
                    if to is not None:
                        facts.add_link(position, link.kinds[0], to)
            own = assessed.get(n, ())
            for a in own:
                if a["kind"] == "issue":
                    facts.add_link(position, "issue", a["name"])
            for a in (*own, *lent.get(n, ())):
                if a["kind"] == "issue" or not a["valid"]:
                    continue
                if a["elsewhere"]:
                    facts.add_session_elsewhere(position)
                else:
                    facts.add_assessment(
                        position, a["kind"], a["name"], a["value"], a["numeric"], a["number"]
                    )
            shown[position] = _rollup(own) if own else None
        rollups = {}
        spans = groupby(self._spans(traces), key=itemgetter(0))
        found, of_trace = next(spans, (None, iter(())))
        for n, trace in enumerate(traces):
            rollup = None
            if n == found:
                rollup = facts.add_spans(trace.position, _counting(of_trace, counted, n))
                found, of_trace = next(spans, (None, iter(())))
            elif trace.position in shown:
                rollup = facts.add_spans(trace.position, ())
            if rollup is not None or counted[n]:
                shown_of_trace = shown.get(trace.position)
                rollups[trace.position] = Rollups(rollup, shown_of_trace, counted[n])
        if found is not None:
            raise RuntimeError("spans did not come in the order of their traces")
        return rollups

    # ---------------------------------------------------------------- queries

    def _rows(self, sql: str, traces: Sequence[Placed]) -> Iterator[dict[str, Any]]:
        """The rows of a statement about ``u``: (trace_id, experiment_id, n), in the order of n.

        The order is that of a nested loop, which is the only way to join what is
        LATERAL and has an OFFSET: sorting would keep all the rows, contents and all.
        """
        plan = self._plans.get(sql)
        if plan is None:
            plan = self._plans[sql] = self._plpy.prepare(sql, ["text[]", "int[]"])
        ids = [trace.trace_id for trace in traces]
        experiments = [trace.experiment_id for trace in traces]
        cursor = self._plpy.cursor(plan, [ids, experiments])
        while True:
            rows = cursor.fetch(_AT_ONCE)
            # What is collected of a row may take long: it is JSON.
            yield from interrupts.each(self._plpy, rows)
            if len(rows) < _AT_ONCE:
                cursor.close()
                return

    def _traces(self, traces: Sequence[Placed]) -> Iterator[dict[str, Any]]:
        selected = ["u.n"]
        for row in storage.COLUMNS:
            test = " is not null" if row.indexed is Indexed.PRESENCE else ""
            selected.append(f"t.{row.column}{test} as {row.name}")
        joined = []
        for kind, table in storage.ENTRIES.items():
            columns = {
                f"{kind}_keys": "pg_catalog.array_agg(e.key)",
                f"{kind}_values": "pg_catalog.array_agg(e.value)",
            }
            for row in storage.LINKS:
                if row.source is Source.LINK_OR_ENTRY and row.entry.kind == kind:
                    columns[f"{row.name}_entry"] = (
                        f"pg_catalog.min(e.value) filter (where e.key = '{row.entry.key}')"
                    )
            selected += columns
            aggregates = ", ".join(f"{value} as {name}" for name, value in columns.items())
            joined.append(
                f" cross join lateral (select {aggregates} from {self._schema}.{table} e"
                f" where e.request_id = t.request_id offset 0) {kind}"
            )
        return self._rows(
            f"select {', '.join(selected)} from {_GIVEN}"
            " cross join lateral ("
            f"  select * from {self._schema}.trace_info t"
            f"  where t.request_id = u.trace_id offset 0) t{''.join(joined)}",
            traces,
        )

    def _spans(self, traces: Sequence[Placed]) -> Iterator[Any]:
        """(n, type, name, status, duration, content) of each span, by trace."""
        size = "pg_catalog.octet_length(s.content)"
        for row in self._rows(
            "select u.n, s.type, s.name, s.status, s.duration_ns, s.content, s.span_id"
            f" from {_GIVEN} cross join lateral ("
            "  select s.type, s.name, s.status, s.duration_ns,"
            f"  case when {size} <= {_LONG_CONTENT} then s.content end as content,"
            f"  case when {size} between {_LONG_CONTENT + 1} and {LONGEST_CONTENT}"
            "    then s.span_id end as span_id"
            f"  from {self._schema}.spans s"
            # The sum keeps the planner away from indexes on experiments.
            "  where s.trace_id = u.trace_id and s.experiment_id + 0 = u.experiment_id offset 0) s",
            traces,
        ):
            n = row["n"] - 1
            content = row["content"]
            if content is None and row["span_id"] is not None:
                content = self._content(traces[n].trace_id, row["span_id"])
            yield n, row["type"], row["name"], row["status"], row["duration_ns"], content

    def _content(self, trace_id: str, span_id: str) -> Optional[str]:
        rows = self._plpy.execute(
            self._plpy.prepare(
                f"select s.content from {self._schema}.spans s"
                " where s.trace_id = $1 and s.span_id = $2"
                f" and pg_catalog.octet_length(s.content) <= {LONGEST_CONTENT}",
                ["text", "text"],
            ),
            [trace_id, span_id],
        )
        return str(rows[0]["content"]) if rows else None

    def _assessments(self, traces: Sequence[Placed]) -> dict[int, list[dict[str, Any]]]:
        """The traces' own assessments, the latest first."""
        return _by_trace(
            self._rows(
                "select u.n, a.assessment_type as kind, a.name, a.value, a.valid,"
                " a.is_numeric_value as numeric, a.aggregate_value as number, false as elsewhere"
                f" from {_GIVEN} cross join lateral ("
                f"  select * from {self._schema}.assessments a where a.trace_id = u.trace_id"
                "  and a.assessment_type in ('feedback', 'expectation', 'issue')"
                "  order by a.last_updated_timestamp desc, a.created_timestamp desc,"
                "  a.assessment_id desc offset 0) a",
                traces,
            )
        )

    def _lent_assessments(self, traces: Sequence[Placed]) -> dict[int, list[dict[str, Any]]]:
        """What other traces of the same session lend."""
        return _by_trace(
            self._rows(
                "select u.n, a.assessment_type as kind, a.name, a.value, a.valid,"
                " a.is_numeric_value as numeric, a.aggregate_value as number,"
                " c.experiment_id <> t.experiment_id as elsewhere"
                f" from {_GIVEN}"
                f" join {self._schema}.trace_info t on t.request_id = u.trace_id"
                " join insights.carrier k on k.session_id = t.session_id"
                f" join {self._schema}.trace_info c on c.request_id = k.trace_id"
                " and c.session_id = t.session_id and c.request_id <> t.request_id"
                f" join {self._schema}.assessments a on a.trace_id = c.request_id"
                " where a.valid and a.assessment_type in ('feedback', 'expectation')"
                f" and pg_catalog.strpos(a.assessment_metadata, '{SESSION_MARK}') > 0",
                traces,
            )
        )

    def _links(self, traces: Sequence[Placed]) -> dict[tuple[str, int], list[str]]:
        links: dict[tuple[str, int], list[str]] = {}
        kinds = ", ".join(f"'{row.column}'" for row in storage.LINKS)
        for row in self._rows(
            "select u.n, e.destination_type, e.destination_id"
            f" from {_GIVEN} cross join lateral ("
            f"  select * from {self._schema}.entity_associations e"
            "  where e.source_type = 'trace' and e.source_id = u.trace_id"
            f"  and e.destination_type in ({kinds}) offset 0) e",
            traces,
        ):
            link = (row["destination_type"], row["n"] - 1)
            links.setdefault(link, []).append(row["destination_id"])
        return links


_GIVEN = (
    "rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) with ordinality"
    " as u (trace_id, experiment_id, n)"
)


def _counting(rows: Iterable[Any], counted: list[int], n: int) -> Iterator[Any]:
    """The same rows, counted as they pass."""
    for row in rows:
        counted[n] += 1
        yield row


def _by_trace(rows: Iterator[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["n"] - 1, []).append(row)
    return found


def _rollup(assessments: Sequence[dict[str, Any]]) -> Optional[str]:
    """[[kind, name, how many, the latest value, its number], ...] as JSON."""
    found: dict[tuple[str, str], list[Any]] = {}
    for a in assessments:
        if not a["valid"] or a["kind"] == "issue":
            continue
        entry = found.get((a["kind"], a["name"]))
        if entry is not None:
            entry[2] += 1
            continue
        number = a["number"] if a["number"] is not None and math.isfinite(a["number"]) else None
        value = None if a["value"] is None else a["value"][:_LONGEST_SHOWN]
        found[a["kind"], a["name"]] = [a["kind"], a["name"], 1, value, number]
    if not found:
        return None
    return json.dumps(list(found.values()), ensure_ascii=False, separators=(",", ":"))
