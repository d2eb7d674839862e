"""The steps that revisions are made of: creating what a bundle describes, and removing it.

`make release` copies this file beside the bundle that it freezes, and a released revision
runs that copy.  So it imports nothing of this package; what it knows of the database to
come is the setting ``insights.mlflow_schema``, which ``migrations/env.py`` makes.  A bundle
is sent to the server as it is: no driver may interpret the ``%``, ``:`` and ``$`` in
function bodies.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import Connection

#: The files of a bundle, in the order in which they run.
FILES = ("prepare.sql", "schema.sql", "functions.sql")

EXTENSIONS = ("plpython3u", "pg_trgm")

_PUBLIC = re.compile(
    r"^create\s+(?:or\s+replace\s+)?(?:function|procedure)\s+@mlflow@\.([a-z_0-9]+)",
    re.IGNORECASE | re.MULTILINE,
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

# Each function of ours with its schema, its name and the roles that may call it by name.
_FUNCTIONS = """
    select p.oid::pg_catalog.regprocedure::text, n.nspname || '.' || p.proname,
        array(
            select r.rolname::text
            from pg_catalog.aclexplode(p.proacl) x
            join pg_catalog.pg_roles r on r.oid = x.grantee
            where x.grantee <> p.proowner
        )
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'insights' or (n.nspname = %s and p.proname = any(%s))
    order by 1
"""


class Bundle:
    """The SQL of one revision, with ``@mlflow@`` where the schema of MLflow's tables goes."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = dict(texts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole; an installation tells by it what it was made of."""
        return hashlib.sha256("\0".join(self.texts[name] for name in FILES).encode()).hexdigest()

    @property
    def public_functions(self) -> set[str]:
        """The names of the functions that this revision has beside MLflow's tables."""
        return set(_PUBLIC.findall(self.texts["functions.sql"]))

    def rendered(self, name: str, schema: str) -> str:
        """A file of the bundle for MLflow's tables in ``schema``, as it is sent."""
        return self.texts[name].replace("@mlflow@", quoted(schema))

    # ------------------------------------------------------ the steps of revisions

    def create(self, connection: Connection) -> None:
        """Create everything, in a database that has nothing of it."""
        driver = _driver(connection)
        self.create_all(driver, _schema(driver))

    def remove(self, connection: Connection) -> None:
        """Remove everything; fails if an object of the user's depends on a function."""
        driver = _driver(connection)
        self.remove_all(driver, _schema(driver))

    @contextmanager
    def replacing(self, connection: Connection, old: set[str]) -> Iterator[None]:
        """Drop all functions, let the caller change the tables, and create this bundle's.

        ``old`` has the public functions that there are.  With functions go triggers, policies
        and views of ours; what others have been granted on functions is granted again.  The
        index stays in use if it was.
        """
        driver = _driver(connection)
        schema = _schema(driver)
        # It asks what the triggers have noted, so it comes while they are there.
        driver.execute(self.rendered("prepare.sql", schema).encode())
        before = driver.execute(_FUNCTIONS, [schema, sorted(old)]).fetchall()
        drop_functions(driver, schema, old)
        yield
        self._create_functions(driver, schema)
        after = driver.execute(_FUNCTIONS, [schema, sorted(self.public_functions)]).fetchall()
        _grant_again(driver, before, after)

    # --------------------------------------------- the same on a connection of psycopg

    def create_all(self, driver: psycopg.Connection, schema: str) -> None:
        """`create` for MLflow's tables in ``schema``."""
        created = make_extensions(driver, schema, EXTENSIONS)
        driver.execute(self.rendered("schema.sql", schema).encode())
        record_installation(driver, schema, created)
        self.replace_functions(driver, schema)

    def remove_all(self, driver: psycopg.Connection, schema: str) -> None:
        """`remove` for MLflow's tables in ``schema``; whatever is missing has gone already."""
        self.drop_functions(driver, schema)
        _drop_tables(driver)
        _drop_roles(driver)
        _drop_extensions(driver)

    def replace_functions(self, driver: psycopg.Connection, schema: str) -> None:
        """Create the functions, and replace those that are there with the same arguments."""
        driver.execute(self.rendered("prepare.sql", schema).encode())
        self._create_functions(driver, schema)

    def drop_functions(self, driver: psycopg.Connection, schema: str) -> None:
        """Drop all functions, and triggers, policies and views of ours with them."""
        drop_functions(driver, schema, self.public_functions)

    def _create_functions(self, driver: psycopg.Connection, schema: str) -> None:
        driver.execute(self.rendered("functions.sql", schema).encode())
        driver.execute("update insights.installation set bundle = %s", [self.fingerprint])


def frozen() -> Bundle:
    """The bundle that lies beside this file, once that is a released copy."""
    here = Path(__file__).parent
    return Bundle({name: (here / name).read_text(encoding="utf-8") for name in FILES})


def quoted(schema: str) -> str:
    """The name of a schema as bundles take it: public plain, all others quoted."""
    return schema if schema == "public" else f'"{schema}"'


def make_extensions(driver: psycopg.Connection, schema: str, names: Sequence[str]) -> list[str]:
    """Create the extensions that are not there; which."""
    known = {row[0] for row in driver.execute("select extname from pg_catalog.pg_extension")}
    missing = [name for name in names if name not in known]
    for name in missing:
        command = sql.SQL("create extension {}").format(sql.Identifier(name))
        if name == "pg_trgm":
            command += sql.SQL(" schema {}").format(sql.Identifier(schema))
        driver.execute(command)
    return missing


def record_installation(
    driver: psycopg.Connection, schema: str, created_extensions: Sequence[str]
) -> None:
    """Write the row of insights.installation, but for the hash of the functions."""
    driver.execute(
        "insert into insights.installation (mlflow_schema, created_extensions, bundle)"
        " values (%s, %s, '')",
        [schema, list(created_extensions)],
    )


def drop_functions(driver: psycopg.Connection, schema: str, public: Set[str]) -> None:
    """Drop the functions of schema ``insights`` and those in ``schema`` called ``public``."""
    for query in _DROPS_BEFORE_FUNCTIONS:
        for (command,) in driver.execute(query.encode()).fetchall():
            driver.execute(command.encode())
    names = driver.execute(
        "select p.oid::pg_catalog.regprocedure::text"
        " from pg_catalog.pg_proc p"
        " join pg_catalog.pg_namespace n on n.oid = p.pronamespace"
        " where n.nspname = 'insights'"
        "    or (n.nspname = %s and p.proname = any(%s))",
        [schema, list(public)],
    ).fetchall()
    if names:
        driver.execute(("drop routine " + ", ".join(name for (name,) in names)).encode())


_Function = tuple[str, str, list[str]]


def _grant_again(
    driver: psycopg.Connection, before: Sequence[_Function], after: Sequence[_Function]
) -> None:
    """Grant on functions what was granted ``before``.

    Where the arguments have changed, on those of the same name that have come instead.
    """
    known = {signature for signature, _, _ in before}
    there = {signature for signature, _, _ in after}
    come = [(signature, name) for signature, name, _ in after if signature not in known]
    for signature, name, roles in before:
        if signature in there:
            functions = [signature]
        else:
            functions = [other for other, its_name in come if its_name == name]
        for function in functions:
            for role in roles:
                command = f"grant execute on routine {function} to "
                driver.execute(command.encode() + sql.Identifier(role).as_bytes(driver))


def _drop_tables(driver: psycopg.Connection) -> None:
    """Drop the tables, sequences and types of schema insights, but for Alembic's table."""
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


def _drop_roles(driver: psycopg.Connection) -> None:
    """Drop the roles of this installation, unless another database uses them.

    A clone of the database does, which goes on with the roles of the original.
    """
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


def _drop_extensions(driver: psycopg.Connection) -> None:
    """Drop the extensions that the installation created, unless something uses them."""
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
    """Where MLflow's tables are; ``migrations/env.py`` has put it there."""
    row = driver.execute("select pg_catalog.current_setting('insights.mlflow_schema')").fetchone()
    assert row is not None
    return str(row[0])
