"""MLflow writes, refreshers index and readers ask, all at the same time."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import psycopg

from tests.sql.plain import (
    QUESTIONS,
    check_all,
    check_counts,
    found_ids,
    plain_ids,
    problems,
    uses_index,
)

WRITERS = 8
REFRESHERS = 2
SECONDS = 7.0


def write(number: int, dsn: str, artifacts: str, start: Any, results: Queue[Any]) -> None:
    """A writer's process: works through MLflow's store until time is up, then reports."""
    try:
        results.put((number, *_write(number, dsn, artifacts, start), None))
    except BaseException as error:
        results.put((number, set(), set(), 0, repr(error)))
        raise


def _write(number: int, dsn: str, artifacts: str, start: Any) -> tuple[set[str], set[str], int]:
    from mlflow.entities import Expectation, Feedback, TraceInfo, TraceLocation, TraceState
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from tests.mlflow.conftest import close, with_driver
    from tests.mlflow.world import START_MS, span

    dice = random.Random(number)
    store = SqlAlchemyStore(with_driver(dsn), artifacts)
    experiments = [e.experiment_id for e in store.search_experiments(max_results=10)]
    # These are everyone's to change.
    common = [f"tr-{n:032x}" for n in range(1, 41)]
    made: set[str] = set()
    gone: set[str] = set()
    done = 0
    start.wait(60)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        what = dice.random()
        mine = sorted(made - gone)
        if what < 0.35 or len(mine) < 3:
            trace_id = f"tr-{dice.getrandbits(128):032x}"
            experiment = dice.choice(experiments)
            timestamp_ms = START_MS + dice.randrange(10_000_000)
            session = {"mlflow.trace.session": f"s{dice.randrange(60)}"}
            info = TraceInfo(
                trace_id=trace_id,
                trace_location=TraceLocation.from_experiment_id(experiment),
                request_time=timestamp_ms,
                execution_duration=dice.choice([None, 3, 4000]),
                state=dice.choice([TraceState.OK, TraceState.ERROR]),
                tags={"round": str(dice.randrange(9))},
                trace_metadata=dice.choice([{}, session]),
            )
            spans = [
                span(
                    trace_id,
                    n,
                    timestamp_ms,
                    name=dice.choice(["plan", "call"]),
                    type=dice.choice(["LLM", "TOOL"]),
                    attributes={"model": dice.choice(["gpt-4", "other"]), "n": dice.random()},
                )
                for n in range(dice.randrange(5))
            ]
            # Spans come first at times, as with the tracing client that exports them.
            early = dice.random() < 0.3
            if spans and early:
                store.log_spans(experiment, spans)
            store.start_trace(info)
            made.add(trace_id)
            if spans and not early:
                store.log_spans(experiment, spans)
        else:
            anyone = dice.random() < 0.4
            trace_id = dice.choice(common if anyone else mine)
            try:
                if what < 0.6:
                    store.set_trace_tag(trace_id, "round", str(dice.randrange(9)))
                elif what < 0.9:
                    covering = {"mlflow.trace.session": "s"} if dice.random() < 0.05 else None
                    kind = dice.choice([Feedback, Feedback, Expectation])
                    value = dice.choice(["good", "bad", 1, 4, 5])
                    store.create_assessment(
                        kind(trace_id=trace_id, name="quality", value=value, metadata=covering)
                    )
                else:
                    trace_id = dice.choice(mine)
                    experiment = store.get_trace_info(trace_id).experiment_id
                    assert experiment is not None
                    assert store.delete_traces(experiment, trace_ids=[trace_id]) == 1
                    gone.add(trace_id)
            except MlflowException as error:
                raise AssertionError(f"{trace_id}: {error}") from error
        done += 1
    close(store)
    return made, gone, done


class Workers:
    """Threads that call something until they are stopped; the first error is kept."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []
        self.calls: dict[str, int] = {}

    def add(self, name: str, call: Callable[[psycopg.Connection[Any]], None]) -> None:
        self.calls[name] = 0

        def work() -> None:
            try:
                with psycopg.connect(self._dsn, autocommit=True) as connection:
                    while not self._stop.is_set():
                        call(connection)
                        self.calls[name] += 1
            except BaseException as error:
                self.errors.append(error)
                self._stop.set()

        self._threads.append(threading.Thread(target=work, name=name))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_all_at_once(dsn: str, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    from mlflow.entities import TraceInfo, TraceLocation, TraceState
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from tests.mlflow.conftest import close, with_driver

    artifacts = str(tmp_path / "artifacts")
    store = SqlAlchemyStore(with_driver(dsn), artifacts)
    experiments = ["0", store.create_experiment("other")]
    common = [f"tr-{n:032x}" for n in range(1, 41)]
    for n, trace_id in enumerate(common):
        store.start_trace(
            TraceInfo(
                trace_id=trace_id,
                trace_location=TraceLocation.from_experiment_id(experiments[n % 2]),
                request_time=n,
                state=TraceState.OK,
                # MLflow looks for a tag before it writes it: of two writers that both find
                # none, one fails by itself.
                tags={"round": "0"},
                trace_metadata={"mlflow.trace.session": f"s{n}"} if n % 3 else {},
            )
        )
    close(store)

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow.store.tracking.sqlalchemy_store", "psycopg"])
    start = context.Barrier(WRITERS + 1)
    results: Queue[Any] = context.Queue()
    writers = [
        context.Process(target=write, args=(n, dsn, artifacts, start, results), daemon=True)
        for n in range(WRITERS)
    ]
    used: list[bool] = []
    indexed: list[int] = []
    merged: list[int] = []

    def refresh(connection: psycopg.Connection[Any]) -> None:
        row = connection.execute(
            "select indexed, merged from insights_refresh(%s)", (random.choice([7, 50, 5000]),)
        ).fetchone()
        assert row is not None
        indexed.append(row[0])
        merged.append(row[1])
        time.sleep(0.02)

    def read_repeatedly(connection: psycopg.Connection[Any]) -> None:
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read, read only")
            used.append(uses_index(connection))
            check_all(connection)
            check_counts(connection)
        time.sleep(0.1)

    workers = Workers(dsn)
    for n in range(REFRESHERS):
        workers.add(f"refresher {n}", refresh)
    for n in range(2):
        workers.add(f"reader {n}", read_repeatedly)

    def read_once(connection: psycopg.Connection[Any]) -> None:
        # A statement of its own is a snapshot of its own.
        check_counts(connection)
        time.sleep(0.05)

    workers.add("reader of statements", read_once)

    for writer in writers:
        writer.start()
    start.wait(60)
    workers.start()
    try:
        reports = [results.get(timeout=60) for _ in writers]
    finally:
        workers.stop()
    for writer in writers:
        writer.join(20)
        assert writer.exitcode == 0
    assert workers.errors == []
    assert [report[4] for report in reports] == [None] * WRITERS
    assert sum(report[3] for report in reports) > 50

    # No trace is lost, none came back.
    made = set(common).union(*(report[1] for report in reports))
    gone: set[str] = set().union(*(report[2] for report in reports))
    assert gone < made
    assert plain_ids(conn, "") == made - gone
    assert (
        one(conn, "select deadlocks from pg_stat_database where datname = current_database()") == 0
    )
    assert one(conn, "select last_value from insights.missed") == 0

    # The index was at work in this, and is complete afterwards.
    assert all(calls >= 3 for calls in workers.calls.values()), workers.calls
    assert sum(used) > len(used) / 2
    assert sum(indexed) > len(made)
    assert sum(merged) > 0
    while one(conn, "select pending from insights_refresh()"):
        pass
    assert one(conn, "select pending from insights_status()") == 0
    assert one(conn, "select traces from insights_status()") == len(made - gone)
    assert one(conn, "select missed from insights_status()") == 0
    assert problems(conn) == []
    for filter in QUESTIONS:
        assert set(found_ids(conn, filter)) == plain_ids(conn, filter), filter
