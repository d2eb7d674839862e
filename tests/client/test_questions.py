"""The statements of docs/questions.md, run as they stand there, with their results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "questions.md").read_text()
STATEMENTS = re.findall(
    r"^```sql\n(.*?)^```\n```\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL
)


def cells(table: str) -> list[list[str]]:
    """The names and the values of a result as psql prints it."""
    lines = [line for line in table.splitlines() if line and not re.fullmatch(r"[-+]+", line)]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def printed(value: Any) -> str:
    """A value as psql prints it."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return "" if value is None else str(value)


@pytest.mark.parametrize(("statement", "table"), STATEMENTS)
def test_the_page(world_conn: psycopg.Connection[Any], statement: str, table: str) -> None:
    cursor = world_conn.execute(statement.encode())
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    rows = [[printed(value) for value in row] for row in cursor.fetchall()]
    expected = cells(table)
    assert [names, *map(_same, rows)] == [expected[0], *map(_same, expected[1:])]


def _same(row: list[str]) -> list[Any]:
    """Numbers by value, so that the number of digits does not matter."""
    return [float(cell) if re.fullmatch(r"-?\d+\.\d+", cell) else cell for cell in row]


def test_every_function_has_an_example() -> None:
    assert len(STATEMENTS) == 6
    for name in ("correlation_matrix", "facets", "timeseries", "count"):
        assert any(f"insights_{name}(" in statement for statement, _ in STATEMENTS), name
