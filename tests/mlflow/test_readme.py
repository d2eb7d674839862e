"""Runs what the README shows, over the demo's traces, and compares the outputs."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import mlflow
import psycopg
import pytest

from examples.demo.__main__ import SEED, TRACES
from examples.demo.workload import run as run_applications
from insights_dev import cluster, mlflow_server
from insights_py.cli.main import run as insights
from tests.conftest import Databases

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def followed_by_output(language: str) -> list[tuple[str, str]]:
    """The README's blocks in a language, each with the block of its output."""
    return [
        (code, output)
        for (kind, code), (output_kind, output) in pairwise(BLOCKS)
        if kind == language and not output_kind
    ]


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
            yield dsn, server.url
        finally:
            mlflow.set_tracking_uri(before)
            mlflow_server.stop(home)


def cells(table: str) -> list[list[str]]:
    """The names and the values of a result as psql prints it."""
    lines = [
        line for line in table.splitlines() if line and not re.match(r"[-+]+$|\(\d+ row", line)
    ]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def test_sql(dsn_of_demo: tuple[str, str]) -> None:
    blocks = followed_by_output("sql")
    assert len(blocks) == 2
    with psycopg.connect(dsn_of_demo[0], autocommit=True) as connection:
        for statement, output in blocks:
            cursor = connection.execute(statement.encode())
            names = [column.name for column in cursor.description or []]
            rows = [[str(value) for value in row] for row in cursor.fetchall()]
            assert [names, *rows] == cells(output)


def test_python(dsn_of_demo: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    dsn, url = dsn_of_demo
    monkeypatch.setenv("INSIGHTS_DSN", dsn)
    blocks = followed_by_output("python")
    assert len(blocks) == 2
    for code, output in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code.replace("http://127.0.0.1:5001", url), {})
        assert printed.getvalue().rstrip() == output.rstrip()


def test_command_line(
    dsn_of_demo: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("INSIGHTS_DSN", dsn_of_demo[0])
    console = "".join(code for kind, code in BLOCKS if kind == "console")
    sessions = re.findall(r"^\$ insights (.*)\n((?:(?!\$ ).*\n)*)", console, re.MULTILINE)
    assert len(sessions) == 2
    for command, output in sessions:
        insights(shlex.split(command))
        shown = capsys.readouterr()
        assert (shown.out + shown.err).rstrip() == output.rstrip()
