"""Which SQL this release installs: the bundle of each revision.

Released revisions have theirs as files, frozen.  That of the head revision, until it is
released, comes from ``sql/`` and the engine: a wheel has what they were when it was built,
a checkout builds it whenever they have changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from runpy import run_path
from typing import Literal

import psycopg
from psycopg import sql

from insights_py.steps import FILES, Bundle

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


def migrations() -> Path:
    """The directory of the migrations: inside the wheel, or of the source tree."""
    inside = Path(__file__).parent / "migrations"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "migrations"


def released() -> set[str]:
    """The revisions whose bundles never change again."""
    path = migrations() / "bundles" / "released.json"
    return set(json.loads(path.read_text(encoding="utf-8")))


def bundle_of(revision: str) -> Bundle:
    """The SQL of a revision."""
    return Bundle({name: read(revision, name) for name in FILES})


def read(revision: str, name: str) -> str:
    """One of `FILES` of a revision's bundle; every use of a bundle comes through here."""
    builder = migrations().parent / "plpython" / "build.py"
    if builder.is_file() and revision not in released():
        sources = [
            path
            for folder in (builder.parent, builder.parent.parent / "sql")
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".py", ".sql")
        ]
        return _built(builder, tuple((p, p.stat().st_mtime_ns, p.stat().st_size) for p in sources))[
            name
        ]
    return (migrations() / "bundles" / revision / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _built(builder: Path, sources: tuple[tuple[Path, int, int], ...]) -> Mapping[str, str]:
    """The bundle of a checkout whose ``sources`` have these times and sizes."""
    bundle: Mapping[str, str] = run_path(str(builder))["bundle"]()
    return bundle


def public_functions(revision: str) -> set[str]:
    """The names of the functions that this revision has beside MLflow's tables."""
    return bundle_of(revision).public_functions


def fingerprint(revision: str) -> str:
    """SHA-256 of the bundle of a revision."""
    return bundle_of(revision).fingerprint


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
