"""Installing and uninstalling, and all that can stand in the way."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import mlflow.store.db_migrations
import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql

from insights_py import bundles, checks, contract
from insights_py.doctor import doctor
from insights_py.errors import InsightsError
from insights_py.install import InstallError, Outcome, install, installed_revision, uninstall
from tests.conftest import Databases
from tests.migrations.catalogue import dump, objects, ours, restore


@pytest.fixture
def mlflow_conn(mlflow_only_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(mlflow_only_dsn, autocommit=True) as connection:
        yield connection


def refused(databases: Databases, dsn: str, schema: str | None = None) -> InstallError:
    """The error of an installation that must fail and must change nothing."""
    before = dump(databases, dsn)
    with pytest.raises(InstallError) as caught:
        install(dsn, schema)
    assert dump(databases, dsn) == before
    assert caught.value.hint
    # A sentence of its own: a remedy may end with a command, without a full stop.
    assert not re.search(r"[^.] Nothing was changed", caught.value.hint)
    return caught.value


def alembic(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command ``alembic`` as a user runs it."""
    config = str(bundles.migrations().parent / "alembic.ini")
    return subprocess.run(
        [sys.executable, "-m", "alembic", "-c", config, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


# ------------------------------------------------------------------- it works


def test_pg_dump_is_the_same_after_uninstalling(databases: Databases, mlflow_only_dsn: str) -> None:
    before = dump(databases, mlflow_only_dsn)
    assert install(mlflow_only_dsn).changed
    assert dump(databases, mlflow_only_dsn) != before
    assert uninstall(mlflow_only_dsn).changed
    assert dump(databases, mlflow_only_dsn) == before


@pytest.mark.parametrize("extension", ["plpython3u", "pg_trgm"])
def test_an_extension_that_was_there_stays(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection, extension: str
) -> None:
    mlflow_conn.execute(sql.SQL("create extension {}").format(sql.Identifier(extension)))
    before = dump(databases, mlflow_only_dsn)
    install(mlflow_only_dsn)
    uninstall(mlflow_only_dsn)
    assert dump(databases, mlflow_only_dsn) == before


def test_an_extension_that_is_in_use_stays(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    install(mlflow_only_dsn)
    mlflow_conn.execute("create function mine() returns int language plpython3u as $$ return 1 $$")
    uninstall(mlflow_only_dsn)
    assert mlflow_conn.execute("select mine()").fetchone() == (1,)
    assert "extension plpython3u" in objects(mlflow_conn)
    assert "extension pg_trgm" not in objects(mlflow_conn)


def test_repeating_changes_nothing(mlflow_only_dsn: str, mlflow_conn: psycopg.Connection) -> None:
    first = install(mlflow_only_dsn)
    rows = "select xmin, oid from pg_proc where proname like 'insights_%' order by 2"
    before = objects(mlflow_conn), mlflow_conn.execute(rows).fetchall()
    second = install(mlflow_only_dsn)
    assert (first.before, second.before) == (None, first.after)
    assert not second.changed
    assert (objects(mlflow_conn), mlflow_conn.execute(rows).fetchall()) == before


def test_uninstalling_nothing_changes_nothing(databases: Databases, mlflow_only_dsn: str) -> None:
    before = dump(databases, mlflow_only_dsn)
    assert not uninstall(mlflow_only_dsn).changed
    assert dump(databases, mlflow_only_dsn) == before


def test_two_at_once(mlflow_only_dsn: str, mlflow_conn: psycopg.Connection) -> None:
    config = str(bundles.migrations().parent / "alembic.ini")
    code = (
        "import sys; from insights_py.install import install; print(install(sys.argv[1]).changed)"
    )
    commands = [
        [sys.executable, "-c", code, mlflow_only_dsn],
        [sys.executable, "-c", code, mlflow_only_dsn],
        [
            sys.executable,
            "-m",
            "alembic",
            "-c",
            config,
            "-x",
            f"dsn={mlflow_only_dsn}",
            "upgrade",
            "head",
        ],
    ]
    # All wait for this lock, so that none is done before the others begin.
    with psycopg.connect(mlflow_only_dsn) as blocker:
        blocker.execute("lock table alembic_version in access exclusive mode")
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for command in commands
        ]
        waiting = (0,)
        while waiting != (3,):
            time.sleep(0.05)
            assert all(process.poll() is None for process in running)
            waiting = mlflow_conn.execute(
                "select count(*) from pg_locks where not granted"
                " and pid in (select pid from pg_stat_activity where datname = current_database())"
            ).fetchone() or (0,)
    results = [(*process.communicate(timeout=120), process.returncode) for process in running]
    assert [code for _, _, code in results] == [0, 0, 0], results
    assert installed_revision(mlflow_conn) is not None
    assert mlflow_conn.execute("select count(*) from insights.installation").fetchone() == (1,)
    assert mlflow_conn.execute("select insights_count(null::text[], '')").fetchone() == (0,)


def test_alembic_does_the_same(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    before = dump(databases, mlflow_only_dsn)
    done = alembic("-x", f"dsn={mlflow_only_dsn}", "upgrade", "head")
    assert done.returncode == 0, done.stderr
    by_alembic = objects(mlflow_conn)
    done = alembic("-x", f"dsn={mlflow_only_dsn}", "current")
    assert "(head)" in done.stdout, done.stderr
    done = alembic("-x", f"dsn={mlflow_only_dsn}", "downgrade", "base")
    assert done.returncode == 0, done.stderr
    assert dump(databases, mlflow_only_dsn) == before
    install(mlflow_only_dsn)
    assert objects(mlflow_conn) == by_alembic


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+psycopg2", "postgres"])
def test_addresses_as_mlflow_writes_them(mlflow_only_dsn: str, scheme: str) -> None:
    assert install(mlflow_only_dsn.replace("postgresql", scheme, 1)).changed


@pytest.mark.parametrize("name", ["mlflow", "MLflow's own"[:6] + " own", "user", "zürich"])
def test_tables_in_another_schema(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection, name: str
) -> None:
    mlflow_conn.execute(sql.SQL("alter schema public rename to {}").format(sql.Identifier(name)))
    mlflow_conn.execute("create schema public")
    before = dump(databases, mlflow_only_dsn)
    assert name in str(refused(databases, mlflow_only_dsn))
    assert install(mlflow_only_dsn, name).mlflow_schema == name
    schema = sql.Identifier(name)
    count = sql.SQL("select {}.insights_count(null::text[], '')").format(schema)
    assert mlflow_conn.execute(count).fetchone() == (0,)
    search = sql.SQL("select * from {}.insights_search(null::text[], $$tags.a = 'b'$$)")
    assert mlflow_conn.execute(search.format(schema)).fetchall() == []
    assert all(check.ok for check in doctor(mlflow_only_dsn)), doctor(mlflow_only_dsn)
    uninstall(mlflow_only_dsn)
    assert dump(databases, mlflow_only_dsn) == before


def test_functions_of_the_users_with_such_names_survive(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    mlflow_conn.execute("create function insights_of_mine() returns int language sql as 'select 1'")
    install(mlflow_only_dsn)
    uninstall(mlflow_only_dsn)
    assert mlflow_conn.execute("select insights_of_mine()").fetchone() == (1,)


def test_the_index_of_an_empty_database_is_there_at_once(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    assert install(mlflow_only_dsn).index_built is True
    state = "select built, trusted = (select last_value from insights.missed) from insights.state"
    assert mlflow_conn.execute(state).fetchall() == [(True, True)]


def test_the_index_of_other_databases_is_yet_to_be_built(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    add_trace(mlflow_conn, "tr-before")
    assert install(mlflow_only_dsn).index_built is False
    assert mlflow_conn.execute("select built from insights.state").fetchall() == [(False,)]


def add_trace(connection: psycopg.Connection, trace_id: str) -> None:
    connection.execute(
        "insert into experiments (experiment_id, name, lifecycle_stage) values (7, 'e', 'active')"
        " on conflict do nothing"
    )
    connection.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
        " values (%s, 7, 0, 'OK')",
        [trace_id],
    )


def test_mlflow_goes_on_writing_meanwhile(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    """No statement fails, and no change is lost between the last look and the triggers."""
    add_trace(mlflow_conn, "tr-first")
    stop = threading.Event()
    failures: list[Exception] = []
    written: list[str] = []

    def write(name: str) -> None:
        with psycopg.connect(mlflow_only_dsn) as connection:
            for number in itertools.count():
                if stop.is_set():
                    return
                trace_id = f"tr-{name}-{number}"
                try:
                    # In MLflow's order, and against it.
                    if number % 2:
                        connection.execute(
                            "update trace_tags set value = 'w' where key = %s and request_id = %s",
                            [name, f"tr-{name}-{number - 1}"],
                        )
                    add_trace(connection, trace_id)
                    connection.execute(
                        "insert into trace_tags (request_id, key, value) values (%s, %s, 'v')",
                        [trace_id, name],
                    )
                    connection.commit()
                except psycopg.Error as error:
                    failures.append(error)
                    return
                written.append(trace_id)

    writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            install(mlflow_only_dsn)
            uninstall(mlflow_only_dsn)
        install(mlflow_only_dsn)
        time.sleep(0.5)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert failures == []
    assert len(written) > 50
    rows = mlflow_conn.execute(
        "select last_value = 0, (select count(*) from insights.pending) > 0 from insights.missed"
    ).fetchone()
    assert rows == (True, True)
    done = False
    while not done:
        row = mlflow_conn.execute("select done from insights.build_batch(500)").fetchone()
        done = row == (True,)
    mlflow_conn.execute("select insights_refresh(1000000)")
    assert mlflow_conn.execute("select * from insights_verify()").fetchall() == []
    count = "select (select count(*) from insights.trace) = (select count(*) from trace_info)"
    assert mlflow_conn.execute(count).fetchone() == (True,)


def test_a_long_transaction_on_mlflows_tables(
    databases: Databases, mlflow_only_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it changes could not be noted, so the installation waits, and then gives up."""
    monkeypatch.setattr("insights_py.install._PATIENCE", 0.5)
    with psycopg.connect(mlflow_only_dsn) as other:
        add_trace(other, "tr-open")
        error = refused(databases, mlflow_only_dsn)
        assert "in use" in str(error)
        add_trace(other, "tr-open-2")
    assert install(mlflow_only_dsn).changed
    with psycopg.connect(mlflow_only_dsn) as other:
        other.execute("select count(*) from spans")
        with pytest.raises(InstallError, match="in use"):
            uninstall(mlflow_only_dsn)
    assert uninstall(mlflow_only_dsn).changed


# ---------------------------------------------------------- what stands in the way


def test_a_database_that_is_not_mlflows(databases: Databases) -> None:
    dsn = databases.create()
    error = refused(databases, dsn)
    assert "has none" in str(error)
    assert "mlflow db upgrade" in str(error)
    done = alembic("-x", f"dsn={dsn}", "upgrade", "head")
    assert done.returncode != 0
    assert "mlflow db upgrade" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    databases.drop(dsn)


def set_head(connection: psycopg.Connection, head: str) -> None:
    connection.execute("update alembic_version set version_num = %s", [head])


@pytest.mark.parametrize("head", sorted(contract.KNOWN_HEADS))
def test_a_known_head_of_mlflows(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection, head: str
) -> None:
    set_head(mlflow_conn, head)
    assert install(mlflow_only_dsn).warnings == ()
    version = {check.name: check for check in doctor(mlflow_only_dsn)}["MLflow's version"]
    assert (version.ok, version.warns) == (True, False)


def test_an_unknown_head_with_the_columns_that_are_used(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    """Installs, with a warning that comes again with each installation and from doctor."""
    set_head(mlflow_conn, "ffffffffffff")
    mlflow_conn.execute("alter table trace_info add column anything jsonb")
    mlflow_conn.execute("alter table trace_tags alter column value type text")
    for changed in (True, False):
        outcome = install(mlflow_only_dsn)
        assert outcome.changed is changed
        (warning,) = outcome.warnings
        assert "ffffffffffff, which this release was not tested with" in warning
    found = doctor(mlflow_only_dsn)
    assert all(check.ok for check in found)
    assert [check.name for check in found if check.warns] == ["MLflow's version"]
    done = alembic("-x", f"dsn={mlflow_only_dsn}", "upgrade", "head")
    assert done.returncode == 0
    assert f"Warning: {warning}" in done.stderr


@pytest.mark.parametrize("head", ["bda7b8c39065", "75868b020152"])
def test_an_older_head_of_mlflows(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection, head: str
) -> None:
    set_head(mlflow_conn, head)
    error = refused(databases, mlflow_only_dsn)
    assert f"its schema is at {head}, which is older than MLflow 3.17" in str(error)
    assert "mlflow db upgrade" in str(error)


def test_the_older_heads_are_mlflows() -> None:
    """Each revision before the oldest supported release's, and no other one."""
    (directory,) = mlflow.store.db_migrations.__path__
    config = Config()
    config.set_main_option("script_location", directory.replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    (oldest,) = [h for h, release in contract.KNOWN_HEADS.items() if release == "3.17"]
    before = {script.revision for script in scripts.iterate_revisions(oldest, "base")}
    assert before - {oldest} == contract.OLDER_HEADS
    assert scripts.get_current_head() in contract.KNOWN_HEADS


#: By what it does to MLflow's tables, how the refusal names it.
BREAKS = {
    "alter table spans drop column content": "spans lacks content",
    "alter table trace_info drop column session_id, drop column trace_name": (
        "trace_info lacks trace_name, session_id"
    ),
    "create type mood as enum ('trace', 'run');"
    "alter table entity_associations alter column source_type type mood"
    " using 'trace'::mood": "entity_associations.source_type has type public.mood",
    "create domain label as varchar(8000);alter table trace_tags alter column value type label": (
        "trace_tags.value has type public.label"
    ),
    # Not PostgreSQL's own, whatever its name.
    'create domain public."text" as pg_catalog.text;'
    'alter table trace_tags alter column value type public."text"': (
        "trace_tags.value has type public.text"
    ),
    "alter table trace_info alter column timestamp_ms type numeric": (
        "trace_info.timestamp_ms has type numeric, not int8"
    ),
    "create collation alike (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
    "alter table trace_info alter column trace_name type varchar(4096) collate alike": (
        "trace_info.trace_name has a nondeterministic collation"
    ),
    "alter table trace_info alter column status drop not null": "trace_info.status may be NULL",
    "alter table trace_tags rename to kept;"
    "create view trace_tags as select * from kept": "trace_tags is not an ordinary table",
    "alter table assessments alter column is_numeric_value drop not null": (
        "MLflow's migration to 3.17 is not complete (assessments.is_numeric_value may be NULL)"
    ),
    "alter table spans add column dimension_attributes json": (
        "MLflow's migration to 3.17 is not complete (spans.dimension_attributes is still there)"
    ),
    "drop table sql_trace_metric_daily_rollups": (
        "not complete (there is no table sql_trace_metric_daily_rollups)"
    ),
}


@pytest.mark.parametrize("change", BREAKS)
def test_a_broken_contract(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection, change: str
) -> None:
    """Refused whatever the head says, with what is missing by its name."""
    mlflow_conn.execute(change.encode())
    assert BREAKS[change] in str(refused(databases, mlflow_only_dsn))
    set_head(mlflow_conn, "ffffffffffff")
    with pytest.raises(InstallError, match=re.escape(BREAKS[change])):
        install(mlflow_only_dsn)


def test_a_contract_broken_after_installing(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    """Found by an installation that has nothing to do, and by doctor."""
    install(mlflow_only_dsn)
    mlflow_conn.execute("alter table trace_info drop column session_id")
    assert "trace_info lacks session_id" in str(refused(databases, mlflow_only_dsn))
    failed = [check for check in doctor(mlflow_only_dsn) if not check.ok]
    assert [check.name for check in failed] == ["MLflow's columns"]
    assert uninstall(mlflow_only_dsn).changed


def test_partitioned_tables_keep_the_contract(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    mlflow_conn.execute(
        "alter table trace_tags rename to whole;"
        "create table trace_tags (like whole including all) partition by hash (request_id);"
        "create table half partition of trace_tags for values with (modulus 2, remainder 0)"
    )
    assert install(mlflow_only_dsn).changed
    assert not install(mlflow_only_dsn).mended
    unwatched = "select insights.unwatched(), insights.fingerprint()"
    before = mlflow_conn.execute(unwatched).fetchone()
    assert before is not None
    assert before[0] is None
    # A partition's trigger by itself.
    mlflow_conn.execute("alter table half disable trigger insights_change")
    after = mlflow_conn.execute(unwatched).fetchone()
    assert after is not None
    assert "half" in after[0]
    assert after[1] != before[1]


def test_a_table_of_mlflows_is_missing(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    mlflow_conn.execute("drop table spans cascade")
    assert "lacks spans" in str(refused(databases, mlflow_only_dsn))


def test_not_a_superuser(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    mlflow_conn.execute("create role mlflow_owner login password 'x'")
    mlflow_conn.execute("grant all on schema public to mlflow_owner")
    mlflow_conn.execute("grant all on all tables in schema public to mlflow_owner")
    name = mlflow_only_dsn.rpartition("/")[2]
    dsn = replace(databases.server, user="mlflow_owner", password="x").dsn(name)
    before = dump(databases, mlflow_only_dsn)
    with pytest.raises(InstallError, match=r"mlflow_owner is not a superuser\n.*superuser"):
        install(dsn)
    assert dump(databases, mlflow_only_dsn) == before
    mlflow_conn.execute("drop owned by mlflow_owner")
    mlflow_conn.execute("drop role mlflow_owner")


def test_the_server_lacks_an_extension(
    databases: Databases, mlflow_only_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "EXTENSIONS", ("plpython9u",))
    monkeypatch.setitem(checks._PACKAGES, "plpython9u", "apt-get install some-{major}")
    error = refused(databases, mlflow_only_dsn)
    assert "plpython9u: the server does not have it" in str(error)
    assert "apt-get install some-1" in str(error)


def test_the_server_is_too_old(
    databases: Databases, mlflow_only_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "OLDEST_SERVER", 990000)
    assert "PostgreSQL 14 is the oldest" in str(refused(databases, mlflow_only_dsn))


def test_the_encoding_is_not_utf8(databases: Databases) -> None:
    name = "latin"
    with databases.admin() as admin:
        admin.execute("create database latin template template0 encoding 'LATIN1' locale 'C'")
    dsn = databases.server.dsn(name)
    with psycopg.connect(dsn) as connection:
        connection.execute("create table trace_info ()")
        connection.execute("create table experiments ()")
    assert "LATIN1" in str(refused(databases, dsn))
    databases.drop(dsn)


def test_a_session_that_may_not_write(databases: Databases, mlflow_only_dsn: str) -> None:
    dsn = mlflow_only_dsn + "?options=-cdefault_transaction_read_only%3Don"
    with pytest.raises(InstallError, match="read only"):
        install(dsn)


def test_a_schema_of_this_name_that_is_not_ours(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    mlflow_conn.execute("create schema insights")
    assert "schema insights" in str(refused(databases, mlflow_only_dsn))


def test_a_function_of_this_name_that_is_not_ours(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    mlflow_conn.execute("create function insights_count(int) returns int return 1")
    assert "insights_count(integer)" in str(refused(databases, mlflow_only_dsn))


def test_a_newer_release_is_installed(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    install(mlflow_only_dsn)
    mlflow_conn.execute("update insights.alembic_version set version_num = '9999'")
    assert "9999" in str(refused(databases, mlflow_only_dsn))
    with pytest.raises(InstallError, match="newer"):
        uninstall(mlflow_only_dsn)


def test_objects_of_the_users_that_depend_on_ours(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    install(mlflow_only_dsn)
    before = objects(mlflow_conn)
    mlflow_conn.execute("create view mine as select insights_count(null::text[], '')")
    with pytest.raises(
        InstallError, match=r"view public\.mine depends on function public\.insights_count"
    ):
        uninstall(mlflow_only_dsn)
    assert objects(mlflow_conn) == before
    mlflow_conn.execute("drop view mine")
    uninstall(mlflow_only_dsn)


def test_an_error_half_way_leaves_nothing(
    databases: Databases, mlflow_only_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dump(databases, mlflow_only_dsn)
    read = bundles.read

    def broken(revision: str, name: str) -> str:
        return read(revision, name) + ("select 1/0;" if name == "functions.sql" else "")

    monkeypatch.setattr(bundles, "read", broken)
    with pytest.raises(Exception, match="division by zero"):
        install(mlflow_only_dsn)
    assert dump(databases, mlflow_only_dsn) == before


# --------------------------------------------------------------------- mending


def indexed(connection: psycopg.Connection) -> None:
    """Builds the index of whatever is there."""
    connection.execute("call insights_rebuild()")


def answers(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute(
        "select trace_id from insights_search(null::text[], $$tags.a = 'b'$$)"
    )
    return sorted(trace_id for (trace_id,) in rows)


def add_tagged(connection: psycopg.Connection, trace_id: str) -> None:
    add_trace(connection, trace_id)
    connection.execute(
        "insert into trace_tags (request_id, key, value) values (%s, 'a', 'b')", [trace_id]
    )


DAMAGES = {
    "the engine": "drop function insights.load_engine()",
    "a trigger": "drop trigger insights_change on trace_tags",
    "a trigger's state": "alter table trace_tags disable trigger all",
    "a trigger's function": "create or replace function insights.note_request_id()"
    " returns trigger language plpgsql as 'begin return null; end'",
    "what could not be noted": "drop sequence insights.missed",
    "an index": "drop index insights.trace_position",
    "a table": "drop table insights.posting cascade",
    "the state": "delete from insights.state",
    "the pending traces": "drop table insights.pending cascade",
    "a type": "drop type insights.problem cascade",
    "the installation": "drop table insights.installation",
    "an older installation": "alter table insights.installation drop column reader_role,"
    " drop column note_role",
    "the installation's row": "delete from insights.installation",
    "the revision": "drop table insights.alembic_version",
    "the revision's row": "delete from insights.alembic_version",
    "the schema": "drop schema insights cascade",
    "the language": "drop extension plpython3u cascade",
    "all functions": "do $$ declare f text; begin foreach f in array (select"
    " array_agg(p.oid::regprocedure::text) from pg_proc p where p.proname like 'insights\\_%'"
    " or p.pronamespace = 'insights'::regnamespace)"
    " loop execute 'drop routine if exists ' || f || ' cascade'; end loop; end $$",
}
KEEP_THE_INDEX = {
    "the engine",
    "an index",
    "a trigger",
    "a trigger's state",
    "a trigger's function",
    "what could not be noted",
    "a type",
    "the installation",
    "an older installation",
    "the installation's row",
    "the revision",
    "the revision's row",
    "the language",
    "all functions",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_installing_mends(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection, damage: str
) -> None:
    """And what is written before that is found, at once and by the index."""
    install(mlflow_only_dsn)
    add_tagged(mlflow_conn, "tr-before")
    indexed(mlflow_conn)
    whole = objects(mlflow_conn)
    mlflow_conn.execute(DAMAGES[damage].encode())
    add_tagged(mlflow_conn, "tr-meanwhile")
    mlflow_conn.execute("update trace_tags set value = 'c' where request_id = 'tr-before'")
    assert [check for check in doctor(mlflow_only_dsn) if not check.ok] != []

    outcome = install(mlflow_only_dsn)
    assert outcome.changed
    assert outcome.after is not None
    assert [check for check in doctor(mlflow_only_dsn) if not check.ok] == []
    assert objects(mlflow_conn) == whole
    blocks = mlflow_conn.execute("select count(*) from insights.block").fetchone()
    assert (blocks != (0,)) == (damage in KEEP_THE_INDEX)
    assert answers(mlflow_conn) == ["tr-meanwhile"]
    indexed(mlflow_conn)
    assert answers(mlflow_conn) == ["tr-meanwhile"]
    assert mlflow_conn.execute("select * from insights_verify()").fetchall() == []
    assert not install(mlflow_only_dsn).changed


@pytest.mark.parametrize("damage", DAMAGES)
def test_uninstalling_what_is_damaged(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection, damage: str
) -> None:
    before = dump(databases, mlflow_only_dsn)
    install(mlflow_only_dsn)
    mlflow_conn.execute(DAMAGES[damage].encode())
    assert uninstall(mlflow_only_dsn).changed
    # Whose the extensions are may be unknown; then they stay.
    for extension in ("plpython3u", "pg_trgm"):
        mlflow_conn.execute(
            sql.SQL("drop extension if exists {}").format(sql.Identifier(extension))
        )
    assert dump(databases, mlflow_only_dsn) == before
    assert not uninstall(mlflow_only_dsn).changed
    assert install(mlflow_only_dsn).changed


@pytest.fixture
def elsewhere(databases: Databases) -> Iterator[str]:
    dsn = databases.create()
    yield dsn
    databases.drop(dsn)


@pytest.mark.parametrize("afterwards", [install, uninstall])
def test_a_dump_without_our_schema(
    databases: Databases,
    mlflow_only_dsn: str,
    mlflow_conn: psycopg.Connection,
    elsewhere: str,
    afterwards: Callable[[str], Outcome],
) -> None:
    install(mlflow_only_dsn)
    add_tagged(mlflow_conn, "tr-1")
    restore(
        databases.server, elsewhere, dump(databases, mlflow_only_dsn, "--exclude-schema=insights")
    )
    found = {check.name: check for check in doctor(elsewhere) if not check.ok}
    assert found["trace functions"].finding == "only parts of an installation"
    assert "insights uninstall" in found["trace functions"].remedy
    assert "schema insights is missing" in found["tables"].finding

    assert afterwards(elsewhere).changed
    with psycopg.connect(elsewhere, autocommit=True) as connection:
        if afterwards is install:
            assert [check for check in doctor(elsewhere) if not check.ok] == []
            assert ours(connection) == ours(mlflow_conn)
            assert answers(connection) == ["tr-1"]
            uninstall(elsewhere)
        assert not [name for name in objects(connection) if "insights" in name]
    assert not uninstall(elsewhere).changed


def test_a_dump_restored_by_another_role_than_a_superuser(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection, elsewhere: str
) -> None:
    """It may make neither the language nor what is written in it, and owns the rest."""
    install(mlflow_only_dsn)
    add_tagged(mlflow_conn, "tr-1")
    indexed(mlflow_conn)
    mlflow_conn.execute("create role restorer login password 'x'")
    name = elsewhere.rpartition("/")[2]
    with psycopg.connect(elsewhere, autocommit=True) as connection:
        try:
            connection.execute(
                sql.SQL("grant create on database {} to restorer").format(sql.Identifier(name))
            )
            connection.execute("grant all on schema public to restorer")
            restorer = replace(databases.server, user="restorer", password="x")
            script = dump(databases, mlflow_only_dsn, "--no-owner")
            assert "plpython3u" in restore(restorer, elsewhere, script)
            found = {check.name: check for check in doctor(elsewhere) if not check.ok}
            assert {"plpython3u", "functions", "rights on them"} <= {*found}
            assert "insights.load_engine() is missing" in found["functions"].finding
            assert install(elsewhere).mended
            assert [check for check in doctor(elsewhere) if not check.ok] == []
            assert answers(connection) == ["tr-1"]
            assert uninstall(elsewhere).changed
        finally:
            connection.execute("drop owned by restorer cascade")
            connection.execute("drop role restorer")


def test_what_another_build_installed_is_brought_up_to_date(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    install(mlflow_only_dsn)
    mlflow_conn.execute("update insights.installation set bundle = 'other'")
    assert install(mlflow_only_dsn).mended == ("the functions come from another build",)
    assert not install(mlflow_only_dsn).changed


def test_tables_of_others_in_our_schema_stay(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    install(mlflow_only_dsn)
    mlflow_conn.execute("create table insights.mine (id int primary key, a int)")
    mlflow_conn.execute("create index on insights.mine (a)")
    failed = [check for check in doctor(mlflow_only_dsn) if not check.ok]
    assert [check.finding for check in failed] == ["table insights.mine is extra"]
    assert "drop that: table insights.mine" in failed[0].remedy
    mlflow_conn.execute("drop function insights.load_engine()")
    assert install(mlflow_only_dsn).mended == ("function insights.load_engine() is missing",)
    assert mlflow_conn.execute("select count(*) from insights.mine").fetchone() == (0,)


def test_default_privileges_do_not_reach_the_index(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    mlflow_conn.execute("alter default privileges grant insert on tables to public")
    install(mlflow_only_dsn)
    allowed = "select has_table_privilege('public', 'insights.term', 'insert')"
    assert mlflow_conn.execute(allowed).fetchone() == (False,)


def test_mending_needs_a_superuser_and_looking_does_not(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    install(mlflow_only_dsn)
    mlflow_conn.execute("create role anybody login password 'x'")
    mlflow_conn.execute("grant select on alembic_version to anybody")
    name = mlflow_only_dsn.rpartition("/")[2]
    dsn = replace(databases.server, user="anybody", password="x").dsn(name)
    try:
        mlflow_conn.execute("drop function insights.load_engine()")
        mlflow_conn.execute("revoke select on insights.alembic_version from public")
        mlflow_conn.execute("revoke select on insights.installation from public")
        failed = {check.name: check for check in doctor(dsn) if not check.ok}
        assert failed["functions"].finding == "function insights.load_engine() is missing"
        with pytest.raises(InsightsError):
            install(dsn)
        install(mlflow_only_dsn)
        mlflow_conn.execute("drop function insights.load_engine()")
        with pytest.raises(InstallError, match="not a superuser"):
            install(dsn)
    finally:
        mlflow_conn.execute("drop owned by anybody")
        mlflow_conn.execute("drop role anybody")


# ---------------------------------------------------------------------- doctor


def test_doctor_before_installing(mlflow_only_dsn: str) -> None:
    failed = [check.name for check in doctor(mlflow_only_dsn) if not check.ok]
    assert failed == ["trace functions"]


def test_doctor_after_installing(mlflow_only_dsn: str) -> None:
    install(mlflow_only_dsn)
    assert [check for check in doctor(mlflow_only_dsn) if not check.ok] == []


def test_doctor_sees_what_is_missing(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    install(mlflow_only_dsn)
    mlflow_conn.execute("drop function insights_validate(text)")
    mlflow_conn.execute("drop trigger insights_change on spans")
    mlflow_conn.execute("grant insert on insights.posting to public")
    mlflow_conn.execute("update insights.installation set bundle = 'other'")
    set_head(mlflow_conn, "bda7b8c39065")
    failed = {check.name: check for check in doctor(mlflow_only_dsn) if not check.ok}
    assert set(failed) == {"MLflow's version", "bundle", "functions", "triggers", "rights on them"}
    assert failed["functions"].finding == "function public.insights_validate(text) is missing"
    assert failed["triggers"].finding == "trigger insights_change on public.spans is missing"
    assert "INSERT to public" in failed["rights on them"].finding
    assert all("insights install" in failed[name].remedy for name in ("functions", "triggers"))


def test_doctor_as_a_role_that_may_read_traces_alone(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    install(mlflow_only_dsn)
    mlflow_conn.execute("create role traces_only login password 'x'")
    mlflow_conn.execute(
        "grant select on trace_info, spans, trace_tags, trace_request_metadata, assessments,"
        " entity_associations to traces_only"
    )
    name = mlflow_only_dsn.rpartition("/")[2]
    dsn = replace(databases.server, user="traces_only", password="x").dsn(name)
    try:
        checks = {check.name: check for check in doctor(dsn)}
        mlflow_conn.execute("revoke select on spans from traces_only")
        less = [check.name for check in doctor(dsn) if not check.ok]
    finally:
        mlflow_conn.execute("drop owned by traces_only")
        mlflow_conn.execute("drop role traces_only")
    assert [check for check in checks.values() if not check.ok] == []
    assert "may not read public.alembic_version" in checks["MLflow's version"].finding
    assert "not experiments" in checks["privileges"].finding
    assert less == ["privileges"]


def test_doctor_as_a_role_without_rights(
    databases: Databases, mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    install(mlflow_only_dsn)
    mlflow_conn.execute("create role nobody_special login password 'x'")
    name = mlflow_only_dsn.rpartition("/")[2]
    dsn = replace(databases.server, user="nobody_special", password="x").dsn(name)
    try:
        failed = {check.name: check for check in doctor(dsn) if not check.ok}
    finally:
        mlflow_conn.execute("drop role nobody_special")
    assert "privileges" in failed
    assert "grant select" in failed["privileges"].remedy


def test_doctor_names_publications_of_the_index(
    mlflow_only_dsn: str, mlflow_conn: psycopg.Connection
) -> None:
    install(mlflow_only_dsn)
    mlflow_conn.execute("create publication traces for table trace_info")
    assert [check for check in doctor(mlflow_only_dsn) if not check.ok] == []
    mlflow_conn.execute("create publication everything for all tables")
    if mlflow_conn.info.server_version >= 150000:
        mlflow_conn.execute("create publication ours for tables in schema insights")
    else:
        mlflow_conn.execute("create publication ours for table insights.trace")
    (failed,) = (check for check in doctor(mlflow_only_dsn) if not check.ok)
    assert failed.name == "publications"
    assert failed.finding == "everything (for all tables), ours carry insights.* along"
    assert "FOR TABLES IN SCHEMA public" in failed.remedy
