"""Searches that begin with MLflow's own indexes: ids, sessions, times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from insights_engine.answers.search.narrowing import FEW

from tests.semantics.world import Experiment, Span, Trace, World, load
from tests.sql.conftest import Search

START = 1_700_000_000_000
COUNT = 3 * FEW

# Three traces share each time; sessions are longer than what counts as few, or shorter.
TRACES = [
    Trace(
        f"t{number:03}",
        1 + number % 2,
        START + number // 3 * 1000,
        execution_time_ms=number * 7 % 50,
        status="ERROR" if number % 5 == 0 else "OK",
        session_id="long" if number % 3 else f"short-{number % 9}",
        spans=(Span("s", "{}", type="TOOL"),) if number % 4 == 0 else (),
    )
    for number in range(COUNT)
]

CASES: dict[str, Callable[[Trace], bool]] = {
    "session = 'short-3'": lambda t: t.session_id == "short-3",
    "session = 'long'": lambda t: t.session_id == "long",
    "session IN ('short-0', 'short-6')": lambda t: t.session_id in ("short-0", "short-6"),
    "session = 'nobody'": lambda t: False,
    "session = 'short-0' AND status = 'ERROR'": lambda t: (
        t.session_id == "short-0" and t.status == "ERROR"
    ),
    "session = 'long' AND span.type = 'TOOL'": lambda t: t.session_id == "long" and bool(t.spans),
    "trace_id = 't007'": lambda t: t.trace_id == "t007",
    "trace_id IN ('t007', 't008', 'none') AND span.type = 'TOOL'": lambda t: t.trace_id == "t008",
    f"timestamp >= {START + 90_000}": lambda t: t.timestamp_ms >= START + 90_000,
    f"timestamp > {START + 10_000} AND timestamp <= {START + 20_000}": lambda t: (
        START + 10_000 < t.timestamp_ms <= START + 20_000
    ),
    f"timestamp BETWEEN {START + 10_000} AND {START + 20_000} AND span.type = 'TOOL'": lambda t: (
        START + 10_000 <= t.timestamp_ms <= START + 20_000 and bool(t.spans)
    ),
    f"timestamp < {START + 50_000}": lambda t: t.timestamp_ms < START + 50_000,
    f"timestamp != {START}": lambda t: t.timestamp_ms != START,
    f"timestamp = {START + 3000}": lambda t: t.timestamp_ms == START + 3000,
    f"session = 'short-3' AND timestamp > {START + 50_000}": lambda t: (
        t.session_id == "short-3" and t.timestamp_ms > START + 50_000
    ),
}

ORDERS: dict[str, Callable[[Trace], tuple[int, ...]]] = {
    "timestamp DESC": lambda t: (-t.timestamp_ms,),
    "timestamp ASC": lambda t: (t.timestamp_ms,),
    "execution_time ASC": lambda t: (t.execution_time_ms or 0, -t.timestamp_ms),
}


@pytest.fixture(scope="module", autouse=True)
def _traces(module_conn: psycopg.Connection[Any]) -> None:
    load(module_conn, World((Experiment(1), Experiment(2)), tuple(TRACES)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("experiments", [None, ["1"], ["1", "2"]], ids=str)
@pytest.mark.parametrize("filter", CASES)
def test_pages(search: Search, filter: str, experiments: list[str] | None, order: str) -> None:
    """Every trace that matches and no other, in order, however small the pages."""
    expected = [
        trace.trace_id
        for trace in sorted(TRACES, key=lambda t: (*ORDERS[order](t), t.trace_id))
        if CASES[filter](trace) and (experiments is None or str(trace.experiment_id) in experiments)
    ]
    asked = {"filter": filter, "exp_ids": experiments, "order_by": [order]}
    for size in (7, FEW, COUNT + 1):
        pages = search.pages(size, **asked)
        assert [trace_id for page in pages for trace_id in page] == expected
