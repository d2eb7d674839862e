"""What goes unnoticed turns the index off, and a refresh makes up for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.semantics.world import Assessment, Experiment, Span, Trace, World, load

Connection = psycopg.Connection[Any]

TABLES = (
    "trace_info",
    "trace_tags",
    "trace_request_metadata",
    "spans",
    "assessments",
    "entity_associations",
)

#: Changes of trace t1, by the tables whose triggers would note them.
CHANGES = {
    "a new trace": (
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
        " values ('new', 1, 5, 'OK')"
    ),
    "another status": "update trace_info set status = 'ERROR' where request_id = 't1'",
    "a trace gone": "delete from trace_info where request_id = 't1'",
    "another id": (
        "update trace_tags set request_id = 't2', key = 'c' where request_id = 't1' and key = 'b'"
    ),
    "another tag": "update trace_tags set value = 'z' where request_id = 't1' and key = 'a'",
    "a tag gone": "delete from trace_tags where request_id = 't1' and key = 'a'",
    "one for the other": (
        "delete from trace_tags where request_id = 't1' and key = 'a';"
        "insert into trace_tags (request_id, key, value) values ('t1', 'c', 'v')"
    ),
    "metadata gone": "delete from trace_request_metadata where request_id = 't1'",
    "a span gone": "delete from spans where trace_id = 't1' and name = 'two'",
    "another span": "update spans set status = 'ERROR' where trace_id = 't1'",
    "feedback gone": "delete from assessments where trace_id = 't1'",
    "a new link": (
        "insert into entity_associations (association_id, source_type, source_id,"
        " destination_type, destination_id) values ('x', 'trace', 't1', 'run', 'r2')"
    ),
    "a link gone": "delete from entity_associations where source_id = 't1'",
}

FILTERS = (
    "status = 'ERROR'",
    "tags.a = 'v'",
    "tags.a = 'z'",
    "tags.a IS NULL",
    "tags.b = 'v'",
    "tags.c = 'v'",
    "metadata.m = 'v'",
    "span.name = 'two'",
    "span.status = 'ERROR'",
    "count(span.name = 'two') = 0",
    "feedback.f = 'good'",
    "run_id = 'r'",
    "run_id = 'r2'",
)


def one(connection: Connection, query: str, *values: Any) -> Any:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return row[0]


def refreshed(connection: Connection) -> None:
    for _ in range(50):
        row = connection.execute("select pending, busy from insights_refresh()").fetchone()
        if row == (0, False):
            return
    raise AssertionError(f"the index does not become complete: {row}")


def problems(connection: Connection) -> list[Any]:
    return connection.execute("select * from insights_verify()").fetchall()


def usable(connection: Connection) -> bool:
    return bool(one(connection, "select usable from insights_status()"))


def uses_index(connection: Connection) -> bool:
    steps = connection.execute(
        "select step, detail from insights_explain(array['1'], 'tags.a = ''v''')"
    ).fetchall()
    return not any(step == "index" and "not used" in detail for step, detail in steps)


def counts(connection: Connection) -> list[int]:
    return [one(connection, "select insights_count(array['1'], %s)", filter) for filter in FILTERS]


def truth(connection: Connection) -> list[int]:
    """The same counts where there is no index at all."""
    with connection.transaction(force_rollback=True):
        connection.execute("update insights.state set built = false")
        return counts(connection)


def put(connection: Connection) -> None:
    """Traces with a row or two in each table, indexed."""
    traces = [
        Trace(
            f"t{n}",
            experiment_id=1,
            timestamp_ms=1000 + n,
            tags={"a": "v", "b": "v"},
            metadata={"m": "v"},
            spans=(Span("1", "{}", name="one"), Span("2", "{}", name="two")),
            assessments=(Assessment("feedback", "f", '"good"'),),
        )
        for n in range(12)
    ]
    load(connection, World((Experiment(1), Experiment(2)), tuple(traces)))
    connection.execute("delete from entity_associations")
    connection.execute(
        "insert into entity_associations (association_id, source_type, source_id,"
        " destination_type, destination_id) select 'l' || request_id, 'trace', request_id,"
        " 'run', 'r' from trace_info"
    )
    refreshed(connection)
    assert problems(connection) == []
    assert usable(connection)
    assert uses_index(connection)


def change(connection: Connection, name: str) -> None:
    for statement in CHANGES[name].split(";"):
        connection.execute(statement.encode())


def disabled(connection: Connection, changed: Callable[[], None]) -> None:
    for table in TABLES:
        connection.execute(f"alter table {table} disable trigger insights_change".encode())
    changed()
    for table in TABLES:
        connection.execute(f"alter table {table} enable always trigger insights_change".encode())


def disabled_in_one_transaction(connection: Connection, changed: Callable[[], None]) -> None:
    with connection.transaction():
        disabled(connection, changed)


def locked(connection: Connection, changed: Callable[[], None]) -> None:
    with (
        psycopg.connect(connection.info.dsn, password=connection.info.password) as other,
        other.transaction(),
    ):
        other.execute("lock table insights.pending")
        changed()


def replaced(connection: Connection, changed: Callable[[], None]) -> None:
    definitions = connection.execute(
        "select pg_get_triggerdef(t.oid), t.tgrelid::regclass::text from pg_trigger t"
        " where t.tgname = 'insights_change'"
    ).fetchall()
    for _, table in definitions:
        connection.execute(f"drop trigger insights_change on {table}".encode())
    changed()
    for definition, table in definitions:
        connection.execute(definition.encode())
        connection.execute(f"alter table {table} enable always trigger insights_change".encode())


GAPS = {gap.__name__: gap for gap in (disabled, disabled_in_one_transaction, locked, replaced)}


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("name", CHANGES)
def test_a_refresh_catches_up(module_conn: Connection, gap: str, name: str) -> None:
    put(module_conn)
    GAPS[gap](module_conn, lambda: change(module_conn, name))
    assert not usable(module_conn)
    assert not uses_index(module_conn)
    expected = truth(module_conn)
    assert counts(module_conn) == expected
    blocks = one(module_conn, "select min(block) from insights.block")
    refreshed(module_conn)
    assert usable(module_conn)
    assert uses_index(module_conn)
    assert counts(module_conn) == expected
    assert problems(module_conn) == []
    # Not by building it anew.
    assert one(module_conn, "select min(block) from insights.block") == blocks


@pytest.mark.parametrize(
    "statement",
    [
        "alter table trace_tags alter column value type varchar(8000) using upper(value)",
        "alter table spans alter column name type text using name || '!'",
        "truncate trace_tags",
        "truncate trace_info cascade",
        "alter table trace_tags rename to old_tags;"
        " create table trace_tags (like old_tags including all);"
        " insert into trace_tags select key, upper(value), request_id from old_tags",
        "create table more () inherits (trace_tags);"
        " insert into more (request_id, key, value) values ('t1', 'c', 'v')",
    ],
)
def test_what_becomes_of_a_table_is_seen(mlflow_conn: Connection, statement: str) -> None:
    put(mlflow_conn)
    for part in statement.split(";"):
        mlflow_conn.execute(part.encode())
    assert not usable(mlflow_conn)
    assert counts(mlflow_conn) == truth(mlflow_conn)


@pytest.fixture
def mlflow_conn(conn: Connection) -> Connection:
    return conn


def test_rows_of_children_are_never_taken_for_indexed(mlflow_conn: Connection) -> None:
    """No trigger of a table sees what happens to its children's rows."""
    put(mlflow_conn)
    mlflow_conn.execute("create table more () inherits (trace_tags)")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        mlflow_conn.execute("select * from insights_refresh()")
    mlflow_conn.execute("insert into more (request_id, key, value) values ('t1', 'c', 'v')")
    assert counts(mlflow_conn) == truth(mlflow_conn)
    assert not usable(mlflow_conn)
    mlflow_conn.execute("drop table more")
    refreshed(mlflow_conn)
    assert usable(mlflow_conn)
    assert problems(mlflow_conn) == []


@pytest.mark.parametrize(
    "statement",
    [
        "alter table trace_tags disable trigger insights_change",
        "alter table trace_tags enable trigger insights_change",
        "alter table trace_tags enable replica trigger insights_change",
        "drop trigger insights_change on spans",
        "drop trigger insights_truncate on spans",
        "alter trigger insights_change on spans rename to other",
        "create or replace trigger insights_change after insert on spans"
        " for each row execute function insights.note_change('trace_id')",
        "create or replace trigger insights_change after insert or update or delete on spans"
        " for each row execute function insights.note_change('span_id')",
    ],
)
def test_a_trigger_that_is_not_as_it_should_be_is_named(
    mlflow_conn: Connection, statement: str
) -> None:
    put(mlflow_conn)
    mlflow_conn.execute(statement.encode())
    assert not usable(mlflow_conn)
    assert one(mlflow_conn, "select unwatched from insights_status()") is not None
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        mlflow_conn.execute("select * from insights_refresh()")
    assert "no trigger insights_" in str(caught.value.diag.message_primary)
    assert "insights install" in str(caught.value.diag.message_hint)
    assert any("no trigger" in problem for _, problem in problems(mlflow_conn))


def test_it_waits_for_those_who_missed_something(module_conn: Connection, module_dsn: str) -> None:
    put(module_conn)
    with psycopg.connect(module_dsn) as writer:
        with psycopg.connect(module_dsn) as other:
            other.execute("lock table insights.pending")
            writer.execute("update trace_tags set value = 'z' where request_id = 't1'")
            other.rollback()
        for _ in range(3):
            assert one(module_conn, "select busy from insights_refresh()") is True
            assert not usable(module_conn)
        writer.commit()
    expected = truth(module_conn)
    refreshed(module_conn)
    assert usable(module_conn)
    assert counts(module_conn) == expected
    assert problems(module_conn) == []


def test_what_is_missed_while_it_waits_is_made_up_for(
    module_conn: Connection, module_dsn: str
) -> None:
    put(module_conn)
    with psycopg.connect(module_dsn) as old:
        old.execute("select pg_current_xact_id()")
        module_conn.execute("select nextval('insights.missed')")
        assert one(module_conn, "select busy from insights_refresh()") is True
        disabled(module_conn, lambda: change(module_conn, "a tag gone"))
        assert one(module_conn, "select busy from insights_refresh()") is True
        old.rollback()
    expected = truth(module_conn)
    refreshed(module_conn)
    assert counts(module_conn) == expected
    assert problems(module_conn) == []


def test_an_index_of_another_database_is_built_anew(module_conn: Connection) -> None:
    """As after a restored dump: its transactions have other numbers."""
    put(module_conn)
    before = one(module_conn, "select max(block) from insights.block")
    module_conn.execute("update insights.state set identity = '1 2 3', fingerprint = 'of another'")
    assert not usable(module_conn)
    refreshed(module_conn)
    for _ in range(5):
        refreshed(module_conn)
    assert usable(module_conn)
    assert one(module_conn, "select min(block) from insights.block") > before
    assert problems(module_conn) == []


def test_an_idle_refresh_writes_nothing(module_conn: Connection) -> None:
    put(module_conn)
    before = module_conn.execute("select xmin, ctid, * from insights.state").fetchone()
    refreshed(module_conn)
    assert module_conn.execute("select xmin, ctid, * from insights.state").fetchone() == before


def test_a_serialization_failure_is_not_swallowed(module_conn: Connection, module_dsn: str) -> None:
    """A transaction that PostgreSQL has given up cannot be noted, and need not be."""
    put(module_conn)
    before = one(module_conn, "select last_value from insights.missed")
    level = psycopg.IsolationLevel.SERIALIZABLE
    failed = 0
    for attempt in range(20):
        with psycopg.connect(module_dsn) as first, psycopg.connect(module_dsn) as second:
            first.isolation_level = second.isolation_level = level
            try:
                # Each reads what the other writes, and the index in between.
                for one_ in (first, second):
                    one_.execute("select insights_count(array['1'], 'tags.a = ''v''')")
                    one_.execute("select count(*) from trace_tags")
                first.execute(
                    "update trace_tags set value = %s where request_id = 't1'", [str(attempt)]
                )
                second.execute(
                    "update trace_tags set value = %s where request_id = 't2'", [str(attempt)]
                )
                first.commit()
                second.execute("insert into trace_tags values ('x', 'y', 't2')")
                second.commit()
            except psycopg.errors.SerializationFailure:
                failed += 1
    assert failed
    assert one(module_conn, "select last_value from insights.missed") == before
    assert usable(module_conn)


def test_a_session_sees_at_once_what_another_has_done(
    module_conn: Connection, module_dsn: str
) -> None:
    """Within a transaction, too, whose statements each have a snapshot of their own."""
    put(module_conn)
    with psycopg.connect(module_dsn) as reader:
        for _ in range(3):
            assert uses_index(reader)
        module_conn.execute("alter table trace_tags disable trigger insights_change")
        try:
            assert not uses_index(reader)
        finally:
            module_conn.execute("alter table trace_tags enable always trigger insights_change")
        assert not uses_index(reader)
        reader.execute("alter table spans disable trigger insights_change")
        assert not uses_index(reader)
        reader.rollback()
    refreshed(module_conn)
    with psycopg.connect(module_dsn) as reader:
        assert uses_index(reader)
        reader.execute("alter table spans disable trigger insights_change")
        assert not uses_index(reader)
        reader.rollback()
        assert uses_index(reader)


# --------------------------------------------------------------- who writes the index


def test_a_rebuild_keeps_others_away_between_its_transactions(
    module_conn: Connection, module_dsn: str
) -> None:
    put(module_conn)
    with psycopg.connect(module_dsn, autocommit=True) as rebuilding:
        assert one(rebuilding, "select busy from insights.run_rebuild(10, leased => true)") is False
        for ask in (
            "select busy from insights_refresh()",
            "select busy from insights.build_batch(10)",
            "select busy from insights.run_rebuild(10)",
        ):
            assert one(module_conn, ask) is True
        # Itself it is in nobody's way, and it is not waited for without an end.
        assert one(rebuilding, "select busy from insights.build_batch(10, leased => true)") is False
        module_conn.execute("update insights.lease set renewed_at = now() - interval '11 seconds'")
        assert one(module_conn, "select busy from insights.build_batch(10)") is False
    refreshed(module_conn)


def test_a_rebuild_leaves_nothing_behind(module_conn: Connection) -> None:
    put(module_conn)
    change(module_conn, "another tag")
    module_conn.execute("call insights_rebuild(5)")
    # Nor what was noted before it began.
    assert one(module_conn, "select count(*) from insights.pending") == 0
    lease = module_conn.execute("select process, renewed_at from insights.lease").fetchone()
    assert lease == (None, None)
    assert usable(module_conn)
    assert problems(module_conn) == []


def test_an_interrupted_rebuild_is_finished_by_refreshes(module_conn: Connection) -> None:
    put(module_conn)
    one(module_conn, "select busy from insights.run_rebuild(10)")
    assert not usable(module_conn)
    for _ in range(10):
        refreshed(module_conn)
    assert usable(module_conn)
    assert problems(module_conn) == []
