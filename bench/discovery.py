"""Facts associated with a target: ours, and the nearest that DuckDB and chDB can be asked.

Ours counts and tests every fact of the vocabulary, thresholds of numbers included,
and ranks them.  The engines are asked for what can be asked of columns: for every
column how often each value occurs inside and outside of the target.  They test and
rank nothing, and take no numbers apart.  Of the facts that both name, all counts must
be the same before anything is timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from bench import columns
from bench.compare import OURS, Timing
from bench.engines import ChDb, Disagreement, Engine, engines

#: Kind, key and value of a fact -> traces that have it, and those of them in the target.
Facts = Mapping[tuple[str, str, str], tuple[int, int]]

_FEWEST_IN_COMMON = 50
_FIRST_RUNS = 3


@dataclass(frozen=True)
class Target:
    """A target as a filter, and as a condition on the engines' traces."""

    name: str
    filter: str
    condition: str


TARGETS = (
    Target("trace status ERROR (4 %)", "status = 'ERROR'", "status = 'ERROR'"),
    Target("slow (12 %)", "execution_time_ms > 10000", "execution_time_ms > 10000"),
    Target("one version", "tags.version = 'v2.0.1'", "version = 'v2.0.1'"),
    Target(
        "a tool is used (most traces)",
        "span.type = 'TOOL'",
        "trace in (select trace from spans where type = 'TOOL')",
    ),
)

#: The columns of the engines, by table, with the kind and key of their facts.
TRACE_COLUMNS = {
    "status": ("trace", "status"),
    "name": ("trace", "name"),
    "session_id": ("trace", "session_id"),
    **{tag: ("tag", tag) for tag in columns.TAGS},
    **{column: ("metadata", key) for key, (column, _) in columns.METADATA.items()},
    **{name: ("feedback", name) for name in columns.ASSESSMENTS},
}
SPAN_COLUMNS = {
    "type": ("span", "type"),
    "name": ("span", "name"),
    "status": ("span", "status"),
    **{columns.column(name): ("attribute", name) for name in columns.ATTRIBUTES},
}


def query(engine: Engine, target: Target) -> str:
    """For every column: how often each value occurs, and how often in the target."""
    text = "toString({})" if isinstance(engine, ChDb) else "cast({} as varchar)"
    inside = f"with t as (select *, {target.condition} as inside from traces)"
    parts = [
        f"select 'traces' as of, '{column}' as key, {text.format(column)} as value,"
        " count(*) as among, count(*) filter (where inside) as joint"
        f" from t where {column} is not null group by value"
        for column in TRACE_COLUMNS
    ]
    parts += [
        f"select 'spans' as of, '{column}' as key, {text.format('s.' + column)} as value,"
        " count(*) as among, count(*) filter (where t.inside) as joint"
        f" from (select distinct trace, {column} from spans where {column} is not null) s"
        " join (select trace, inside from t) t on t.trace = s.trace group by value"
        for column in SPAN_COLUMNS
    ]
    return f"{inside} {' union all '.join(parts)}"


def facts_of_engine(engine: Engine, target: Target) -> Facts:
    """What an engine counts."""
    names = {"traces": TRACE_COLUMNS, "spans": SPAN_COLUMNS}
    return {
        (*names[table][column], value): (int(among), int(joint))
        for table, column, value, among, joint in (
            [text or "" for text in row] for row in engine.rows(query(engine, target))
        )
    }


def discover(connection: psycopg.Connection[Any], target: Target, **options: Any) -> list[Any]:
    """The rows of ``insights_discover``."""
    named = "".join(f", {name} => %({name})s" for name in options)
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            f"select * from insights_discover(null::text[], %(target)s{named})".encode(),
            {"target": target.filter, **options},
        ).fetchall()


def facts_of_ours(connection: psycopg.Connection[Any], target: Target) -> Facts:
    """Every fact that we count, significant or not."""
    rows = discover(
        connection, target, fdr=1, max_results=50_000, direction="both", restatements=True
    )
    return {
        (row["kind"], row["key"], row["value"]): (row["fact_count"], row["joint_count"])
        for row in rows
    }


def check(name: str, ours: Facts, theirs: Facts) -> int:
    """Stops where counts differ; of how many facts they were compared."""
    common = ours.keys() & theirs.keys()
    different = {fact: (ours[fact], theirs[fact]) for fact in common if ours[fact] != theirs[fact]}
    if different:
        raise Disagreement(f"{name}: {str(different)[:500]}")
    if len(common) < _FEWEST_IN_COMMON:
        raise Disagreement(f"{name}: only {len(common)} facts in common")
    return len(common)


def median_ms(call: Callable[[], Any], runs: int) -> float:
    """Of some runs, after a first one."""
    call()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def _first_ms(dsn: str, target: Target) -> float:
    """Of a session that has asked nothing yet."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        started = time.perf_counter()
        discover(connection, target)
        return (time.perf_counter() - started) * 1000


def measure(dsn: str, files: Path, runs: int) -> Iterator[Timing]:
    """Median milliseconds of each target, by who was asked."""
    columns.export(dsn, files)
    loaded = engines(files)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for target in TARGETS:
            yield measured(dsn, connection, target, loaded, runs)


def measured(
    dsn: str,
    connection: psycopg.Connection[Any],
    target: Target,
    loaded: list[Engine],
    runs: int,
) -> Timing:
    """One target; the counts of every fact that an engine counts must be the same."""
    ours = facts_of_ours(connection, target)
    for engine in loaded:
        check(engine.name, ours, facts_of_engine(engine, target))
    (first, *_) = discover(connection, target)
    calls: dict[str, Callable[[], Any]] = {
        **{engine.name: partial(engine.rows, query(engine, target)) for engine in loaded},
        OURS: partial(discover, connection, target),
        f"{OURS}, pairs too": partial(discover, connection, target, pairs=True),
        f"{OURS}, of sessions": partial(discover, connection, target, unit="session"),
    }
    ms = {name: median_ms(call, runs) for name, call in calls.items()}
    ms[f"{OURS}, first of a session"] = statistics.median(
        [_first_ms(dsn, target) for _ in range(_FIRST_RUNS)]
    )
    name = f"{target.name} ({first['tested']:,} facts tested)"
    return Timing("discovery", name, first["target_count"], ms, runs)
