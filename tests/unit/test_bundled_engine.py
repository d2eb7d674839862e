"""What the bundle keeps of the engine's sources: every statement, no prose."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from plpython import build

MODULES = sorted(build.ENGINE.rglob("*.py"))


def _statements(source: str) -> str:
    """The statements of a module and where each begins, but for strings that stand alone."""
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            node.body = [one for one in node.body if not _is_text(one)]
    return re.sub(r", end_\w+=\d+", "", ast.dump(module, include_attributes=True))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_statement_stays_where_it_is(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert _statements(build.without_prose(source)) == _statements(source)


def test_docstrings_and_comments_go() -> None:
    source = (
        '"""Ä\n"""\n\n\ndef f(a="#"):  # why\n    """Ü"""; return "#"  # so\n\n\n'
        'class C:\n    "D"\n\n\n# the end\n'
    )
    assert build.without_prose(source) == (
        '""\n\n\n\ndef f(a="#"):\n    ""; return "#"\n\n\nclass C:\n    ""\n'
    )
