"""Runs what README and the cookbook show, over the demo's traces, and compares the outputs."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlflow
import psycopg
import pytest

from examples.demo.__main__ import SEED, TRACES
from examples.demo.workload import run as run_applications
from insights_dev import cluster, mlflow_server
from insights_py.cli.main import run as insights
from tests.conftest import Databases

ROOT = Path(__file__).parents[2]


class Page:
    """A page, and what it has in blocks."""

    def __init__(self, path: str) -> None:
        text = (ROOT / path).read_text()
        self.blocks: list[tuple[str, str]] = re.findall(
            r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
        )

    def followed_by_output(self, language: str) -> list[tuple[str, str]]:
        """The blocks in a language, each with the block of its output."""
        return [
            (code, output)
            for (kind, code), (output_kind, output) in pairwise(self.blocks)
            if kind == language and not output_kind
        ]

    def commands(self) -> list[tuple[str, str]]:
        """The commands of the terminal, after ``insights``, each with its output."""
        console = "".join(code for kind, code in self.blocks if kind == "console")
        return re.findall(r"^\$ insights (.*)\n((?:(?!\$ ).*\n)*)", console, re.MULTILINE)


README, COOKBOOK = Page("README.md"), Page("docs/cookbook.md")


@pytest.fixture(scope="module")
def dsn_of_demo(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """A database with the demo's traces in experiment 1, and MLflow's address."""
    home = tmp_path_factory.mktemp("demo")
    before = mlflow.get_tracking_uri()
    with databases.fresh("insights") as dsn:
        server = mlflow_server.start(dsn, home, cluster.free_port())
        try:
            mlflow.set_tracking_uri(server.url)
            experiment_id = mlflow.MlflowClient().create_experiment("demo")
            assert experiment_id == "1"
            end_ms = int(time.time() * 1000)
            run_applications(
                experiment_id,
                traces=TRACES,
                seed=SEED,
                end_ms=end_ms,
                progress=lambda *_: None,
            )
            index(dsn)
            yield dsn, server.url
        finally:
            mlflow.set_tracking_uri(before)
            mlflow_server.stop(home)


def index(dsn: str) -> None:
    """Indexes all traces, as the demo's worker does."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        while connection.execute("select pending from insights_refresh()").fetchone() != (0,):
            pass


def cells(table: str) -> list[list[str]]:
    """The names and the values of a result as psql prints it."""
    lines = [
        line for line in table.splitlines() if line and not re.match(r"[-+]+$|\(\d+ row", line)
    ]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def printed(value: Any) -> str:
    """A value as psql prints it."""
    if isinstance(value, list):
        items = ['"' + item + '"' if re.search(r"[ ,']", item) else item for item in value]
        return "{" + ",".join(items) + "}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value).strip()


@pytest.mark.parametrize(
    ("statement", "output"),
    README.followed_by_output("sql") + COOKBOOK.followed_by_output("sql"),
)
def test_sql(dsn_of_demo: tuple[str, str], statement: str, output: str) -> None:
    with psycopg.connect(dsn_of_demo[0], autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        names = [column.name for column in cursor.description or []]
        rows = [[printed(value) for value in row] for row in cursor.fetchall()]
    assert [names, *rows] == cells(output)


@pytest.mark.parametrize(
    ("code", "output"),
    README.followed_by_output("python") + COOKBOOK.followed_by_output("python"),
)
def test_python(
    dsn_of_demo: tuple[str, str], monkeypatch: pytest.MonkeyPatch, code: str, output: str
) -> None:
    dsn, url = dsn_of_demo
    monkeypatch.setenv("INSIGHTS_DSN", dsn)
    monkeypatch.setenv("COLUMNS", "100")  # Tables are as wide as the terminal.
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(code.replace("http://127.0.0.1:5001", url), {})
    assert shown.getvalue().rstrip() == output.rstrip()


@pytest.mark.parametrize(("command", "output"), README.commands() + COOKBOOK.commands())
def test_command_line(
    dsn_of_demo: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    output: str,
) -> None:
    monkeypatch.setenv("INSIGHTS_DSN", dsn_of_demo[0])
    monkeypatch.setenv("COLUMNS", "100")
    insights(shlex.split(command))
    shown = capsys.readouterr()
    assert (shown.out + shown.err).rstrip() == output.rstrip()


def test_every_output_is_compared() -> None:
    """Blocks without a language are outputs; each follows what it is compared with."""
    for page, statements, programs, commands in ((README, 3, 2, 2), (COOKBOOK, 13, 1, 3)):
        outputs = [
            page.followed_by_output("sql"),
            page.followed_by_output("python"),
            page.commands(),
        ]
        assert [len(found) for found in outputs] == [statements, programs, commands]
        plain = [code for kind, code in page.blocks if not kind]
        assert len(plain) == statements + programs
