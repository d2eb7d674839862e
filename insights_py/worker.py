"""Keeps the index up to date, and builds it: what `insights worker` and `insights index` do.

Both only call functions of the database, each call one transaction.  Whatever
ends them leaves the index as it was after the last call.
"""

from __future__ import annotations

import random
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
from insights_py.connections import connect, lost
from insights_py.errors import (
    ArgumentError,
    Cancelled,
    InsightsError,
    NotInstalled,
    PermissionDenied,
    translated,
)
from insights_py.rows import Refresh

__all__ = ["Progress", "Worker", "build"]

#: Seconds between two looks at an index that has had nothing to do for a while.
SLOWEST = 15.0
#: Seconds between two looks at whether the index is used.
_REMINDER = 300.0
#: Seconds before the first try after a failure, and before it is said again that it lasts.
_FIRST_WAIT = 0.25
_FIRST_REMINDER = 60.0
#: Seconds for which `build` waits for a database that it has reached before.
_BUILD_PATIENCE = 300.0

#: At the start: another try can only fail the same way.  Later: may go away as it came.
_PERMANENT = (ArgumentError, NotInstalled, PermissionDenied)


class _Stopped(BaseException):
    """Raised by a signal where there is no statement that could be cancelled."""


class _Session:
    """Calls functions, each in a transaction of its own, on a connection made when needed."""

    def __init__(self, dsn: str, name: str, schema: str | None, say: Callable[[str], None]) -> None:
        self._dsn = dsn
        self._say = say
        self._name = name
        self._given_schema = schema
        self._schema: str | None = None
        self._connection: psycopg.Connection[Any] | None = None
        #: A connection was lost between two calls, since this was last set to False.
        self.was_lost = False
        #: There is nothing to cancel, though it may take long.
        self.connecting = False

    def call(self, query: sql.Query) -> Any:
        """The row that a statement gives."""
        with translated():
            row = self._row(self._connected(), query, self._schema)
        if row is None:
            raise NotInstalled("the installation of the trace functions is incomplete")
        return row

    @property
    def connected(self) -> bool:
        """Whether there is a connection, which may have been lost."""
        return self._connection is not None

    def failed(self, error: InsightsError) -> bool:
        """Has the next call begin anew; whether this one may have asked too much at once."""
        asked = self.connected
        # Whatever was wrong with it, the next one begins without it.
        self.close()
        # The failure is what is said of it.
        self.was_lost = False
        return asked and not isinstance(error, _PERMANENT)

    def cancel(self) -> None:
        """Ends the statement that is running, if there is one."""
        if self._connection is not None:
            self._connection.cancel_safe(timeout=2)

    def close(self) -> None:
        """Closes the connection; the next call makes another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        """Passes on which traces cannot be indexed."""
        if notice.severity_nonlocalized != "WARNING" or notice.message_primary is None:
            return
        # The last words of a server that stops: the failure that follows is said.
        if not (notice.sqlstate or "").startswith("57"):
            self._say(notice.message_primary)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is not None and lost(self._connection):
            self.close()
            self.was_lost = True
        if self._connection is None:
            self.connecting = True
            try:
                self._connection = connect(self._dsn, self._name)
                self._connection.add_notice_handler(self._notice)
            finally:
                self.connecting = False
            self._schema = self._given_schema
            if self._given_schema is None:
                # Where MLflow's tables are, as the installation knows.
                row = self._row(self._connection, sql.INSTALLED_FOR(), None)
                self._schema = None if row is None else str(row[0])
        return self._connection

    def _row(
        self, connection: psycopg.Connection[Any], query: sql.Query, schema: str | None
    ) -> Any:
        with connection.transaction():
            # As pg_dump and autovacuum do: such limits are meant for questions.
            connection.execute(_UNLIMITED)
            return connection.execute(query.for_psycopg(schema).encode(), query.params).fetchone()


_UNLIMITED = b"""
    select pg_catalog.set_config(s.name, '0', true)
    from pg_catalog.unnest(array['statement_timeout', 'transaction_timeout']) s (name)
    where pg_catalog.current_setting(s.name, true) <> '0'
"""


class _Patience:
    """How long to wait after failures, and when to say something of them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._failures = 0
        self._begin = 0.0
        self._next_line = 0.0
        self._between = _FIRST_REMINDER

    def failed(self, error: InsightsError) -> float:
        """Says it, unless it has gone on since it was said; seconds to wait, rising to `SLOWEST`.

        They are random, since what hits one worker hits all of them at once.
        """
        now = time.monotonic()
        if self._failures == 0:
            self._begin = now
            self._between = _FIRST_REMINDER
            self._next_line = now + self._between
            self._say(f"trying again: {error.message}")
        elif now >= self._next_line:
            self._between = min(2 * self._between, _REMINDER)
            self._next_line = now + self._between
            self._say(f"still trying, after {now - self._begin:.0f} s: {error.message}")
        longest = min(_FIRST_WAIT * 2.0 ** min(self._failures, 20), SLOWEST)
        self._failures += 1
        return longest * random.uniform(0.5, 1)

    def succeeded(self) -> None:
        """Says so if it took more than one try."""
        if self._failures > 1:
            self._say(f"working again, after {time.monotonic() - self._begin:.0f} s")
        self._failures = 0

    @property
    def seconds(self) -> float:
        """For how long it has failed."""
        return time.monotonic() - self._begin if self._failures else 0.0


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
        self._session = _Session(dsn, "insights worker", schema, self._say)
        self._batch = batch
        self._poll = poll
        self._heartbeat = heartbeat
        self._say_to = say
        self._stopping = threading.Event()
        self._patience = _Patience(self._say)
        # Smaller than asked for after a batch that failed, which may have been too large.
        self._size = batch
        self._next_reminder = 0.0
        self._next_lost = 0.0
        self._beats = True

    def stop(self) -> None:
        """Ends `run` after the batch that is being indexed; callable from anywhere."""
        self._stopping.set()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """While this lasts, SIGTERM and SIGINT stop; a second one gives the batch up."""

        def handle(number: int, frame: FrameType | None) -> None:
            again = self._stopping.is_set()
            self._stopping.set()
            if self._session.connecting:
                raise _Stopped
            if again:
                try:
                    self._session.cancel()
                except psycopg.Error:
                    # The server cannot even be asked to cancel.
                    self._session.close()
                    raise _Stopped from None

        before = {
            number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        except _Stopped:
            self._session.close()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self) -> None:
        """Works until `stop`, whatever happens to the database.

        Raises only at the start, if it cannot begin: no connection, nothing
        installed, no permission, a wrong argument.
        """
        wait = self._poll
        began = connected = False
        try:
            while not self._stopping.is_set():
                try:
                    done = self._refresh()
                    if not (done.busy or _progress(done)):
                        self._remind()
                except InsightsError as error:
                    if self._stopping.is_set():
                        break
                    # A connection that was there and is lost can be had again.
                    connected = connected or self._session.connected
                    if not connected or (not began and isinstance(error, _PERMANENT)):
                        raise
                    if self._session.failed(error):
                        self._size = max(1, self._size // 2)
                    wait = self._patience.failed(error)
                else:
                    began = connected = True
                    self._patience.succeeded()
                    self._beat()
                    if _progress(done):
                        wait = self._poll
                        if done.pending:
                            continue
                    elif not done.busy:
                        wait = max(self._poll, min(1.5 * wait, SLOWEST))
                self._stopping.wait(wait)
        finally:
            self._session.close()

    def drain(self) -> None:
        """Works until nothing is pending that can be indexed.  Raises whatever goes wrong."""
        try:
            while not self._stopping.is_set():
                done = self._refresh()
                self._beat()
                if done.busy:
                    self._stopping.wait(self._poll)
                elif not done.pending or not _progress(done):
                    break
            self._remind()
        except Cancelled:
            if not self._stopping.is_set():
                raise
        finally:
            self._session.close()

    def _refresh(self) -> Refresh:
        begin = time.monotonic()
        done = Refresh(*self._session.call(sql.REFRESH(max_traces=self._size)))
        self._size = min(2 * self._size, self._batch)
        if self._session.was_lost:
            self._session.was_lost = False
            if begin >= self._next_lost:
                # A server that ends idle sessions does so all the time.
                self._next_lost = begin + _REMINDER
                self._say("connected again: the server had closed the connection")
        if done.indexed or done.removed or done.merged:
            self._say(
                f"indexed {done.indexed:,}, removed {done.removed:,}, merged {done.merged:,}, "
                f"{done.pending:,} changes pending; {time.monotonic() - begin:.2f} s"
            )
        return done

    def _remind(self) -> None:
        """Says now and then that the index is not used, and what to do."""
        now = time.monotonic()
        if now < self._next_reminder:
            return
        # Asking takes longer than looking for changes, and may fail: not more often than this.
        self._next_reminder = now + _REMINDER
        row = self._session.call(sql.INDEX_STATUS())
        status = dict(zip(sql.INDEX_STATUS.columns, row, strict=True))
        if status["built"] is False:
            self._say("the index is not built: run insights index")
        elif status["unwatched"]:
            self._say(f"the index is not used, {status['unwatched']}: run insights install")

    def _beat(self) -> None:
        if self._heartbeat is None:
            return
        try:
            self._heartbeat.touch()
        except OSError as error:
            # Health checks notice; a full disk is no reason to stop.
            if self._beats:
                self._say(f"cannot touch {self._heartbeat}: {error.strerror}")
            self._beats = False
        else:
            self._beats = True

    def _say(self, text: str) -> None:
        try:
            self._say_to(text)
        except OSError:
            # A log that cannot be written, as on a full disk, leaves nowhere to say so.
            return


def _progress(done: Refresh) -> bool:
    return bool(done.indexed or done.removed or done.merged)


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
    patience: float = _BUILD_PATIENCE,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Progress]:
    """Builds the index of a database that has traces, a batch in each transaction.

    Yields the state before the first batch and after each.  Whoever stops in
    between can call it again, without ``rebuild``: it goes on where it was.
    ``rebuild`` throws away the index that is there.  A connection that is lost
    is made again; what still fails after ``patience`` seconds is raised, and
    ``say`` gets a line for each failure before.
    """
    session = _Session(dsn, "insights index", schema, say)
    patient = _Patience(say)
    size = batch
    try:
        # Before anything else is asked of MLflow's tables.
        session.call(sql.GUARD())
        built, indexed, total = session.call(sql.INDEXED())
        if built is None:
            raise PermissionDenied(
                "the index can be built by a superuser or the owner of MLflow's tables only"
            )
        if rebuild:
            indexed, built = 0, False
        yield Progress(int(indexed), int(total), bool(built), False)
        while rebuild or not built:
            more = 0
            try:
                if rebuild:
                    rebuild, _ = session.call(sql.START_OVER(batch_size=batch))
                    busy = rebuild
                else:
                    more, built, busy = session.call(sql.BUILD_BATCH(max_traces=size))
            except _PERMANENT:
                raise
            except InsightsError as error:
                if session.failed(error):
                    size = max(1, size // 2)
                pause = patient.failed(error)
                if patient.seconds + pause > patience:
                    raise
                yield Progress(int(indexed), int(total), False, True)
                time.sleep(pause)
                continue
            patient.succeeded()
            size = min(2 * size, batch)
            indexed += more
            yield Progress(int(indexed), max(int(total), int(indexed)), bool(built), bool(busy))
            if busy:
                time.sleep(wait)
    finally:
        session.close()
