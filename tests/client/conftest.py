"""One database with the small world of `tests.client.world` for all of these tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from tests.client import world
from tests.conftest import READER, READER_PASSWORD, Databases


@pytest.fixture(scope="session")
def world_dsn(databases: Databases) -> Iterator[str]:
    """The URL of the database, everything indexed, as superuser; tests only read it."""
    with databases.fresh("insights") as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            world.load(connection)
            connection.execute("select insights_refresh()")
        yield dsn


@pytest.fixture
def world_conn(world_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(world_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def world_reader_dsn(databases: Databases, world_dsn: str) -> str:
    """The same database as a role that may only read MLflow's tables."""
    reader = replace(databases.server, user=READER, password=READER_PASSWORD)
    return reader.dsn(world_dsn.rpartition("/")[2])


@pytest.fixture(autouse=True)
def _no_database_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("INSIGHTS_DSN", "MLFLOW_", "PG", "COLUMNS", "NO_COLOR", "FORCE_COLOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
