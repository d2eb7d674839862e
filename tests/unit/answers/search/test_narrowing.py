"""Which filters MLflow's own indexes narrow down, and what is asked of them."""

from __future__ import annotations

from typing import Any

import pytest
from insights_engine.answers.search import narrowing
from insights_engine.exact.statement import Statement
from insights_engine.language.parser import parse_filter


class Database:
    """Stands for plpy: gives ``count`` trace ids to any statement, and keeps it."""

    def __init__(self, count: int) -> None:
        self.rows = [{"request_id": f"t{number}"} for number in range(count)]
        self.asked: list[str] = []

    def prepare(self, sql: str, types: list[str]) -> str:
        return sql

    def execute(self, plan: str, values: list[Any]) -> list[dict[str, str]]:
        self.asked.append(plan)
        return self.rows[: values[-1]]


def find(
    filter: str, experiments: list[int] | None, count: int = 2
) -> tuple[list[str], list[str]] | None:
    database = Database(count)
    found = narrowing.find(
        database, Statement("narrowing", experiments, 1_000_000), parse_filter(filter)
    )
    assert len(database.asked) <= 1
    return found


WHOLE = [
    "session = 's'",
    "metadata.mlflow.trace.session = 's'",
    "session IN ('s', 't')",
    "trace_id = 't1'",
    "trace_id IN ('t1', 't2')",
    "timestamp > 5",
    "timestamp >= 5 AND timestamp < 9",
    "timestamp = 5",
    "timestamp BETWEEN 5 AND 9",
    "timestamp > now() - '1 hour'",
    "session = 's' AND timestamp < 9",
]
IN_PART = [
    "session = 's' AND span.type = 'TOOL'",
    "timestamp >= 5 AND timestamp < 9 AND status = 'ERROR'",
    "trace_id = 't1' AND (status = 'OK' OR tag.a = 'b')",
    "session = 's' AND NOT timestamp > 5",
]
NOT_NARROW = [
    "",
    "session != 's'",
    "session LIKE 's%'",
    "session IS NOT NULL",
    "session NOT IN ('s')",
    "timestamp < 9",
    "timestamp != 9",
    "timestamp NOT BETWEEN 5 AND 9",
    "NOT timestamp > 5 AND NOT session = 's'",
    "session = 's' OR timestamp > 5",
    "status = 'ERROR'",
    "execution_time > 5",
    "client_request_id = 'c'",
    "span.type = 'TOOL'",
]


@pytest.mark.parametrize("filter", WHOLE)
def test_what_indexes_answer_whole_is_sure(filter: str) -> None:
    assert find(filter, [1]) == (["t0", "t1"], [])


@pytest.mark.parametrize("filter", IN_PART)
def test_of_the_rest_the_few_are_asked(filter: str) -> None:
    assert find(filter, [1]) == ([], ["t0", "t1"])


@pytest.mark.parametrize("filter", NOT_NARROW)
def test_anything_else_is_left_alone(filter: str) -> None:
    assert find(filter, [1]) is None


def test_many_are_left_alone() -> None:
    assert find("session = 's'", [1], narrowing.FEW) is not None
    assert find("session = 's'", [1], narrowing.FEW + 1) is None


def test_a_session_is_looked_up_within_experiments() -> None:
    """MLflow's index begins with the experiment; those on ids and times do not."""
    assert find("session = 's'", None) is None
    assert find("trace_id = 't1'", None) == (["t0", "t1"], [])
    assert find("trace_id = 't1' AND session = 's'", None) == ([], ["t0", "t1"])
    assert find("timestamp > 5", None) == (["t0", "t1"], [])


def test_times_are_looked_up_where_an_index_gives_the_newest() -> None:
    assert find("timestamp > 5", [1, 2]) is None
    assert find("timestamp > 5 AND session = 's'", [1, 2]) == (["t0", "t1"], [])
    assert find("timestamp < 5 AND session = 's'", None) is None
