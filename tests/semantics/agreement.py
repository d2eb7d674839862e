"""Asks PostgreSQL what the oracle is asked, in every way there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from insights_engine.exact import rawsql
from insights_engine.language import tree
from insights_engine.language.parser import parse_filter

from tests.semantics import oracle
from tests.semantics.strategies import Question, Scenario, conjunction, normal_form
from tests.semantics.world import load

SHAPES = ("set", "probe")


def check(
    connection: psycopg.Connection[Any],
    scenario: Scenario,
    prepare: Callable[[psycopg.Connection[Any]], None] | None = None,
) -> None:
    """Load the scenario's world and hold every answer to it against the oracle's.

    ``prepare`` is called in between.
    """
    load(connection, scenario.world)
    if prepare is not None:
        prepare(connection)
    questions = scenario.questions
    for index, question in enumerate(questions):
        other, base = (questions[(index - back) % len(questions)] for back in (1, 2))
        check_raw(connection, scenario, question)
        check_search(connection, scenario, question)
        check_correlation(connection, scenario, question, other, None)
        check_correlation(connection, scenario, question, other, base)


def check_searches(connection: psycopg.Connection[Any], scenario: Scenario) -> None:
    """Load the scenario's world and hold the searches alone against the oracle's."""
    load(connection, scenario.world)
    for question in scenario.questions:
        check_search(connection, scenario, question)


def check_raw(connection: psycopg.Connection[Any], scenario: Scenario, question: Question) -> None:
    """The parsed filter means what was written, and both shapes of its SQL do."""
    node = parse_filter(question.text)
    expected = answer(scenario, question.node)
    assert answer(scenario, node) == expected, ("parser", question.text, node)
    for shape in SHAPES:
        found = raw(connection, node, scenario.scope, scenario.now_ms, shape)
        assert found == expected, (shape, question.text, node)


def check_search(
    connection: psycopg.Connection[Any], scenario: Scenario, question: Question
) -> None:
    """insights_count, and insights_search page by page."""
    ids = scope_ids(scenario.scope)
    expected = oracle.search(
        scenario.world, question.node, scenario.scope, question.order_by, scenario.now_ms
    )
    count = connection.execute("select insights_count(%s::text[], %s)", (ids, question.text))
    assert count.fetchone() == (len(expected),), ("count", question.text)
    found: list[str] = []
    token: str | None = None
    while True:
        rows = connection.execute(
            "select trace_id, tags, metadata, jsonb_array_length(assessments), next_page_token"
            " from insights_search(%s::text[], %s, %s, %s, %s)",
            (ids, question.text, question.page_size, question.order_clauses, token),
        ).fetchall()
        for trace_id, *shown, _ in rows:
            trace = scenario.world.trace(trace_id)
            assert shown == oracle.shown(trace), ("row", trace_id)
        found += [row[0] for row in rows]
        token = rows[-1][-1] if rows else None
        if token is None:
            break
        assert len(rows) == question.page_size, ("page", question.text)
        assert len(found) < len(expected), ("token", question.text)
    assert found == expected, ("search", question.text, question.order_clauses)


def check_correlation(
    connection: psycopg.Connection[Any],
    scenario: Scenario,
    first: Question,
    second: Question,
    base: Question | None,
) -> None:
    """The counts of insights_correlate, with and without a base filter."""
    within = tree.EVERYTHING if base is None else base.surface
    total, one, two = (
        answer(scenario, normal_form(conjunction(within, surface)))
        for surface in (tree.EVERYTHING, first.surface, second.surface)
    )
    expected = (len(one), len(two), len(one & two), len(total))
    texts = (first.text, second.text, None if base is None else base.text)
    row = connection.execute(
        "select filter1_count, filter2_count, joint_count, total_count"
        " from insights_correlate(%s::text[], %s, %s, %s)",
        (scope_ids(scenario.scope), *texts),
    ).fetchone()
    assert row == expected, ("correlate", texts)


def answer(scenario: Scenario, node: tree.Node) -> set[str]:
    return oracle.matches(scenario.world, node, scenario.scope, scenario.now_ms)


def scope_ids(scope: Sequence[int] | None) -> list[str] | None:
    return None if scope is None else [str(experiment_id) for experiment_id in scope]


def raw(
    connection: psycopg.Connection[Any],
    node: tree.Node,
    scope: Sequence[int] | None,
    now_ms: int,
    shape: str,
) -> set[str]:
    """The ids for which the compiled predicate is true; it may not be NULL for any."""
    params = rawsql.Params()
    predicate = rawsql.compile_filter(
        node, params, schema="public", scope=scope, now_ms=now_ms, shape=shape
    )
    where = "true" if scope is None else f"experiment_id = any('{{{str(list(scope))[1:-1]}}}')"
    # As plpy.prepare would, give every parameter its declared type.
    typed = re.sub(r"\$(\d+)", lambda m: f"({m[0]}::{params.types[int(m[1]) - 1]})", predicate)
    rows = (
        psycopg.RawCursor(connection)
        .execute(f"select request_id, {typed} from trace_info t where {where}", params.values)
        .fetchall()
    )
    assert all(row[1] is not None for row in rows), "the predicate is NULL for some trace"
    return {row[0] for row in rows if row[1]}
