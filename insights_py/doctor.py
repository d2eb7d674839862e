"""Looks at a database and says what is right and what is missing."""

from __future__ import annotations

import psycopg

from insights_py import bundles, checks
from insights_py.checks import Check
from insights_py.dsn import libpq
from insights_py.errors import translated
from insights_py.install import installed_revision, latest_revision

__all__ = ["Check", "doctor", "supported"]

supported = checks.supported


def doctor(dsn: str, mlflow_schema: str | None = None) -> list[Check]:
    """Every check on the database ``dsn``, in the order of an installation.

    Looks only.  Where the functions are installed it also checks that they are
    this release's, and that this role may use them.
    """
    with translated(), psycopg.connect(libpq(dsn)) as connection:
        connection.read_only = True
        revision = installed_revision(connection)
        if revision is None:
            found = [
                check
                for check in checks.before_installing(connection, mlflow_schema, latest_revision())
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
        return [*_installed(connection, revision)]


def _installed(connection: psycopg.Connection, revision: str) -> list[Check]:
    row = connection.execute("select mlflow_schema, bundle from insights.installation").fetchone()
    assert row is not None
    schema, bundle = str(row[0]), str(row[1])
    found = [check for check in checks.server(connection) if check.name != "writable"]
    found += checks.mlflow(connection, schema, installed=True)
    found += checks.extensions(connection)
    latest = latest_revision()
    found.append(
        Check(
            "trace functions",
            revision == latest,
            f"installed, revision {revision}",
            f"This release has revision {latest}: insights install --dsn DSN brings them up to "
            "date. If yours is the newer one, upgrade mlflow-trace-insights.",
        )
    )
    if revision == latest:
        same = bundle == bundles.fingerprint(revision)
        found.append(
            Check(
                "bundle",
                same,
                "this release's" if same else "not this release's",
                "The functions come from another build: insights uninstall, then install.",
            )
        )
        missing = bundles.public_functions(revision) - {
            name
            for (name,) in connection.execute(
                "select p.proname from pg_catalog.pg_proc p"
                " join pg_catalog.pg_namespace n on n.oid = p.pronamespace"
                " where n.nspname = %s",
                [schema],
            )
        }
        found.append(
            Check(
                "public functions",
                not missing,
                f"missing: {', '.join(sorted(missing))}" if missing else f"all in {schema}",
                "Somebody dropped them: insights uninstall, then install.",
            )
        )
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
    found.append(
        Check(
            "privileges",
            not unreadable,
            f"role {role} may not read {', '.join(unreadable)}" if unreadable else readable,
            f"grant select on all tables in schema {schema} to {role};",
        )
    )
    found += set_aside(connection)
    return found


def set_aside(connection: psycopg.Connection) -> list[Check]:
    """Whether there are traces that cannot be indexed; nothing where that is not to be seen."""
    ((visible,),) = connection.execute(
        "select pg_catalog.has_table_privilege('insights.pending', 'SELECT')"
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
