"""Asks everyone the same, checks the answers, takes the times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from bench.cases import Correlation, Count, Question, Search
from bench.conditions import Condition, Text, atoms
from bench.engines import Disagreement, Engine, engines
from insights_py.mlflow.store import InsightsStore

STOCK, OURS = "stock", "ours"
#: Ours in a session that keeps nothing of the index from one call to the next.
ANEW = "ours anew"
_FEWEST = 3
_QUICK_MS = 100
_CORRELATE = (
    "select filter1_count, filter2_count, joint_count, total_count, npmi, npmi_smoothed "
    "from insights_correlate(%s::text[], %s, %s, %s)"
)
_COUNT = "select insights_count(%s::text[], %s)"


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of a question by who was asked; ``forms`` are the engines' queries."""

    kind: str
    name: str
    matches: int
    ms: dict[str, float]
    runs: int
    forms: dict[str, str] = field(default_factory=dict)
    in_aim: bool = True

    def ratio(self, other: str) -> float | None:
        """How many times as long as ours ``other`` takes; None if it was not asked."""
        return self.ms[other] / self.ms[OURS] if other in self.ms and OURS in self.ms else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ratios = {name: self.ratio(name) for name in self.ms if not name.startswith(OURS)}
        return {**self.__dict__, "ratios": ratios}


class Comparison:
    """Stock, ours and the engines on the same traces, asked about one experiment.

    ``systems`` restricts who is asked, for trying single cases.
    """

    def __init__(
        self,
        dsn: str,
        experiment_id: str,
        *,
        files: Path,
        runs: int,
        seconds: float,
        systems: Sequence[str] = (),
    ) -> None:
        url = dsn.replace("postgresql://", "postgresql+psycopg://", 1)
        self._stock = SqlAlchemyStore(url, "mlflow-artifacts:/")
        self._ours = InsightsStore(url, "mlflow-artifacts:/")
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._forgetful = psycopg.connect(dsn, autocommit=True)
        self._forgetful.execute("set insights.cache = '0'")
        self._experiment_id = experiment_id
        self._files = files
        self._runs = runs
        self._seconds = seconds
        self._systems = systems
        self._loaded: list[Engine] | None = None

    def _asked(self, name: str) -> bool:
        return not self._systems or name.removesuffix(" anew") in self._systems

    def _engines(self, *conditions: Condition | None) -> list[Engine]:
        """The engines, with what these conditions need."""
        if self._loaded is None:
            wanted = not self._systems or set(self._systems) - {STOCK, OURS}
            self._loaded = engines(self._files) if wanted else []
        if any(isinstance(atom, Text) for atom in atoms(*conditions)):
            for engine in self._loaded:
                engine.load_texts(self._files)
        return [engine for engine in self._loaded if self._asked(engine.name)]

    # ------------------------------------------------------------------- pages

    def search(self, case: Search) -> Timing | None:
        """Times one page, if both stores agree on which traces it holds and on their number.

        None: there are too few traces for this page.
        """
        filters = {STOCK: case.filter, OURS: case.ours or case.filter}
        stores = {STOCK: self._stock, OURS: self._ours}
        counts, pages, calls = {}, {}, {}
        for name in filter(self._asked, stores):
            counts[name] = (
                stores[name]
                .calculate_trace_filter_correlation([self._experiment_id], filters[name], "")
                .filter1_count
            )
        _agree(case.name, counts)
        matches = next(iter(counts.values()))
        if case.page and matches < case.max_results * (case.page + 1):
            return None
        for name in counts:
            calls[name] = self._page(stores[name], filters[name], case)
            pages[name] = [info.trace_id for info in calls[name]()[0]]
        _agree(case.name, pages)
        ms, runs = self._medians(calls)
        return Timing("search", case.name, matches, ms, runs)

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

    # ------------------------------------------------------------ correlations

    def correlation(self, case: Correlation) -> Timing:
        """Times a correlation, if all give the same counts, and stock and ours the same NPMI."""
        sides = (case.first, case.second, case.base)
        counts: dict[str, Any] = {}
        scores: dict[str, Any] = {}
        calls: dict[str, Callable[[], Any]] = {}
        forms: dict[str, str] = {}
        for name, call in (
            (STOCK, self._correlate_in_stock(sides)),
            (OURS, self._correlate(sides, self._connection)),
            (ANEW, self._correlate(sides, self._forgetful)),
        ):
            if call is not None and self._asked(name):
                calls[name] = call
                *four, npmi, smoothed = call()
                counts[name] = tuple(four)
                # By text: NaN is to equal NaN.
                scores[name] = repr((npmi, smoothed))
        conditions = [side.columns if side else None for side in sides]
        for engine in self._engines(*conditions):
            forms[engine.name], calls[engine.name], counts[engine.name] = engine.best(
                case.first.columns, case.second.columns, conditions[2]
            )
        _agree(case.name, counts)
        _agree(case.name, scores)
        joint = next(iter(counts.values()))[2]
        ms, runs = self._medians(calls)
        return Timing("correlation", case.name, joint, ms, runs, forms, case.in_aim)

    def _correlate(
        self, sides: Sequence[Question | None], connection: psycopg.Connection
    ) -> Callable[[], Any]:
        arguments = [[self._experiment_id], *(side.ours if side else None for side in sides)]
        return lambda: connection.execute(_CORRELATE, arguments).fetchone()

    def _correlate_in_stock(self, sides: Sequence[Question | None]) -> Callable[[], Any] | None:
        first, second, base = (side.in_stock if side else None for side in sides)
        if first is None or second is None or (base is None and sides[2] is not None):
            return None

        def ask() -> Any:
            found = self._stock.calculate_trace_filter_correlation(
                [self._experiment_id], first, second, base_filter=base
            )
            return (
                *(found.filter1_count, found.filter2_count, found.joint_count),
                *(found.total_count, found.npmi, found.npmi_smoothed),
            )

        return ask

    # ------------------------------------------------------------------ counts

    def count(self, case: Count) -> Timing:
        """Times ``insights_count``, if it counts what the engines count."""
        counts: dict[str, int] = {}
        calls: dict[str, Callable[[], Any]] = {}
        if self._asked(OURS):
            arguments = [[self._experiment_id], case.question.ours]
            for name, connection in ((OURS, self._connection), (ANEW, self._forgetful)):
                calls[name] = partial(_count, connection, arguments)
                counts[name] = calls[name]()
        condition = case.question.columns
        for engine in self._engines(condition):
            counts[engine.name] = engine.best(condition, condition, None)[2][0]
        _agree(case.name, counts)
        ms, runs = self._medians(calls)
        return Timing("count", case.name, next(iter(counts.values())), ms, runs)

    def _medians(self, calls: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, float], int]:
        """Milliseconds per call, taken in turn; at least three runs, then while time is left.

        Everybody is warm: whoever answers quickly is asked once before the clock runs, since
        the others have had the processor, and its caches, to themselves in between.
        """
        times: dict[str, list[float]] = {name: [] for name in calls}
        runs, end = 0, time.monotonic() + self._seconds
        while runs < _FEWEST or (runs < self._runs and time.monotonic() < end):
            for name, call in calls.items():
                if times[name] and times[name][-1] < _QUICK_MS:
                    call()
                started = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - started) * 1000)
            runs += 1
        return {name: statistics.median(taken) for name, taken in times.items()}, runs


def _count(connection: psycopg.Connection, arguments: Sequence[Any]) -> int:
    row = connection.execute(_COUNT, arguments).fetchone()
    assert row is not None
    return int(row[0])


def _agree(question: str, answers: Mapping[str, Any]) -> None:
    """Stops where answers to one question differ."""
    if any(answer != next(iter(answers.values())) for answer in answers.values()):
        shown = ", ".join(f"{name}: {answer!s:.500}" for name, answer in answers.items())
        raise Disagreement(f"{question}: {shown}")
