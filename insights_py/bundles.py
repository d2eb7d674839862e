"""The frozen SQL that revisions install, and what takes it away again.

Used by ``migrations/versions``.  A bundle is sent to the server as it is: no
driver may interpret the ``%``, ``:`` and ``$`` in function bodies.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql
from sqlalchemy import Connection

_PUBLIC = re.compile(
    r"^create\s+(?:or\s+replace\s+)?(?:function|procedure)\s+@mlflow@\.([a-z_0-9]+)",
    re.IGNORECASE | re.MULTILINE,
)

#: The schema that all is in but for the public functions and the triggers.
SCHEMA = "insights"

LockMode = Literal["share row exclusive", "access exclusive"]

#: MLflow's tables that have triggers of ours.
WATCHED = (
    "assessments",
    "entity_associations",
    "spans",
    "trace_info",
    "trace_request_metadata",
    "trace_tags",
)

_DROPS_BEFORE_FUNCTIONS = (
    "select pg_catalog.format('drop trigger %I on %s',"
    "  t.tgname, t.tgrelid::pg_catalog.regclass)"
    " from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid"
    " where p.pronamespace = 'insights'::pg_catalog.regnamespace and not t.tgisinternal"
    # Those of partitions go with the one of their table.
    " and t.tgparentid = 0 order by 1",
    "select pg_catalog.format('drop policy %I on %s',"
    "  p.polname, p.polrelid::pg_catalog.regclass)"
    " from pg_catalog.pg_policy p join pg_catalog.pg_class c on c.oid = p.polrelid"
    " where c.relnamespace = 'insights'::pg_catalog.regnamespace"
    " order by 1",
    "select 'drop view ' || pg_catalog.string_agg(c.oid::pg_catalog.regclass::text, ', ')"
    " from pg_catalog.pg_class c"
    " where c.relnamespace = 'insights'::pg_catalog.regnamespace and c.relkind = 'v'"
    " having pg_catalog.count(*) > 0",
)


def migrations() -> Path:
    """The directory of the migrations: inside the wheel, or of the source tree."""
    inside = Path(__file__).parent / "migrations"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "migrations"


def read(revision: str, name: str) -> str:
    """A file of a revision's bundle: ``schema.sql`` or ``functions.sql``."""
    return (migrations() / "bundles" / revision / name).read_text(encoding="utf-8")


def public_functions(revision: str) -> set[str]:
    """The names of the functions that this revision has beside MLflow's tables."""
    return set(_PUBLIC.findall(read(revision, "functions.sql")))


def quoted(schema: str) -> str:
    """A schema's name as the bundles take it: public plain, all others quoted."""
    return schema if schema == "public" else f'"{schema}"'


def rendered(revision: str, name: str, schema: str) -> str:
    """A file of a revision's bundle for MLflow's tables in ``schema``, as it is sent."""
    return read(revision, name).replace("@mlflow@", quoted(schema))


def fingerprint(revision: str) -> str:
    """SHA-256 of the functions of a revision."""
    return hashlib.sha256(read(revision, "functions.sql").encode()).hexdigest()


def create_extensions(connection: Connection, names: Sequence[str]) -> None:
    """Creates the extensions that are not there, and remembers which."""
    driver = _driver(connection)
    made = make_extensions(driver, _schema(driver), names)
    driver.execute(
        "select pg_catalog.set_config('insights.created_extensions', %s, true)", [",".join(made)]
    )


def make_extensions(driver: psycopg.Connection, schema: str, names: Sequence[str]) -> list[str]:
    """Creates the extensions that are not there, and says which."""
    known = {row[0] for row in driver.execute("select extname from pg_catalog.pg_extension")}
    missing = [name for name in names if name not in known]
    for name in missing:
        command = sql.SQL("create extension {}").format(sql.Identifier(name))
        if name == "pg_trgm":
            command += sql.SQL(" schema {}").format(sql.Identifier(schema))
        driver.execute(command)
    return missing


def run_schema(connection: Connection, revision: str) -> None:
    """Creates the types and tables of a revision's bundle."""
    driver = _driver(connection)
    schema = _schema(driver)
    driver.execute(rendered(revision, "schema.sql", schema).encode())
    row = driver.execute(
        "select pg_catalog.current_setting('insights.created_extensions')"
    ).fetchone()
    assert row is not None
    record_installation(driver, schema, [name for name in row[0].split(",") if name])


def record_installation(
    driver: psycopg.Connection, schema: str, created_extensions: Sequence[str]
) -> None:
    """Writes the row of insights.installation; `run_functions` completes it."""
    driver.execute(
        "insert into insights.installation (mlflow_schema, created_extensions, bundle)"
        " values (%s, %s, '')",
        [schema, list(created_extensions)],
    )


def run_functions(connection: Connection, revision: str) -> None:
    """Creates or replaces the functions of a revision's bundle."""
    driver = _driver(connection)
    replace_functions(driver, _schema(driver), revision)


def replace_functions(driver: psycopg.Connection, schema: str, revision: str) -> None:
    """`run_functions` for a connection of one's own."""
    driver.execute(rendered(revision, "functions.sql", schema).encode())
    driver.execute("update insights.installation set bundle = %s", [fingerprint(revision)])


def hold_writes(driver: psycopg.Connection, schema: str, mode: LockMode, seconds: float) -> bool:
    """Locks MLflow's tables in ``mode``; false if there was no chance for so many seconds.

    All at once and never waiting long: while a lock is waited for, MLflow's
    statements queue behind it, and after a second (deadlock_timeout) PostgreSQL
    might end one of them to resolve a deadlock with it.
    """
    tables = sql.SQL(", ").join(
        sql.Identifier(schema, name)
        for (name,) in driver.execute(
            "select c.relname from pg_catalog.pg_class c"
            " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = %s and c.relname = any(%s) and c.relkind in ('r', 'p')"
            # MLflow mostly begins with this one; so we rarely stand in each other's way.
            " order by c.relname <> 'trace_info', c.relname",
            [schema, list(WATCHED)],
        )
    )
    if not list(tables):
        return True
    command = sql.SQL("lock table {} in {} mode").format(tables, sql.SQL(mode))
    usual = driver.execute("select pg_catalog.current_setting('lock_timeout')").fetchone()
    end = time.monotonic() + seconds
    while True:
        try:
            with driver.transaction():
                driver.execute("set local lock_timeout = '200ms'")
                driver.execute(command)
                driver.execute("select pg_catalog.set_config('lock_timeout', %s, true)", usual)
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        else:
            return True


def drop_functions(connection: Connection, revision: str) -> None:
    """Drops all functions; fails if an object of the user's depends on one.

    With them goes what is made of them: triggers, policies and views of ours.
    """
    driver = _driver(connection)
    remove_functions(driver, _schema(driver), revision)


def remove_functions(driver: psycopg.Connection, schema: str, revision: str) -> None:
    """`drop_functions` for a connection of one's own."""
    for query in _DROPS_BEFORE_FUNCTIONS:
        for (command,) in driver.execute(query.encode()).fetchall():
            driver.execute(command.encode())
    names = driver.execute(
        "select p.oid::pg_catalog.regprocedure::text"
        " from pg_catalog.pg_proc p"
        " join pg_catalog.pg_namespace n on n.oid = p.pronamespace"
        " where n.nspname = 'insights'"
        "    or (n.nspname = %s and p.proname = any(%s))",
        [schema, list(public_functions(revision))],
    ).fetchall()
    if names:
        driver.execute(("drop routine " + ", ".join(name for (name,) in names)).encode())


def drop_schema_objects(connection: Connection, revision: str) -> None:
    """Drops the tables, sequences and types of schema insights, but for Alembic's table."""
    driver = _driver(connection)
    # What is dropped last is named by a table that goes first, unless that is damaged.
    driver.execute(
        "select pg_catalog.set_config('insights.created_extensions', '', true),"
        " pg_catalog.set_config('insights.roles', '', true)"
    )
    if _is_there(driver, "insights.installation"):
        driver.execute(
            "select pg_catalog.set_config('insights.created_extensions',"
            "  pg_catalog.array_to_string(i.created_extensions, ','), true),"
            " pg_catalog.set_config('insights.roles',"
            # An older installation has no such columns.
            "  pg_catalog.json_build_array(pg_catalog.to_jsonb(i) ->> 'reader_role',"
            "   pg_catalog.to_jsonb(i) ->> 'note_role')::text, true)"
            " from insights.installation i"
        )
    for kind, query in (
        (
            "table",
            "select c.oid::pg_catalog.regclass::text from pg_catalog.pg_class c"
            " where c.relnamespace = 'insights'::pg_catalog.regnamespace"
            " and c.relkind in ('r', 'p') and c.relname <> 'alembic_version'",
        ),
        (
            "sequence",  # those of identity columns have gone with their tables
            "select c.oid::pg_catalog.regclass::text from pg_catalog.pg_class c"
            " where c.relnamespace = 'insights'::pg_catalog.regnamespace and c.relkind = 'S'",
        ),
        (
            "type",
            "select t.oid::pg_catalog.regtype::text from pg_catalog.pg_type t"
            " join pg_catalog.pg_class c on c.oid = t.typrelid and c.relkind = 'c'"
            " where t.typnamespace = 'insights'::pg_catalog.regnamespace",
        ),
    ):
        names = driver.execute(query.encode()).fetchall()
        if names:
            driver.execute(f"drop {kind} {', '.join(name for (name,) in names)}".encode())


def drop_roles(connection: Connection) -> None:
    """Drops the roles of this installation, unless another database uses them.

    A clone of the database does, which goes on with the roles of the original.
    """
    driver = _driver(connection)
    row = driver.execute("select pg_catalog.current_setting('insights.roles', true)").fetchone()
    names = list(filter(None, json.loads((row and row[0]) or "[]")))
    if not names:
        # As install/privileges.sql describes them.
        commented = driver.execute(
            "select r.rolname from pg_catalog.pg_roles r"
            " where pg_catalog.shobj_description(r.oid, 'pg_authid') in ("
            "  pg_catalog.concat('May read the index of MLflow''s traces in database ',"
            "   pg_catalog.current_database()),"
            "  pg_catalog.concat('Owns the triggers that note changed traces in database ',"
            "   pg_catalog.current_database()))"
        )
        names = [name for (name,) in commented.fetchall()]
    for name in names:
        try:
            with driver.transaction():
                # With the schema itself and Alembic's table, which are still there.
                driver.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
                driver.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
        except psycopg.errors.UndefinedObject:
            continue
        except psycopg.errors.DependentObjectsStillExist:
            _notice(driver, f"role {name} is used by another database and stays")


def drop_extensions(connection: Connection) -> None:
    """Drops the extensions that the installation created, unless something uses them."""
    driver = _driver(connection)
    row = driver.execute(
        "select pg_catalog.current_setting('insights.created_extensions')"
    ).fetchone()
    for name in filter(None, (row[0] if row else "").split(",")):
        try:
            with driver.transaction():
                driver.execute(sql.SQL("drop extension if exists {}").format(sql.Identifier(name)))
        except psycopg.errors.DependentObjectsStillExist:
            _notice(driver, f"extension {name} is in use and stays")


def _notice(driver: psycopg.Connection, text: str) -> None:
    body = sql.SQL("begin raise notice using message = {}; end").format(sql.Literal(text))
    driver.execute(sql.SQL("do {}").format(sql.Literal(body.as_string(driver))))


def _is_there(driver: psycopg.Connection, table: str) -> bool:
    return driver.execute("select pg_catalog.to_regclass(%s)", [table]).fetchone() != (None,)


def _driver(connection: Connection) -> psycopg.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def _schema(driver: psycopg.Connection) -> str:
    """Where MLflow's tables are; `insights_py.install.prepare` has put it there."""
    row = driver.execute("select pg_catalog.current_setting('insights.mlflow_schema')").fetchone()
    assert row is not None
    return str(row[0])
