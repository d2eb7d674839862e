"""`insights worker`, `insights index` and the clients, while the database is disturbed.

``INSIGHTS_FAULTS`` is how many faults the worker is to survive; ``make faults`` takes 500.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from insights_py import AsyncInsights, Insights
from insights_py.errors import ConnectionFailed
from insights_py.worker import Worker, build
from tests.client import world
from tests.client.faults import Faults
from tests.client.test_worker import Process, until
from tests.conftest import Databases
from tests.servers import running_server

FAULTS = int(os.environ.get("INSIGHTS_FAULTS") or 0)
SEED = int(os.environ.get("INSIGHTS_FAULTS_SEED") or 1)


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    """A server of its own with 48 traces, all of them pending."""
    with running_server() as server:
        databases = Databases(server)
        name = databases.create(databases.template("insights")).rpartition("/")[2]
        disturber = Faults(server, name, Random(SEED))
        with databases.admin() as admin:
            # What a fault takes back must not be lost by the next restart.
            admin.execute("alter system set synchronous_commit = 'on'")
            admin.execute("select pg_reload_conf()")
        disturber.prepare()
        with psycopg.connect(disturber.admin_dsn, autocommit=True) as connection:
            world.load(connection)
        yield disturber
        disturber.close()


def change(faults: Faults, dice: Random) -> None:
    """Has the worker something to do."""
    with psycopg.connect(faults.admin_dsn, autocommit=True) as connection:
        connection.execute(
            "update trace_tags set value = %s where request_id = any(%s)",
            [f"r{dice.random()}", [world.trace_id(dice.randrange(48)) for _ in range(8)]],
        )


def pending(faults: Faults) -> int:
    with Insights(faults.admin_dsn) as insights:
        found = insights.index_status().pending
    assert found is not None
    return found


def catch_up(faults: Faults, after: str, log: list[str]) -> None:
    end = time.monotonic() + 60
    while pending(faults):
        assert time.monotonic() < end, f"pending after {after}: {''.join(log)}"
        time.sleep(0.1)


def test_a_worker_survives_random_faults(faults: Faults) -> None:
    dice = Random(SEED)
    worker = Process("worker", "--poll", "0.05", "--dsn", faults.dsn)
    text: list[str] = []
    assert worker.process.stdout is not None
    reader = threading.Thread(target=lambda: text.extend(worker.process.stdout or ()))
    reader.start()
    try:
        until(lambda: pending(faults) == 0)
        kinds: list[str] = []
        for number in range(max(FAULTS, len(faults.kinds) + 10)):
            if not kinds:
                kinds = dice.sample(sorted(faults.kinds), len(faults.kinds))
            kind = kinds.pop()
            change(faults, dice)
            faults.inject(kind, dice.choice((0, 0.1, 0.5, 1 if number % 10 else 3)))
            assert worker.process.poll() is None, f"fault {number}, {kind}: {''.join(text)}"
            if dice.random() < 0.3:
                catch_up(faults, f"fault {number}, {kind}", text)
        change(faults, dice)
        catch_up(faults, "the end", text)
        with Insights(faults.admin_dsn) as insights:
            assert insights.verify() == []
            assert insights.index_status().missed == 0
            assert insights.count() == 48
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(20) == 0
    finally:
        worker.process.kill()
        reader.join()
    log = "".join(text)
    assert "Traceback" not in log
    lines = log.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines), log
    failures = [line for line in lines if "trying again" in line]
    # Some pass unnoticed, and some become one.
    assert 5 <= len(failures) <= faults.disruptions, log
    assert not any("still trying" in line for line in lines)


# The connection is lost in the middle of a call, or between two.
@pytest.mark.parametrize("poll", [0.01, 1])
def test_a_line_for_an_outage(faults: Faults, poll: float) -> None:
    """However often it is tried, and whatever the server says each time."""
    lines: list[str] = []
    change(faults, Random(2))
    worker = Worker(faults.dsn, poll=poll, say=lines.append)
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(lambda: pending(faults) == 0)
    del lines[:]
    faults.inject("the server stops at once", 3)
    change(faults, Random(2))
    until(lambda: pending(faults) == 0, 30)
    worker.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert len([line for line in lines if line.startswith("indexed")]) == 1
    rest = [line for line in lines if not line.startswith("indexed")]
    assert len(rest) == 2, lines
    assert rest[0].startswith("trying again: ")
    assert re.fullmatch(r"working again, after \d+ s", rest[1])


def test_an_idle_worker_asks_for_the_status_seldom(dsn: str, conn: psycopg.Connection) -> None:
    calls = "select calls from pg_stat_user_functions where funcname = 'insights_status'"
    conn.execute(f"alter database {dsn.rpartition('/')[2]} set track_functions = 'all'".encode())
    heartbeats: list[int] = []

    class Counted(Worker):
        def _beat(self) -> None:
            heartbeats.append(1)

    worker = Counted(dsn, poll=0.001, say=lambda line: None)
    # Otherwise it would look less and less often.
    worker._stopping.wait = lambda timeout=None: time.sleep(0.001) or False  # type: ignore[method-assign,func-returns-value]
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(lambda: len(heartbeats) > 100)
    worker.stop()
    thread.join(20)
    until(lambda: conn.execute(calls.encode()).fetchone() is not None)
    assert conn.execute(calls.encode()).fetchone() == (1,)


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
def test_whatever_the_default_isolation(faults: Faults, isolation: str) -> None:
    """Also where it is so from the start, and nothing may be written by default."""
    options = isolation.replace(" ", "\\ ")
    dsn = make_conninfo(
        faults.dsn,
        options=f"-c default_transaction_isolation={options} -c default_transaction_read_only=on",
    )
    change(faults, Random(3))
    Worker(dsn).drain()
    assert pending(faults) == 0
    change(faults, Random(4))
    with Insights(dsn) as insights:
        assert insights.refresh().indexed > 0

    async def again() -> None:
        change(faults, Random(5))
        async with AsyncInsights(dsn) as insights:
            assert (await insights.refresh()).indexed > 0

    asyncio.run(again())
    assert pending(faults) == 0


def test_an_index_is_built_in_spite_of_faults(faults: Faults) -> None:
    lines: list[str] = []
    steps = build(faults.dsn, batch=5, rebuild=True, wait=0.05, say=lines.append)
    last = None
    for number, step in enumerate(steps):
        last = step
        if number == 3:
            faults.inject("the server stops at once", 0)
        elif number in (6, 9, 12):
            faults.inject("sessions are ended", 0)
    assert last is not None
    assert (last.indexed, last.done) == (48, True)
    assert lines
    assert all(line.startswith(("trying again: ", "working again")) for line in lines)
    with Insights(faults.admin_dsn) as insights:
        assert insights.verify() == []
    steps = build(faults.dsn, rebuild=True, patience=0.3)
    next(steps)
    faults.execute("alter role keeper nologin")
    faults.inject("sessions are ended", 0)
    with pytest.raises(ConnectionFailed):
        list(steps)
    faults.execute("alter role keeper login")
    assert list(build(faults.dsn))[-1].done


def test_clients_notice_that_their_connection_is_lost(faults: Faults) -> None:
    """Between two calls: the second one does not fail."""
    with Insights(faults.dsn) as insights:
        for kind in ("sessions are ended", "the server stops at once", "the server is restarted"):
            assert insights.count() == 48
            faults.inject(kind, 0.1)
        assert insights.count() == 48

    async def same() -> None:
        async with AsyncInsights(faults.dsn) as insights:
            for kind in ("sessions are ended", "the server stops at once"):
                assert await insights.count() == 48
                faults.inject(kind, 0.1)
            counts = await asyncio.gather(*(insights.count() for _ in range(5)))
            assert counts == [48] * 5

    asyncio.run(same())


def test_a_call_that_is_ended_is_not_repeated(faults: Faults) -> None:
    """Whoever ended it had a reason; the call after it works."""
    with Insights(faults.dsn) as insights, psycopg.connect(faults.admin_dsn) as other:
        assert insights.count() == 48
        other.execute("lock table trace_info in access exclusive mode")
        failed: list[Any] = []

        def count() -> None:
            try:
                failed.append(insights.count("status = 'OK' OR request_preview LIKE '%x%'"))
            except ConnectionFailed as error:
                failed.append(error)

        thread = threading.Thread(target=count)
        thread.start()
        with psycopg.connect(faults.admin_dsn, autocommit=True) as admin:
            until(lambda: admin.execute("select from pg_locks where not granted").rowcount == 1)
        faults.inject("sessions are ended", 0)
        thread.join(20)
        other.rollback()
        assert isinstance(failed[0], ConnectionFailed)
        assert insights.count() == 48
