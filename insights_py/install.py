"""Puts the functions into a database of MLflow's, and takes them out again.

The work is done by the Alembic migrations; ``alembic upgrade head`` does the
same as `install`.  All of it happens in one transaction: a check that fails, or
an error half way, leaves the database as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from insights_py import bundles, checks
from insights_py.dsn import libpq
from insights_py.errors import InstallError, translated

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["InstallError", "Outcome", "install", "installed_revision", "libpq", "uninstall"]

SCHEMA = "insights"

# Alembic's environment is global to the process.
_one_at_a_time = threading.Lock()

# Of all advisory locks this one means: an installation is at work.
_LOCK = 0x696E7369676874

# Seconds to wait for a moment in which no transaction has changed MLflow's tables.
_PATIENCE = 60


@dataclass(frozen=True)
class Outcome:
    """What `install` or `uninstall` did: Alembic revisions, None for nothing installed."""

    before: str | None
    after: str | None
    mlflow_schema: str | None
    index_built: bool | None = None
    """None where there is no index."""
    warnings: tuple[str, ...] = ()
    """What stands in nobody's way and should be known, a sentence or two each."""

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return self.before != self.after


def install(dsn: str, mlflow_schema: str | None = None) -> Outcome:
    """Installs the functions in the database ``dsn``, or brings them up to date.

    ``mlflow_schema`` is needed only where MLflow's tables are not in the
    search_path.  Repeating it changes nothing; two at once wait for each other.
    Raises `InstallError` where the database lacks something.
    """
    return _run(dsn, mlflow_schema, "head")


def uninstall(dsn: str) -> Outcome:
    """Removes everything that `install` made; without an installation, nothing.

    Raises `InstallError` if objects of the user's depend on the functions.
    """
    return _run(dsn, None, "base")


def installed_revision(connection: psycopg.Connection) -> str | None:
    """The revision of the installation in this database, if there is one."""
    known = connection.execute("select pg_catalog.to_regclass('insights.alembic_version')")
    if known.fetchone() == (None,):
        return None
    row = connection.execute("select version_num from insights.alembic_version").fetchone()
    return str(row[0]) if row else None


def latest_revision() -> str:
    """The revision that this release installs."""
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(bundles.migrations()).replace("%", "%%"))
    return config


def _run(dsn: str, mlflow_schema: str | None, target: str) -> Outcome:
    from alembic import command
    from sqlalchemy import create_engine, pool

    address = libpq(dsn)
    config = _config()
    config.attributes["mlflow_schema"] = mlflow_schema
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(address), poolclass=pool.NullPool
    )
    with _one_at_a_time, translated(), engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        before, schema = _state(driver)
        connection.rollback()
        config.attributes["connection"] = connection
        try:
            if target == "base":
                command.downgrade(config, target)
            else:
                command.upgrade(config, target)
        except psycopg.errors.DependentObjectsStillExist as error:
            raise InstallError(
                "Other objects depend on what is to be removed",
                detail=error.diag.message_detail,
                hint="Drop them first. Nothing was changed.",
                sqlstate=error.sqlstate,
            ) from error
        after, schema_after = _state(driver)
        built = _index_built(driver)
        connection.rollback()
    warnings = tuple(config.attributes.get("warnings", ()))
    return Outcome(before, after, schema_after or schema, built, warnings)


def _state(driver: psycopg.Connection) -> tuple[str | None, str | None]:
    revision = installed_revision(driver)
    if revision is None:
        return None, None
    row = driver.execute("select mlflow_schema from insights.installation").fetchone()
    return revision, str(row[0]) if row else None


def _index_built(driver: psycopg.Connection) -> bool | None:
    known = driver.execute("select pg_catalog.to_regclass('insights.state')").fetchone()
    if known == (None,):
        return None
    row = driver.execute("select built from insights.state").fetchone()
    return None if row is None else bool(row[0])


# ------------------------------------------------- what migrations/env.py calls


def lock(driver: psycopg.Connection) -> None:
    """Makes other installations wait until this transaction ends."""
    driver.execute("select pg_catalog.pg_advisory_xact_lock(%s)", [_LOCK])


def refuse_unknown_revision(heads: Collection[str], known: Collection[str]) -> None:
    """Stops where a newer release is installed than this one knows."""
    unknown = sorted(set(heads) - set(known))
    if unknown:
        raise InstallError(
            f"The database has revision {unknown[0]} of the trace functions, "
            "which this release does not know",
            hint="It was installed by a newer mlflow-trace-insights: use that one or a later one.",
        )


def choose_schema(driver: psycopg.Connection, wanted: str | None, *, installed: bool) -> None:
    """Settles where MLflow's tables are and tells the revisions by a setting."""
    schema: str | checks.Check
    if installed:
        row = driver.execute("select mlflow_schema from insights.installation").fetchone()
        assert row is not None
        schema = str(row[0])
        if wanted is not None and wanted != schema:
            raise InstallError(
                f"The functions are installed for MLflow's tables in schema {schema}, not {wanted}",
                hint="Uninstall them first: a database has room for one installation.",
            )
    else:
        schema = checks.find_schema(driver, wanted)
        if isinstance(schema, checks.Check):
            raise _refusal(schema)
    driver.execute("select pg_catalog.set_config('insights.mlflow_schema', %s, true)", [schema])


def preflight(driver: psycopg.Connection, *, first: bool) -> list[str]:
    """Checks everything before the first change, and makes our schema; what to warn of."""
    row = driver.execute("select pg_catalog.current_setting('insights.mlflow_schema')").fetchone()
    assert row is not None
    revision = latest_revision() if first else None
    warnings = []
    for check in checks.before_installing(driver, str(row[0]), revision):
        if not check.ok:
            raise _refusal(check)
        if check.warns:
            warnings.append(f"{check.name}: {check.finding}. {check.remedy}")
    if first:
        driver.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(SCHEMA)))
    return warnings


def hold_writes(driver: psycopg.Connection, *, first: bool) -> None:
    """Makes MLflow's writes wait till the end of this transaction, so that none goes unnoticed."""
    row = driver.execute("select pg_catalog.current_setting('insights.mlflow_schema')").fetchone()
    assert row is not None
    # What CREATE TRIGGER takes, and DROP TRIGGER.
    mode: bundles.LockMode = "share row exclusive" if first else "access exclusive"
    if not bundles.hold_writes(driver, str(row[0]), mode, _PATIENCE):
        raise InstallError(
            "MLflow's tables are in use: there was no moment without a transaction on them",
            hint="Look for long transactions in pg_stat_activity, or try again when there is less "
            "to do. Nothing was changed.",
        )


def clean_up(driver: psycopg.Connection) -> None:
    """After the last downgrade: Alembic's table and our schema."""
    driver.execute("drop table insights.alembic_version")
    driver.execute("drop schema insights")


def _refusal(check: checks.Check) -> InstallError:
    return InstallError(
        f"Cannot install: {check.name}: {check.finding}",
        # The remedy last: it may end with a command, to be copied.
        hint=f"Nothing was changed. {check.remedy}",
    )
