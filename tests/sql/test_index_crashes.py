"""Whatever ends a refresh half-way, the index stays right and is made up to date later."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import psycopg
import pytest

from insights_dev import cluster
from insights_dev.cluster import Server
from tests.conftest import Databases
from tests.semantics.world import (
    SESSION_METADATA,
    Assessment,
    Experiment,
    Span,
    Trace,
    World,
    attributes,
    delete_traces,
    load,
    replace_traces,
)
from tests.servers import running_server
from tests.sql.plain import check_counts, plain_ids, problems, uses_index

Connection = psycopg.Connection[Any]

TRACES = 300
#: Refreshes that are to be ended before they are through.
BY_SERVER = 36
BY_CLIENT = 14

REFRESH = "select * from insights_refresh()"
REBUILD = "call insights_rebuild(60)"


# ------------------------------------------------------------------ the traces


def random_trace(dice: Random, number: int) -> Trace:
    good = Assessment("feedback", "quality", dice.choice(['"good"', '"bad"', "4", "5", "1"]))
    covering = replace(good, metadata=SESSION_METADATA)
    return Trace(
        f"tr-{number:06}",
        dice.choice((1, 1, 1, 2)),
        1000 * number,
        status=dice.choice(("OK", "ERROR")),
        session_id=dice.choice((None, f"s{dice.randrange(60)}")),
        tags={"round": str(dice.randrange(9)), "unique": str(dice.random())},
        spans=tuple(
            Span(
                f"s{n}",
                attributes(model=dice.choice(("gpt-4", "other")), n=dice.random()),
                name=dice.choice(("plan", "call")),
                type=dice.choice(("LLM", "TOOL")),
                end_ns=dice.randrange(10**9),
            )
            for n in range(dice.randrange(5))
        ),
        assessments=dice.choices(((), (good,), (covering,)), (6, 3, 0.1))[0],
    )


def change_most(connection: Connection, dice: Random) -> None:
    """Nearly every trace is new, changed or deleted, and so is to be indexed."""
    numbers = dice.sample(range(TRACES * 11 // 10), TRACES)
    replace_traces(connection, [random_trace(dice, number) for number in numbers[20:]])
    delete_traces(connection, [f"tr-{number:06}" for number in numbers[:20]])


def fill(connection: Connection, dice: Random) -> None:
    load(connection, World((Experiment(1), Experiment(2)), ()))
    change_most(connection, dice)


def one(connection: Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def settle(connection: Connection) -> None:
    """What a worker would do next."""
    while not one(connection, "select done from insights.build_batch()"):
        pass
    while one(connection, "select pending from insights_refresh()"):
        pass


def wrong(connection: Connection) -> list[tuple[str | None, str]]:
    """What is wrong, except that a rebuild is not through."""
    found = problems(connection)
    if not one(connection, "select built from insights.state"):
        found.remove((None, "the index is not built"))
    return found


def check_thoroughly(connection: Connection) -> None:
    """After everything has been indexed nothing is wrong, missed, left out or left over."""
    assert wrong(connection) == []
    settle(connection)
    assert problems(connection) == []
    assert one(connection, "select last_value from insights.missed") <= one(
        connection, "select trusted from insights.state"
    )
    assert uses_index(connection)
    check_counts(connection)


def measured(connection: Connection) -> float:
    """How long a refresh of everything takes, in seconds; nothing is committed."""
    connection.execute(REFRESH)  # makes plans, loads the engine
    dice = Random(0)
    times = []
    for _ in range(3):
        change_most(connection, dice)
        with connection.transaction(force_rollback=True):
            begin = time.monotonic()
            connection.execute(REFRESH)
            times.append(time.monotonic() - begin)
    return sorted(times)[1]


# ------------------------------------------------------------- who is to be ended


class Victim:
    """A session that is at work in a thread, until it is through or ended."""

    def __init__(self, dsn: str, statement: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.pid = self.connection.info.backend_pid
        # Loads the engine, so that what is ended is the work itself.
        self.connection.execute("select insights_count(null::text[], 'status = ''OK''')")
        self.error: psycopg.Error | None = None
        self._statement = statement
        self._thread = threading.Thread(target=self._work)

    def start(self) -> None:
        self._thread.start()

    def _work(self) -> None:
        try:
            self.connection.execute(self._statement.encode())
        except psycopg.Error as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.connection.close()

    def was_cut(self) -> bool:
        """Whether it was ended before it was through."""
        return isinstance(self.error, psycopg.OperationalError)


def wait_for_end(connection: Connection, pid: int) -> None:
    end = time.monotonic() + 30
    query = f"select count(*) from pg_stat_activity where pid = {pid}"
    while one(connection, query):
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def filled(conn: Connection) -> Connection:
    fill(conn, Random(1))
    return conn


def test_sessions_are_terminated(dsn: str, filled: Connection) -> None:
    dice = Random(2)
    duration = measured(filled)
    cut = tries = 0
    while cut < BY_SERVER:
        tries += 1
        assert tries < 4 * BY_SERVER, f"{cut} of {tries} were ended half-way"
        change_most(filled, dice)
        victim = Victim(dsn, REBUILD if tries % 10 == 5 else REFRESH)
        victim.start()
        time.sleep(duration * dice.random())
        filled.execute("select pg_terminate_backend(%s)", (victim.pid,))
        victim.join()
        wait_for_end(filled, victim.pid)
        cut += victim.was_cut()
        check_counts(filled)
        if tries % 10 == 0:
            assert wrong(filled) == []
        if tries % 10 == 6:
            check_thoroughly(filled)  # finishes what was being rebuilt
    check_thoroughly(filled)


def test_a_rebuild_that_is_taken_back_leaves_the_index_in_use(filled: Connection) -> None:
    settle(filled)
    with filled.transaction(force_rollback=True):
        filled.execute("select insights.run_rebuild()")
    assert one(filled, "select built from insights.state")
    check_thoroughly(filled)
    # What counts the missed changes is not rolled back.
    filled.execute("select insights.run_rebuild()")
    for _ in range(3):
        with filled.transaction(force_rollback=True):
            filled.execute("select insights.build_batch()")
        filled.execute("select nextval('insights.missed')")
    check_counts(filled)
    check_thoroughly(filled)


CLIENT = """
import sys, psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True, options=sys.argv[2])
connection.execute("select insights_count(null::text[], 'status = ''OK''')")
print(connection.info.backend_pid, flush=True)
connection.execute("select * from insights_refresh()")
"""


def test_clients_are_killed(dsn: str, filled: Connection) -> None:
    """The server notices at once, or not before it is through."""
    dice = Random(3)
    duration = measured(filled)
    cut = tries = 0
    while cut < BY_CLIENT:
        tries += 1
        assert tries < 6 * BY_CLIENT, f"{cut} of {tries} were ended half-way"
        change_most(filled, dice)
        options = "-c client_connection_check_interval=2ms" if tries % 5 else ""
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, dsn, options], stdout=subprocess.PIPE, text=True
        )
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        time.sleep(duration * dice.random())
        client.kill()
        client.communicate()
        wait_for_end(filled, pid)
        cut += one(filled, "select count(*) from insights.pending") > 0
        check_counts(filled)
        if tries % 10 == 0:
            assert wrong(filled) == []
    check_thoroughly(filled)


# -------------------------------------------------------- the server is to be ended

SIGNALS = """
    create or replace function send_signal(pid int, name text) returns void
    language plpython3u as $$
    import os, signal
    # Without a process it is for the server as a whole.
    os.kill(pid or os.getppid(), getattr(signal, name))
    $$
"""


class Doomed:
    """A server that is crashed, with a database that survives."""

    def __init__(self, server: Server, database: str) -> None:
        self._server = server
        self._database = database

    @property
    def dsn(self) -> str:
        return self._server.dsn(self._database)

    def start_again(self) -> None:
        """After it has stopped."""
        end = time.monotonic() + 30
        while cluster.is_running(self._server):
            assert time.monotonic() < end
            time.sleep(0.01)
        if self._server.kind == "cluster":
            cluster.start(self._server)
            return
        name = self._server.home
        subprocess.run(["docker", "start", name], check=True, capture_output=True, timeout=60)
        # Docker may have chosen another port.
        shown = subprocess.run(
            ["docker", "port", name, "5432/tcp"], check=True, capture_output=True, text=True
        )
        port = int(shown.stdout.splitlines()[0].rpartition(":")[2])
        self._server = replace(self._server, port=port)

    def connect(self) -> Connection:
        """Waits until the server has recovered."""
        end = time.monotonic() + 60
        while True:
            try:
                return psycopg.connect(self.dsn, autocommit=True)
            except psycopg.OperationalError:
                assert time.monotonic() < end
                time.sleep(0.02)


@pytest.fixture(scope="module")
def doomed() -> Iterator[Doomed]:
    """A server of its own, whose commits last as they do in production."""
    with running_server() as server:
        databases = Databases(server)
        with databases.admin() as admin:
            for name in ("synchronous_commit", "full_page_writes"):
                admin.execute(f"alter system set {name} = on".encode())
            admin.execute("select pg_reload_conf()")
        dsn = databases.create(databases.template("insights"))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(SIGNALS)
        yield Doomed(server, dsn.rpartition("/")[2])


class Writer:
    """Adds traces one by one; knows which of them are committed."""

    def __init__(self, dsn: str, first: int) -> None:
        self.committed: list[str] = []
        self.connection = psycopg.connect(dsn, autocommit=True)
        self._next = first
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        dice = Random(self._next)
        while True:
            self._next += 1
            trace = random_trace(dice, self._next)
            try:
                replace_traces(self.connection, [trace])
            except psycopg.OperationalError:  # the crash
                return
            self.committed.append(trace.trace_id)

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.connection.close()


@pytest.mark.parametrize("whole", [True, False], ids=["the server stops at once", "SIGKILL"])
def test_the_server_crashes(doomed: Doomed, whole: bool) -> None:
    """``pg_ctl stop --mode=immediate``, which is SIGQUIT; or a backend is killed, whose
    neighbours then end as well, and the server recovers by itself."""
    dice = Random(4 + whole)
    connection = doomed.connect()
    fill(connection, dice)
    settle(connection)
    duration = measured(connection)
    cut = 0
    for number in range(20):
        if cut == 4:
            break
        change_most(connection, dice)
        victim = Victim(doomed.dsn, REBUILD if number == 2 else REFRESH)
        writer = Writer(doomed.dsn, 1_000_000 * (number + 1))
        victim.start()
        time.sleep(duration * dice.random())
        before = plain_ids(connection, "")
        # Who asks for it does not live to see the end of it.
        try:
            connection.execute(
                "select send_signal(%s, %s)",
                (0, "SIGQUIT") if whole else (victim.pid, "SIGKILL"),
            )
            connection.execute("select pg_sleep(30)")
        except psycopg.OperationalError:
            connection.close()
        assert connection.closed
        victim.join()
        writer.join()
        if whole:
            doomed.start_again()
        connection = doomed.connect()
        cut += victim.was_cut()

        assert before | set(writer.committed) <= plain_ids(connection, "")
        check_counts(connection)
        assert wrong(connection) == []
        if number % 2 == 0:
            check_thoroughly(connection)
        delete_traces(connection, writer.committed[5:])
    assert cut == 4
    check_thoroughly(connection)
    connection.close()
