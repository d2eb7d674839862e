"""Asks MLflow's own store and ours the same, checks the answers, takes the times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from bench.cases import Correlation, Search
from insights_py.mlflow.store import InsightsStore


class Disagreement(Exception):
    """The two stores answered differently; their times would mean nothing."""


@dataclass(frozen=True)
class Timing:
    """Medians in milliseconds; ``matches`` is the first filter's count, where counted."""

    kind: str
    name: str
    matches: int
    stock_ms: float
    ours_ms: float

    @property
    def ratio(self) -> float:
        """How many times as long stock takes."""
        return self.stock_ms / self.ours_ms

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.__dict__, "ratio": self.ratio}


class Comparison:
    """Both stores on one database, asked about one experiment."""

    def __init__(self, dsn: str, experiment_id: str, *, runs: int, seconds: float) -> None:
        url = dsn.replace("postgresql://", "postgresql+psycopg://", 1)
        self.stock = SqlAlchemyStore(url, "mlflow-artifacts:/")
        self.ours = InsightsStore(url, "mlflow-artifacts:/")
        self._experiment_id = experiment_id
        self._runs = runs
        self._seconds = seconds

    def search(self, case: Search) -> Timing:
        """Times one page, if both agree on which traces it holds and on their number."""
        filters = (case.filter, case.ours or case.filter)
        counts = [
            self.stock.calculate_trace_filter_correlation(
                [self._experiment_id], filters[0], ""
            ).filter1_count,
            self.ours.calculate_trace_filter_correlation(
                [self._experiment_id], filters[1], ""
            ).filter1_count,
        ]
        if counts[0] != counts[1]:
            raise Disagreement(f"{case.name}: stock counts {counts[0]}, ours {counts[1]}")
        calls, pages = [], []
        for store, filter_string in zip((self.stock, self.ours), filters, strict=True):
            call = self._page(store, filter_string, case)
            calls.append(call)
            pages.append([info.trace_id for info in call()[0]])
        if pages[0] != pages[1]:
            raise Disagreement(f"{case.name}: the two pages differ")
        return Timing("search", case.name, counts[0], *self._medians(*calls))

    def _page(self, store: SqlAlchemyStore, filter_string: str, case: Search) -> Callable[[], Any]:
        token = None

        def fetch() -> Any:
            return store.search_traces(
                locations=[self._experiment_id],
                filter_string=filter_string,
                max_results=case.max_results,
                order_by=list(case.order_by),
                page_token=token,
            )

        for _ in range(case.page):
            _, token = fetch()
        return fetch

    def correlation(self, case: Correlation) -> Timing:
        """Times a correlation, if both give the same counts and the same NPMI."""
        filters = (case.filter1, case.filter2)
        own = (case.ours1 or case.filter1, case.ours2 or case.filter2)

        def ask(store: SqlAlchemyStore, pair: tuple[str, str]) -> Any:
            return store.calculate_trace_filter_correlation(
                [self._experiment_id], *pair, base_filter=case.base
            )

        stock, ours = ask(self.stock, filters), ask(self.ours, own)
        if stock != ours:
            raise Disagreement(f"{case.name}: stock says {stock}, ours {ours}")
        times = self._medians(lambda: ask(self.stock, filters), lambda: ask(self.ours, own))
        return Timing("correlation", case.name, stock.joint_count, *times)

    def _medians(self, *calls: Callable[[], Any]) -> tuple[float, ...]:
        """Milliseconds per call, taken in turn; at least three runs, then while time is left."""
        times: list[list[float]] = [[] for _ in calls]
        end = time.monotonic() + self._seconds
        while len(times[0]) < 3 or (len(times[0]) < self._runs and time.monotonic() < end):
            for call, taken in zip(calls, times, strict=True):
                started = time.perf_counter()
                call()
                taken.append((time.perf_counter() - started) * 1000)
        return tuple(statistics.median(taken) for taken in times)


def first_calls(dsn: str, runs: int) -> dict[str, float]:
    """Median milliseconds of what a new connection pays for its first answers."""
    question = "select insights_count(null::text[], 'trace_id = ''nothing''')"
    taken: dict[str, list[float]] = {
        "connect": [],
        "select 1": [],
        "first insights_count": [],
        "second insights_count": [],
    }
    for _ in range(runs):
        clock = time.perf_counter()
        connection = psycopg.connect(dsn, autocommit=True)
        for name in taken:
            if name == "select 1":
                connection.execute("select 1")
            elif name != "connect":
                connection.execute(question)
            now = time.perf_counter()
            taken[name].append((now - clock) * 1000)
            clock = now
        connection.close()
    return {name: statistics.median(values) for name, values in taken.items()}
