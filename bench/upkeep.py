"""What the index costs: building it, its size, refreshing and watching it, a first call."""

from __future__ import annotations

import statistics
import time
from typing import Any

import psycopg

# What the index is derived from, and its size compared with.
MLFLOW_TABLES = (
    "trace_info",
    "spans",
    "trace_tags",
    "trace_request_metadata",
    "assessments",
    "entity_associations",
)


#: By what was counted.
Counts = dict[Any, tuple[Any, ...]]


class Changed(Exception):
    """An answer is another one while traces are pending."""


class NotBuilt(Exception):
    """The index could not be built, because something holds it."""


def is_built(dsn: str) -> bool:
    """Whether the index knows every trace."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select built from insights.state").fetchone()
    return row is not None and bool(row[0])


def build(dsn: str) -> dict[str, float]:
    """Builds the index over one connection, thus on one core; traces a second."""
    indexed, started, waits = 0, time.monotonic(), 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        done = False
        while not done:
            row = connection.execute(
                "select indexed, done, busy from insights.build_batch()"
            ).fetchone()
            assert row is not None
            done = bool(row[1])
            indexed += int(row[0])
            waits = waits + 1 if row[2] else 0
            if waits:
                if waits > 600:
                    raise NotBuilt("another build or refresh does not end")
                time.sleep(0.1)
        seconds = time.monotonic() - started
        # What a running server's autovacuum does by itself after such a load.
        connection.execute("vacuum (analyze)")
    return {"traces": indexed, "seconds": seconds, "traces_per_second": indexed / seconds}


def sizes(dsn: str) -> dict[str, float]:
    """Bytes of the index and of MLflow's tables, with their indexes and TOAST."""
    with psycopg.connect(dsn) as connection:
        (index,) = _row(
            connection,
            "select sum(pg_total_relation_size(c.oid)) from pg_class c "
            "where c.relnamespace = 'insights'::regnamespace and c.relkind = 'r'",
        )
        (tables,) = _row(
            connection,
            "select sum(pg_total_relation_size(('public.' || t)::regclass)) "
            "from unnest(%s::text[]) as t",
            [list(MLFLOW_TABLES)],
        )
    return {
        "index_bytes": int(index),
        "mlflow_bytes": int(tables),
        "share": int(index) / int(tables),
    }


def refreshes(dsn: str, runs: int) -> dict[str, float]:
    """Median milliseconds to index 1, 10, 100 and 1,000 traces that changed.

    They are rewritten as they were, which notes them, and then indexed anew; so
    the answers stay the same.
    """
    taken = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select * from insights_refresh()")
        for size in (1, 10, 100, 1_000):
            times = []
            for run in range(runs):
                connection.execute(
                    "update public.trace_tags set value = value where request_id in ("
                    "select request_id from public.trace_info "
                    "order by md5(request_id || %s) limit %s)",
                    [str(run), size],
                )
                started = time.perf_counter()
                connection.execute("select * from insights_refresh()")
                times.append((time.perf_counter() - started) * 1000)
            taken[f"refresh of {size:,}"] = statistics.median(times)
    return taken


_FIRST = {
    "insights_count": "select insights_count(%s::text[], 'tags.environment = ''production''')",
    "insights_correlate": (
        "select * from insights_correlate(%s::text[], "
        "'span.attributes.model = ''gpt-4''', 'span.status = ''ERROR''')"
    ),
    "insights_search": (
        "select * from insights_search(%s::text[], 'tags.environment = ''production''')"
    ),
}


def first_calls(dsn: str, experiment_id: str, runs: int) -> dict[str, float]:
    """Median milliseconds of what a new connection pays for its first answers."""
    taken: dict[str, list[float]] = {}
    for function, question in _FIRST.items():
        for _ in range(runs):
            clock = time.perf_counter()
            connection = psycopg.connect(dsn, autocommit=True)
            for step in ("connect", "select 1", f"first {function}", f"second {function}"):
                if step == "select 1":
                    connection.execute("select 1")
                elif step != "connect":
                    connection.execute(question.encode(), [[experiment_id]]).fetchall()
                now = time.perf_counter()
                taken.setdefault(step, []).append((now - clock) * 1000)
                clock = now
            connection.close()
    return {step: statistics.median(values) for step, values in taken.items()}


_KEPT = "select insights_count(%s::text[], 'status = ''ERROR''')"
_ALONE = "select insights.fingerprint()"


def watching(dsn: str, experiment_id: str, runs: int) -> dict[str, float]:
    """Median milliseconds of a count that the session knows, and of what it asks the catalogue.

    A session asks again whether MLflow's tables are as they were, by ``insights.fingerprint()``,
    when some transaction has ended since. The cases take turns, so that they meet the same load.
    """
    taken: dict[str, list[float]] = {}
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        psycopg.connect(dsn, autocommit=True) as other,
    ):

        def take(name: str, question: str, parameters: Any = None) -> None:
            started = time.perf_counter()
            connection.execute(question.encode(), parameters).fetchall()
            taken.setdefault(name, []).append((time.perf_counter() - started) * 1000)

        # Psycopg prepares a statement at the sixth time, PostgreSQL keeps its plan five later.
        for _ in range(20):
            connection.execute(_KEPT.encode(), [[experiment_id]])
            connection.execute(_ALONE.encode())
        for _ in range(50 * runs):
            take("count, no transaction has ended since", _KEPT, [[experiment_id]])
            # A transaction of its own, with a number, as those have that write.
            other.execute("select pg_current_xact_id()")
            take("count, a transaction has ended since", _KEPT, [[experiment_id]])
            take("insights.fingerprint() by itself", _ALONE)
    return {name: statistics.median(values) for name, values in taken.items()}


#: What is counted, and the counts.
_PENDING = {
    "insights_discover": (
        "select filter, fact_count, joint_count, target_count, total_count "
        "from insights_discover(%s::text[], 'status = ''ERROR''')"
    ),
    "insights_facets": "select * from insights_facets(%s::text[], '', 'tags.environment')",
}


def pending(dsn: str, experiment_id: str, runs: int, share: float = 0.1) -> list[dict[str, Any]]:
    """Seconds of calls while a share of all traces has changed since the last refresh.

    They are rewritten as they were, which notes them, so whatever is counted has to have the
    same counts. (Which rare values are tested depends on what has a term.) In the end they are
    indexed anew.
    """
    found: list[dict[str, Any]] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        _refresh(connection)
        clean = _asked(dsn, experiment_id, runs)
        connection.execute(
            "update public.trace_info set status = status where request_id in ("
            "select request_id from public.trace_info order by md5(request_id) "
            "limit (select (%s * count(*))::bigint from public.trace_info))",
            [share],
        )
        (traces,) = _row(connection, "select count(distinct trace_id) from insights.pending")
        late = _asked(dsn, experiment_id, runs)
        _refresh(connection)
    for function, (seconds, answer) in clean.items():
        other = late[function][1]
        both = answer.keys() & other.keys()
        if not both or any(answer[name] != other[name] for name in both):
            raise Changed(f"{function} answers otherwise while traces are pending")
        found.append(
            {
                "function": function,
                "pending": traces,
                "clean_s": seconds,
                "pending_s": late[function][0],
            }
        )
    return found


def _refresh(connection: psycopg.Connection) -> None:
    """Leaves nothing pending."""
    while _row(connection, "select exists (select from insights.pending)") == (True,):
        connection.execute("select * from insights_refresh(1000000)")


def _asked(dsn: str, experiment_id: str, runs: int) -> dict[str, tuple[float, Counts]]:
    """By function its median seconds and its counts, each in a session of its own."""
    asked = {}
    for function, question in _PENDING.items():
        times = []
        with psycopg.connect(dsn, autocommit=True) as connection:
            for _ in range(runs):
                started = time.perf_counter()
                answer = connection.execute(question.encode(), [[experiment_id]]).fetchall()
                times.append(time.perf_counter() - started)
        asked[function] = (statistics.median(times), {row[0]: row[1:] for row in answer})
    return asked


def _row(connection: psycopg.Connection, query: str, parameters: Any = None) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row
