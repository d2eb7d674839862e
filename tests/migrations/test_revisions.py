"""Every revision goes up, down and up; test_release.py has upgrades from one to the next."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from insights_py import bundles
from tests.conftest import Databases
from tests.migrations.catalogue import dump, objects


def configuration(monkeypatch: pytest.MonkeyPatch, dsn: str) -> Config:
    """What the command ``alembic`` has in the source tree."""
    monkeypatch.setenv("INSIGHTS_DSN", dsn)
    return Config(bundles.migrations().parent / "alembic.ini")


SCRIPTS = ScriptDirectory(str(bundles.migrations()))
REVISIONS = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]


def state(dsn: str) -> dict[str, str]:
    with psycopg.connect(dsn) as connection:
        return objects(connection)


def test_revisions_form_one_line() -> None:
    assert sorted(REVISIONS) == REVISIONS
    assert len(SCRIPTS.get_heads()) == 1
    frozen = {path.name for path in (bundles.migrations() / "bundles").iterdir() if path.is_dir()}
    assert frozen == bundles.released()
    # The one that is open can only be the last.
    assert REVISIONS[: len(frozen)] == sorted(frozen)
    assert len(REVISIONS) - len(frozen) <= 1
    for script in SCRIPTS.walk_revisions():
        assert Path(script.path).name.partition("_")[0] == script.revision


@pytest.mark.parametrize("revision", REVISIONS)
def test_up_down_up(
    databases: Databases, mlflow_only_dsn: str, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    config = configuration(monkeypatch, mlflow_only_dsn)
    script = SCRIPTS.get_revision(revision)
    assert script is not None
    before = script.down_revision or "base"
    if before != "base":
        command.upgrade(config, str(before))
    below = dump(databases, mlflow_only_dsn)
    command.upgrade(config, revision)
    above = state(mlflow_only_dsn)
    command.downgrade(config, str(before))
    assert dump(databases, mlflow_only_dsn) == below
    command.upgrade(config, revision)
    assert state(mlflow_only_dsn) == above


def test_the_comparison_sees_differences(dsn: str) -> None:
    before = state(dsn)
    changes = (
        "alter function insights_count(text[], text, text) volatile",
        "revoke execute on function insights_count(text[], text, text) from public",
        "comment on function insights_count(text[], text, text) is null",
        "alter table insights.installation add column more text",
        "comment on type insights.problem is 'other'",
        "alter table trace_info add constraint more check (true)",
        "revoke usage on schema insights from public",
        "drop trigger insights_change on spans",
        "create policy more on insights.term",
        "alter table insights.term enable row level security",
        "alter table insights.pending reset (vacuum_truncate)",
        "drop sequence insights.missed",
        "drop extension pg_trgm",
    )
    for change in changes:
        with psycopg.connect(dsn) as connection:
            connection.execute(change.encode())
            assert objects(connection) != before, change
            connection.rollback()


def test_nothing_of_ours_depends_on_mlflows_tables(conn: psycopg.Connection) -> None:
    """Else MLflow's own migrations could fail."""
    found = conn.execute(
        """
        select pg_describe_object(d.classid, d.objid, d.objsubid),
               pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
        from pg_depend d
        join pg_class c on d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
        where c.relnamespace = 'public'::regnamespace
          and c.oid not in (select objid from pg_depend where deptype = 'e')
          and (
              (d.classid = 'pg_proc'::regclass)
              or (d.classid = 'pg_rewrite'::regclass)
              or exists (select from pg_class o where d.classid = 'pg_class'::regclass
                         and o.oid = d.objid and o.relnamespace = 'insights'::regnamespace)
              or exists (select from pg_constraint o
                         where d.classid = 'pg_constraint'::regclass
                         and o.oid = d.objid and o.connamespace = 'insights'::regnamespace)
          )
        """
    ).fetchall()
    assert found == []


def test_mlflows_own_migrations_run_with_the_project_installed(
    dsn: str, mlflow_only_dsn: str
) -> None:
    """MLflow's newest revisions, down as far as they go and up again."""
    from mlflow.store.db import utils
    from sqlalchemy import create_engine

    for url in (dsn, mlflow_only_dsn):
        address = url.replace("postgresql://", "postgresql+psycopg://")
        engine = create_engine(address)
        config = utils._get_alembic_config(address)
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, "-1")
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "heads")
        utils._verify_schema(engine)
        engine.dispose()
    with psycopg.connect(dsn) as ours, psycopg.connect(mlflow_only_dsn) as stock:
        tables = (
            "select table_name, column_name, data_type from information_schema.columns"
            " where table_schema = 'public' order by 1, 2"
        )
        assert ours.execute(tables).fetchall() == stock.execute(tables).fetchall()
        assert ours.execute("select insights_count(null::text[], '')").fetchone() == (0,)
