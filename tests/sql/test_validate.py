"""insights_validate: the canonical form of a filter."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.conftest import checked


def validate(connection: psycopg.Connection[Any], filter: str | None) -> str:
    row = connection.execute("select insights_validate(%s)", (filter,)).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize(
    ("filter", "canonical"),
    [
        (None, ""),
        ("", ""),
        ("status='OK'", "status = 'OK'"),
        ('trace.status = "OK" and tag.x is null', "status = 'OK' AND tags.x IS NULL"),
        (
            "name like '%a%' or (timestamp > 5)",
            "name LIKE '%a%' OR timestamp_ms > '1970-01-01T00:00:00.005Z'",
        ),
    ],
)
def test_canonical_forms(
    module_conn: psycopg.Connection[Any], filter: str | None, canonical: str
) -> None:
    assert validate(module_conn, filter) == canonical
    assert validate(module_conn, canonical) == canonical


@pytest.mark.parametrize(
    ("filter", "reason"),
    [
        ("status = ", "a value is missing"),
        ("name RLIKE '('", "parentheses () not balanced"),
        ("span.name RLIKE '[z-a]'", "invalid regular expression"),
        ("tags.x NOT RLIKE '*'", "invalid regular expression"),
        ("name LIKE 'x\\'", "LIKE pattern must not end with escape character"),
        ("count(span.name RLIKE '(') > 1", "parentheses () not balanced"),
    ],
)
def test_bad_filters_are_refused_patterns_included(
    module_conn: psycopg.Connection[Any], filter: str, reason: str
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        validate(module_conn, filter)
    assert reason in (checked(caught.value).message_primary or "")
