"""What a database must offer before anything is installed, one check each.

Every check looks and changes nothing.  ``preflight`` of an installation stops
at the first that fails; ``insights doctor`` shows them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from insights_py import bundles, contract

OLDEST_SERVER = 140000

TABLES = (
    "alembic_version",
    "assessments",
    "entity_associations",
    "experiments",
    "spans",
    "trace_info",
    "trace_request_metadata",
    "trace_tags",
)

#: Those that no question about traces needs: they say the version, and the names.
OPTIONAL_TABLES = frozenset({"alembic_version", "experiments"})

EXTENSIONS = ("plpython3u", "pg_trgm")

_PACKAGES = {
    "plpython3u": "On Debian and Ubuntu: apt-get install postgresql-plpython3-{major}. "
    "The project's image has it (Dockerfile.postgres).",
    "pg_trgm": "It is part of PostgreSQL's contrib modules; "
    "on Debian and Ubuntu: apt-get install postgresql-{major}.",
}


@dataclass(frozen=True)
class Check:
    """One finding.  ``remedy`` says what to do where ``ok`` is false or ``warns`` is true."""

    name: str
    ok: bool
    finding: str
    remedy: str = ""
    warns: bool = False
    """Nothing stands in the way, but somebody should know."""


def supported() -> str:
    """What this release works with, in a sentence."""
    releases = " and ".join(contract.KNOWN_HEADS.values())
    return f"PostgreSQL 14 or later; MLflow {releases}, and later ones whose tables are the same"


def server(connection: psycopg.Connection) -> Iterator[Check]:
    """The server and the database as such."""
    number, version, encoding, standby, read_only = _row(
        connection,
        "select pg_catalog.current_setting('server_version_num')::int,"
        " pg_catalog.current_setting('server_version'),"
        " pg_catalog.current_setting('server_encoding'),"
        " pg_catalog.pg_is_in_recovery(),"
        " pg_catalog.current_setting('transaction_read_only')::bool",
    )
    yield Check(
        "PostgreSQL",
        number >= OLDEST_SERVER,
        f"version {version}",
        "PostgreSQL 14 is the oldest that is supported.",
    )
    yield Check(
        "encoding",
        encoding == "UTF8",
        f"the database's encoding is {encoding}",
        "The database must be in UTF8: create it with ENCODING 'UTF8' and move MLflow's data.",
    )
    yield Check(
        "writable",
        not standby and not read_only,
        "a standby" if standby else "read only" if read_only else "accepts writes",
        "Connect to the primary server, with a session that may write.",
    )


def pin(connection: psycopg.Connection) -> psycopg.Connection:
    """Has every later statement of the session find PostgreSQL's own objects only.

    Whoever owns the schema of MLflow's tables can put operators and functions there, which
    would be taken before PostgreSQL's.  This first statement uses none.  `find_schema` goes by
    the search_path as it was.
    """
    connection.execute(
        "select pg_catalog.set_config('insights.schemas',"
        " pg_catalog.to_json(pg_catalog.current_schemas(false))::pg_catalog.text, false),"
        " pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)"
    )
    connection.commit()
    return connection


def find_schema(connection: psycopg.Connection, wanted: str | None) -> str | Check:
    """The schema of MLflow's tables, or what is wrong, on a connection that `pin` has pinned."""
    candidates = [
        row[0]
        for row in connection.execute(
            "select n.nspname from pg_catalog.pg_class c"
            " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
            " where c.relname in ('trace_info', 'experiments') and c.relkind in ('r', 'p')"
            "   and pg_catalog.left(n.nspname, 3) <> 'pg_'"
            " group by n.nspname having pg_catalog.count(*) = 2"
            " order by 1"
        )
    ]
    (path,) = _row(
        connection, "select pg_catalog.current_setting('insights.schemas')::pg_catalog.json"
    )
    database = connection.info.dbname
    name = "MLflow's tables"
    if wanted is not None:
        if wanted in candidates:
            return wanted
        return Check(
            name,
            False,
            f"schema {wanted} of database {database} has no tables of MLflow's",
            f"They are in: {', '.join(candidates)}." if candidates else _NOT_MLFLOW,
        )
    for schema in path:
        if schema in candidates:
            return str(schema)
    if candidates:
        return Check(
            name,
            False,
            f"not in the search_path, but in schema {', '.join(candidates)}",
            "Name the schema: insights install --schema NAME, "
            "or alembic -x mlflow_schema=NAME upgrade head.",
        )
    return Check(name, False, f"database {database} has none", _NOT_MLFLOW)


_NOT_MLFLOW = (
    "Give the database that MLflow's --backend-store-uri names. "
    "If it is new, let MLflow make its tables first: mlflow db upgrade DATABASE_URI"
)


def mlflow(
    connection: psycopg.Connection, schema: str, *, installed: bool = False
) -> Iterator[Check]:
    """MLflow's tables in ``schema`` and their version.

    ``installed``: the version was looked at then, and may be hidden from this role.
    """
    present = {
        row[0]
        for row in connection.execute(
            "select c.relname from pg_catalog.pg_class c"
            " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = %s and c.relname = any(%s)",
            [schema, list(TABLES)],
        )
    }
    missing = [table for table in TABLES if table not in present]
    yield Check(
        "MLflow's tables",
        not missing,
        f"schema {schema} lacks {', '.join(missing)}" if missing else f"in schema {schema}",
        _upgrade_hint(connection),
    )
    if not missing:
        broken = contract.broken(
            contract.Fact(*row)
            for row in connection.execute(contract.query("%s").encode(), [schema]).fetchall()
        )
        yield Check(
            "MLflow's columns",
            not broken,
            "; ".join(broken) or "as they are read here",
            f"The answers would not be right. {_version_hint(connection)}",
        )
    if "alembic_version" in missing:
        return
    (readable,) = _row(
        connection,
        "select pg_catalog.has_table_privilege("
        " pg_catalog.format('%%I.alembic_version', %s::text), 'SELECT')",
        [schema],
    )
    if not readable:
        yield Check(
            "MLflow's version",
            installed,
            f"unknown, as role {connection.info.user} may not read {schema}.alembic_version",
            "Look with MLflow's own role, or as a superuser.",
        )
        return
    heads = sorted(
        row[0]
        for row in connection.execute(
            sql.SQL("select version_num from {}.alembic_version").format(sql.Identifier(schema))
        )
    )
    yield _version(connection, heads)
    (trouble,) = _row(
        connection,
        "select case when %s ~ $$[\"'\\@$]$$ then 'has quotes, backslashes, @ or $ in its name'"
        " end",
        [schema],
    )
    if trouble:
        yield Check("schema name", False, f"schema {schema} {trouble}", "Rename the schema.")


def _version(connection: psycopg.Connection, heads: list[str]) -> Check:
    """What MLflow's own version of its schema says; whether it fits, the columns decide."""
    name = "MLflow's version"
    if len(heads) != 1:
        finding = f"its schema is at {', '.join(heads) or 'no revision'}"
        return Check(name, False, finding, _version_hint(connection))
    finding = f"its schema is at {heads[0]}"
    if heads[0] in contract.KNOWN_HEADS:
        return Check(name, True, f"{finding} (MLflow {contract.KNOWN_HEADS[heads[0]]})")
    if heads[0] in contract.OLDER_HEADS:
        finding += f", which is older than MLflow {contract.OLDEST_RELEASE}"
        return Check(name, False, finding, _version_hint(connection))
    return Check(
        name,
        True,
        f"{finding}, which this release was not tested with",
        f"This release supports {supported()}. Look for a newer release of mlflow-trace-insights.",
        warns=True,
    )


def _version_hint(connection: psycopg.Connection) -> str:
    return (
        f"This release supports {supported()}. An older schema: {_upgrade_hint(connection)} "
        "A newer one: look for a newer release of mlflow-trace-insights."
    )


def _upgrade_hint(connection: psycopg.Connection) -> str:
    return (
        f"Bring it up to date: mlflow db upgrade DATABASE_URI (database {connection.info.dbname})."
    )


def extensions(connection: psycopg.Connection) -> Iterator[Check]:
    """The extensions: there, or ready to be created."""
    major = connection.info.server_version // 10000
    known: dict[str, bool] = dict(
        connection.execute(
            "select name, installed_version is not null"
            " from pg_catalog.pg_available_extensions where name = any(%s)",
            [list(EXTENSIONS)],
        ).fetchall()
    )
    for name in EXTENSIONS:
        if name in known:
            finding = "installed" if known[name] else "available, will be created"
        else:
            finding = "the server does not have it"
        yield Check(name, name in known, finding, _PACKAGES[name].format(major=major))


def superuser(connection: psycopg.Connection) -> Check:
    """Whether this role may create functions in an untrusted language."""
    (role, allowed) = _row(
        connection,
        "select current_user::text,"
        " (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user)",
    )
    return Check(
        "superuser",
        allowed,
        f"role {role} is {'' if allowed else 'not '}a superuser",
        "Functions in plpython3u can only be created by a superuser. Install with an "
        "address of such a role, for example postgresql://postgres@HOST/DATABASE; "
        "MLflow and its users need no more rights than before.",
    )


def room(connection: psycopg.Connection, schema: str, functions: set[str]) -> Iterator[Check]:
    """For a first installation: that nothing of somebody else's is in the way."""
    (taken,) = _row(
        connection,
        "select pg_catalog.to_regnamespace('insights') is not null"
        " and pg_catalog.to_regclass('insights.alembic_version') is null",
    )
    yield Check(
        "schema insights",
        not taken,
        "exists, but not from an installation" if taken else "free",
        "The project needs a schema of this name for itself: rename or drop the one there.",
    )
    names = [
        row[0]
        for row in connection.execute(
            "select p.oid::pg_catalog.regprocedure::text from pg_catalog.pg_proc p"
            " join pg_catalog.pg_namespace n on n.oid = p.pronamespace"
            " where n.nspname = %s and p.proname = any(%s) order by 1",
            [schema, sorted(functions)],
        )
    ]
    yield Check(
        "function names",
        not names,
        f"taken: {', '.join(names)}" if names else "free",
        "Functions of these names would be replaced: rename or drop them.",
    )


def before_installing(
    connection: psycopg.Connection, schema: str | None, revision: str | None
) -> Iterator[Check]:
    """Everything that an installation asks; ``revision`` if it is the first one."""
    yield from server(connection)
    found = find_schema(connection, schema)
    if isinstance(found, Check):
        yield found
    else:
        yield from mlflow(connection, found)
    yield from extensions(connection)
    yield superuser(connection)
    if revision is not None and not isinstance(found, Check):
        yield from room(connection, found, bundles.public_functions(revision))


def _row(
    connection: psycopg.Connection, query: str, parameters: list[object] | None = None
) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row
