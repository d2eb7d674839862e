"""The triggers on MLflow's tables: they note every change and never harm a statement."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import READER

Connection = psycopg.Connection[Any]

#: A statement for each table that adds a row to trace {0}, which exists.
INSERTS = {
    "trace_tags": "insert into trace_tags (request_id, key, value) values ('{0}', 'k', 'v')",
    "trace_request_metadata": "insert into trace_request_metadata (request_id, key, value)"
    " values ('{0}', 'k', 'v')",
    "spans": "insert into spans (trace_id, experiment_id, span_id, status, start_time_unix_nano,"
    " content) values ('{0}', 1, 's', 'OK', 0, '')",
    "assessments": "insert into assessments (assessment_id, trace_id, name, assessment_type, value,"
    " created_timestamp, last_updated_timestamp, source_type, valid)"
    " values ('a-{0}', '{0}', 'n', 'feedback', '1', 0, 0, 'HUMAN', true)",
    "entity_associations": "insert into entity_associations (association_id, source_type,"
    " source_id, destination_type, destination_id) values ('x-{0}', 'trace', '{0}', 'run', 'r')",
}
KEYS = {
    "trace_info": "request_id",
    "trace_tags": "request_id",
    "trace_request_metadata": "request_id",
    "spans": "trace_id",
    "assessments": "trace_id",
    "entity_associations": "source_id",
}
#: Changes a column that is in no key.
CHANGES = {
    "trace_info": "status",
    "trace_tags": "value",
    "trace_request_metadata": "value",
    "spans": "status",
    "assessments": "value",
    "entity_associations": "destination_id",
}


def add_traces(connection: Connection, *ids: str) -> None:
    connection.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
        " select id, 1, 0, 'OK' from unnest(%s::text[]) id",
        [list(ids)],
    )


def pending(connection: Connection) -> list[str]:
    """What is noted, with repetitions; it is forgotten."""
    return sorted(
        row[0] for row in connection.execute("delete from insights.pending returning trace_id")
    )


def missed(connection: Connection) -> int:
    row = connection.execute("select last_value from insights.missed").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def traces(module_conn: Connection) -> Iterator[Connection]:
    """Traces a, b and c, of which nothing is noted yet."""
    module_conn.execute("delete from entity_associations")
    module_conn.execute("delete from trace_info")
    module_conn.execute(
        "insert into experiments (experiment_id, name, lifecycle_stage) values (1, 'e', 'active')"
        " on conflict do nothing"
    )
    add_traces(module_conn, "a", "b", "c")
    module_conn.execute("delete from insights.pending")
    before = missed(module_conn)
    yield module_conn
    module_conn.execute("select setval('insights.missed', %s)", [before])


@contextmanager
def other_session(connection: Connection) -> Iterator[Connection]:
    with psycopg.connect(
        connection.info.dsn, password=connection.info.password, autocommit=True
    ) as other:
        yield other


# -------------------------------------------------------------- what is noted


@pytest.mark.parametrize("table", INSERTS)
def test_each_kind_of_change_is_noted(traces: Connection, table: str) -> None:
    traces.execute(INSERTS[table].format("a").encode())
    assert pending(traces) == ["a"]
    traces.execute(f"update {table} set {CHANGES[table]} = '2' where {KEYS[table]} = 'a'".encode())
    assert pending(traces) == ["a"]
    traces.execute(f"update {table} set {KEYS[table]} = 'b' where {KEYS[table]} = 'a'".encode())
    assert pending(traces) == ["a", "b"]
    traces.execute(f"delete from {table} where {KEYS[table]} = 'b'".encode())
    assert pending(traces) == ["b"]
    assert missed(traces) == 0


def test_changes_of_the_trace_itself_are_noted(traces: Connection) -> None:
    add_traces(traces, "d")
    assert pending(traces) == ["d"]
    traces.execute("update trace_info set status = 'ERROR' where request_id in ('a', 'd')")
    assert pending(traces) == ["a", "d"]
    traces.execute("update trace_info set request_id = 'e' where request_id = 'd'")
    assert pending(traces) == ["d", "e"]
    traces.execute("delete from trace_info where request_id <> 'a'")
    assert pending(traces) == ["b", "c", "e"]


def test_a_statement_without_rows_notes_nothing(traces: Connection) -> None:
    traces.execute("update trace_info set status = 'OK' where false")
    traces.execute("delete from spans")
    traces.execute("insert into trace_tags (request_id, key) select '', '' where false")
    assert pending(traces) == []


def test_only_associations_of_traces_are_noted(traces: Connection) -> None:
    traces.execute(INSERTS["entity_associations"].format("a").replace("'trace'", "'run'").encode())
    assert pending(traces) == []
    traces.execute("update entity_associations set source_type = 'trace'")
    assert pending(traces) == ["a"]
    traces.execute("update entity_associations set source_type = 'run'")
    assert pending(traces) == ["a"]
    traces.execute("delete from entity_associations")
    assert pending(traces) == []


def test_many_rows_are_noted_once_a_trace(traces: Connection) -> None:
    with traces.cursor().copy("copy trace_tags (request_id, key, value) from stdin") as copy:
        for number in range(3000):
            copy.write_row(("abc"[number % 3], str(number), "v"))
    assert pending(traces) == ["a", "b", "c"]
    traces.execute("update trace_tags set value = 'w'")
    assert pending(traces) == ["a", "b", "c"]
    traces.execute("delete from trace_tags where request_id <> 'a'")
    assert pending(traces) == ["b", "c"]


def test_upserts_are_noted(traces: Connection) -> None:
    upsert = (
        "insert into trace_tags (request_id, key, value) values ('a', 'k', 'v'), ('b', 'k', 'v')"
        " on conflict (key, request_id) do update set value = 'w'"
    )
    traces.execute(INSERTS["trace_tags"].format("a").encode())
    pending(traces)
    traces.execute(upsert.encode())
    assert set(pending(traces)) == {"a", "b"}


def test_cascades_are_noted(traces: Connection) -> None:
    for table in INSERTS:
        traces.execute(INSERTS[table].format("a").encode())
    pending(traces)
    traces.execute("delete from trace_info where request_id = 'a'")
    assert set(pending(traces)) == {"a"}
    traces.execute("delete from spans")
    traces.execute("delete from experiments where experiment_id = 1")
    assert set(pending(traces)) == {"b", "c"}


def test_truncate_counts_as_missed(traces: Connection) -> None:
    before = missed(traces)
    for table in INSERTS:
        traces.execute(f"truncate {table} cascade".encode())
        assert missed(traces) > before
        before = missed(traces)
    traces.execute("truncate trace_info cascade")
    assert missed(traces) > before


def test_what_is_rolled_back_is_not_noted(traces: Connection) -> None:
    with traces.transaction(force_rollback=True):
        traces.execute(INSERTS["spans"].format("a").encode())
    assert pending(traces) == []
    with traces.transaction():
        traces.execute(INSERTS["spans"].format("a").encode())
        with traces.transaction(force_rollback=True):
            traces.execute(INSERTS["trace_tags"].format("b").encode())
        traces.execute(INSERTS["trace_tags"].format("c").encode())
    assert pending(traces) == ["a", "c"]
    assert missed(traces) == 0


def test_a_trace_that_a_savepoint_took_back_is_noted_when_it_changes_again(
    traces: Connection,
) -> None:
    with traces.transaction():
        with traces.transaction(force_rollback=True):
            traces.execute(INSERTS["trace_tags"].format("a").encode())
        traces.execute(INSERTS["spans"].format("a").encode())
    assert pending(traces) == ["a"]


def test_a_transaction_notes_a_trace_once(traces: Connection) -> None:
    with traces.transaction():
        for insert in INSERTS.values():
            traces.execute(insert.format("a").encode())
        traces.execute("update trace_info set status = 'ERROR' where request_id = 'a'")
    assert pending(traces) == ["a"]
    traces.execute("update trace_info set status = 'OK' where request_id = 'a'")
    assert pending(traces) == ["a"]


def test_what_was_noted_before_a_savepoint_stays_noted(traces: Connection) -> None:
    with traces.transaction():
        traces.execute(INSERTS["trace_tags"].format("a").encode())
        with traces.transaction(force_rollback=True):
            traces.execute(INSERTS["trace_tags"].format("b").encode())
        traces.execute(INSERTS["spans"].format("a").encode())
        traces.execute(INSERTS["spans"].format("b").encode())
    assert pending(traces) == ["a", "b"]


def test_a_trace_whose_note_is_taken_in_the_same_transaction_is_noted_again(
    traces: Connection,
) -> None:
    """As by a refresh after a change, with another change behind it."""
    with traces.transaction():
        traces.execute(INSERTS["trace_tags"].format("a").encode())
        assert pending(traces) == ["a"]
        traces.execute(INSERTS["spans"].format("a").encode())
        assert pending(traces) == ["a"]
        traces.execute(INSERTS["assessments"].format("a").encode())
        traces.execute("select * from insights_refresh()")
        traces.execute("update trace_tags set value = 'w'")
    assert pending(traces) == ["a"]


@pytest.mark.parametrize("level", list(psycopg.IsolationLevel))
def test_every_isolation_level(traces: Connection, level: psycopg.IsolationLevel) -> None:
    with other_session(traces) as other:
        other.isolation_level = level
        with other.transaction():
            other.execute(INSERTS["trace_tags"].format("a").encode())
    assert pending(traces) == ["a"]


# ----------------------------------------------------------- nothing is harmed


@contextmanager
def locked(connection: Connection, *statements: str) -> Iterator[None]:
    """While another session holds what these statements lock."""
    with other_session(connection) as other, other.transaction(force_rollback=True):
        for statement in statements:
            other.execute(statement.encode())
        yield


def write_everywhere(connection: Connection, trace_id: str) -> float:
    """Writes to every table; the longest statement in seconds."""
    statements = [
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
        f" values ('{trace_id}', 1, 0, 'OK')",
        *(insert.format(trace_id) for insert in INSERTS.values()),
        *(
            f"update {table} set {CHANGES[table]} = 'x' where {KEYS[table]} = '{trace_id}'"
            for table in KEYS
        ),
        f"delete from entity_associations where source_id = '{trace_id}'",
        f"delete from trace_info where request_id = '{trace_id}'",
    ]
    longest = 0.0
    for statement in statements:
        begin = time.monotonic()
        connection.execute(statement.encode())
        longest = max(longest, time.monotonic() - begin)
    return longest


@pytest.mark.parametrize("mode", ["share", "share row exclusive", "exclusive", "access exclusive"])
def test_a_locked_queue_holds_nobody_up(traces: Connection, mode: str) -> None:
    write_everywhere(traces, "warm")
    pending(traces)
    with locked(traces, f"lock table insights.pending in {mode} mode"):
        assert write_everywhere(traces, "d") < 0.2
        assert missed(traces) >= 12
    assert pending(traces) == []


def test_every_table_of_ours_locked_holds_nobody_up(traces: Connection) -> None:
    write_everywhere(traces, "warm")
    tables = traces.execute(
        "select string_agg(oid::regclass::text, ', ') from pg_class"
        " where relnamespace = 'insights'::regnamespace and relkind = 'r'"
    ).fetchone()
    assert tables is not None
    with locked(traces, f"lock table {tables[0]} in access exclusive mode"):
        assert write_everywhere(traces, "d") < 0.2
    assert missed(traces) >= 12


def test_somebody_who_waits_for_the_queue_holds_nobody_up(traces: Connection) -> None:
    """A lock that is only asked for makes later ones wait as well."""
    with other_session(traces) as holder, other_session(traces) as waiter:
        with holder.transaction():
            holder.execute(INSERTS["trace_tags"].format("a").encode())
            thread = threading.Thread(
                target=lambda: waiter.execute("lock table insights.pending"), daemon=True
            )
            waiter.autocommit = False
            thread.start()
            while traces.execute("select from pg_locks where not granted").fetchone() is None:
                time.sleep(0.01)
            assert write_everywhere(traces, "d") < 0.2
        thread.join()
        waiter.rollback()
    assert missed(traces) >= 12


def test_with_queue_and_counter_locked_it_takes_a_second_at_most(traces: Connection) -> None:
    with locked(
        traces,
        "lock table insights.pending in access exclusive mode",
        "alter sequence insights.missed increment 1",
    ):
        begin = time.monotonic()
        traces.execute(INSERTS["spans"].format("a").encode())
        assert time.monotonic() - begin < 1.5


def test_the_users_own_timeout_still_ends_the_statement(traces: Connection) -> None:
    with (
        locked(
            traces,
            "lock table insights.pending in access exclusive mode",
            "alter sequence insights.missed increment 1",
        ),
        traces.transaction(force_rollback=True),
    ):
        traces.execute("set local statement_timeout = '100ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            traces.execute(INSERTS["spans"].format("a").encode())


def test_settings_of_the_session_stay_as_they_are(traces: Connection) -> None:
    names = ("lock_timeout", "search_path", "statement_timeout")
    show = "select " + ", ".join(f"current_setting('{name}')" for name in names)
    with traces.transaction():
        traces.execute("set local lock_timeout = '7s'")
        before = traces.execute(show.encode()).fetchone()
        write_everywhere(traces, "d")
        assert traces.execute(show.encode()).fetchone() == before


def test_writers_do_not_wait_for_each_other(traces: Connection) -> None:
    with other_session(traces) as other, other.transaction():
        other.execute(INSERTS["spans"].format("a").encode())
        assert write_everywhere(traces, "d") < 0.2
    assert {"a", "d"} == set(pending(traces))
    assert missed(traces) == 0


def test_garbage_in_the_queue_changes_nothing(traces: Connection) -> None:
    traces.execute(
        "insert into insights.pending (trace_id, transaction, noted_at)"
        " select repeat(chr(1 + i % 1000), i % 300), i::text::xid8, 'infinity'"
        " from generate_series(1, 50000) i"
    )
    assert write_everywhere(traces, "d") < 0.2
    assert "d" in pending(traces)
    assert missed(traces) == 0


def _objects() -> list[str]:
    tables = (
        "block trace signature term vocabulary posting carrier pending state lease installation"
    )
    functions = "note_change note_missed may_read fingerprint load_engine"
    return [
        *(f"table insights.{name}" for name in tables.split()),
        *(f"function insights.{name}()" for name in functions.split()),
        "sequence insights.missed",
        "schema insights",
    ]


@pytest.mark.parametrize("lost", _objects())
@pytest.mark.parametrize("warm", [False, True])
def test_a_half_dropped_schema_harms_nothing(
    traces: Connection, module_dsn: str, lost: str, warm: bool
) -> None:
    with psycopg.connect(module_dsn) as session:
        if warm:
            write_everywhere(session, "warm")
        session.execute(f"drop {lost} cascade".encode())
        write_everywhere(session, "d")
        session.execute("truncate trace_tags")
        session.rollback()


def test_without_queue_and_counter_nothing_is_harmed(traces: Connection) -> None:
    with traces.transaction(force_rollback=True):
        traces.execute("drop table insights.pending")
        traces.execute("drop sequence insights.missed")
        write_everywhere(traces, "d")
        traces.execute("truncate trace_tags")


@pytest.mark.parametrize(
    "damage",
    [
        "drop table insights.pending",
        "alter table insights.pending drop column trace_id",
        "alter table insights.pending add column more int not null",
        "alter table insights.pending alter trace_id type int using 0",
        "alter table insights.pending add check (trace_id <> 'd') not valid",
        "alter table insights.pending rename to other",
        "create rule nothing as on insert to insights.pending do instead select 1/0",
    ],
)
def test_a_damaged_queue_is_counted(traces: Connection, damage: str) -> None:
    write_everywhere(traces, "warm")
    pending(traces)
    with traces.transaction(force_rollback=True):
        traces.execute(damage.encode())
        write_everywhere(traces, "d")
        assert missed(traces) >= 12


def test_a_renamed_column_of_mlflows_is_counted(traces: Connection) -> None:
    """As one of MLflow's migrations might do it."""
    with traces.transaction(force_rollback=True):
        traces.execute("alter table spans rename trace_id to other_id")
        traces.execute(INSERTS["spans"].format("a").replace("trace_id", "other_id").encode())
        assert missed(traces) == 1


#: Ids that would have to be quoted, or that are parts of each other.
ODD_IDS = ["NULL", "", 'a"b', "a,b", "a", "b", "{a}", "a\\", 'a\\"', " a ", "ä\n"]


def test_ids_of_any_spelling_are_noted_once(traces: Connection) -> None:
    ids = [trace_id for trace_id in ODD_IDS if trace_id not in ("a", "b")]
    with traces.transaction():
        add_traces(traces, *ids)
        for _ in range(2):
            for trace_id in ODD_IDS:
                traces.execute(
                    "update trace_info set status = 'ERROR' where request_id = %s", [trace_id]
                )
    assert pending(traces) == sorted(ODD_IDS)
    assert missed(traces) == 0


def test_more_traces_than_a_transaction_remembers_are_all_noted(traces: Connection) -> None:
    ids = [f"tr-{number:032x}" for number in range(100)]
    with traces.transaction():
        add_traces(traces, *ids)
        for trace_id in reversed(ids):
            traces.execute(INSERTS["spans"].format(trace_id).encode())
    assert set(pending(traces)) == set(ids)
    with traces.transaction():
        for trace_id in ids[:20] * 3:
            traces.execute("update spans set status = 'ERROR' where trace_id = %s", [trace_id])
    assert pending(traces) == ids[:20]
    traces.execute("delete from trace_info where request_id <> 'a'")
    assert set(pending(traces)) == {*ids, "b", "c"}
    assert missed(traces) == 0


@pytest.mark.parametrize("setting", ['"d"', "d", "{", '}{"', ""])
def test_nothing_that_a_user_sets_keeps_a_change_from_being_noted(
    traces: Connection, setting: str
) -> None:
    """A list of what this transaction has noted was once kept in a setting of this name."""
    with traces.transaction():
        traces.execute("select set_config('insights.noted', %s, false)", [setting])
        write_everywhere(traces, "d")
    assert pending(traces) == ["d"]
    assert missed(traces) == 0


@pytest.mark.parametrize("table", KEYS)
def test_mlflow_can_change_its_columns(traces: Connection, table: str) -> None:
    """As its migrations might do it; a WHEN or a list of columns would stand in the way."""
    rows = traces.execute(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
        " and atttypid = 'varchar'::regtype",
        [table],
    ).fetchall()
    columns = [row[0] for row in rows]
    assert KEYS[table] in columns
    for column in columns:
        with traces.transaction(force_rollback=True):
            traces.execute(f"alter table {table} alter {column} type text".encode())
            traces.execute(f"alter table {table} rename {column} to other".encode())
            traces.execute(f"delete from {table}".encode())


# ------------------------------------------------------------------ privileges


@contextmanager
def role(connection: Connection, *grants: str) -> Iterator[str]:
    """A new role with these rights."""
    connection.execute("create role somebody")
    try:
        for grant in grants:
            connection.execute(f"grant {grant} to somebody".encode())
        yield "somebody"
    finally:
        connection.execute("reset role")
        connection.execute("drop owned by somebody")
        connection.execute("drop role somebody")


INDEX_TABLES = [
    "block",
    "trace",
    "signature",
    "term",
    "vocabulary",
    "posting",
    "cells",
    "sessions",
    "carrier",
    "pending",
    "state",
    "lease",
]


def seen(connection: Connection) -> dict[str, int]:
    """How many rows of each index table the present role sees."""
    found = {}
    for table in INDEX_TABLES:
        row = connection.execute(f"select count(*) from insights.{table}".encode()).fetchone()
        assert row is not None
        found[table] = row[0]
    return found


@pytest.fixture
def filled(traces: Connection) -> Iterator[Connection]:
    """An index with a row in each table."""
    with traces.transaction(force_rollback=True):
        for table in INDEX_TABLES[:-2]:
            traces.execute(f"delete from insights.{table}".encode())
        for statement in (
            "insert into insights.block (experiment_id, used, live, live_count, first_ms, last_ms)"
            " values (1, 1, '', 1, 0, 0)",
            "insert into insights.trace values ('a', 1, 0, 0)",
            "insert into insights.signature (status) values ('OK')",
            "insert into insights.term (kind, key, signature, role, slot, value)"
            " values ('tag', 'k', 0, 'v', 0, 'secret')",
            "insert into insights.vocabulary values ('tag', 'k', 1)",
            "insert into insights.posting values (1, 1, '')",
            "insert into insights.cells values (1, 'tag', 'k', '', '{1}', '[[1, 2]]', '{}')",
            "insert into insights.sessions values (1, '{s}', '')",
            "insert into insights.carrier values ('a', 's')",
            "insert into insights.pending values ('a')",
        ):
            traces.execute(statement.encode())
        yield traces


def test_mlflows_role_needs_no_rights_on_the_index(traces: Connection) -> None:
    rights = "select, insert, update, delete on all tables in schema public"
    with role(traces, rights) as name, traces.transaction(force_rollback=True):
        traces.execute("revoke usage on schema insights from public")
        traces.execute(sql.SQL("set local role {}").format(sql.Identifier(name)))
        write_everywhere(traces, "d")
        traces.execute("reset role")
        assert set(pending(traces)) == {"d"}
        assert missed(traces) == 0


def test_only_the_group_of_readers_may_read_the_index(filled: Connection) -> None:
    """Not even how many rows a condition leaves, which EXPLAIN tells of what one may read."""
    relations = [
        row[0]
        for row in filled.execute(
            "select c.oid::regclass::text from pg_class c where c.relkind in ('r', 'v', 'S', 'm')"
            " and c.relnamespace = 'insights'::regnamespace"
            " and c.relname not in ('installation', 'alembic_version')"
        )
    ]
    assert len(relations) > len(INDEX_TABLES)
    with savepoint_role(filled, "select on all tables in schema public") as name:
        filled.execute(sql.SQL("set local role {}").format(sql.Identifier(name)))
        for relation in relations:
            for statement in (
                f"select from {relation} limit 0",
                f"explain select from {relation}",
                f"lock table {relation} in access share mode",
            ):
                # Sequences cannot be locked by anybody.
                refusals = (psycopg.errors.InsufficientPrivilege, psycopg.errors.WrongObjectType)
                with pytest.raises(refusals), filled.transaction():
                    filled.execute(statement.encode())
        found = filled.execute(
            "select count(*) from pg_stats where schemaname = 'insights'"
            " and tablename not in ('installation', 'alembic_version')"
        ).fetchone()
        assert found == (0,)


def test_a_reader_sees_everything_and_changes_nothing(filled: Connection) -> None:
    filled.execute(sql.SQL("set local role {}").format(sql.Identifier(READER)))
    assert set(seen(filled).values()) == {1}
    for table in INDEX_TABLES:
        for statement in (f"delete from insights.{table}", f"truncate insights.{table}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), filled.transaction():
                filled.execute(statement.encode())
    for statement in (
        "insert into insights.pending values ('x')",
        "update insights.state set built = false",
        "select nextval('insights.missed')",
        "select setval('insights.missed', 0)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), filled.transaction():
            filled.execute(statement.encode())


def test_nobody_can_use_the_trigger_functions_for_tables_of_their_own(
    traces: Connection,
) -> None:
    with role(traces, "create, usage on schema public") as name:
        traces.execute(sql.SQL("set role {}").format(sql.Identifier(name)))
        traces.execute("create table mine (trace_id text)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            traces.execute(
                "create trigger mine after insert on mine referencing new table as new_rows"
                " for each statement execute function insights.note_change('trace_id')"
            )


@contextmanager
def savepoint_role(connection: Connection, *grants: str) -> Iterator[str]:
    """A role of a transaction that is rolled back."""
    connection.execute("create role passing")
    for grant in grants:
        connection.execute(f"grant {grant} to passing".encode())
    yield "passing"
    connection.execute("reset role")
