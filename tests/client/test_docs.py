"""The examples of docs/python.md and docs/cli.md, run as they stand there.

They are about the traces of `tests.client.world`.  ``...`` in an expected
output stands for anything.
"""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from insights_py.cli.main import cli
from tests.client.terminal import COLOUR, environment, in_terminal

DOCS = Path(__file__).parents[2] / "docs"
DSN = "postgresql://mlflow@db/mlflow"
#: What differs from one database to the next, as the document has it.
USUAL = {
    "database": "mlflow",
    "server": "PostgreSQL 15.20",
    "role": "mlflow",
    "insights schema": "0001",
}


def blocks(name: str, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a document in one language, with their line numbers."""
    text = (DOCS / name).read_text()
    return [
        (text.count("\n", 0, match.start()) + 1, match.group(1))
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def test_python(world_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The example of a chart writes a file.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    # Tables in the document are made for 100 columns.
    monkeypatch.setenv("COLUMNS", "100")
    names: dict[str, object] = {}
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    count = 0
    for line, block in blocks("python.md", "python"):
        source = block.replace(DSN, world_dsn)
        test = doctest.DocTestParser().get_doctest(source, names, "python.md", "python.md", line)
        count += len(test.examples)
        runner.run(test, out=report.append, clear_globs=False)
        names = test.globs
    assert count > 20
    assert not report, "".join(report)


COMMANDS = [
    (line, command, output)
    for line, block in blocks("cli.md", "console")
    for command, output in re.findall(
        r"^\$ (.*(?:\n> .*)*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE
    )
]


@pytest.mark.parametrize(("line", "command", "output"), COMMANDS)
def test_cli(world_dsn: str, tmp_path: Path, line: int, command: str, output: str) -> None:
    source = command.replace("\n> ", "\n")
    shown = COLOUR.sub(
        "", in_terminal(["bash", "-c", source], 100, environment(tmp_path, world_dsn))
    )
    for name, value in USUAL.items():
        shown = re.sub(rf"^({name} +).*$", rf"\g<1>{value}", shown, flags=re.MULTILINE)
    checker = doctest.OutputChecker()
    assert checker.check_output(output, shown, doctest.ELLIPSIS), f"{command}\n{shown}"


def test_the_reference_names_every_command_and_option() -> None:
    text = (DOCS / "cli.md").read_text()
    for name, command in cli.commands.items():
        assert f"insights {name}" in text
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--"):
                    assert f"`{option}" in text, (name, option)
