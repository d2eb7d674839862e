"""A subscriber of logical replication: its triggers fire, and its index knows what arrives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from insights_dev import database
from tests.semantics.world import Assessment, Experiment, Span, Trace, World, load
from tests.servers import private_cluster

Connection = psycopg.Connection[Any]

TABLES = (
    "experiments, trace_info, trace_tags, trace_request_metadata, spans, assessments,"
    " entity_associations"
)

FILTERS = (
    "",
    "status = 'ERROR'",
    "status = 'OK'",
    "tags.env = 'prod'",
    "tags.env = 'dev'",
    "tags.env IS NULL",
    "metadata.m = 'a'",
    "span.name = 'call'",
    "count(span.name = 'call') >= 2",
    "span.status = 'ERROR'",
    "feedback.quality > 2",
    "execution_time > 500",
)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Connection, Connection]]:
    """Connections to a publisher with traces, and to a subscriber with the project."""
    with private_cluster({"wal_level": "logical"}, "replication") as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            for name in ("publisher", "subscriber"):
                admin.execute(f"create database {name}".encode())
        publisher, subscriber = server.dsn("publisher"), server.dsn("subscriber")
        for dsn in (publisher, subscriber):
            database.migrate_mlflow(dsn)
        database.install_insights(subscriber)
        with (
            psycopg.connect(publisher, autocommit=True) as source,
            psycopg.connect(subscriber, autocommit=True) as target,
        ):
            # MLflow makes one in each database, and rows would meet rows.
            target.execute("delete from experiments")
            load(source, _world())
            source.execute(f"create publication traces for table {TABLES}".encode())
            # The slot by hand: in one cluster, creating it here would wait for itself.
            source.execute("select pg_create_logical_replication_slot('traces', 'pgoutput')")
            target.execute(
                f"create subscription traces connection '{publisher}' publication traces"
                " with (create_slot = false, slot_name = 'traces')".encode()
            )
            yield source, target
            target.execute("alter subscription traces disable")
            target.execute("alter subscription traces set (slot_name = none)")
            target.execute("drop subscription traces")


def _world() -> World:
    traces = [
        Trace(
            f"t{n}",
            1,
            1_700_000_000_000 + n,
            execution_time_ms=n * 100,
            status=("OK", "ERROR")[n % 3 == 0],
            tags={"env": ("dev", "prod")[n % 2]} if n % 5 else {},
            metadata={"m": ("a", "b")[n % 2]},
            spans=tuple(
                Span(str(k), "{}", name="call", status=("OK", "ERROR")[k == 2])
                for k in range(n % 4)
            ),
            assessments=(Assessment("feedback", "quality", str(n % 5)),),
        )
        for n in range(30)
    ]
    return World((Experiment(1),), tuple(traces))


def _counts(connection: Connection) -> list[int]:
    found = []
    for filter in FILTERS:
        row = connection.execute("select insights_count('1', %s)", [filter]).fetchone()
        assert row is not None
        found.append(row[0])
    return found


def _truth(connection: Connection) -> list[int]:
    with connection.transaction(force_rollback=True):
        connection.execute("update insights.state set built = false")
        return _counts(connection)


def _arrived(source: Connection, target: Connection) -> None:
    """Waits until the subscriber has the publisher's rows."""
    query = (
        "select string_agg(x, ',' order by x) from ("
        "select t.request_id || t.status as x from trace_info t"
        " union all select g.request_id || g.key || g.value from trace_tags g"
        " union all select s.trace_id || s.span_id || s.status from spans s) r"
    )
    end = time.monotonic() + 60
    while source.execute(query).fetchone() != target.execute(query).fetchone():
        assert time.monotonic() < end, "nothing arrives"
        time.sleep(0.05)


def _refreshed(connection: Connection) -> None:
    while connection.execute("select pending, busy from insights_refresh()").fetchone() != (
        0,
        False,
    ):
        pass
    assert connection.execute("select * from insights_verify()").fetchall() == []
    assert connection.execute("select usable from insights_status()").fetchone() == (True,)


def test_what_arrives_is_noted(pair: tuple[Connection, Connection]) -> None:
    source, target = pair
    _arrived(source, target)
    assert _counts(target) == _truth(target)
    _refreshed(target)
    assert _counts(target) == _truth(target)
    for statement in (
        "update trace_info set status = 'ERROR' where request_id in ('t1', 't2')",
        "update trace_tags set value = 'dev' where request_id = 't7'",
        "delete from trace_tags where request_id = 't3'",
        "delete from spans where trace_id = 't11' and span_id = '0'",
        "update spans set status = 'ERROR' where trace_id = 't5'",
        "delete from trace_info where request_id = 't9'",
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
        " values ('new', 1, 0, 'OK')",
    ):
        source.execute(statement.encode())
    _arrived(source, target)
    # Noted, and so answered from the tables until they are indexed.
    assert target.execute("select missed, usable from insights_status()").fetchone() == (0, True)
    assert _counts(target) == _truth(target)
    _refreshed(target)
    assert _counts(target) == _truth(target)
