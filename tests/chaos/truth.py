"""What MLflow's tables say, read without this project, and the answers held against it.

`snapshot` reads the tables into the oracle's `World` by plain SELECTs.  A reader does
that and asks its questions in one REPEATABLE READ transaction, so whatever others do
meanwhile, truth and answers are about the same moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import psycopg
from insights_engine.language import tree
from psycopg import sql

from tests.semantics import agreement
from tests.semantics.strategies import Palette, Question, Scenario, _question, pick, subject
from tests.semantics.test_analytics_equal_oracle import check_facets, fields_of
from tests.semantics.world import (
    COST_COLUMNS,
    TOKEN_COLUMNS,
    Assessment,
    Experiment,
    Span,
    Trace,
    World,
)
from tests.sql.plain import uses_index

Connection = psycopg.Connection[Any]

TABLES = (
    "trace_info",
    "trace_tags",
    "trace_request_metadata",
    "spans",
    "assessments",
    "entity_associations",
)


#: What a trace has beside its id, experiment and time, in the order of `snapshot`.
_TRACE_COLUMNS = (
    *("execution_time_ms", "status", "client_request_id", "request_preview"),
    *("response_preview", "name", "session_id"),
)


def begin(connection: Connection) -> None:
    """A snapshot that no rewriting of a table can empty.

    ALTER TABLE and TRUNCATE are not safe for snapshots taken before them: such a
    snapshot then finds the table empty.  LOCK TABLE takes none, so what comes after it
    is as old as the locks.
    """
    connection.execute("begin isolation level repeatable read, read only")
    for table in (*TABLES, "experiments"):
        connection.execute(
            sql.SQL("lock table {} in access share mode").format(sql.Identifier("public", table))
        )


def _by_trace(connection: Connection, query: str) -> dict[str, list[tuple[Any, ...]]]:
    """The rows without their first column, by that column."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for trace_id, *row in connection.execute(query.encode()):
        found.setdefault(trace_id, []).append(tuple(row))
    return found


def snapshot(connection: Connection) -> World:
    """Everything that filters see of MLflow's tables."""
    experiments = tuple(
        Experiment(number, stage == "deleted")
        for number, stage in connection.execute(
            "select experiment_id, lifecycle_stage from public.experiments"
        )
    )
    tags = _by_trace(connection, "select request_id, key, value from public.trace_tags")
    metadata = _by_trace(
        connection, "select request_id, key, value from public.trace_request_metadata"
    )
    spans = _by_trace(
        connection,
        "select trace_id, span_id, content, name, type, status, start_time_unix_nano,"
        " end_time_unix_nano, experiment_id from public.spans order by span_id",
    )
    # The newest comes last, as where a trace is ordered by an assessment.
    assessments = _by_trace(
        connection,
        "select trace_id, assessment_type, name, value, valid, assessment_metadata"
        " from public.assessments"
        ' order by last_updated_timestamp, created_timestamp, assessment_id collate "C"',
    )
    links = _by_trace(
        connection,
        "select source_id, destination_type, destination_id from public.entity_associations"
        " where source_type = 'trace'",
    )
    numbers = ", ".join((*TOKEN_COLUMNS, *COST_COLUMNS))
    traces = []
    for row in connection.execute(
        "select request_id, experiment_id, timestamp_ms, execution_time_ms, status,"
        " client_request_id, request_preview, response_preview, trace_name, session_id,"
        f" {numbers} from public.trace_info".encode()
    ):
        trace_id, experiment_id, timestamp_ms = row[:3]
        texts = dict(zip(_TRACE_COLUMNS, row[3:10], strict=True))
        counts = dict(zip((*TOKEN_COLUMNS, *COST_COLUMNS), row[10:], strict=True))
        traces.append(
            Trace(
                trace_id,
                experiment_id,
                timestamp_ms,
                **texts,
                tokens={name: counts[name] for name in TOKEN_COLUMNS if counts[name] is not None},
                cost={name: counts[name] for name in COST_COLUMNS if counts[name] is not None},
                tags=dict(tags.get(trace_id, ())),
                metadata=dict(metadata.get(trace_id, ())),
                spans=tuple(Span(*span) for span in spans.get(trace_id, ())),
                assessments=tuple(Assessment(*one) for one in assessments.get(trace_id, ())),
                runs=tuple(to for kind, to in links.get(trace_id, ()) if kind == "run"),
                prompts=tuple(
                    to for kind, to in links.get(trace_id, ()) if kind == "prompt_version"
                ),
            )
        )
    return World(experiments, tuple(traces))


def scenario_about(dice: Random, palette: Palette, world: World, questions: int) -> Scenario:
    """Random questions, most of them about facts of ``world``."""
    some = replace(world, traces=tuple(dice.sample(world.traces, min(len(world.traces), 12))))
    about = subject(palette, some)
    asked = tuple(
        replace(_question(dice, about), page_size=pick(dice, (7, 50, 500)))
        for _ in range(questions)
    )
    known = [experiment.experiment_id for experiment in world.experiments]
    scope = pick(dice, (None, None, tuple(known[:1]), tuple(known[:2])))
    return Scenario(world, asked, scope, palette.now_ms)


class WrongAnswer(Exception):
    """An answer is not the oracle's."""


class Examiner:
    """Asks in every way and counts; raises `WrongAnswer`, or what PostgreSQL raised."""

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        self._lock = threading.Lock()
        self.answers: dict[str, int] = {}
        self.by_index = 0
        self.examinations = 0

    def total(self) -> int:
        return sum(self.answers.values())

    def examine(self, connection: Connection, dice: Random, questions: int = 4) -> bool:
        """Random questions about one snapshot; whether the index took part in the answers."""
        begin(connection)
        try:
            world = snapshot(connection)
            scenario = scenario_about(dice, self._palette, world, questions)
            used = uses_index(connection)
            self._ask(connection, dice, scenario)
        finally:
            if not connection.closed:
                connection.execute("rollback")
        with self._lock:
            self.examinations += 1
            self.by_index += used
        return used

    def _ask(self, connection: Connection, dice: Random, scenario: Scenario) -> None:
        def check(kind: str, answers: int, ask: Callable[[], None]) -> None:
            try:
                ask()
            except (AssertionError, KeyError) as error:
                raise WrongAnswer(f"{kind}: {type(error).__name__}: {error}"[:2000]) from error
            with self._lock:
                self.answers[kind] = self.answers.get(kind, 0) + answers

        for question in scenario.questions:
            check(
                # A count and a search, page by page.
                *("count and search", 2),
                lambda question=question: agreement.check_search(connection, scenario, question),  # type: ignore[misc]
            )
        first, second, some = (pick(dice, scenario.questions) for _ in range(3))
        for base in (None, some):
            check(
                *("correlate", 1),
                lambda base=base: agreement.check_correlation(  # type: ignore[misc]
                    connection, scenario, first, second, base
                ),
            )
        everything = Question(tree.EVERYTHING, "", (), 1)
        fields = fields_of(dice, replace(scenario, world=World((), scenario.world.traces[:8])))
        check(
            *("facets", 1),
            lambda: check_facets(
                connection,
                scenario,
                pick(dice, (everything, first)),
                pick(dice, fields),
                pick(dice, (2, 20)),
                pick(dice, ("trace", "session")),
            ),
        )
