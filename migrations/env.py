"""Runs the migrations in the one database that Alembic was given.

A first installation makes the head revision directly; an older one walks the revisions.
The version table is ours (``insights.alembic_version``): MLflow's own Alembic
has ``alembic_version`` in the same database.  Everything happens in one
transaction, under a lock that makes a second installation wait.
"""

from __future__ import annotations

import os
import sys

import psycopg
from alembic import context
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, pool

from insights_py import checks, install
from insights_py.errors import InsightsError, translated


def address() -> str:
    """The database: ``-x dsn=``, INSIGHTS_DSN, or sqlalchemy.url of alembic.ini."""
    given = (
        context.get_x_argument(as_dictionary=True).get("dsn")
        or os.environ.get("INSIGHTS_DSN")
        or context.config.get_main_option("sqlalchemy.url")
    )
    if not given:
        raise install.InstallError(
            "No database was named",
            hint="Write alembic -x dsn=postgresql://... upgrade head, or set INSIGHTS_DSN.",
        )
    return install.libpq(given)


def migrate(connection: Connection) -> None:
    """Runs what Alembic's command asked for."""
    context.configure(
        connection=connection,
        target_metadata=None,
        version_table="alembic_version",
        version_table_schema=install.SCHEMA,
    )
    migration = context.get_context()
    scripts = ScriptDirectory.from_config(context.config)
    schema = context.config.attributes.get("mlflow_schema") or context.get_x_argument(
        as_dictionary=True
    ).get("mlflow_schema")
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with connection.begin():
        if migration.opts.get("dont_mutate"):  # alembic current, alembic check
            context.run_migrations()
            return
        install.lock(driver, schema)
        heads = migration.get_current_heads()
        install.refuse_unknown_revision(heads, {s.revision for s in scripts.walk_revisions()})
        target = context.get_revision_argument()
        if not heads:
            context.config.attributes["adopted"] = install.adopt(driver)
            heads = migration.get_current_heads()
        if not heads and target is None:
            return  # nothing is installed, and nothing shall be
        install.choose_schema(driver, schema, installed=bool(heads))
        if target is not None:  # also where nothing is to be done: MLflow may have moved on
            warnings = install.preflight(driver, first=not heads)
            context.config.attributes["warnings"] = warnings
        if target is None or set(heads) != {target}:
            install.hold_writes(driver, first=not heads)
        # Revisions are for what was there before, and stays.
        if target is None:
            install.remove(driver)
            return
        if not heads and target in scripts.get_heads():
            install.create(driver)
        else:
            context.run_migrations()
        driver.execute("grant select on insights.alembic_version to public")
        if target in scripts.get_heads():
            context.config.attributes["mended"] = install.mend(driver)


def run_in_shell() -> None:
    """For the command ``alembic``, which shows its own errors without a traceback."""
    try:
        if context.is_offline_mode():
            raise install.InstallError(
                "The migrations look at the database first, so they cannot be written out as SQL"
            )
        dsn = address()
        engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: checks.pin(psycopg.connect(dsn)),
            poolclass=pool.NullPool,
        )
        with translated(), engine.connect() as connection:
            migrate(connection)
        for warning in context.config.attributes.get("warnings", ()):
            print(f"Warning: {warning}", file=sys.stderr)
    except InsightsError as error:
        raise CommandError(str(error)) from error


given = context.config.attributes.get("connection")
if given is None:
    run_in_shell()
else:
    migrate(given)
