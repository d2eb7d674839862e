"""A server of its own for attacks, which logs every statement, and three roles.

========================  ======  =======================================================
fixture                   scope   what it is
========================  ======  =======================================================
``arena``                 module  an `Arena`: a database with the project, and the roles
========================  ======  =======================================================

``owner`` owns the database and MLflow's tables and is no superuser, ``reader`` may read
MLflow's tables and is a member of the group that may read the index, ``nobody`` may do
nothing but connect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from insights_dev import database
from insights_dev.cluster import Server
from tests.semantics.world import (
    SESSION_METADATA,
    Assessment,
    Experiment,
    Span,
    Trace,
    World,
    attributes,
    load,
)
from tests.servers import private_cluster

Connection = psycopg.Connection[Any]

OWNER, READER, NOBODY = "attack_owner", "attack_reader", "attack_nobody"
ROLES = (OWNER, READER, NOBODY)
PASSWORD = "secret"
DATABASE = "attacked"

#: Begins every record of the server's log.
_RECORD = "@@|"

SETTINGS = {
    "shared_preload_libraries": "auto_explain,pg_stat_statements",
    # Statements of clients as they come, without their parameters.
    "log_statement": "all",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_line_prefix": f"{_RECORD}%p|%a|%e|",
    # Statements of functions, too; the plan is not looked at, it shows parameters.
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_format": "json",
    "auto_explain.log_analyze": "off",
    # All the others, such as EXPLAIN, as they were sent.
    "pg_stat_statements.track": "all",
    "pg_stat_statements.track_utility": "on",
    "pg_stat_statements.max": "10000",
    "max_prepared_transactions": "5",
}

#: Found in every value of the world, and in nothing else.
SECRET = "sekrit"


@dataclass(frozen=True)
class Record:
    """A record of the server's log."""

    sqlstate: str
    level: str
    text: str


class Arena:
    """The server with its database."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def dsn(self, role: str = "", database: str = DATABASE) -> str:
        """As superuser without a role."""
        server = replace(self.server, user=role, password=PASSWORD) if role else self.server
        return server.dsn(database)

    @contextmanager
    def connect(self, role: str = "", **options: Any) -> Iterator[Connection]:
        with psycopg.connect(self.dsn(role), autocommit=True, **options) as connection:
            yield connection

    def log(self, begin: int = 0) -> list[Record]:
        """The records from a place in the log on."""
        with self._path.open("rb") as file:
            file.seek(begin)
            text = file.read().decode("utf-8", "replace")
        records = []
        for part in text.split("\n" + _RECORD):
            head, _, rest = part.removeprefix(_RECORD).partition("|")
            _, _, rest = rest.partition("|")
            code, _, rest = rest.partition("|")
            level, _, body = rest.partition(":")
            if head.isdigit():
                records.append(Record(code, level, body.strip()))
        return records

    def end_of_log(self) -> int:
        return self._path.stat().st_size

    @property
    def _path(self) -> Path:
        return Path(self.server.home) / "server.log"


def world() -> World:
    """A few traces; nothing of what they say can be guessed."""
    traces = tuple(
        Trace(
            f"tr-{SECRET}-{number}",
            1 + number % 2,
            1_700_000_000_000 + 3_600_000 * number,
            execution_time_ms=number * 100,
            status=("OK", "ERROR")[number % 3 == 0],
            name=f"{SECRET} name {number % 4}",
            session_id=f"{SECRET} session {number % 5}",
            request_preview=f"{SECRET} request",
            tokens={"total_tokens": number},
            tags={"k": ("a", "b", f"{SECRET} tag")[number % 3]},
            metadata={"env": ("prod", "dev")[number % 2], "mlflow.trace.user": f"{SECRET} user"},
            spans=tuple(
                Span(
                    f"s{n}",
                    attributes(model="gpt-4", secret=f"{SECRET} value", n=n * number),
                    name=("plan", f"{SECRET} span")[n % 2],
                    type=("LLM", "TOOL")[n % 2],
                    status=("OK", "ERROR")[(n + number) % 5 == 0],
                    end_ns=n * 1_000_000,
                )
                for n in range(number % 4)
            ),
            assessments=(
                Assessment("feedback", "quality", str(number % 6)),
                Assessment("feedback", "said", f'"{SECRET} said"', metadata=SESSION_METADATA),
            )[: number % 3],
            runs=(f"{SECRET} run",) if number % 4 == 0 else (),
        )
        for number in range(60)
    )
    return World((Experiment(1), Experiment(2)), traces)


def _identifier(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def furnish(server: Server) -> Arena:
    """Roles, the database with the project installed, and its traces, indexed."""
    arena = Arena(server)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("create extension pg_stat_statements")
        for role in ROLES:
            admin.execute(
                sql.SQL("create role {} login password {}").format(
                    _identifier(role), sql.Literal(PASSWORD)
                )
            )
        admin.execute(
            sql.SQL("create database {} owner {}").format(_identifier(DATABASE), _identifier(OWNER))
        )
    install(arena)
    return arena


def sent(arena: Arena) -> list[str]:
    """The texts of statements as PostgreSQL counts them; those that plan nothing are verbatim."""
    with psycopg.connect(arena.dsn(database="postgres"), autocommit=True) as admin:
        rows = admin.execute(
            "select s.query from pg_stat_statements(true) s join pg_database d on d.oid = s.dbid"
            " where d.datname = %s",
            [DATABASE],
        )
        return [query for (query,) in rows if query is not None]


def install(arena: Arena) -> None:
    """MLflow's tables by their owner, the project by a superuser, traces, the index."""
    database.migrate_mlflow(arena.dsn(OWNER))
    database.install_insights(arena.dsn())
    with arena.connect() as connection:
        connection.execute(
            sql.SQL("grant select on all tables in schema public to {}").format(_identifier(READER))
        )
        group = reader_group(connection)
        if group is not None:
            connection.execute(
                sql.SQL("grant {} to {}").format(_identifier(group), _identifier(READER))
            )
    with arena.connect(OWNER) as connection:
        load(connection, world())
        while connection.execute("select pending from insights_refresh()").fetchone() != (0,):
            pass


def reader_group(connection: Connection) -> str | None:
    """The role whose members may read the index, as the installation notes it."""
    known = connection.execute(
        "select from information_schema.columns where table_schema = 'insights'"
        " and table_name = 'installation' and column_name = 'reader_role'"
    ).fetchone()
    if known is None:
        return None
    row = connection.execute("select reader_role from insights.installation").fetchone()
    return None if row is None else str(row[0])


def attacked_server() -> AbstractContextManager[Server]:
    """A private cluster, whose log can be read."""
    return private_cluster(SETTINGS, "attack")


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with attacked_server() as server:
        yield furnish(server)


_QUERY = re.compile(r'"Query Text": "((?:[^"\\]|\\.)*)"')


def statements(record: Record) -> list[str]:
    """The SQL texts that a record of the log shows."""
    if record.level in ("STATEMENT", "CONTEXT", "QUERY"):
        return [record.text]
    if record.level == "LOG" and record.text.startswith("duration:"):
        return _QUERY.findall(record.text)
    if record.level == "LOG" and record.text.startswith(("execute", "statement", "parse", "bind")):
        return [record.text]
    return []
