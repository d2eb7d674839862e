"""What the triggers cost MLflow: ``python -m bench.writes --server DSN``.

The same traces are logged to two databases of one server, one with this
project and one without, through MLflow's own store: each call on both, one right
after the other in random order, so that whatever disturbs the machine disturbs
both.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
from mlflow.entities import (
    AssessmentSource,
    Feedback,
    Span,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.span import create_mlflow_span
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan
from psycopg import sql

from bench.compare import OURS, STOCK
from insights_dev import database

Call = tuple[str, Callable[[], Any]]
Times = list[list[float]]

TRACES = 300
SPANS = 6
#: Traces of each database before the clock runs: connections, caches, plans.
WARM = 20


def calls(store: SqlAlchemyStore, experiment: str, number: int) -> list[Call]:
    """What MLflow's client has the store do for a trace, span by span."""
    trace_id = f"tr-{number:032x}"
    start_ms = 1_700_000_000_000 + number * 1000
    spans = [_span(trace_id, index, start_ms) for index in reversed(range(SPANS))]
    info = TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment),
        request_time=start_ms,
        execution_duration=900,
        state=TraceState.OK,
        request_preview="What does the triggers' work cost?",
        response_preview="Little.",
        trace_metadata={
            "mlflow.trace.session": f"session {number % 50}",
            "mlflow.trace.user": f"user {number % 20}",
            "mlflow.source.name": "bench",
        },
        tags={"mlflow.traceName": "ask", "environment": "bench", "release": "1"},
    )
    feedback = Feedback(
        name="quality",
        value=number % 5,
        trace_id=trace_id,
        source=AssessmentSource("HUMAN", "somebody"),
    )
    return [
        *(("log_spans", partial(store.log_spans, experiment, [span])) for span in spans),
        ("start_trace", partial(store.start_trace, info)),
        ("set_trace_tag", partial(store.set_trace_tag, trace_id, "reviewed", "no")),
        ("set_trace_tag", partial(store.set_trace_tag, trace_id, "reviewed", "yes")),
        ("create_assessment", partial(store.create_assessment, feedback)),
    ]


def _span(trace_id: str, index: int, start_ms: int) -> Span:
    otel_trace_id = int(trace_id.removeprefix("tr-"), 16)
    attributes = {
        "mlflow.traceRequestId": trace_id,
        "mlflow.spanType": ("AGENT", "LLM", "TOOL", "RETRIEVER", "CHAIN", "LLM")[index % 6],
        "mlflow.spanInputs": {"question": "what " * 40},
        "mlflow.spanOutputs": {"answer": "that " * 60},
        "model": "gpt-4",
        "temperature": 0.7,
    }
    start_ns = start_ms * 1_000_000 + index * 1_000_000

    def context(number: int) -> otel.SpanContext:
        return otel.SpanContext(otel_trace_id, number + 1, is_remote=False)

    return create_mlflow_span(
        ReadableSpan(
            name=f"step {index}",
            context=context(index),
            parent=context(0) if index else None,
            attributes={key: json.dumps(value) for key, value in attributes.items()},
            start_time=start_ns,
            end_time=start_ns + 100_000_000,
            status=otel.Status(otel.StatusCode.OK),
        ),
        trace_id,
    )


@contextmanager
def databases(server: str) -> Iterator[dict[str, str]]:
    """A database with this project and one without, dropped afterwards."""
    names = {STOCK: "bench_writes_stock", OURS: "bench_writes_ours"}

    def drop() -> None:
        with psycopg.connect(server, autocommit=True) as connection:
            for name in names.values():
                connection.execute(
                    sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
                )

    drop()
    try:
        addresses = {system: database.create(server, name) for system, name in names.items()}
        for dsn in addresses.values():
            database.migrate_mlflow(dsn)
        database.install_insights(addresses[OURS])
        yield addresses
    finally:
        drop()


def measure(addresses: dict[str, str], traces: int) -> tuple[list[str], dict[str, Times]]:
    """The calls of a trace, and by system the seconds of each, trace after trace."""
    stores = {system: SqlAlchemyStore(dsn, "/tmp") for system, dsn in addresses.items()}
    experiments = {system: store.create_experiment("writes") for system, store in stores.items()}
    order = list(stores)
    times: dict[str, Times] = {system: [] for system in stores}
    names: list[str] = []
    chance = random.Random(1)
    gc.collect()
    gc.disable()
    for number in range(WARM + traces):
        steps = {system: calls(stores[system], experiments[system], number) for system in order}
        names = [name for name, _ in steps[order[0]]]
        taken: dict[str, list[float]] = {system: [] for system in order}
        for index in range(len(names)):
            chance.shuffle(order)
            for system in order:
                begin = time.perf_counter()
                steps[system][index][1]()
                taken[system].append(time.perf_counter() - begin)
        if number >= WARM:
            for system in order:
                times[system].append(taken[system])
        gc.collect()
    gc.enable()
    for store in stores.values():
        store.engine.dispose()
    return names, times


def typical(times: Times, chosen: Sequence[int]) -> float:
    """Seconds for a trace: the sum of the medians of the chosen calls."""
    return sum(statistics.median(one[index] for one in times) for index in chosen)


def interval(stock: Times, ours: Times, chosen: Sequence[int]) -> tuple[float, float]:
    """The 95 % interval of the ratio, by resampling traces."""
    chance = random.Random(1)
    ratios = []
    for _ in range(200):
        sample = chance.choices(range(len(stock)), k=len(stock))
        ratios.append(
            typical([ours[i] for i in sample], chosen) / typical([stock[i] for i in sample], chosen)
        )
    ratios.sort()
    return ratios[5], ratios[194]


def main() -> int:
    """Measures and prints a line for each kind of call, and one for the whole trace."""
    parser = argparse.ArgumentParser(description="what the triggers cost MLflow's logging")
    parser.add_argument("--server", required=True, help="any database of the server, as superuser")
    parser.add_argument("--traces", type=int, default=TRACES, help=f"pairs (default {TRACES})")
    parser.add_argument("--same", action="store_true", help="measure the noise: no triggers at all")
    arguments = parser.parse_args()
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    with databases(arguments.server) as addresses:
        if arguments.same:
            with psycopg.connect(addresses[OURS], autocommit=True) as connection:
                connection.execute("drop schema insights cascade")
        names, times = measure(addresses, arguments.traces)
    print(f"{'':20}{'stock ms':>10}{'ours ms':>10}{'ratio':>8}  95 % interval")
    for name in [*dict.fromkeys(names), "trace"]:
        chosen = [i for i, one in enumerate(names) if name in (one, "trace")]
        stock, ours = (typical(times[system], chosen) for system in (STOCK, OURS))
        low, high = interval(times[STOCK], times[OURS], chosen)
        print(
            f"{name:20}{stock * 1000:10.2f}{ours * 1000:10.2f}{ours / stock:8.3f}"
            f"  {low:.3f} to {high:.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
