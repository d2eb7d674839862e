"""With the index the answers are the oracle's too, whatever it has seen of the traces."""

from __future__ import annotations

from random import Random
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.semantics import agreement
from tests.semantics.strategies import Scenario, scenarios
from tests.semantics.test_raw_equals_oracle import EXAMPLES, agree

RANDOM = settings(
    max_examples=EXAMPLES,
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
