"""Looks at a database and says what is right and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg

from insights_py import checks
from insights_py.checks import Check
from insights_py.dsn import libpq
from insights_py.errors import translated
from insights_py.install import installed_revision, latest_revision
from insights_py.objects import comparison
from insights_py.objects.comparison import Difference

__all__ = ["Check", "doctor", "supported"]

supported = checks.supported

# In which check each kind of object is reported; its rights and owners have their own.
_GROUPS = {
    "functions": ("function",),
    "tables": ("schema", "type", "table", "index", "sequence", "rule"),
    "views": ("view",),
    "triggers": ("trigger",),
    "policies": ("policy",),
    "roles": ("role",),
}
_RIGHTS = frozenset(("owner", "not granted", "granted besides"))

# A finding is one line; after some dumps half of everything is missing.
_NAMED = 10

_MEND = "insights install --dsn DSN mends it, as a superuser."


def doctor(dsn: str, mlflow_schema: str | None = None) -> list[Check]:
    """Every check on the database ``dsn``, in the order of an installation.

    Looks only.  Where the functions are installed, or parts of them, it compares every
    object with this release's, and says whether this role may use them.
    """
    with translated(), psycopg.connect(libpq(dsn)) as connection:
        checks.pin(connection)
        connection.read_only = True
        latest = latest_revision()
        hidden = comparison.is_hidden(connection, "insights.alembic_version")
        revision = latest if hidden else installed_revision(connection)
        if revision is None and not comparison.remains(connection, latest):
            found = [
                check
                for check in checks.before_installing(connection, mlflow_schema, latest)
                # Our own read_only would show up here.
                if check.name != "writable"
            ]
            found.append(
                Check(
                    "trace functions",
                    False,
                    "not installed",
                    "Install them: insights install --dsn DSN",
                )
            )
            return found
        return [*_installed(connection, revision, latest, mlflow_schema)]


def _installed(
    connection: psycopg.Connection, revision: str | None, latest: str, wanted: str | None
) -> Iterator[Check]:
    yield from (check for check in checks.server(connection) if check.name != "writable")
    schema = comparison.installed_schema(connection, latest)
    if schema is None:
        place = checks.find_schema(connection, wanted)
        if isinstance(place, Check):
            yield place
            return
        schema = place
    yield from checks.mlflow(connection, schema, installed=True)
    for check in checks.extensions(connection):
        there = check.finding == "installed"
        yield Check(check.name, there, check.finding, _MEND if check.ok else check.remedy)
    yield Check(
        "trace functions",
        revision == latest,
        f"installed, revision {revision}" if revision else "only parts of an installation",
        f"This release has revision {latest}: insights install --dsn DSN brings them up to "
        "date. If yours is the newer one, upgrade mlflow-trace-insights."
        if revision
        else "insights install --dsn DSN completes it, insights uninstall removes what is there.",
    )
    if revision in (latest, None):
        same = comparison.is_current(connection, latest)
        yield Check(
            "bundle",
            same,
            "this release's" if same else "not this release's",
            "The functions come from another build: insights install --dsn DSN brings them up "
            "to date.",
        )
        yield from _objects(comparison.differences(connection, latest, schema))
    yield from _publications(connection, schema)
    yield _privileges(connection, schema)
    yield from _readers(connection, schema)
    yield from set_aside(connection)


def _objects(found: Sequence[Difference]) -> Iterator[Check]:
    """A check for each kind of object, and one for all rights."""
    of_rights = [d for d in found if d.details and d.details.keys() <= _RIGHTS]
    for name, kinds in _GROUPS.items():
        listed = [d for d in found if d.kind in kinds and d not in of_rights]
        yield _listed(name, "as this release makes them", listed)
    yield _listed("rights on them", "as this release grants them", of_rights)


def _listed(name: str, good: str, found: Sequence[Difference]) -> Check:
    finding = "; ".join(str(difference) for difference in found[:_NAMED])
    if len(found) > _NAMED:
        finding += f"; and {len(found) - _NAMED} more"
    kept = [f"{d.kind} {d.address}" for d in found if d.kept]
    remedy = _MEND if len(kept) < len(found) else ""
    if kept:
        remedy += " It leaves what may hold data of yours; you can move or drop that: "
        remedy += ", ".join(kept[:_NAMED])
    return Check(name, not found, finding or good, remedy.strip())


def _publications(connection: psycopg.Connection, schema: str) -> Iterator[Check]:
    """Whether logical replication carries the index along."""
    carrying = connection.execute(
        "select p.pubname, p.puballtables from pg_catalog.pg_publication p"
        " where exists (select from pg_catalog.pg_publication_tables t"
        "  where t.pubname = p.pubname and t.schemaname = 'insights') order by 1"
    ).fetchall()
    names = ", ".join(
        f"{name} (for all tables)" if everything else str(name) for name, everything in carrying
    )
    yield Check(
        "publications",
        not carrying,
        f"{names} carry insights.* along" if carrying else "none carries insights.* along",
        "The index of a subscriber has to be made there, of the rows that arrive; and tables "
        "without a key refuse changes once they are published. Publish MLflow's tables by name"
        f" or, from PostgreSQL 15 on, FOR TABLES IN SCHEMA {schema}; install on the subscriber.",
    )


def _privileges(connection: psycopg.Connection, schema: str) -> Check:
    kept_from = {
        name
        for (name,) in connection.execute(
            "select c.relname from pg_catalog.pg_class c"
            " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = %s and c.relname = any(%s)"
            "   and not pg_catalog.has_table_privilege(c.oid, 'SELECT')",
            [schema, list(checks.TABLES)],
        )
    }
    unreadable = sorted(kept_from - checks.OPTIONAL_TABLES)
    role = connection.info.user
    readable = f"role {role} may read MLflow's tables"
    if "experiments" in kept_from:
        readable += " of traces, but not experiments: it names these by their ids"
    return Check(
        "privileges",
        not unreadable,
        f"role {role} may not read {', '.join(unreadable)}" if unreadable else readable,
        f"grant select on all tables in schema {schema} to {role};",
    )


def _readers(connection: psycopg.Connection, schema: str) -> Iterator[Check]:
    """Whether the index answers this role, and what its group of readers lets through."""
    # It may be missing, out of reach, or from before there were such roles.
    known = connection.execute(
        "select from pg_catalog.pg_attribute a"
        " where a.attrelid = pg_catalog.to_regclass('insights.installation')"
        " and a.attname = 'reader_role' and not a.attisdropped"
        " and pg_catalog.has_table_privilege(a.attrelid, 'SELECT')"
    ).fetchone()
    if known is None:
        return
    row = connection.execute(
        "select i.reader_role, pg_catalog.pg_has_role(i.reader_role, 'USAGE')"
        " from insights.installation i join pg_catalog.pg_roles r on r.rolname = i.reader_role"
    ).fetchone()
    if row is None:
        return  # said above: the role is missing
    group, member = row
    role = connection.info.user
    yield Check(
        "readers",
        True,
        f"role {role} is {'' if member else 'not '}in {group}"
        + ("" if member else ": answers are as right, but come without the index"),
        f"Where role {role} may know of every trace: grant {group} to {role};",
        warns=not member,
    )
    # Superusers and those that bypass row security see every row in any case, owners unless
    # it is forced on them.
    limited = [
        str(name)
        for (name,) in connection.execute(
            "select distinct m.rolname from pg_catalog.pg_roles m"
            " join pg_catalog.pg_class c on c.relname = any(%s) and c.relrowsecurity"
            " join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = %s"
            " where not m.rolsuper and not m.rolbypassrls and m.rolname <> %s"
            " and pg_catalog.pg_has_role(m.oid, %s, 'USAGE')"
            " and (c.relforcerowsecurity or not pg_catalog.pg_has_role(m.oid, c.relowner, 'USAGE'))"
            " order by 1",
            [list(checks.TABLES), schema, group, group],
        )
    ]
    yield Check(
        "readers under row security",
        True,
        f"{', '.join(limited)}: answered from MLflow's tables, but may read the index itself"
        if limited
        else "none",
        f"The index tells of every trace. To keep them out: revoke {group} from ROLE;",
        warns=bool(limited),
    )


def set_aside(connection: psycopg.Connection) -> list[Check]:
    """Whether there are traces that cannot be indexed; nothing where that is not to be seen."""
    ((visible,),) = connection.execute(
        "select pg_catalog.has_table_privilege("
        " pg_catalog.to_regclass('insights.pending'), 'SELECT')"
    ).fetchall()
    if not visible:
        return []
    ((count,),) = connection.execute(
        "select count(distinct p.trace_id) from insights.pending p"
        " where p.noted_at > pg_catalog.clock_timestamp()"
    ).fetchall()
    return [
        Check(
            "indexing",
            count == 0,
            f"traces that could not be indexed: {count}" if count else "every trace can be indexed",
            "They are answered from MLflow's tables and tried again every few minutes; the log of "
            "insights worker, or PostgreSQL's, says which they are and why.",
        )
    ]
