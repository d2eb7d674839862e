"""`insights worker` and `insights index`, as processes and from Python."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from insights_dev import database
from insights_py import AsyncInsights, Insights
from insights_py.cli import exits
from insights_py.errors import ConnectionFailed, NotInstalled, PermissionDenied
from insights_py.rows import IndexStatus
from insights_py.worker import Worker, build
from tests.client import world
from tests.processes import heed_interrupts

Connection = psycopg.Connection[Any]


class Process:
    """`insights` at work in the background; the database is named in the environment."""

    def __init__(self, *command: str) -> None:
        *arguments, _, dsn = command
        self.process = subprocess.Popen(
            [sys.executable, "-m", "insights_py", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heed_interrupts,
            env={
                **os.environ,
                "INSIGHTS_DSN": dsn,
                "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            },
        )

    def end(self, number: signal.Signals | None = None, seconds: float = 20) -> tuple[int, str]:
        """The exit code and everything that was printed, after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        text, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, text


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def starter(*arguments: str) -> Process:
        started.append(Process(*arguments))
        return started[-1]

    yield starter
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


@pytest.fixture
def traces(conn: Connection) -> Connection:
    """48 traces, all of them pending."""
    world.load(conn)
    return conn


@pytest.fixture
def unindexed(mlflow_only_dsn: str) -> Iterator[Connection]:
    """48 traces that were there before this project."""
    with psycopg.connect(mlflow_only_dsn, autocommit=True) as connection:
        world.load(connection)
        database.install_insights(mlflow_only_dsn)
        yield connection


def status(dsn: str) -> IndexStatus:
    with Insights(dsn) as insights:
        return insights.index_status()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def sessions(connection: Connection) -> list[int]:
    return [
        row[0]
        for row in connection.execute(
            "select pid from pg_stat_activity"
            " where application_name = 'insights worker' and datname = current_database()"
        )
    ]


# ----------------------------------------------------------------------- worker


def test_once_indexes_everything_and_ends(
    dsn: str, traces: Connection, start: Callable[..., Process]
) -> None:
    code, text = start("worker", "--once", "--batch", "20", "--dsn", dsn).end()
    assert code == 0
    lines = text.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d indexed \d+, removed 0, ", line)
    assert (status(dsn).pending, status(dsn).traces) == (0, 48)
    assert start("worker", "--once", "--dsn", dsn).end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_works_until_it_is_told_to_stop(
    dsn: str,
    traces: Connection,
    start: Callable[..., Process],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    heartbeat = tmp_path / "heartbeat"
    worker = start("worker", "--poll", "0.1", "--heartbeat", str(heartbeat), "--dsn", dsn)
    until(lambda: status(dsn).pending == 0)
    assert heartbeat.exists()
    traces.execute("update trace_info set status = 'ERROR' where experiment_id = 2")
    until(lambda: status(dsn).pending == 0)
    heartbeat.unlink()
    until(heartbeat.exists)
    code, text = worker.end(number)
    assert code == 0
    assert "Traceback" not in text
    assert "indexed 8, removed 0" in text


def test_it_comes_back_after_losing_the_server(
    dsn: str, traces: Connection, start: Callable[..., Process]
) -> None:
    worker = start("worker", "--poll", "0.1", "--dsn", dsn)
    until(lambda: status(dsn).pending == 0)
    (pid,) = sessions(traces)
    traces.execute("select pg_terminate_backend(%s)", [pid])
    traces.execute("update trace_info set status = 'ERROR'")
    until(lambda: status(dsn).pending == 0)
    assert sessions(traces) != [pid]
    code, text = worker.end(signal.SIGTERM)
    assert code == 0
    assert len(re.findall("trying again|connected again", text)) == 1


def test_a_second_signal_gives_the_batch_up(
    dsn: str, traces: Connection, start: Callable[..., Process]
) -> None:
    with psycopg.connect(dsn) as blocker:
        blocker.execute("lock table insights.block in access exclusive mode")
        worker = start("worker", "--dsn", dsn)
        with psycopg.connect(dsn, autocommit=True) as watcher:
            until(lambda: watcher.execute("select from pg_locks where not granted").rowcount == 1)
        worker.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert worker.process.poll() is None
        code, text = worker.end(signal.SIGTERM)
        assert code == 0
        assert "Traceback" not in text
    assert (status(dsn).pending, status(dsn).traces) == (48, 0)


def test_a_killed_worker_leaves_no_half_batch(
    dsn: str, traces: Connection, start: Callable[..., Process]
) -> None:
    with psycopg.connect(dsn) as blocker:
        blocker.execute("lock table insights.posting in access exclusive mode")
        worker = start("worker", "--dsn", dsn)
        with psycopg.connect(dsn, autocommit=True) as watcher:
            until(lambda: watcher.execute("select from pg_locks where not granted").rowcount == 1)
        worker.process.kill()
        worker.end()
        (pid,) = sessions(traces)
        traces.execute("select pg_terminate_backend(%s)", [pid])
        until(lambda: sessions(traces) == [])
    assert (status(dsn).pending, status(dsn).traces) == (48, 0)
    assert start("worker", "--once", "--dsn", dsn).end()[0] == 0
    assert (status(dsn).pending, status(dsn).traces) == (0, 48)


def test_two_workers_share_the_work(
    dsn: str, traces: Connection, start: Callable[..., Process]
) -> None:
    both = [start("worker", "--poll", "0.05", "--batch", "5", "--dsn", dsn) for _ in range(2)]
    # One may be done with everything before the other has begun.
    until(lambda: len(sessions(traces)) == 2)
    until(lambda: status(dsn).pending == 0)
    for worker in both:
        code, text = worker.end(signal.SIGTERM)
        assert code == 0
        assert "trying again" not in text
    assert status(dsn).traces == 48
    with Insights(dsn) as insights:
        assert insights.verify() == []


def test_it_tells_what_is_to_be_done(
    dsn: str, traces: Connection, start: Callable[..., Process]
) -> None:
    traces.execute("drop trigger insights_change on spans")
    code, text = start("worker", "--once", "--dsn", dsn).end()
    assert code != 0
    assert "table public.spans has no trigger insights_change" in text
    assert "insights install makes the triggers anew" in text


def test_what_was_missed_is_caught_up_with(
    dsn: str, traces: Connection, start: Callable[..., Process]
) -> None:
    traces.execute("select nextval('insights.missed')")
    code, _ = start("worker", "--once", "--dsn", dsn).end()
    assert code == 0
    assert (status(dsn).usable, status(dsn).missed) == (True, 0)


def test_what_cannot_get_better_ends_it(
    dsn: str, mlflow_only_dsn: str, reader_dsn: str, start: Callable[..., Process]
) -> None:
    nowhere = "postgresql://127.0.0.1:1/mlflow"
    for address, expected in (
        (mlflow_only_dsn, exits.NOT_INSTALLED),
        (reader_dsn, exits.PERMISSION),
        (nowhere, exits.CONNECTION),
    ):
        for options in ([], ["--once"]):
            code, text = start("worker", *options, "--dsn", address).end()
            assert code == expected, text
            assert "Traceback" not in text


def test_from_python(dsn: str, traces: Connection) -> None:
    lines: list[str] = []
    worker = Worker(dsn, batch=30, poll=0.01, say=lines.append)
    worker.drain()
    assert len(lines) == 2
    assert status(dsn).traces == 48


def test_errors_from_python(mlflow_only_dsn: str, reader_dsn: str) -> None:
    with pytest.raises(NotInstalled):
        Worker(mlflow_only_dsn).run()
    with pytest.raises(PermissionDenied):
        Worker(reader_dsn).run()
    with pytest.raises(ConnectionFailed):
        Worker("postgresql://127.0.0.1:1/mlflow").run()


# ------------------------------------------------------------------------ index


def test_an_index_is_built(unindexed: Connection, mlflow_only_dsn: str) -> None:
    assert status(mlflow_only_dsn).built is False
    steps = list(build(mlflow_only_dsn, batch=10))
    assert [step.done for step in steps[:-1]] == [False] * (len(steps) - 1)
    assert (steps[0].indexed, steps[0].total) == (0, 48)
    assert (steps[-1].indexed, steps[-1].total, steps[-1].done) == (48, 48, True)
    assert (status(mlflow_only_dsn).built, status(mlflow_only_dsn).traces) == (True, 48)


def test_an_interrupted_build_goes_on(unindexed: Connection, mlflow_only_dsn: str) -> None:
    steps = build(mlflow_only_dsn, batch=10)
    assert isinstance(steps, Generator)
    while next(steps).indexed < 20:
        pass
    steps.close()
    assert status(mlflow_only_dsn).built is False
    again = list(build(mlflow_only_dsn, batch=100))
    assert again[0].indexed >= 20
    assert again[-1].done
    with Insights(mlflow_only_dsn) as insights:
        assert insights.verify() == []


def test_the_command_index(
    unindexed: Connection, mlflow_only_dsn: str, start: Callable[..., Process]
) -> None:
    code, text = start("index", "--batch", "20", "--dsn", mlflow_only_dsn).end()
    assert code == 0
    assert "20 of 48 traces indexed" in text
    assert text.rstrip().endswith("The index is built: 48 traces.")
    assert start("index", "--dsn", mlflow_only_dsn).end() == (0, "The index is built: 48 traces.\n")
    unindexed.execute("select nextval('insights.missed')")
    assert start("index", "--rebuild", "--dsn", mlflow_only_dsn).end()[0] == 0
    assert (status(mlflow_only_dsn).missed, status(mlflow_only_dsn).traces) == (0, 48)


def test_interrupting_the_command_index(
    unindexed: Connection, mlflow_only_dsn: str, start: Callable[..., Process]
) -> None:
    with psycopg.connect(mlflow_only_dsn) as blocker:
        blocker.execute("lock table insights.posting in access exclusive mode")
        command = start("index", "--dsn", mlflow_only_dsn)
        until(lambda: unindexed.execute("select from pg_locks where not granted").rowcount == 1)
        code, text = command.end(signal.SIGINT)
    assert code == exits.INTERRUPTED
    assert "goes on from there" in text
    assert "Traceback" not in text
    assert start("index", "--dsn", mlflow_only_dsn).end()[0] == 0


def test_installing_says_what_comes_next(
    mlflow_only_dsn: str, start: Callable[..., Process]
) -> None:
    with psycopg.connect(mlflow_only_dsn, autocommit=True) as connection:
        world.load(connection)
    code, text = start("install", "--dsn", mlflow_only_dsn).end(seconds=60)
    assert code == 0
    assert "Next: `insights index`" in text


# ----------------------------------------------------------------------- client


def test_both_clients_refresh_and_tell_the_state(dsn: str, traces: Connection) -> None:
    async def first() -> None:
        async with AsyncInsights(dsn) as insights:
            assert (await insights.index_status()).pending == 48
            done = await insights.refresh(10)
            assert (done.indexed, done.busy) == (10, False)
            assert await insights.verify() == []

    asyncio.run(first())
    with Insights(dsn) as insights_now:
        assert insights_now.refresh().indexed == 38
        found = insights_now.index_status()
        assert (found.built, found.pending, found.traces) == (True, 0, 48)
        assert "48 indexed" in repr(found)
        assert insights_now.status().index is not None
