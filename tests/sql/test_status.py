"""insights_status(): what it says, and to whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from insights_dev import database
from tests.conftest import READER, Databases

Connection = psycopg.Connection[Any]


def status(connection: Connection) -> dict[str, Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("select * from insights_status()").fetchone()
    assert row is not None
    return row


def add_traces(connection: Connection, first: int, count: int) -> None:
    connection.execute(
        "insert into experiments (experiment_id, name, lifecycle_stage) values (1, 'e', 'active')"
        " on conflict do nothing"
    )
    connection.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
        " select 'tr-' || i, 1, i, 'OK' from generate_series(%s::int, %s::int) i",
        [first, first + count - 1],
    )


def test_an_empty_database_is_built_and_has_nothing(conn: Connection) -> None:
    found = status(conn)
    assert (found["built"], found["pending"], found["missed"]) == (True, 0, 0)
    assert (found["traces"], found["blocks"], found["terms"], found["postings"]) == (0, 0, 0, 0)
    assert not found["lag_seconds"]


def test_what_is_pending_and_what_is_indexed(conn: Connection) -> None:
    add_traces(conn, 1, 30)
    conn.execute("insert into trace_tags (request_id, key, value) values ('tr-1', 'k', 'v')")
    conn.execute("update insights.pending set noted_at = noted_at - interval '1 minute'")
    found = status(conn)
    assert (found["built"], found["pending"], found["traces"]) == (True, 30, 0)
    assert 60 <= found["lag_seconds"] < 120

    conn.execute("select insights_refresh()")
    found = status(conn)
    assert (found["pending"], found["traces"], found["blocks"]) == (0, 30, 1)
    terms = conn.execute("select count(*) from insights.term").fetchone()
    postings = conn.execute("select count(*) from insights.posting").fetchone()
    assert ((found["terms"],), (found["postings"],)) == (terms, postings)
    assert not found["lag_seconds"]
    assert found["index_bytes"] > 8192 < found["mlflow_bytes"]
    assert found["index_share"] == pytest.approx(found["index_bytes"] / found["mlflow_bytes"])

    conn.execute("delete from trace_info where request_id = 'tr-7'")
    assert (status(conn)["pending"], status(conn)["traces"]) == (1, 30)
    conn.execute("select insights_refresh()")
    assert (status(conn)["pending"], status(conn)["traces"]) == (0, 29)


def test_what_was_missed(conn: Connection) -> None:
    conn.execute("select nextval('insights.missed'), nextval('insights.missed')")
    assert status(conn)["missed"] == 2
    conn.execute("call insights_rebuild()")
    assert (status(conn)["missed"], status(conn)["built"]) == (0, True)


def test_traces_that_were_there_before_have_to_be_indexed(
    mlflow_only_dsn: str,
) -> None:
    with psycopg.connect(mlflow_only_dsn, autocommit=True) as connection:
        add_traces(connection, 1, 5)
        database.install_insights(mlflow_only_dsn)
        assert status(connection)["built"] is False
        connection.execute("select insights.build_batch(100)")
        connection.execute("select insights.build_batch(100)")
        assert (status(connection)["built"], status(connection)["traces"]) == (True, 5)


def test_it_is_fast(conn: Connection) -> None:
    """Counting postings one by one would take seconds some day."""
    conn.execute(
        "insert into insights.posting (block, term, members)"
        " select b, t, repeat('x', 100)::bytea"
        " from generate_series(1, 100) b, generate_series(1, 2500) t"
    )
    conn.execute("analyze insights.posting")
    plan = conn.execute("select * from insights_status()").fetchone()
    assert plan is not None
    assert status(conn)["postings"] == pytest.approx(250_000, rel=0.1)


def test_it_works_in_a_transaction_that_only_reads(conn: Connection) -> None:
    with conn.transaction():
        conn.execute("set transaction read only")
        assert status(conn)["built"] is True


def test_it_survives_changes_of_mlflows_tables(conn: Connection) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("alter table spans rename to spans_of_old")
        assert status(conn)["built"] is True


def test_a_reader_sees_it_and_others_see_nothing(conn: Connection) -> None:
    add_traces(conn, 1, 3)
    with conn.transaction():
        conn.execute(f"set local role {READER}".encode())
        assert (status(conn)["built"], status(conn)["pending"]) == (True, 3)
    with conn.transaction(force_rollback=True):
        conn.execute("create role nobody_at_all")
        conn.execute("set local role nobody_at_all")
        found = status(conn)
        sizes = {"index_bytes", "mlflow_bytes", "index_share"}
        assert {name for name, value in found.items() if value is not None} == sizes
        assert found["index_bytes"] > 0


# ------------------------------------------------------- who may write the index


@pytest.fixture
def writer(databases: Databases) -> Iterator[str]:
    """A role insights_writer, which an installation finds."""
    with databases.admin() as admin:
        admin.execute("create role insights_writer")
    yield "insights_writer"
    with databases.admin() as admin:
        admin.execute("drop role insights_writer")


def use(connection: Connection, role: str) -> None:
    """Everything that keeping the index up to date takes, as this role."""
    connection.execute(f"set role {role}".encode())
    indexed = "select indexed, busy from insights_refresh()"
    assert connection.execute(indexed.encode()).fetchone() == (4, False)
    assert status(connection)["traces"] == 4
    assert connection.execute("select * from insights_verify()").fetchall() == []
    connection.execute("call insights_rebuild()")
    assert (status(connection)["built"], status(connection)["traces"]) == (True, 4)
    connection.execute("reset role")


def test_the_owner_of_mlflows_tables_keeps_the_index_up_to_date(
    mlflow_only_dsn: str,
) -> None:
    with psycopg.connect(mlflow_only_dsn, autocommit=True) as connection:
        connection.execute("create role mlflow_owner")
        try:
            tables = connection.execute(
                "select tablename from pg_tables where schemaname = 'public'"
            ).fetchall()
            for (table,) in tables:
                connection.execute(f"alter table {table} owner to mlflow_owner".encode())
            database.install_insights(mlflow_only_dsn)
            add_traces(connection, 1, 4)
            use(connection, "mlflow_owner")
        finally:
            connection.execute("reset role")
            connection.execute("drop owned by mlflow_owner cascade")
            connection.execute("drop role mlflow_owner")


def test_a_role_made_for_it_keeps_the_index_up_to_date(mlflow_only_dsn: str, writer: str) -> None:
    with psycopg.connect(mlflow_only_dsn, autocommit=True) as connection:
        database.install_insights(mlflow_only_dsn)
        connection.execute(f"grant select on all tables in schema public to {writer}".encode())
        add_traces(connection, 1, 4)
        try:
            use(connection, writer)
            connection.execute(f"set role {writer}".encode())
            for statement in (
                "delete from trace_info",
                "update insights.installation set bundle=1",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())
        finally:
            connection.execute("reset role")
            connection.execute(f"drop owned by {writer}".encode())


def test_nobody_else_may(conn: Connection) -> None:
    for statement in (
        "select * from insights_refresh()",
        "select * from insights_verify()",
        "select * from insights.build_batch()",
        "select * from insights.run_rebuild()",
        "call insights_rebuild()",
    ):
        conn.execute(f"set role {READER}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(statement.encode())
    conn.execute("reset role")
