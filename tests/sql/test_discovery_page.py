"""The statements of docs/discovery.md, run as they stand there, with their results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "discovery.md"


def steps() -> list[tuple[str, str | None]]:
    """The statements of the page, each with the table that follows at once, if one does."""
    return [
        (match[1], match[2])
        for match in re.finditer(
            r"^```sql\n(.*?)^```\n(?:```\n(.*?)^```$)?", PAGE.read_text(), re.MULTILINE | re.DOTALL
        )
    ]


def cells(table: str) -> list[list[str]]:
    """The names and the values of a result as psql prints it."""
    lines = [line for line in table.splitlines() if line and not re.fullmatch(r"[-+]+", line)]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


@pytest.mark.parametrize("indexed", [False, True])
def test_the_page(module_conn: psycopg.Connection[Any], *, indexed: bool) -> None:
    tables = 0
    with module_conn.transaction(force_rollback=True):
        for statements, table in steps():
            if table is None:
                for statement in statements.split(";\n"):
                    if statement.strip():
                        module_conn.execute(statement.encode())
                if indexed:
                    module_conn.execute("select insights_refresh(5000)")
                continue
            tables += 1
            cursor = module_conn.execute(statements.encode())
            assert cursor.description is not None
            names = [column.name for column in cursor.description]
            rows = [[shown(value) for value in row] for row in cursor.fetchall()]
            assert [names, *rows] == cells(table), statements
    assert tables == 3


def shown(value: object) -> str:
    """A value as psql prints it."""
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, list):
        items = ['"' + item + '"' if re.search(r"[ ,']", item) else item for item in value]
        return "{" + ",".join(items) + "}"
    return str(value)
