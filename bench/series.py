"""Series, facets, a matrix and sessions beside the same questions put to DuckDB and chDB.

Each question stands here in three ways; all answers must be the same, then medians are
taken in turn.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import psycopg

from bench import columns
from bench.compare import OURS, Timing
from bench.engines import Disagreement, engines

Row = tuple[str | None, ...]


@dataclass(frozen=True)
class Case:
    """A question in three ways; ``%s`` in ours stands for the experiments."""

    name: str
    ours: str
    duckdb: str
    chdb: str


# ------------------------------------------------------------------------- series

_MS = {"1 hour": 3_600_000, "1 day": 86_400_000}


def _series(name: str, filter: str, condition: str, bucket: str) -> Case:
    """``condition`` is the filter on the columns of the traces."""
    ms, those = _MS[bucket], f"filter (where {condition})"
    quantiles = ", ".join(
        f"quantile_cont(execution_time_ms, {fraction}) {those}" for fraction in (0.5, 0.95, 0.99)
    )
    return Case(
        f"series: {name}, {bucket}",
        'select extract(epoch from "time")::bigint * 1000, total, matched, errors, tokens, cost,'
        " p50_ms, p95_ms, p99_ms"
        f" from insights_timeseries(%s::text[], $${filter}$$, '{bucket}') where total > 0",
        f"select timestamp_ms // {ms} * {ms} as s, count(*), count(*) {those},"
        f" count(*) filter (where {condition} and status = 'ERROR'), sum(total_tokens) {those},"
        f" sum(total_cost) {those}, {quantiles} from traces group by s order by s",
        "select s, total, matched, errors, tokens, cost, q[1], q[2], q[3] from ("
        f"select intDiv(timestamp_ms, {ms}) * {ms} as s, count() as total, countIf(m) as matched,"
        " countIf(m and status = 'ERROR') as errors, sumIf(total_tokens, m) as tokens,"
        " sumIf(total_cost, m) as cost,"
        " quantilesExactInclusiveIf(0.5, 0.95, 0.99)(execution_time_ms, m) as q"
        f" from (select *, ({condition}) as m from traces) group by s order by s)",
    )


# ------------------------------------------------------------------------- facets


def _values(name: str, filter: str, condition: str, field: str, column: str) -> Case:
    """A column of the traces."""
    sql = (
        f"select {column} as v, count(*) as n from traces where ({condition})"
        " and v is not null group by v order by n desc, v limit 20"
    )
    return Case(f"facets: {name}", _facets(filter, field), sql, sql)


def _span_values(name: str, filter: str, condition: str, field: str, column: str) -> Case:
    """A column of the spans."""
    sql = (
        f"select {column} as v, count(distinct trace) as n from spans"
        f" where trace in (select trace from traces where {condition})"
        " and {} group by v order by n desc, v limit 20"
    )
    return Case(
        f"facets: {name}",
        _facets(filter, field),
        sql.format(f"{column} is not null"),
        sql.format(f"{column} <> ''"),
    )


def _facets(filter: str, field: str) -> str:
    return (
        f"select value, count from insights_facets(%s::text[], $${filter}$$, $${field}$$)"
        " where value is not null"
    )


def _intervals(name: str, field: str, column: str, width: str) -> Case:
    """Intervals of a column's numbers, of all traces."""
    sql = (
        f"select n * {width}, c from (select floor({column} / {width}) as n, count(*) as c"
        f" from traces where {column} is not null group by n order by n)"
    )
    return Case(
        f"facets: {name}",
        f"select low, count from insights_facets(%s::text[], '', $${field}$$)"
        " where value is not null and count > 0",
        sql,
        sql,
    )


# --------------------------------------------------------------- matrix and sessions

FILTERS = {
    "status = 'ERROR'": "status = 'ERROR'",
    "execution_time_ms > 10000": "execution_time_ms > 10000",
    "tags.environment = 'production'": "environment = 'production'",
    "tags.customer_tier = 'free'": "customer_tier = 'free'",
    "tags.version LIKE 'v2.%%'": "version like 'v2.%%'",
    "total_tokens > 2000": "total_tokens > 2000",
    "total_cost > 0.01": "total_cost > 0.01",
    "feedback.user_rating <= 2": "user_rating <= 2",
    "feedback.quality > 0.8": "quality > 0.8",
    "tags.region IS NULL": "region is null",
}


def _matrix() -> Case:
    filters = ", ".join(f"$${filter}$$" for filter in FILTERS)
    flags = ", ".join(f"({sql}) as f{n}" for n, sql in enumerate(FILTERS.values()))
    pairs = ", ".join(
        f"count(*) filter (where f{one} and f{other})"
        for one, other in combinations(range(len(FILTERS)), 2)
    )
    sql = f"select {pairs} from (select {flags} from traces)".replace("%%", "%")
    return Case(
        f"matrix: {len(FILTERS)} filters",
        f"select joint_count from insights_correlation_matrix(%s::text[], array[{filters}])",
        sql,
        sql,
    )


def _sessions() -> Case:
    sql = "select count(distinct session_id) from traces where status = 'ERROR'"
    ours = "select insights_count(%s::text[], 'status = ''ERROR''', 'session')"
    return Case("sessions with an error", ours, sql, sql)


def _sessions_all() -> Case:
    sql = (
        "select count(*) from (select session_id from traces where session_id is not null"
        " group by session_id having {})"
    )
    return Case(
        "sessions, all slow",
        "select insights_count(%s::text[], 'execution_time_ms > 5000', 'session_all')",
        sql.format("bool_and(execution_time_ms > 5000)"),
        sql.format("min(execution_time_ms > 5000)"),
    )


_ERRORS = ("status = 'ERROR'", "status = 'ERROR'")
_ALL = ("", "true")

CASES = (
    _series("everything", *_ALL, "1 day"),
    _series("everything", *_ALL, "1 hour"),
    _series("errors", *_ERRORS, "1 hour"),
    _series("one version", "tags.version = 'v2.0.1'", "version = 'v2.0.1'", "1 hour"),
    _values("versions of errors", *_ERRORS, "tags.version", "version"),
    _values("versions", *_ALL, "tags.version", "version"),
    _values("users", *_ALL, "user", "user_id"),
    _values("sessions", *_ALL, "session_id", "session_id"),
    _span_values("models of errors", *_ERRORS, "span.attributes.model", "model"),
    _span_values("models", *_ALL, "span.attributes.model", "model"),
    _span_values("span names", *_ALL, "span.name", "name"),
    _intervals("execution time", "execution_time_ms", "execution_time_ms", "10000"),
    _intervals("total tokens", "total_tokens", "total_tokens", "1000"),
    _matrix(),
    _sessions(),
    _sessions_all(),
)

# ---------------------------------------------------------------------- measuring


def measure(dsn: str, files: Path, experiment_id: str, runs: int) -> Iterator[Timing]:
    """Median milliseconds of each question by who was asked; Disagreement if answers differ.

    The first call of ours, which reads what the others find read, is a column of its own.
    """
    columns.export(dsn, files)
    loaded = engines(files)
    with psycopg.connect(dsn, autocommit=True) as connection:

        def ours(sql: str) -> list[Row]:
            rows = connection.execute(sql.encode(), ([experiment_id],)).fetchall()
            return [tuple(None if value is None else str(value) for value in row) for row in rows]

        for case in CASES:
            calls: dict[str, Callable[[], list[Row]]] = {}
            for engine in loaded:
                sql = case.chdb if engine.name == "chDB" else case.duckdb
                calls[engine.name] = partial(engine.rows, sql)
            calls[OURS] = partial(ours, case.ours)
            started = time.perf_counter()
            rows = len(calls[OURS]())
            first_ms = (time.perf_counter() - started) * 1000
            answers = {name: _numbers(call()) for name, call in calls.items()}
            for name, answer in answers.items():
                if not _same(answer, answers[OURS]):
                    raise Disagreement(f"{case.name}: {name} {answer} and {answers[OURS]}")
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(runs):
                for name, call in calls.items():
                    started = time.perf_counter()
                    call()
                    times[name].append((time.perf_counter() - started) * 1000)
            medians = {name: statistics.median(taken) for name, taken in times.items()}
            ms = {**medians, f"{OURS}, first call": first_ms}
            yield Timing("series", case.name, rows, ms, runs)


def _numbers(rows: Sequence[Row]) -> list[Any]:
    """All values in one list, numbers as such: engines lay them out in different ways."""
    found: list[Any] = []
    for value in (value for row in rows for value in row):
        try:
            found.append(math.nan if value is None else float(value))
        except ValueError:
            found.append(value)
    return found


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Equal but for the last digits of numbers; nothing is as good as 0 or NaN."""
    if len(one) != len(other):
        return False
    for own, its in zip(one, other, strict=True):
        if isinstance(own, float) and isinstance(its, float):
            own, its = (0.0 if math.isnan(number) else number for number in (own, its))
            if not math.isclose(own, its, rel_tol=1e-9, abs_tol=1e-9):
                return False
        elif own != its:
            return False
    return True
