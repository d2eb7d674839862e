"""Questions that nobody has asked before, each asked once.

Random correlations and searches (`bench.questions`) beside DuckDB, chDB and stock
MLflow.  Ours is one connection that has answered other questions, so that the engine
is loaded and the common terms are known, and, for a part of the questions, a
connection made for this one alone.  The engines' columns are in memory; of each
engine's forms the quickest counts.  Answers are compared before times are reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from bench.cases import Question
from bench.conditions import Text, atoms
from bench.engines import Disagreement, Engine, engines
from bench.questions import Pair, pairs
from insights_py.mlflow.store import InsightsStore

OURS, FRESH, STOCK = "ours", "ours, fresh connection", "stock"
#: Every so many questions are asked in a connection of their own, too.
_FRESH_EVERY = 4
#: Pages of 100 that come before the deep one.
_DEEP = 5
_PAGE = 100

_CORRELATE = (
    "select filter1_count, filter2_count, joint_count, total_count "
    "from insights_correlate(%s::text[], %s, %s)"
)


@dataclass(frozen=True)
class Asked:
    """Milliseconds of one question, by who was asked."""

    kind: str
    question: str
    matches: int
    ms: dict[str, float]


def correlations(
    dsn: str, experiment_id: str, files: Path, *, seed: int, number: int, texts: bool = True
) -> list[Asked]:
    """Asks everybody so many random correlations, and compares the counts."""
    asked = pairs(seed, number, texts=texts)
    loaded = engines(files)
    if texts:
        for engine in loaded:
            engine.load_texts(files)
    found = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        # What no question of the list is: the engine is loaded, and the terms are there.
        for pair in pairs(seed + 1_000_003, 20, texts=False):
            _correlate(connection, experiment_id, pair)
        for place, pair in enumerate(asked):
            found.append(_correlation(dsn, connection, experiment_id, loaded, place, pair))
    return found


def _correlation(
    dsn: str,
    connection: psycopg.Connection,
    experiment_id: str,
    loaded: Sequence[Engine],
    place: int,
    pair: Pair,
) -> Asked:
    ms, answers = {}, {}
    if place % _FRESH_EVERY == 0:
        with psycopg.connect(dsn, autocommit=True) as fresh:
            answers[FRESH], ms[FRESH] = _timed(lambda: _correlate(fresh, experiment_id, pair))
    answers[OURS], ms[OURS] = _timed(lambda: _correlate(connection, experiment_id, pair))
    for engine in loaded:
        answers[engine.name], ms[engine.name] = engine.once(
            pair.first.columns, pair.second.columns, None
        )
    question = f"{pair.first.ours}  |  {pair.second.ours}"
    if len(set(answers.values())) != 1:
        raise Disagreement(f"{question}: {answers}")
    return Asked(pair.kind, question, answers[OURS][2], ms)


def _correlate(
    connection: psycopg.Connection, experiment_id: str, pair: Pair
) -> tuple[int, int, int, int]:
    row = connection.execute(
        _CORRELATE, [[experiment_id], pair.first.ours, pair.second.ours]
    ).fetchone()
    assert row is not None
    return (row[0], row[1], row[2], row[3])


def searches(dsn: str, experiment_id: str, *, seed: int, number: int) -> list[Asked]:
    """Asks both stores for the newest 100 of random filters, and for a deep page."""
    url = dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    stores = {
        STOCK: SqlAlchemyStore(url, "mlflow-artifacts:/"),
        OURS: InsightsStore(url, "mlflow-artifacts:/"),
    }
    # Both have made their connections and read their code before.
    for store in stores.values():
        store.search_traces(locations=[experiment_id], filter_string="status = 'OK'")
    found = []
    for question in _for_stock(seed, number):
        for page in (0, _DEEP):
            asked = _search(stores, experiment_id, question, page)
            if asked is not None:
                found.append(asked)
    return found


def _for_stock(seed: int, number: int) -> Iterable[Question]:
    """The first so many random filters that stock can be asked."""
    seen: dict[str, Question] = {}
    wanted = 4 * number
    while len(seen) < number:
        for pair in pairs(seed + 1, wanted):
            question = pair.first
            if question.in_stock is not None and len(seen) < number:
                seen.setdefault(question.ours, question)
        wanted *= 2
    return seen.values()


def _search(
    stores: dict[str, Any], experiment_id: str, question: Question, page: int
) -> Asked | None:
    ms, answers = {}, {}
    for name, store in stores.items():
        filter_string = question.in_stock if name == STOCK else question.ours
        token = None
        for _ in range(page):
            _, token = _fetch(store, experiment_id, filter_string, token)
            if token is None:
                return None
        answers[name], ms[name] = _timed(
            lambda store=store, text=filter_string, token=token: tuple(  # type: ignore[misc]
                info.trace_id for info in _fetch(store, experiment_id, text, token)[0]
            )
        )
    if answers[STOCK] != answers[OURS]:
        raise Disagreement(f"page {page} of {question.ours}")
    texts = any(isinstance(atom, Text) for atom in atoms(question.columns))
    kind = f"{'page 6' if page else 'newest 100'}{', text' if texts else ''}"
    return Asked(kind, question.ours, len(answers[OURS]), ms)


def _fetch(store: Any, experiment_id: str, filter_string: str | None, token: Any) -> Any:
    return store.search_traces(
        locations=[experiment_id],
        filter_string=filter_string,
        max_results=_PAGE,
        page_token=token,
    )


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    answer = call()
    return answer, (time.perf_counter() - started) * 1000


def distribution(asked: Sequence[Asked]) -> dict[str, dict[str, float]]:
    """Median, 95th and 99th percentile and maximum, by who was asked."""
    taken: dict[str, list[float]] = {}
    for one in asked:
        for name, ms in one.ms.items():
            taken.setdefault(name, []).append(ms)
    return {
        name: {
            "asked": len(times),
            "median": statistics.median(times),
            "p95": percentile(times, 95),
            "p99": percentile(times, 99),
            "max": max(times),
        }
        for name, times in taken.items()
    }


def percentile(times: Sequence[float], percent: int) -> float:
    """The smallest time that so many percent do not exceed (nearest rank)."""
    ordered = sorted(times)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def summary(asked: Sequence[Asked]) -> dict[str, Any]:
    """For JSON: the distribution of all, and of each kind, and the slowest questions."""
    kinds: dict[str, list[Asked]] = {}
    for one in asked:
        kinds.setdefault(one.kind, []).append(one)
    slowest = sorted(asked, key=lambda one: -one.ms[OURS])[:10]
    return {
        "all": distribution(asked),
        "kinds": {kind: distribution(some) for kind, some in kinds.items()},
        "slowest": [one.__dict__ for one in slowest],
    }
