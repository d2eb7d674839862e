"""Every row of a discovery has the counts of its filter, whoever is asked.

An example is a random hostile world, of which the index may have seen everything,
a part or nothing; each of its discoveries asks for all facts, significant or not.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from insights_engine.language import tree
from insights_engine.language.parser import parse_filter
from insights_engine.language.printer import print_filter
from psycopg.rows import dict_row

from tests.semantics import agreement
from tests.semantics.strategies import Question, Scenario, conjunction, normal_form, scenarios
from tests.semantics.test_index_equals_oracle import refresh, refresh_all
from tests.semantics.test_raw_equals_oracle import EXAMPLES
from tests.semantics.world import load

RANDOM = settings(
    max_examples=max(EXAMPLES // 3, 1),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
UNITS = ("trace", "session", "session_all")
STATISTICS = (
    *("lift", "npmi", "phi", "odds_ratio", "odds_ratio_low", "odds_ratio_high"),
    *("p_value", "test"),
)
COUNTS = ("target_count", "fact_count", "joint_count", "total_count")


@RANDOM
@given(scenario=scenarios(questions=15))
def test_indexed(module_conn: psycopg.Connection[Any], scenario: Scenario) -> None:
    check(module_conn, scenario, refresh_all)


@RANDOM
@given(scenario=scenarios(questions=15), seed=st.integers(0, 2**32))
def test_partly_indexed(
    module_conn: psycopg.Connection[Any], scenario: Scenario, seed: int
) -> None:
    def refresh_some(connection: psycopg.Connection[Any]) -> None:
        dice = Random(seed)
        for _ in range(dice.randint(1, 3)):
            refresh(connection, dice.randint(1, 4))

    check(module_conn, scenario, refresh_some)


@RANDOM
@given(scenario=scenarios(questions=10))
def test_without_an_index(module_conn: psycopg.Connection[Any], scenario: Scenario) -> None:
    def distrust(connection: psycopg.Connection[Any]) -> None:
        connection.execute("update insights.state set built = false")

    try:
        check(module_conn, scenario, distrust)
    finally:
        module_conn.execute("update insights.state set built = true")


@RANDOM
@given(scenario=scenarios(questions=10), seed=st.integers(0, 2**32))
def test_sought_in_a_sample(
    module_conn: psycopg.Connection[Any], scenario: Scenario, seed: int
) -> None:
    """As with millions of traces; what is found is counted in all of them."""

    def refresh_some(connection: psycopg.Connection[Any]) -> None:
        dice = Random(seed)
        for _ in range(dice.randint(2, 4)):
            refresh(connection, dice.randint(1, 4))

    module_conn.execute("set insights.cache = '0'")
    set_sampling(module_conn, most=0, sampled=4)
    try:
        check(module_conn, scenario, refresh_some, complete=False)
    finally:
        set_sampling(module_conn, most=400_000, sampled=250_000)
        module_conn.execute("reset insights.cache")


def set_sampling(connection: psycopg.Connection[Any], most: int, sampled: int) -> None:
    """Sets the constants of units.py in the engine that this session has loaded."""
    connection.execute("select insights_count(null::int[], '')")
    connection.execute(
        f"""
        do language plpython3u $$
        import insights_engine.answers.discovery.units as units
        units.MOST_POSITIONS, units.SAMPLED_POSITIONS = {most}, {sampled}
        $$
        """.encode()
    )


def check(
    connection: psycopg.Connection[Any],
    scenario: Scenario,
    prepare: Callable[[psycopg.Connection[Any]], None],
    complete: bool = True,
) -> None:
    load(connection, scenario.world)
    prepare(connection)
    for index, question in enumerate(scenario.questions):
        base = scenario.questions[index - 1] if index % 5 == 1 else None
        check_rows(
            connection, scenario, question, base, UNITS[index % 3], complete, pairs=index % 2 == 0
        )


def check_rows(
    connection: psycopg.Connection[Any],
    scenario: Scenario,
    target: Question,
    base: Question | None,
    unit: str,
    complete: bool,
    *,
    pairs: bool,
) -> None:
    """Hold the rows of one discovery against the oracle and insights_correlate."""
    ids = agreement.scope_ids(scenario.scope)
    base_text = None if base is None else base.text
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select * from insights_discover(%s::text[], %s, %s, min_support => 1,"
            " max_results => 1000, fdr => 1, direction => 'both', restatements => true,"
            " pairs => %s, unit => %s)",
            (ids, target.text, base_text, pairs, unit),
        ).fetchall()
    within = [] if base is None else [base.surface]
    traces = agreement.answer(scenario, normal_form(conjunction(*within)))
    wanted = agreement.answer(scenario, normal_form(conjunction(*within, target.surface)))
    total, one = (units(scenario, traces, some, unit) for some in (traces, wanted))
    for row in rows:
        node = parse_filter(row["filter"])
        other = units(scenario, traces, agreement.answer(scenario, node), unit)
        expected = (len(one), len(other), len(one & other), len(total))
        found = tuple(row[name] for name in COUNTS)
        assert found == expected, (target.text, base_text, unit, row)
        if unit != "trace":
            continue
        with connection.cursor(row_factory=dict_row) as cursor:
            correlated = cursor.execute(
                "select * from insights_correlate(%s::text[], %s, %s, %s)",
                (ids, target.text, row["filter"], base_text),
            ).fetchone()
        assert correlated is not None
        assert (
            *(correlated[name] for name in ("filter1_count", "filter2_count", "joint_count")),
            correlated["total_count"],
        ) == expected, (target.text, base_text, row)
        # What is named alike is alike; a threshold's p value is higher by the price of the search,
        # and a pair's is that of what its parts tell of each other, if that is higher.
        is_pair = "both count" in row["test"]
        sought = row["test"].startswith("best of ")
        for name in STATISTICS[: -2 if sought or is_pair else None]:
            assert row[name] == correlated[name], (name, target.text, base_text, row)
        assert is_pair or row["test"].endswith(correlated["test"])
        assert row["p_value"] >= correlated["p_value"]
    shown = {text for row in rows for text in (row["filter"], *row["similar"])}
    if not complete:
        return
    if 0 < len(one) < len(total):
        for text in statuses(scenario):
            matching = agreement.answer(scenario, parse_filter(text))
            other = units(scenario, traces, matching, unit)
            # What is exactly as frequent inside as outside goes neither with it nor against it.
            if len(one & other) * len(total) != len(one) * len(other):
                assert text in shown, (target.text, base_text, unit)
    else:
        assert not rows


def units(scenario: Scenario, base: set[str], matching: set[str], unit: str) -> set[str]:
    """The traces of the base that match, or the sessions of which some or all of these do."""
    if unit == "trace":
        return base & matching
    session = {trace.trace_id: trace.session_id for trace in scenario.world.traces}
    some = {session[one] for one in base & matching}
    if unit == "session_all":
        some -= {session[one] for one in base - matching}
    return {one for one in some if one is not None}


def statuses(scenario: Scenario) -> set[str]:
    """Facts that must be there, whatever else is: nothing makes them uncertain."""
    return {print_filter(status(trace.status)) for trace in scenario.world.traces}


def status(value: str) -> tree.Node:
    return tree.TextCompare(tree.TraceText("status"), "=", value)
