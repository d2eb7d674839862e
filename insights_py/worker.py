"""Keeps the index up to date, and builds it: what `insights worker` and `insights index` do.

Both only call functions of the database, each call one transaction.  Whatever
ends them leaves the index as it was after the last call.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg

from insights_py import sql
from insights_py.dsn import libpq
from insights_py.errors import (
    ArgumentError,
    Cancelled,
    ConnectionFailed,
    InsightsError,
    NotInstalled,
    PermissionDenied,
    translated,
)
from insights_py.rows import Refresh

__all__ = ["Progress", "Worker", "build"]

#: Seconds between two looks at an index that has had nothing to do for a while.
SLOWEST = 15.0
#: Seconds between two reminders that the index is not used.
_REMINDER = 300.0

#: Another try can only fail the same way.
_PERMANENT = (ArgumentError, NotInstalled, PermissionDenied)


def connect(dsn: str, name: str) -> psycopg.Connection[Any]:
    """A connection in autocommit mode that notices when its server is gone."""
    return psycopg.connect(
        libpq(dsn),
        autocommit=True,
        fallback_application_name=name,
        connect_timeout=10,
        keepalives_idle=30,
        keepalives_interval=10,
        keepalives_count=3,
    )


def _row(connection: psycopg.Connection[Any], query: sql.Query, schema: str | None) -> Any:
    row = connection.execute(query.for_psycopg(schema).encode(), query.params).fetchone()
    assert row is not None
    return row


def _schema(connection: psycopg.Connection[Any], given: str | None) -> str | None:
    """Where MLflow's tables are, as the installation knows; None for the search path."""
    if given is not None:
        return given
    with translated():
        query = sql.INSTALLED_FOR()
        row = connection.execute(query.for_psycopg(None).encode()).fetchone()
    return None if row is None else str(row[0])


class Worker:
    """Calls `insights_refresh` whenever traces have changed, until `stop`.

    ``poll`` are the seconds between two calls while there is something to do;
    idle, it looks less often, at least every 15 seconds.  ``say`` gets a line
    for each batch that did something, and for whatever is wrong.  ``heartbeat``
    is a file touched after each look, for health checks.
    """

    def __init__(
        self,
        dsn: str,
        *,
        schema: str | None = None,
        batch: int = 5000,
        poll: float = 1.0,
        heartbeat: Path | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self._dsn = dsn
        self._given_schema = schema
        self._schema: str | None = None
        self._batch = batch
        self._poll = poll
        self._heartbeat = heartbeat
        self._say = say
        self._stopping = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._reminded = -_REMINDER

    def stop(self) -> None:
        """Ends `run` after the batch that is being indexed; callable from anywhere."""
        self._stopping.set()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """While this lasts, SIGTERM and SIGINT stop; a second one gives the batch up."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self._stopping.is_set() and self._connection is not None:
                self._connection.cancel_safe(timeout=2)
            self._stopping.set()

        before = {
            number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self) -> None:
        """Works until `stop`.  Raises only what would fail again, and if it cannot begin."""
        wait = self._poll
        connected = False
        while not self._stopping.is_set():
            try:
                done = self._refresh()
                connected = True
            except _PERMANENT:
                raise
            except InsightsError as error:
                if self._stopping.is_set() and isinstance(error, Cancelled):
                    break
                if isinstance(error, ConnectionFailed):
                    self._disconnect()
                    if not connected:
                        raise
                self._say(f"trying again: {error.message}")
                wait = min(max(2 * wait, 1.0), SLOWEST)
            else:
                if done.busy or done.indexed or done.removed or done.pending:
                    wait = self._poll
                else:
                    wait = max(self._poll, min(1.5 * wait, SLOWEST))
                    self._remind()
                self._beat()
                if not done.busy and done.pending:
                    continue
            self._stopping.wait(wait)
        self._disconnect()

    def drain(self) -> None:
        """Works until nothing is pending.  Raises whatever goes wrong."""
        try:
            while not self._stopping.is_set():
                done = self._refresh()
                self._beat()
                if done.busy:
                    self._stopping.wait(self._poll)
                elif not done.pending:
                    break
            self._remind()
        except Cancelled:
            if not self._stopping.is_set():
                raise
        finally:
            self._disconnect()

    def _refresh(self) -> Refresh:
        begin = time.monotonic()
        with translated():
            connection = self._connected()
            query = sql.REFRESH(max_traces=self._batch)
            done = Refresh(*_row(connection, query, self._schema))
        if done.indexed or done.removed or done.merged:
            self._say(
                f"indexed {done.indexed:,}, removed {done.removed:,}, merged {done.merged:,}, "
                f"{done.pending:,} changes pending; {time.monotonic() - begin:.2f} s"
            )
        return done

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, "insights worker")
            self._schema = _schema(self._connection, self._given_schema)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _remind(self) -> None:
        """Says now and then that the index is not used, and what to do."""
        if time.monotonic() < self._reminded + _REMINDER:
            return
        with translated():
            connection = self._connected()
            columns = sql.INDEX_STATUS.columns
            row = _row(connection, sql.INDEX_STATUS(), self._schema)
        status = dict(zip(columns, row, strict=True))
        if status["built"] is False:
            self._say("the index is not built: run insights index")
        elif status["missed"]:
            self._say("the index has missed changes and is not used: run insights index --rebuild")
        else:
            return
        self._reminded = time.monotonic()

    def _beat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.touch()


@dataclass(frozen=True)
class Progress:
    """How far the index is: traces in it, and traces there are."""

    indexed: int
    total: int
    done: bool
    waiting: bool


def build(
    dsn: str,
    *,
    schema: str | None = None,
    batch: int = 32_000,
    rebuild: bool = False,
    wait: float = 1.0,
) -> Iterator[Progress]:
    """Builds the index of a database that has traces, a batch in each transaction.

    Yields the state before the first batch and after each.  Whoever stops in
    between can call it again, without ``rebuild``: it goes on where it was.
    ``rebuild`` throws away the index that is there.
    """
    with translated(), connect(dsn, "insights index") as connection:
        place = _schema(connection, schema)
        built, indexed, total = _row(connection, sql.INDEXED(), place)
        if built is None:
            raise PermissionDenied(
                "the index can be built by a superuser or the owner of MLflow's tables only"
            )
        while rebuild:
            rebuild, _ = _row(connection, sql.START_OVER(batch_size=batch), place)
            indexed, built = 0, False
            if rebuild:  # busy
                yield Progress(0, int(total), False, True)
                time.sleep(wait)
        yield Progress(int(indexed), int(total), bool(built), False)
        while not built:
            more, built, busy = _row(connection, sql.BUILD_BATCH(max_traces=batch), place)
            indexed += more
            yield Progress(int(indexed), max(int(total), int(indexed)), bool(built), bool(busy))
            if busy:
                time.sleep(wait)
