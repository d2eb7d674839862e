"""Search: which traces, in which order, and the rows that show them.

A page is made of the few traces to which MLflow's own indexes or ours narrow the
filter down.  Where neither does, newest-first pages of filters that match often
are answered by walking the index on (experiment, time) and probing trace by
trace, as stock MLflow does.  Filters that match seldom would make that walk long;
they are answered as a set.  No estimate decides between the two but a look: the
walk begins with a window of the newest traces and goes on only while its hits
promise that the page will soon be full.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from insights_engine.answers.search import narrowing, paging
from insights_engine.answers.search.ordering import Clause, SortColumn, compile_order
from insights_engine.answers.search.paging import Position
from insights_engine.base import plans
from insights_engine.exact import attributes, given
from insights_engine.exact.statement import Statement
from insights_engine.index import indexed, integrity
from insights_engine.language import printer, storage, tree
from insights_engine.language.errors import InsightsError

MAX_RESULTS = 50_000

#: Traces in the first window of a walk, at least.
FIRST_WINDOW = 200
#: Multiple of the traces already walked for which a walk may go on.
PATIENCE = 10
#: Traces that are walked in any case, if there were hits among the first.
SHORT_WALK = 5000
#: Hits of the index up to which they are sorted by something else than time.
SMALL_SET = 5000


def check_max_results(max_results: Optional[int], hint: Optional[str] = None) -> int:
    """``max_results`` within MLflow's bounds, refused in MLflow's words.

    ``hint``: what to do when there are more results.
    """
    if max_results is None or max_results < 1:
        raise InsightsError(
            f"Invalid value {max_results} for parameter 'max_results' supplied. "
            "It must be a positive integer"
        )
    if max_results > MAX_RESULTS:
        raise InsightsError(
            f"Invalid value {max_results} for parameter 'max_results' supplied. "
            f"It must be at most {MAX_RESULTS}",
            hint=hint,
        )
    return max_results


_NEWEST_FIRST = Clause(narrowing.TIME, descending=True)


@dataclass(frozen=True)
class Query:
    """A search: everything that its pages have in common."""

    schema: str
    experiments: Optional[list[int]]
    filter: tree.Node
    order: tuple[Clause, ...]

    @property
    def fingerprint(self) -> str:
        return paging.fingerprint(
            self.experiments, printer.print_filter(self.filter), [str(c) for c in self.order]
        )

    def columns(self) -> list[SortColumn]:
        """What the order sorts by."""
        return compile_order(self.order, Statement(self.schema, None, 0).params, self.schema)[0]


@dataclass(frozen=True)
class Page:
    """The trace ids of a page, and the token of the next if there is one."""

    trace_ids: list[str]
    next_page_token: Optional[str]


def find_page(
    plpy: Any,
    query: Query,
    max_results: int,
    now_ms: int,
    page_token: Optional[str],
    offset: int = 0,
) -> Page:
    """One page of a search; ``offset`` skips rows, for tokens of stock MLflow."""
    start = None
    if page_token:
        start = paging.decode(page_token, query.fingerprint, query.columns())
        now_ms = start.now_ms
    if query.experiments == []:
        return Page([], None)
    integrity.guard(plpy)
    # One row more than asked for shows whether another page exists.
    rows = _Finder(plpy, query, now_ms).rows(max_results + 1, start, offset)
    ids = [row.trace_id for row in rows[:max_results]]
    if len(rows) <= max_results:
        return Page(ids, None)
    last = Position(rows[max_results - 1].values, now_ms)
    return Page(ids, paging.encode(last, query.fingerprint))


@dataclass(frozen=True)
class _Row:
    """A found trace and its sort values."""

    trace_id: str
    values: tuple[Any, ...]


class _Finder:
    def __init__(self, plpy: Any, query: Query, now_ms: int) -> None:
        self._plpy = plpy
        self._query = query
        self._now_ms = now_ms
        self._types = [column.type for column in query.columns()]
        self._names = [f"k{n}" for n in range(len(self._types))]

    def rows(self, limit: int, start: Optional[Position], offset: int) -> list[_Row]:
        """The first ``limit`` rows after ``start``."""
        by_time = self._query.order[0].field == narrowing.TIME
        # The walk heeds the bounds on the time by itself.
        everything = len(narrowing.time_bounds(self._query.filter)) == len(
            tree.conjuncts(self._query.filter)
        )
        if everything and by_time and not offset:
            return self._walk(limit, limit, start)
        if self._query.filter != tree.EVERYTHING:
            few = self._few(limit, start, offset)
            if few is not None:
                return self._sorted(*few, limit, start, offset)
        if offset or not by_time:
            return self._as_set(limit, start, offset)
        found: list[_Row] = []
        walked = 0
        window = max(FIRST_WINDOW, 2 * limit)
        while True:
            found += self._walk(window, limit - len(found), start)
            if len(found) >= limit:
                return found
            start = self._end_of_window(window, start)
            if start is None:
                return found
            walked += window
            missing = limit - len(found)
            expected = missing * walked / len(found) if found else math.inf
            patience = max(PATIENCE * walked, SHORT_WALK)
            if expected > patience:
                few = self._newest(missing, start, indexed.Settled.EVERYWHERE)
                if few is not None:
                    return found + self._sorted(*few, missing, start, 0)
                return found + self._as_set(missing, start, 0)
            window = max(FIRST_WINDOW, math.ceil(expected * 1.3))

    def _statement(self, parallel: bool = False) -> Statement:
        return Statement(
            self._query.schema, self._query.experiments, self._now_ms, parallel=parallel
        )

    # ------------------------------------------------------------ a few traces

    def _few(
        self, limit: int, start: Optional[Position], offset: int
    ) -> Optional[tuple[list[str], list[str]]]:
        """Traces that contain those of the page, certain and possible ones; None: too many."""
        few = narrowing.find(self._plpy, self._statement(), self._query.filter)
        if few is not None:
            return few
        settled = indexed.Settled.WHATEVER
        if _about_content(self._query.filter):
            settled = indexed.Settled.ALREADY
        if self._query.order[0] == _NEWEST_FIRST and not offset:
            return self._newest(limit, start, settled)
        if settled is indexed.Settled.ALREADY:
            return None
        return indexed.matches(self._plpy, self._statement(), self._query.filter, SMALL_SET)

    def _newest(
        self, limit: int, start: Optional[Position], settled: indexed.Settled
    ) -> Optional[tuple[list[str], list[str]]]:
        """The newest matches by the index, certain and possible ones."""
        if self._query.order[0] != _NEWEST_FIRST:
            return None
        before_ms = None if start is None else start.values[0]
        assert before_ms is None or isinstance(before_ms, int)
        return indexed.newest(
            self._plpy, self._statement(), self._query.filter, limit, before_ms, settled
        )

    def _sorted(
        self,
        sure: Sequence[str],
        perhaps: Sequence[str],
        limit: int,
        start: Optional[Position],
        offset: int,
    ) -> list[_Row]:
        """The page among these traces; exact SQL rechecks those in ``perhaps``."""
        if not sure and not perhaps:
            return []
        statement = self._statement()
        columns, joins = compile_order(self._query.order, statement.params, statement.schema)
        where = f"t.request_id = any({statement.params.add([*sure, *perhaps], 'text[]')})"
        if perhaps:
            asked = statement.params.add(list(perhaps), "text[]")
            condition = statement.condition(self._query.filter, "probe")
            where += (
                f"\nand {statement.scope()}"
                f"\nand case when t.request_id = any({asked}) then {condition} else true end"
            )
        if start is not None:
            where += f"\nand {paging.after(columns, start.values, statement.params)}"
        keys = "".join(f", {column.expression} as k{n}" for n, column in enumerate(columns))
        sql = (
            f"select t.request_id{keys}\nfrom {statement.traces}\n{joins}\nwhere {where}\n"
            f"order by {', '.join(str(column) for column in columns)}\n"
            f"limit {statement.params.add(limit, 'bigint')}"
            f" offset {statement.params.add(offset, 'bigint')}"
        )
        # The plan to sort ids is always the same, and worth keeping.
        rows = (
            statement.run(self._plpy, sql)
            if perhaps
            else plans.run(self._plpy, sql, statement.params.types, statement.params.values)
        )
        return [_Row(row["request_id"], self._values(row)) for row in rows]

    # -------------------------------------------------------------- as a set

    def _as_set(self, limit: int, start: Optional[Position], offset: int) -> list[_Row]:
        statement = self._statement(parallel=True)
        columns, joins = compile_order(self._query.order, statement.params, statement.schema)
        where = statement.where(self._query.filter, "set")
        if start is not None:
            where += f"\nand {paging.after(columns, start.values, statement.params)}"
        keys = "".join(f", {column.expression} as k{n}" for n, column in enumerate(columns))
        texts = "".join(f", k{n}::text" for n in range(len(columns)))
        order = _order_by(columns, "k")
        # Materialized where an index would serve the order, lest the planner hope
        # for an early end of a long walk; any other order has to see all hits.
        by_time = self._query.order[0].field == narrowing.TIME
        fence = "materialized" if by_time else "not materialized"
        sql = (
            f"with hits as {fence} (\n"
            f"select t.request_id{keys}\nfrom {statement.traces}\n{joins}\nwhere {where}\n"
            f")\nselect array[request_id::text{texts}]\nfrom hits\norder by {order}\n"
            f"limit {statement.params.add(limit, 'bigint')}"
            f" offset {statement.params.add(offset, 'bigint')}"
        )
        return [
            _Row(trace_id or "", tuple(map(_typed, values, self._types)))
            for trace_id, *values in statement.run_in_parallel(self._plpy, sql)
        ]

    # ------------------------------------------------------------- the walk

    def _window(
        self, statement: Statement, size: int, start: Optional[Position]
    ) -> tuple[str, list[SortColumn]]:
        """The next ``size`` traces in order, whether they match or not.

        Bounds on the time are not left to the probes: they say where to walk.
        """
        columns, joins = compile_order(self._query.order, statement.params, statement.schema)
        where = statement.scope()
        for bound in narrowing.time_bounds(self._query.filter):
            where += f"\nand {statement.condition(bound, 'probe')}"
        if start is not None:
            where += f"\nand {paging.after(columns, start.values, statement.params)}"
        keys = "".join(f", {column.expression} as k{n}" for n, column in enumerate(columns))
        order = ", ".join(str(column) for column in columns)
        limit = statement.params.add(size, "bigint")
        sql = (
            f"select t.*{keys}\nfrom {statement.traces}\n{joins}\nwhere {where}\n"
            f"order by {order}\nlimit {limit}"
        )
        return sql, columns

    def _walk(self, window: int, limit: int, start: Optional[Position]) -> list[_Row]:
        """The matches among the next ``window`` traces, ``limit`` at most."""
        statement = self._statement()
        inner, columns = self._window(statement, window, start)
        condition = statement.condition(self._query.filter, "probe")
        keys = "".join(f", t.k{n}" for n in range(len(columns)))
        sql = (
            f"select t.request_id{keys}\nfrom (\n{inner}\n) t\nwhere {condition}\n"
            f"order by {_order_by(columns, 't.k')}\n"
            f"limit {statement.params.add(limit, 'bigint')}"
        )
        return [
            _Row(row["request_id"], self._values(row)) for row in statement.run(self._plpy, sql)
        ]

    def _end_of_window(self, window: int, start: Optional[Position]) -> Optional[Position]:
        """The last row of a window; None if the traces ended within it."""
        statement = self._statement()
        inner, _ = self._window(statement, window, start)
        last = statement.params.add(window - 1, "bigint")
        rows = statement.run(self._plpy, f"select w.* from (\n{inner}\n) w offset {last}")
        return Position(self._values(rows[0]), self._now_ms) if len(rows) else None

    def _values(self, row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple([row[name] for name in self._names])


def _about_content(filter: tree.Node) -> bool:
    """Whether it asks for patterns in whole spans, of which our index knows nothing."""
    bounds = narrowing.time_bounds(filter)
    rest = [item for item in tree.conjuncts(filter) if item not in bounds]
    return bool(rest) and all(
        isinstance(item, tree.AnySpan)
        and isinstance(item.condition, tree.Match)
        and item.condition.field == tree.SpanText("content")
        for item in rest
    )


def _order_by(columns: Sequence[SortColumn], prefix: str) -> str:
    """The order by the columns under the names that a subquery gave them."""
    return ", ".join(
        str(replace(column, expression=f"{prefix}{n}")) for n, column in enumerate(columns)
    )


def _typed(text: Optional[str], type: str) -> Any:
    """A sort value from its text."""
    if text is None:
        return None
    return int(text) if type == "bigint" else float(text) if type == "double precision" else text


def match_trace_ids(plpy: Any, query: Query, trace_ids: Sequence[str], now_ms: int) -> list[str]:
    """Those of the given traces that match, in the order given."""
    statement = Statement(query.schema, query.experiments, now_ms)
    found = given.matching(plpy, statement, query.filter, trace_ids)
    return [trace_id for trace_id in dict.fromkeys(trace_ids) if trace_id in found]


# ------------------------------------------------------------------------ rows

#: Traces whose rows are read together.
ROW_BATCH = 1000


def read_rows(plpy: Any, schema: str, page: Page) -> Iterator[dict[str, Any]]:
    """The rows that show the traces of a page, in its order.

    A trace that is deleted between finding and reading cannot occur: both read
    the same snapshot.
    """
    usage = [part for row in storage.USAGE.values() for part in row.parts]
    numbers = ", ".join(f"t.{part.column}" for part in usage)
    tags, metadata = (
        ", ".join(f"'{key}'" for key, _, _ in _SHOWN[kind]) for kind in ("tag", "metadata")
    )
    plan = plpy.prepare(
        f"""select
    t.request_id, t.experiment_id::text as experiment_id, t.timestamp_ms,
    t.execution_time_ms, t.status, t.trace_name, t.session_id,
    t.request_preview, t.response_preview, {numbers},
    (
        select pg_catalog.jsonb_object_agg(g.key, g.value)
        from {schema}.trace_tags g
        where g.request_id = t.request_id and g.key not in ({tags})
    ) as tags,
    (
        select pg_catalog.jsonb_object_agg(m.key, m.value)
        from {schema}.trace_request_metadata m
        where m.request_id = t.request_id and m.key not in ({metadata})
    ) as metadata,
    (
        select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'assessment_id', a.assessment_id,
            'name', a.name,
            'type', a.assessment_type,
            'value', a.value,
            'error', a.error,
            'rationale', a.rationale,
            'source_type', a.source_type,
            'source_id', a.source_id,
            'metadata', a.assessment_metadata,
            'valid', a.valid,
            'overrides', a.overrides,
            'span_id', a.span_id,
            'run_id', a.run_id,
            'create_time_ms', a.created_timestamp,
            'last_update_time_ms', a.last_updated_timestamp
        ) order by a.created_timestamp, a.ctid)
        from {schema}.assessments a
        where a.trace_id = t.request_id
    ) as assessments
from pg_catalog.unnest($1) with ordinality o(trace_id, number)
cross join lateral (
    -- One by one through the primary key, whatever the planner believes about
    -- the size of the table: many batches run with one plan.
    select * from {schema}.trace_info i where i.request_id = o.trace_id offset 0
) t
order by o.number""",
        ["text[]"],
    )
    for first in range(0, len(page.trace_ids), ROW_BATCH):
        for row in plpy.execute(plan, [page.trace_ids[first : first + ROW_BATCH]]):
            yield _shown(row, page.next_page_token)


def _shown(row: dict[str, Any], next_page_token: Optional[str]) -> dict[str, Any]:
    stored = row["assessments"]
    return {
        "trace_id": row["request_id"],
        "experiment_id": row["experiment_id"],
        "timestamp_ms": row["timestamp_ms"],
        "execution_time_ms": row["execution_time_ms"],
        "status": row["status"],
        "trace_name": row["trace_name"],
        "session_id": row["session_id"],
        "request_preview": row["request_preview"],
        "response_preview": row["response_preview"],
        "tags": _with(row["tags"], _shown_as("tag", row)),
        "metadata": _with(row["metadata"], _shown_as("metadata", row)),
        "assessments": _json([_assessment(a) for a in json.loads(stored)]) if stored else "[]",
        "next_page_token": next_page_token,
    }


def _shown_as(kind: str, row: dict[str, Any]) -> dict[str, Optional[str]]:
    """The tags or metadata that MLflow keeps in columns and shows as entries."""
    shown: dict[str, Optional[str]] = {}
    for key, column, parts in _SHOWN[kind]:
        if parts:
            numbers = {name: row[name] for name in parts if row[name] is not None}
            shown[key] = json.dumps(numbers) if numbers else None
        else:
            shown[key] = row[column]
    return shown


#: By kind the key, and the column or columns that its text is made of.
_SHOWN = {
    kind: [
        (entry.key, row.column, [part.column for part in row.parts])
        for entry, row in storage.SHOWN.items()
        if entry.kind == kind
    ]
    for kind in storage.ENTRIES
}


def _with(stored: Optional[str], more: dict[str, Optional[str]]) -> str:
    """The JSON text of an object with the entries of ``more`` that exist.

    Without decoding what is there: a page may have 50,000 rows.
    """
    entries = [f"{_json(key)}:{_json(value)}" for key, value in more.items() if value is not None]
    if stored and stored != "{}":
        entries.insert(0, stored[1:-1])
    return "{" + ",".join(entries) + "}"


def _assessment(stored: dict[str, Any]) -> dict[str, Any]:
    """An assessment for reading: JSON decoded, the source in one object."""
    shown = dict(stored)
    shown["source"] = {
        "source_type": shown.pop("source_type"),
        "source_id": shown.pop("source_id"),
    }
    for key in ("value", "error", "metadata"):
        shown[key] = decoded(stored[key])
    return shown


def decoded(text: Optional[str]) -> Any:
    """Stored JSON as jsonb can hold it; what is not JSON as the text itself."""
    if text is None:
        return None
    try:
        value = storable(json.loads(text))
        json.dumps(value)
    except (ValueError, RecursionError):
        return text
    return value


def storable(value: Any) -> Any:
    """``value`` without what JSON has no place for.

    NaN and the infinities become strings, characters that PostgreSQL cannot
    hold U+FFFD.
    """
    if isinstance(value, str):
        return attributes.storable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {attributes.storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return value


_json = json.JSONEncoder(ensure_ascii=False).encode
