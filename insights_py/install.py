"""Puts the functions into a database of MLflow's, and takes them out again.

Alembic's environment does the work (``migrations/env.py``); ``alembic upgrade head``
does the same as `install`.  All of it happens in one transaction: a check that fails, or
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
from insights_py.objects import comparison, mending

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["InstallError", "Outcome", "install", "installed_revision", "libpq", "uninstall"]

SCHEMA = "insights"

# Alembic's environment is global to the process.
_one_at_a_time = threading.Lock()

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
    mended: tuple[str, ...] = ()
    """What was not as this release installs it, and is now."""
    warnings: tuple[str, ...] = ()
    """What stands in nobody's way and should be known, a sentence or two each."""

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return self.before != self.after or bool(self.mended)


def install(dsn: str, mlflow_schema: str | None = None) -> Outcome:
    """Installs the functions in the database ``dsn``, or brings them up to date.

    ``mlflow_schema`` is needed only where MLflow's tables are not in the
    search_path.  Repeating it changes nothing, but mends what has been damaged: every
    object is compared with this release's.  Two at once wait for each other.
    Raises `InstallError` where the database lacks something.
    """
    return _run(dsn, mlflow_schema, "head")


def uninstall(dsn: str) -> Outcome:
    """Removes everything that `install` made, or what is left of it; otherwise nothing.

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
        "postgresql+psycopg://",
        creator=lambda: checks.pin(psycopg.connect(address)),
        poolclass=pool.NullPool,
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
    if target == "base":
        before = before or config.attributes.get("adopted")
    mended = tuple(config.attributes.get("mended", ()))
    warnings = tuple(config.attributes.get("warnings", ()))
    return Outcome(before, after, schema_after or schema, built, mended, warnings)


def _state(driver: psycopg.Connection) -> tuple[str | None, str | None]:
    revision = installed_revision(driver)
    if revision is None:
        return None, None
    return revision, comparison.installed_schema(driver, latest_revision())


def _index_built(driver: psycopg.Connection) -> bool | None:
    known = driver.execute("select pg_catalog.to_regclass('insights.state')").fetchone()
    if known == (None,):
        return None
    row = driver.execute("select built from insights.state").fetchone()
    return None if row is None else bool(row[0])


# ------------------------------------------------- what migrations/env.py calls


def lock(driver: psycopg.Connection, wanted: str | None) -> None:
    """Makes other installations wait until this transaction ends.

    By a lock that only those may take who may write to MLflow's tables, and that lets
    them write: an advisory lock is anybody's.
    """
    known = driver.execute("select pg_catalog.to_regclass('insights.installation')").fetchone()
    if known != (None,):
        row = driver.execute("select mlflow_schema from insights.installation").fetchone()
        wanted = str(row[0]) if row else wanted
    schema = checks.find_schema(driver, wanted)
    if not isinstance(schema, str):
        return
    table = sql.Identifier(schema, "trace_info")
    allowed = driver.execute(
        "select pg_catalog.has_table_privilege(%s, 'UPDATE')", [table.as_string(driver)]
    ).fetchone()
    # Who may not is no superuser either, and will be told so.
    if allowed == (True,):
        driver.execute(sql.SQL("lock table {} in share update exclusive mode").format(table))


def create(driver: psycopg.Connection) -> None:
    """Makes everything as the head revision has it, in a database that has nothing of it."""
    revision = latest_revision()
    mending.stamp(driver, revision)  # first: the installation grants rights on that table, too
    bundles.bundle_of(revision).create_all(driver, _chosen_schema(driver))


def remove(driver: psycopg.Connection) -> None:
    """Removes everything, whichever revision it is of and whatever is left of it."""
    revision = installed_revision(driver)
    assert revision is not None
    bundles.bundle_of(revision).remove_all(driver, _chosen_schema(driver))
    driver.execute("drop table insights.alembic_version")
    driver.execute("drop schema insights")


def refuse_unknown_revision(heads: Collection[str], known: Collection[str]) -> None:
    """Stops where a newer release is installed than this one knows."""
    unknown = sorted(set(heads) - set(known))
    if unknown:
        raise InstallError(
            f"The database has revision {unknown[0]} of the trace functions, "
            "which this release does not know",
            hint="It was installed by a newer mlflow-trace-insights: use that one or a later one.",
        )


def adopt(driver: psycopg.Connection) -> str | None:
    """For a database without a revision: what is left of an installation counts as the latest.

    Such as a restored dump without schema insights; `mend` or the downgrade does the rest.
    """
    revision = latest_revision()
    if not comparison.remains(driver, revision):
        return None
    mending.stamp(driver, revision)
    return revision


def mend(driver: psycopg.Connection) -> list[str]:
    """Makes every object what this release's bundle says; what was not so, in words."""
    revision, schema = latest_revision(), _chosen_schema(driver)
    found = comparison.differences(driver, revision, schema)
    words = [str(difference) for difference in found if not difference.kept]
    if not words and not comparison.is_current(driver, revision):
        words = ["the functions come from another build"]
    if not words:
        return []
    preflight(driver, first=False)
    hold_writes(driver, first=not mending.needs_exclusive_lock(found))
    left = mending.mend(driver, revision, schema, found)
    if left:
        raise InstallError(
            f"Cannot mend: {left[0]}" + (f" (and {len(left) - 1} more)" if left[1:] else ""),
            hint="Nothing was changed. Uninstall the functions, then install them.",
        )
    return words


def _chosen_schema(driver: psycopg.Connection) -> str:
    row = driver.execute("select pg_catalog.current_setting('insights.mlflow_schema')").fetchone()
    assert row is not None
    return str(row[0])


def choose_schema(driver: psycopg.Connection, wanted: str | None, *, installed: bool) -> None:
    """Settles where MLflow's tables are and tells the revisions by a setting."""
    schema: str | checks.Check
    known = comparison.installed_schema(driver, latest_revision()) if installed else None
    if known is not None:
        schema = known
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
    revision = latest_revision() if first else None
    warnings = []
    for check in checks.before_installing(driver, _chosen_schema(driver), revision):
        if not check.ok:
            raise _refusal(check)
        if check.warns:
            warnings.append(f"{check.name}: {check.finding}. {check.remedy}")
    if first:
        driver.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(SCHEMA)))
    return warnings


def hold_writes(driver: psycopg.Connection, *, first: bool) -> None:
    """Makes MLflow's writes wait till the end of this transaction, so that none goes unnoticed."""
    # What CREATE TRIGGER takes, and DROP TRIGGER.
    mode: bundles.LockMode = "share row exclusive" if first else "access exclusive"
    if not bundles.hold_writes(driver, _chosen_schema(driver), mode, _PATIENCE):
        raise InstallError(
            "MLflow's tables are in use: there was no moment without a transaction on them",
            hint="Look for long transactions in pg_stat_activity, or try again when there is less "
            "to do. Nothing was changed.",
        )


def _refusal(check: checks.Check) -> InstallError:
    return InstallError(
        f"Cannot install: {check.name}: {check.finding}",
        # The remedy last: it may end with a command, to be copied.
        hint=f"Nothing was changed. {check.remedy}",
    )
