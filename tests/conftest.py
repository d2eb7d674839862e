"""Fixtures of all tests that need PostgreSQL.

One server serves the session.  Every database is cloned from one of two
templates: MLflow's schema alone, and MLflow's schema with this project.

========================  ======  ====================================================
fixture                   scope   what it is
========================  ======  ====================================================
``server``                session a `Server`; ``server.dsn(database)`` gives URLs
``databases``             session `Databases`: makes databases for fixtures of your own
``dsn``                   test    URL of a fresh database with everything, as superuser
``conn``                  test    psycopg connection to ``dsn`` (autocommit)
``module_dsn``            module  the same for all tests of a module
``module_conn``           module
``mlflow_only_dsn``       test    URL of a fresh database without this project
``reader_dsn``            test    ``dsn`` as a role that may only read, the index too
``reader``                test    psycopg connection to ``reader_dsn`` (autocommit)
========================  ======  ====================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from insights_dev import database
from insights_dev.cluster import Server
from tests.servers import running_server

READER = "trace_reader"
READER_PASSWORD = "reader"


class Databases:
    """Makes and drops databases on one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        self._templates: dict[str, str] = {}
        with self.admin() as admin:
            admin.execute(
                sql.SQL("create role {} login password {}").format(
                    sql.Identifier(READER), sql.Literal(READER_PASSWORD)
                )
            )

    @contextmanager
    def admin(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            yield connection

    def create(self, template: str = "template1") -> str:
        """The URL of a new database; the name of ``template`` as `template` gives it."""
        name = f"test_{next(self._numbers)}"
        with self.admin() as admin:
            admin.execute(
                sql.SQL("create database {} template {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return self.server.dsn(name)

    def drop(self, dsn: str) -> None:
        with self.admin() as admin:
            admin.execute(
                sql.SQL("drop database {} with (force)").format(
                    sql.Identifier(dsn.rpartition("/")[2])
                )
            )

    @contextmanager
    def fresh(self, template: str) -> Iterator[str]:
        """A database cloned from ``mlflow`` or ``insights``, dropped afterwards."""
        dsn = self.create(self.template(template))
        try:
            yield dsn
        finally:
            self.drop(dsn)

    def template(self, kind: str) -> str:
        """The name of the template database: ``mlflow`` or ``insights``."""
        if kind not in self._templates:
            if kind == "mlflow":
                dsn = self.create()
                database.migrate_mlflow(dsn)
            else:
                dsn = self.create(self.template("mlflow"))
                _install(dsn)
            self._templates[kind] = dsn.rpartition("/")[2]
        return self._templates[kind]


def _install(dsn: str) -> None:
    """What users get, with a role that may read."""
    database.install_insights(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("grant select on all tables in schema public to {}").format(
                sql.Identifier(READER)
            )
        )
        row = connection.execute("select reader_role from insights.installation").fetchone()
        assert row is not None
        connection.execute(
            sql.SQL("grant {} to {}").format(sql.Identifier(row[0]), sql.Identifier(READER))
        )


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture(scope="session")
def databases(server: Server) -> Databases:
    return Databases(server)


@pytest.fixture
def dsn(databases: Databases) -> Iterator[str]:
    with databases.fresh("insights") as url:
        yield url


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def module_dsn(databases: Databases) -> Iterator[str]:
    with databases.fresh("insights") as url:
        yield url


@pytest.fixture(scope="module")
def module_conn(module_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(module_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def mlflow_only_dsn(databases: Databases) -> Iterator[str]:
    with databases.fresh("mlflow") as url:
        yield url


@pytest.fixture
def reader_dsn(server: Server, dsn: str) -> str:
    reader = replace(server, user=READER, password=READER_PASSWORD)
    return reader.dsn(dsn.rpartition("/")[2])


@pytest.fixture
def reader(reader_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(reader_dsn, autocommit=True) as connection:
        yield connection
