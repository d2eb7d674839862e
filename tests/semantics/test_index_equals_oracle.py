"""With the index the answers are the oracle's too, whatever it has seen of the traces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.semantics import agreement
from tests.semantics.strategies import Scenario, scenario_of, scenarios
from tests.semantics.test_raw_equals_oracle import EXAMPLES, agree
from tests.semantics.world import Trace, World, delete_traces, load, replace_traces

# Each asks more than the tests without the index do; together as many as one of those.
RANDOM = settings(
    max_examples=max(EXAMPLES // 3, 1),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


@RANDOM
@given(scenario=scenarios())
def test_every_answer_is_the_oracles(
    module_conn: psycopg.Connection[Any], scenario: Scenario
) -> None:
    def check(connection: psycopg.Connection[Any], of: Scenario) -> None:
        agreement.check(connection, of, refresh_all)

    agree(module_conn, scenario, check)


@RANDOM
@given(scenario=scenarios(), seed=st.integers(0, 2**32))
def test_traces_that_wait_are_answered_like_the_others(
    module_conn: psycopg.Connection[Any], scenario: Scenario, seed: int
) -> None:
    """Some of the traces are indexed, in blocks of a few."""

    def check(connection: psycopg.Connection[Any], of: Scenario) -> None:
        def refresh_some(connection: psycopg.Connection[Any]) -> None:
            dice = Random(seed)
            for _ in range(dice.randint(1, 3)):
                refresh(connection, dice.randint(1, 4))

        agreement.check(connection, of, refresh_some)

    agree(module_conn, scenario, check)


@RANDOM
@given(seed=st.integers(0, 2**64 - 1))
def test_every_answer_is_right_while_traces_come_change_and_go(
    module_conn: psycopg.Connection[Any], seed: int
) -> None:
    """After each step of a random course of events; a failure names its seed and step."""
    follow(module_conn, seed)


@RANDOM
@given(seed=st.integers(0, 2**64 - 1))
def test_the_same_where_everything_undecided_is_asked_at_once(
    module_conn: psycopg.Connection[Any], seed: int
) -> None:
    """As it is where very many traces are left open by the index."""
    module_conn.execute("set insights.undecided_one_by_one = '0'")
    try:
        follow(module_conn, seed)
    finally:
        module_conn.execute("reset insights.undecided_one_by_one")


def follow(module_conn: psycopg.Connection[Any], seed: int) -> None:
    """A random course of events, with questions after each."""
    dice = Random(seed)
    # Few questions, so that most are asked again after what was kept of them has aged.
    scenario = scenario_of(dice, questions=5)
    world = scenario.world
    load(module_conn, World(world.experiments, ()))
    known: dict[str, Trace] = {}
    for step in range(12):
        event = happen(module_conn, dice, world, known)
        now = replace(scenario, world=World(world.experiments, tuple(known.values())))
        for question in dice.sample(scenario.questions, 3):
            try:
                agreement.check_search(module_conn, now, question)
                first, second, base = dice.sample(scenario.questions, 3)
                agreement.check_correlation(module_conn, now, first, second, base)
            except (AssertionError, psycopg.Error) as error:
                raise AssertionError(f"step {step}, {event}, seed {seed}: {error}") from error


def happen(
    connection: psycopg.Connection[Any], dice: Random, world: World, known: dict[str, Trace]
) -> str:
    """One event: traces arrive, change or go, or some of them are indexed; its name."""
    ids = list(known)
    event = dice.choice(
        ("arrive", "arrive", "change", "change", "archive", "delete", "refresh", "experiment")
    )
    if event == "refresh" or not world.traces:
        refresh(connection, dice.choice((1, 3, 1000, 1000)))
    elif event == "arrive" or not ids:
        chosen = dice.sample(world.traces, min(len(world.traces), dice.randint(1, 6)))
        put(connection, known, chosen)
    elif event == "change":
        changed = []
        for trace_id in dice.sample(ids, min(len(ids), 2)):
            # What a trace was, with something of what others are.
            other = dice.choice(world.traces)
            parts = dice.sample(CHANGEABLE, dice.randint(1, 4))
            news = {name: getattr(other, name) for name in parts}
            changed.append(replace(known[trace_id], **news))
        put(connection, known, changed)
    elif event == "archive":
        trace = known[dice.choice(ids)]
        connection.execute("update spans set content = '' where trace_id = %s", (trace.trace_id,))
        spans = tuple(replace(span, content="") for span in trace.spans)
        known[trace.trace_id] = replace(trace, spans=spans)
    elif event == "experiment":
        # Deleted or restored, with all its traces; a filter sees no difference.
        connection.execute(
            "update experiments set lifecycle_stage ="
            " case lifecycle_stage when 'active' then 'deleted' else 'active' end"
            " where experiment_id = %s",
            (dice.choice(world.experiments).experiment_id,),
        )
    else:
        gone = dice.sample(ids, min(len(ids), 2))
        delete_traces(connection, gone)
        for trace_id in gone:
            del known[trace_id]
    return event


CHANGEABLE = (
    *("experiment_id", "timestamp_ms", "execution_time_ms", "status", "name", "session_id"),
    *("tokens", "cost", "tags", "metadata", "spans", "assessments", "runs", "prompts"),
)


def put(
    connection: psycopg.Connection[Any], known: dict[str, Trace], traces: Iterable[Trace]
) -> None:
    """Writes traces, and remembers them."""
    traces = list(traces)
    replace_traces(connection, traces)
    known.update((trace.trace_id, trace) for trace in traces)


def refresh_all(connection: psycopg.Connection[Any]) -> None:
    """Indexes everything, and makes sure that the index is what answers."""
    while refresh(connection, 1000):
        pass
    steps = dict(
        connection.execute(
            "select step, detail from insights_explain(null::text[], 'status = ''OK''')"
        ).fetchall()
    )
    assert "0 traces pending" in steps["index"]


def refresh(connection: psycopg.Connection[Any], traces: int) -> int:
    """Indexes some traces; how many are left."""
    row = connection.execute("select pending from insights_refresh(%s)", (traces,)).fetchone()
    assert row is not None
    return int(row[0])
