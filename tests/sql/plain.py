"""Filters, and the plain SQL over MLflow's tables that each of them means."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql

Connection = psycopg.Connection[Any]


def _spans(condition: str) -> str:
    return (
        "(select count(*) from spans s where s.trace_id = t.request_id"
        f" and s.experiment_id = t.experiment_id and {condition})"
    )


def _assessed(kind: str, name: str, value: str) -> str:
    """By an assessment of its own, or one that covers the whole session."""
    wanted = f"""a.assessment_type = '{kind}' and a.name = '{name}' and a.valid and {value}"""
    return (
        f"(exists (select from assessments a where a.trace_id = t.request_id and {wanted})"
        " or exists (select from assessments a join trace_info c on c.request_id = a.trace_id"
        f" where c.session_id = t.session_id and {wanted}"
        """ and a.assessment_metadata like '%"mlflow.trace.session":%'))"""
    )


#: Filter -> condition on ``trace_info t``.
QUESTIONS = {
    "": "true",
    "status = 'ERROR'": "t.status = 'ERROR'",
    "tag.round = '3'": "exists (select from trace_tags k where k.request_id = t.request_id"
    " and k.key = 'round' and k.value = '3')",
    "NOT tag.round > 5": "not exists (select from trace_tags k where k.request_id = t.request_id"
    " and k.key = 'round' and k.value::int > 5)",
    "span.type = 'TOOL'": _spans("s.type = 'TOOL'") + " > 0",
    "count() >= 3": _spans("true") + " >= 3",
    "span.attributes.model = 'gpt-4'": _spans(
        """s.content::jsonb -> 'attributes' ->> 'model' = '"gpt-4"'"""
    )
    + " > 0",
    "feedback.quality = 'good'": _assessed("feedback", "quality", """a.value = '"good"'"""),
    "feedback.quality >= 4": _assessed(
        "feedback", "quality", "a.is_numeric_value and a.aggregate_value >= 4"
    ),
}


def plain_count(filter: str) -> str:
    """A scalar subquery."""
    return f"(select count(*) from trace_info t where {QUESTIONS[filter]})"


def plain_ids(connection: Connection, filter: str) -> set[str]:
    """The traces that match, of MLflow's tables."""
    query = f"select t.request_id from trace_info t where {QUESTIONS[filter]}"
    return {row[0] for row in connection.execute(sql.SQL(query))}


def found_ids(connection: Connection, filter: str) -> list[str]:
    """The traces that match, of all pages of the search."""
    ids: list[str] = []
    token: str | None = None
    while True:
        rows = connection.execute(
            "select trace_id, next_page_token from insights_search(null::text[], %s, 50, null, %s)",
            (filter, token),
        ).fetchall()
        ids += [row[0] for row in rows]
        token = rows[-1][1] if rows else None
        if token is None:
            return ids


def check_counts(connection: Connection) -> None:
    """Every count is that of plain SQL, within a statement and thus a snapshot."""
    pairs = ", ".join(
        f"insights_count(null::text[], {_literal(filter)}), {plain_count(filter)}"
        for filter in QUESTIONS
    )
    row = connection.execute(sql.SQL(f"select {pairs}")).fetchone()
    assert row is not None
    for number, filter in enumerate(QUESTIONS):
        assert row[2 * number] == row[2 * number + 1], filter


def check_all(connection: Connection) -> None:
    """Counts, correlations and searches; in a transaction that has one snapshot."""
    for first, second in pairwise(QUESTIONS):
        one, two = plain_ids(connection, first), plain_ids(connection, second)
        ids = found_ids(connection, first)
        assert sorted(ids) == sorted(one), first
        row = connection.execute(
            "select filter1_count, filter2_count, joint_count, total_count"
            " from insights_correlate(null::text[], %s, %s)",
            (first, second),
        ).fetchone()
        total = len(plain_ids(connection, ""))
        assert row == (len(one), len(two), len(one & two), total), (first, second)
        count = connection.execute("select insights_count(null::text[], %s)", (second,)).fetchone()
        assert count == (len(two),), second


def uses_index(connection: Connection) -> bool:
    """Whether the index takes part in answers."""
    steps = connection.execute(
        "select detail from insights_explain(null::text[], 'status = ''OK''') where step = 'index'"
    ).fetchall()
    return any(not detail.startswith("not used") for (detail,) in steps)


def problems(connection: Connection) -> list[tuple[str | None, str]]:
    """What insights_verify finds."""
    return connection.execute("select * from insights_verify()").fetchall()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
