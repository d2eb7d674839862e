"""A process that writes traces with stock MLflow's store until it is told to stop.

It reports each write, and each that failed.  It knows nothing of this project: what it
writes is what `mlflow server` would.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from random import Random
from typing import Any

from mlflow.entities import (
    AssessmentSource,
    Expectation,
    Feedback,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.model_registry import PromptVersion
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.exc import SQLAlchemyError

from tests.chaos.ledger import Failure, failure
from tests.mlflow.world import span
from tests.semantics.strategies import DURATIONS_NS, SESSIONS, SPAN_TYPES, Palette, palette_of, pick
from tests.semantics.world import SESSION_KEY

#: A writer deletes what is too much, so that truth stays quick to be worked out.
MOST_TRACES = 35


def sendable(value: Any) -> bool:
    """Whether MLflow's client could send a value and PostgreSQL hold it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, UnicodeEncodeError):
        return False
    return "\\u0000" not in text and len(text) < 200


class StockWriter:
    def __init__(self, store: SqlAlchemyStore, name: str, palette: Palette, dice: Random) -> None:
        self._store = store
        self._name = name
        self._dice = dice
        self._keys = [key for key in palette.keys if re.fullmatch(r"[\w. -]+", key, re.ASCII)]
        self._texts = [text for text in palette.texts if sendable(text) and text]
        self._values = [value for value in palette.values if value is not None and sendable(value)]
        self._experiments = [e.experiment_id for e in store.search_experiments(max_results=10)]
        self._mine: dict[str, str] = {}
        self._assessments: list[tuple[str, str]] = []

    def write(self) -> str:
        """One random operation; its name."""
        dice = self._dice
        what = dice.random()
        if what < 0.3 or len(self._mine) < 5:
            return self._start()
        trace_id = pick(dice, list(self._mine))
        if what < 0.45:
            self._tag(trace_id)
            return "set_trace_tag"
        if what < 0.7:
            return self._assess(trace_id)
        if what < 0.8:
            self._store.log_spans(self._mine[trace_id], self._spans(trace_id, dice.randint(1, 3)))
            return "log_spans"
        if what < 0.85:
            self._store.link_prompts_to_trace(trace_id, [PromptVersion("qa", 1, "text")])  # type: ignore[abstract]
            return "link_prompts_to_trace"
        if what < 0.9:
            self._store.link_traces_to_run([trace_id], pick(dice, ("run1", "run2")))
            return "link_traces_to_run"
        gone = dice.sample(list(self._mine), max(1, len(self._mine) - MOST_TRACES))
        for trace_id in gone:
            # Whatever comes of it, it may be gone.
            experiment = self._mine.pop(trace_id)
            self._store.delete_traces(experiment, trace_ids=[trace_id])
        return "delete_traces"

    def _text(self) -> str:
        return pick(self._dice, self._texts or ["a"])

    def _start(self) -> str:
        dice = self._dice
        trace_id = f"tr-{dice.getrandbits(128):032x}"
        experiment = pick(dice, self._experiments)
        metadata = {key: self._text() for key in self._keys if dice.random() < 0.4}
        if dice.random() < 0.5:
            metadata[SESSION_KEY] = pick(dice, SESSIONS)
        if dice.random() < 0.3:
            metadata["mlflow.trace.user"] = self._text()
        if dice.random() < 0.3:
            metadata["mlflow.trace.tokenUsage"] = json.dumps(
                {"input_tokens": 5, "output_tokens": dice.randrange(9), "total_tokens": 7}
            )
        tags = {key: self._text() for key in self._keys if dice.random() < 0.5}
        if dice.random() < 0.6:
            tags["mlflow.traceName"] = self._text()
        info = TraceInfo(
            trace_id=trace_id,
            trace_location=TraceLocation.from_experiment_id(experiment),
            request_time=1_700_000_000_000 + dice.randrange(5) * 1000,
            execution_duration=pick(dice, (None, 0, 1, 7)),
            state=pick(dice, (TraceState.OK, TraceState.ERROR, TraceState.IN_PROGRESS)),
            request_preview=pick(dice, (None, self._text())),
            tags=tags,
            trace_metadata=metadata,
        )
        # Spans come first at times, as with the tracing client that exports them.
        early = dice.random() < 0.3
        spans = self._spans(trace_id, dice.randrange(4))
        if spans and early:
            self._store.log_spans(experiment, spans)
        self._store.start_trace(info)
        self._mine[trace_id] = experiment
        if spans and not early:
            self._store.log_spans(experiment, spans)
        return "start_trace"

    def _spans(self, trace_id: str, count: int) -> list[Any]:
        dice = self._dice
        return [
            span(
                trace_id,
                number,
                1_700_000_000_000,
                duration_ms=pick(dice, DURATIONS_NS) // 1_000_000,
                name=self._text(),
                type=pick(dice, SPAN_TYPES),
                attributes={k: pick(dice, self._values) for k in self._keys if dice.random() < 0.6}
                if self._values
                else {},
            )
            for number in range(count)
        ]

    def _tag(self, trace_id: str) -> None:
        self._store.set_trace_tag(trace_id, pick(self._dice, self._keys), self._text())

    def _assess(self, trace_id: str) -> str:
        dice = self._dice
        what = dice.random()
        if self._assessments and what < 0.3:
            trace_id, assessment_id = self._assessments.pop(dice.randrange(len(self._assessments)))
            if trace_id not in self._mine:
                return "nothing"
            self._store.delete_assessment(trace_id, assessment_id)
            return "delete_assessment"
        made = self._store.create_assessment(
            pick(dice, (Feedback, Feedback, Expectation))(
                trace_id=trace_id,
                name=pick(dice, self._keys),
                value=pick(dice, self._values or [1]),
                source=AssessmentSource("HUMAN", "tester"),
                metadata={SESSION_KEY: "s"} if what > 0.9 else None,
            )
        )
        assert made.assessment_id is not None
        self._assessments.append((trace_id, made.assessment_id))
        return "create_assessment"

    def work(self, stop: Event, report: Callable[[Report], None]) -> None:
        since = time.time()
        while not stop.is_set():
            begin = time.time()
            try:
                self.write()
            except (MlflowException, SQLAlchemyError) as error:
                # Where MLflow does not translate what the database says.
                found = failure(self._name, "a write", error, since)
                report(found or what_failed(error))
                if found is not None and not found.sqlstate.startswith(("2", "4")):
                    time.sleep(0.3)  # the server may be starting again
            else:
                since = begin
                report(time.time() - begin)
            time.sleep(0.02)


#: How long a write took, why MLflow itself refused it, or how it failed.
Report = float | str | Failure


def what_failed(error: Exception) -> str:
    """Its code and the beginning of its message, without what differs from call to call."""
    code = getattr(error, "error_code", type(error).__name__)
    return f"{code}: {re.sub('[0-9a-f]{8,}', '…', str(error))[:80]}"


def main(
    dsn: str,
    name: str,
    artifacts: str,
    seed: int,
    palette: int,
    stop: Event,
    reports: Queue[Report | None],
) -> None:
    """What the process runs; None is the last report."""
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # all of it is reported
    try:
        store = SqlAlchemyStore(dsn, artifacts)
        writer = StockWriter(store, name, palette_of(Random(palette)), Random(seed))
        writer.work(stop, reports.put)
    finally:
        reports.put(None)
