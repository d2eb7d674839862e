"""Every way to ask about a filter agrees with the oracle, over random hostile worlds.

An example is a world with 30 filters.  INSIGHTS_SEMANTICS_EXAMPLES sets how many
examples are tried (default 40, about a minute).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from insights_engine.language.errors import FilterError
from insights_engine.language.parser import parse_filter
from insights_engine.language.printer import print_filter

from tests.semantics import agreement
from tests.semantics.reduction import smallest
from tests.semantics.strategies import Scenario, scenarios

EXAMPLES = int(os.environ.get("INSIGHTS_SEMANTICS_EXAMPLES", "40"))


# No shrinking: a seed has no smaller one, and `smallest` does what it would.
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(scenario=scenarios())
def test_every_answer_is_the_oracles(
    module_conn: psycopg.Connection[Any], scenario: Scenario
) -> None:
    agree(module_conn, scenario)


@settings(
    max_examples=max(EXAMPLES // 4, 1),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(scenario=scenarios(), patience=st.sampled_from((0, 1, 10)))
def test_pages_are_right_across_the_windows_of_a_walk(
    module_conn: psycopg.Connection[Any], scenario: Scenario, patience: int
) -> None:
    """A walk in tiny windows, with several reasons to give it up for a set."""
    set_windows(module_conn, first=1, patience=patience)
    try:
        agree(module_conn, scenario, agreement.check_searches)
    finally:
        set_windows(module_conn, first=500, patience=10)


def set_windows(connection: psycopg.Connection[Any], first: int, patience: int) -> None:
    """Sets the constants of search.py in the engine that this session has loaded."""
    connection.execute("select insights_count(null::int[], '')")
    connection.execute(
        f"""
        do language plpython3u $$
        for module in list(GD.values()):
            search = getattr(module, "search", None)
            if hasattr(search, "FIRST_WINDOW"):
                search.FIRST_WINDOW, search.PATIENCE, search.SHORT_WALK = {first}, {patience}, 0
                break
        else:
            raise LookupError("the engine is not in GD")
        $$
        """
    )


def agree(
    connection: psycopg.Connection[Any],
    scenario: Scenario,
    check: Callable[[psycopg.Connection[Any], Scenario], None] = agreement.check,
) -> None:
    """Raises AssertionError with a small failing scenario, if this one fails."""

    def disagreement(of: Scenario) -> Exception | None:
        try:
            check(connection, of)
        except (AssertionError, FilterError, psycopg.Error) as error:
            return error
        return None

    if disagreement(scenario) is not None:
        small = smallest(scenario, lambda smaller: disagreement(smaller) is not None)
        raise AssertionError(f"{small}\n{disagreement(small)}")


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenario=scenarios(questions=20))
def test_the_canonical_form_means_the_same(scenario: Scenario) -> None:
    for question in scenario.questions:
        node = parse_filter(question.text)
        assert parse_filter(print_filter(node)) == node
