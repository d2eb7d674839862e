"""The statements of docs/index.md, run as they stand there, with their results.

How long something took differs from run to run; everything else does not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg

PAGE = Path(__file__).parents[2] / "docs" / "index.md"


def steps() -> list[tuple[str, str | None]]:
    """The statements of the page, each with the table that follows at once, if one does."""
    return [
        (match[1], match[2])
        for match in re.finditer(
            r"^```sql\n(.*?)^```\n(?:```\n(.*?)^```$)?",
            PAGE.read_text(),
            re.MULTILINE | re.DOTALL,
        )
    ]


def cells(table: str) -> list[list[str]]:
    """The names and the values of a result as psql prints it."""
    lines = [line for line in table.splitlines() if line and not re.fullmatch(r"[-+]+", line)]
    return [[timeless(cell) for cell in line.split("|")] for line in lines]


def timeless(value: object) -> str:
    """A value as psql prints it, but for times."""
    if isinstance(value, bool):
        return "t" if value else "f"
    return re.sub(r"\d+\.\d+ ms", "- ms", "" if value is None else str(value)).strip()


def test_the_page(module_conn: psycopg.Connection[Any]) -> None:
    tables = 0
    for statements, table in steps():
        cursor = module_conn.execute(statements.encode())
        while cursor.nextset():
            pass
        if table is None:
            continue
        tables += 1
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        rows = [[timeless(value) for value in row] for row in cursor.fetchall()]
        assert [names, *rows] == cells(table), statements
    assert tables == 12
