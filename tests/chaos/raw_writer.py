"""Writers that do what MLflow does not, but somebody's script or migration may.

Each is a thread with a session of its own: serializable and repeatable-read
transactions, savepoints that are rolled back, COPY, settings, and traces with contents
that no client of MLflow's would send.
"""

from __future__ import annotations

import threading
import time
from random import Random
from typing import Any

import psycopg

from tests.chaos.ledger import CANCELLED, SERIALIZATION, Ledger, failure
from tests.semantics.strategies import Palette, _trace, pick
from tests.semantics.world import Trace, delete_traces, replace_traces

Connection = psycopg.Connection[Any]

#: Each writer has so many ids and uses them again and again.
IDS = 30

#: Whoever asks for these isolation levels has to try again at times.
MAY_CONFLICT = ("serializable", "repeatable_read", "setting")

#: What a session of MLflow's role may set, and what must not matter.
SETTINGS = (
    "set array_nulls = off",
    "set bytea_output = escape",
    "set standard_conforming_strings = off",
    "set transform_null_equals = on",
    "set extra_float_digits = -15",
    "set search_path = pg_temp",
    "set row_security = off",
    "set insights.noted = '{'",
    'set insights.noted = \'"raw-0-1","raw-0-2","raw-1-1","raw-1-2"\'',
    "set default_transaction_isolation = serializable",
    "set client_min_messages = debug5",
    "set default_transaction_isolation = 'repeatable read'",
)


class RawWriter(threading.Thread):
    def __init__(
        self, dsn: str, number: int, palette: Palette, ledger: Ledger, dice: Random, calls: set[str]
    ) -> None:
        self.who = f"raw-{number}"
        super().__init__(name=self.who)
        self._dsn = dsn
        self._number = number
        self._palette = palette
        self._ledger = ledger
        self._dice = dice
        self._calls = sorted(calls)
        self.stopping = threading.Event()
        self.done = 0

    def run(self) -> None:
        connection: Connection | None = None
        since = time.time()
        what = "connect"
        while not self.stopping.is_set():
            begin = time.time()
            try:
                if connection is None or connection.closed:
                    what = "connect"
                    connection = psycopg.connect(
                        self._dsn, autocommit=True, application_name=self.who
                    )
                what = pick(self._dice, self._calls)
                getattr(self, what)(connection)
            except psycopg.Error as error:
                found = failure(self.who, what, error, since)
                assert found is not None
                if found.sqlstate in SERIALIZATION and what in MAY_CONFLICT:
                    # Who asks for that has to try again; so without this project, too.
                    self._ledger.refused(self.who, f"{what} has to try again")
                else:
                    self._ledger.failed(found)
                if connection is not None and not connection.closed:
                    connection.close()
                connection = None
                time.sleep(0.2)
            except BaseException as error:
                self._ledger.troubled(f"{self.who}, {what}: {type(error).__name__}: {error}")
                raise
            else:
                since = begin
                self.done += 1
            time.sleep(0.05)
        if connection is not None:
            connection.close()

    # --------------------------------------------------------------------- calls

    def _some(self, most: int = 3) -> list[Trace]:
        from dataclasses import replace

        numbers = self._dice.sample(range(IDS), self._dice.randint(1, most))
        traces = []
        for number in numbers:
            trace = _trace(self._dice, self._palette)
            # None of a million characters: the truth is worked out again and again.
            spans = tuple(span for span in trace.spans if len(span.content) < 3000)
            traces.append(replace(trace, trace_id=f"raw-{self._number}-{number}", spans=spans))
        return traces

    def plain(self, connection: Connection) -> None:
        replace_traces(connection, self._some())

    def delete(self, connection: Connection) -> None:
        ids = [f"raw-{self._number}-{self._dice.randrange(IDS)}" for _ in range(3)]
        delete_traces(connection, ids)

    def update(self, connection: Connection) -> None:
        """By columns that filters see, and by keys, which moves rows to another trace."""
        trace_id = f"raw-{self._number}-{self._dice.randrange(IDS)}"
        other = f"raw-{self._number}-{self._dice.randrange(IDS)}"
        text = pick(self._dice, self._palette.texts)
        connection.execute(
            pick(
                self._dice,
                (
                    "update public.trace_info set status = 'ERROR', session_id = 's2'"
                    " where request_id = %(one)s",
                    "update public.trace_tags set value = %(text)s where request_id = %(one)s",
                    "update public.spans set content = '' where trace_id = %(one)s",
                    "update public.assessments set valid = not valid where trace_id = %(one)s",
                    "update public.trace_tags t set request_id = %(other)s"
                    " where request_id = %(one)s"
                    " and exists (select from public.trace_info i where i.request_id = %(other)s)"
                    " and not exists (select from public.trace_tags o"
                    "  where o.request_id = %(other)s and o.key = t.key)",
                    "insert into public.trace_tags (request_id, key, value)"
                    " select request_id, 'k', %(text)s from public.trace_info"
                    " where request_id = %(one)s"
                    " on conflict (request_id, key) do update set value = excluded.value",
                ),
            ).encode(),
            {"one": trace_id, "other": other, "text": text},
        )

    def serializable(self, connection: Connection) -> None:
        self._isolated(connection, "serializable")

    def repeatable_read(self, connection: Connection) -> None:
        self._isolated(connection, "repeatable read")

    def _isolated(self, connection: Connection, level: str) -> None:
        self._ledger.inject(f"{level} writer", self.who)
        with connection.transaction():
            connection.execute(f"set transaction isolation level {level}".encode())
            connection.execute("select count(*) from public.trace_tags")
            replace_traces(connection, self._some())
            time.sleep(self._dice.random() * 0.1)
            replace_traces(connection, self._some())

    def savepoints(self, connection: Connection) -> None:
        self._ledger.inject("savepoint rolled back", self.who)
        with connection.transaction():
            for _ in range(3):
                with connection.transaction(force_rollback=self._dice.random() < 0.6):
                    replace_traces(connection, self._some())
                    if self._dice.random() < 0.5:
                        self.update(connection)

    def rolled_back(self, connection: Connection) -> None:
        self._ledger.inject("transaction rolled back", self.who)
        with connection.transaction(force_rollback=True):
            replace_traces(connection, self._some())

    def timeout(self, connection: Connection) -> None:
        fault = self._ledger.inject("statement timeout of a writer", self.who, CANCELLED)
        connection.execute(f"set statement_timeout = {self._dice.randint(1, 30)}".encode())
        try:
            replace_traces(connection, self._some(6))
        finally:
            fault.over()
        # After a failure the session ends, and the limit with it.
        connection.execute("reset statement_timeout")

    def setting(self, connection: Connection) -> None:
        self._ledger.inject("setting of a writer", self.who)
        connection.execute(pick(self._dice, SETTINGS).encode())
        replace_traces(connection, self._some())
        connection.execute("reset all")


CALLS = {
    "plain",
    "delete",
    "update",
    "serializable",
    "repeatable_read",
    "savepoints",
    "rolled_back",
    "timeout",
    "setting",
}
