"""Disturbs a server, a database and a role at random, and puts each thing right again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import psycopg

from insights_dev import cluster
from insights_dev.cluster import Server

Connection = psycopg.Connection[Any]

#: The role that the worker logs in as.
KEEPER = "keeper"
PASSWORD = "of-the-keeper"
AWAY = "somewhere_else"

#: A disk that is full, as the index's tables meet it.
FULL = """
    create or replace function public.full_disk() returns trigger language plpgsql as $$
    begin
        raise exception 'could not extend file: No space left on device' using errcode = '53100';
    end
    $$;
    create trigger full_disk before insert or update or delete on insights.block
    for each statement execute function public.full_disk()
"""


class Faults:
    """``dsn`` is the worker's; ``kinds`` are the names of all the faults there are."""

    def __init__(self, server: Server, database: str, dice: Random) -> None:
        self._server = server
        self._database = database
        self._dice = dice
        self._admin: Connection | None = None
        #: How often sessions were ended, or kept from beginning.
        self.disruptions = 0
        self.kinds: dict[str, Callable[[float], None]] = {
            "sessions are ended": self._terminate,
            "sessions are ended time and again": self._terminate_often,
            "statements are cancelled": self._cancel,
            "statement_timeout": self._setting("statement_timeout", "1ms"),
            "lock_timeout": self._lock_timeout,
            "temp_file_limit": self._setting("temp_file_limit", "0", "work_mem", "64kB"),
            "a full disk": self._full_disk,
            "idle_session_timeout": self._setting("idle_session_timeout", "20ms"),
            "idle_in_transaction_session_timeout": self._setting(
                "idle_in_transaction_session_timeout", "1ms"
            ),
            "serializable": self._setting("default_transaction_isolation", "serializable"),
            "repeatable read": self._setting("default_transaction_isolation", "repeatable read"),
            "read only": self._setting("default_transaction_read_only", "on"),
            "no login": self._role("nologin", "login"),
            "another password": self._role("password 'another'", f"password '{PASSWORD}'"),
            "no connection left": self._role("connection limit 0", "connection limit -1"),
            "no rights": self._role("nosuperuser", "superuser"),
            "the schema is away": self._rename(
                "schema insights", AWAY, f"schema {AWAY}", "insights"
            ),
            "a function is away": self._rename(
                "function insights_refresh(int)", AWAY, f"function {AWAY}(int)", "insights_refresh"
            ),
            "the engine is away": self._rename(
                "function insights.load_engine()",
                AWAY,
                f"function insights.{AWAY}()",
                "load_engine",
            ),
            "the database is renamed": self._database_is_renamed,
            "the server stops at once": self._restart("immediate"),
            "the server is restarted": self._restart("fast"),
        }

    @property
    def dsn(self) -> str:
        """The database for the worker."""
        return replace(self._server, user=KEEPER, password=PASSWORD).dsn(self._database)

    @property
    def admin_dsn(self) -> str:
        """The database for whoever looks and writes, without these faults."""
        return self._server.dsn(self._database)

    def prepare(self) -> None:
        """Makes the role."""
        self.execute(f"create role {KEEPER} superuser login password '{PASSWORD}'")

    def inject(self, kind: str, seconds: float) -> None:
        """Lets a fault last for some time, and ends it."""
        self.kinds[kind](seconds)

    # ------------------------------------------------------------------- faults

    def _terminate(self, seconds: float) -> None:
        self._end_sessions()
        time.sleep(seconds)

    def _terminate_often(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._end_sessions()
            time.sleep(self._dice.random() * 0.1)

    def _cancel(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.execute(f"select pg_cancel_backend(pid) from pg_stat_activity {_THEIRS}")
            time.sleep(self._dice.random() * 0.05)

    def _setting(self, *settings: str) -> Callable[[float], None]:
        pairs = list(zip(settings[::2], settings[1::2], strict=True))

        def fault(seconds: float) -> None:
            for name, value in pairs:
                self.execute(f"alter role {KEEPER} set {name} = '{value}'")
            with self._until(lambda: self.execute(f"alter role {KEEPER} reset all")):
                time.sleep(seconds)

        return fault

    def _lock_timeout(self, seconds: float) -> None:
        self.execute(f"alter role {KEEPER} set lock_timeout = '5ms'")
        with (
            self._until(lambda: self.execute(f"alter role {KEEPER} reset all")),
            psycopg.connect(self.admin_dsn) as other,
        ):
            other.execute("lock table insights.block in access exclusive mode")
            time.sleep(seconds)

    def _full_disk(self, seconds: float) -> None:
        with psycopg.connect(self.admin_dsn, autocommit=True) as connection:
            connection.execute(FULL)
            time.sleep(seconds)
            connection.execute("drop function public.full_disk() cascade")

    def _role(self, broken: str, mended: str) -> Callable[[float], None]:
        def fault(seconds: float) -> None:
            self.execute(f"alter role {KEEPER} {broken}")
            with self._until(lambda: self.execute(f"alter role {KEEPER} {mended}")):
                time.sleep(seconds)

        return fault

    def _rename(self, what: str, away: str, then: str, back: str) -> Callable[[float], None]:
        def fault(seconds: float) -> None:
            with psycopg.connect(self.admin_dsn, autocommit=True) as connection:
                connection.execute(f"alter {what} rename to {away}".encode())
                self._end_sessions()
                time.sleep(seconds)
                connection.execute(f"alter {then} rename to {back}".encode())

        return fault

    def _database_is_renamed(self, seconds: float) -> None:
        self._rename_database(self._database, AWAY)
        time.sleep(seconds)
        self._rename_database(AWAY, self._database)

    def _rename_database(self, name: str, to: str) -> None:
        while True:
            self._end_sessions(f"where datname = '{name}'")
            try:
                self.execute(f"alter database {name} rename to {to}")
            except psycopg.errors.ObjectInUse:  # whoever came back in between
                continue
            return

    def _restart(self, mode: str) -> Callable[[float], None]:
        def fault(seconds: float) -> None:
            self.disruptions += 1
            self.close()
            if self._server.kind == "container":
                # Its port would be another one afterwards.
                self._docker("pause")
                time.sleep(seconds)
                self._docker("unpause")
                self._end_sessions()
                return
            cluster.stop(self._server, mode=mode)
            time.sleep(seconds)
            cluster.start(self._server)

        return fault

    def _docker(self, command: str) -> None:
        subprocess.run(["docker", command, self._server.home], check=True, capture_output=True)

    # ------------------------------------------------------------------ the admin

    @contextmanager
    def _until(self, mend: Callable[[], None]) -> Iterator[None]:
        """Sessions begin anew at both ends, as only these see what has changed."""
        self._end_sessions()
        yield
        mend()
        self._end_sessions()

    def _end_sessions(self, which: str | None = None) -> None:
        self.disruptions += 1
        self.execute(f"select pg_terminate_backend(pid) from pg_stat_activity {which or _THEIRS}")

    def execute(self, statement: str) -> None:
        """Runs a statement as the superuser."""
        if self._admin is None:
            self._admin = psycopg.connect(self._server.dsn(), autocommit=True)
        self._admin.execute(statement.encode())

    def close(self) -> None:
        """Ends the session of whoever disturbs."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None


_THEIRS = f"where usename = '{KEEPER}'"
