"""The command line in a terminal: a real one, of 80 and of 120 columns."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from tests.client.terminal import COLOUR, screen
from tests.client.world import trace_id


@pytest.mark.parametrize("columns", [80, 120])
def test_search(world_dsn: str, columns: int) -> None:
    shown = screen(world_dsn, columns, "search", "-n", "5")
    text = COLOUR.sub("", shown)
    lines = text.splitlines()
    assert all(cell_len(line) <= columns for line in lines[:7])
    assert [line.split()[0] for line in lines[1:6]] == [trace_id(n) for n in range(47, 42, -1)]
    assert lines[6] == "5 traces; more match"
    assert lines[7].startswith("More match: --all fetches them, --page-token ")
    assert f"\x1b[36m{trace_id(47)}\x1b[0m" in shown
    assert "\x1b[32mOK\x1b[0m" in shown
    assert ("duration" in lines[0]) == (columns == 120)


@pytest.mark.parametrize("columns", [80, 120])
def test_a_bad_filter(world_dsn: str, columns: int) -> None:
    shown = screen(world_dsn, columns, "count", "tags.a = 'x' AND span.stats = 'ERROR'")
    text = COLOUR.sub("", shown)
    lines = text.splitlines()
    assert text.startswith("insights: Invalid span attribute 'stats'.")
    assert "\n  tags.a = 'x' AND span.stats = 'ERROR'\n                        ^^^^^\n" in text
    hint = " ".join(lines[next(n for n, one in enumerate(lines) if one.startswith("Hint")) :])
    assert hint.startswith("Hint: Did you mean span.status? Fields of a span: name, type, status,")
    assert all(len(line) <= columns for line in lines)
    assert re.search(r"\x1b\[1;31m +\^\^\^\^\^\x1b\[0m", shown)
    assert "\x1b[32mHint: \x1b[0m" in shown


def test_a_filter_cannot_write_to_the_terminal(world_dsn: str) -> None:
    shown = screen(world_dsn, 80, "count", "tags.a = '\x1b[2J' AND bad\x1b[31mname")
    assert "\x1b[2J" not in shown
    assert "\x1b[31mname" not in shown


@pytest.mark.parametrize("command", ["status", "doctor", "explain", "correlate"])
@pytest.mark.parametrize("columns", [80, 120])
def test_other_tables(world_dsn: str, columns: int, command: str) -> None:
    error = "span.status = 'ERROR'"
    arguments = {"explain": [error], "correlate": [error, "tags.release = 'v2'"]}
    shown = screen(world_dsn, columns, command, *arguments.get(command, []))
    lines = COLOUR.sub("", shown).splitlines()
    assert len(lines) > 8
    assert all(cell_len(line) <= columns for line in lines)
    assert COLOUR.search(shown)


ERRORS = "span.status = 'ERROR'"
V1 = "tags.release = 'v1'"
V2 = "tags.release = 'v2'"


@pytest.mark.parametrize(
    "arguments",
    [
        ["discover", ERRORS, "--direction", "both"],
        ["compare", V2, V1],
        ["matrix", ERRORS, V2, "execution_time_ms > 5000"],
        ["facets", ERRORS, "execution_time_ms"],
        ["timeseries", ERRORS, "--bucket", "10 minutes"],
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("columns", [80, 120])
def test_tables_with_bars(world_dsn: str, columns: int, arguments: list[str]) -> None:
    shown = screen(world_dsn, columns, *arguments)
    lines = COLOUR.sub("", shown).splitlines()
    assert len(lines) > 2
    assert all(cell_len(line) <= columns for line in lines)
    assert COLOUR.search(shown)
    assert "█" in shown or arguments[0] == "matrix"


def test_a_terminal_without_colour(world_dsn: str) -> None:
    shown = screen(world_dsn, 80, "search", "-n", "1", term="dumb")
    assert "\x1b" not in shown
    assert trace_id(47) in shown


def test_json_and_csv_have_no_colour(world_dsn: str) -> None:
    for form in ("--json", "--csv"):
        assert "\x1b" not in screen(world_dsn, 80, "count", form)
