"""Runs every example against a live server; each checks what it found itself."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# The end of what each prints.
LAST_LINES = {
    "analyze_results.py": "---",
    "correlation.py": "The same over REST: ",
    "error_traces.py": "2 by span.attributes['error_type'] IN ('ValueError', 'ZeroDivisionError')",
    "feedback_and_assessments.py": "found by expectation.topic = 'search'",
    "fluent_api.py": "by its model and its version",
    "rag_pipeline.py": "found by count(span.type = 'LLM') = 2",
}


def test_every_example_is_run() -> None:
    assert set(LAST_LINES) == {p.name for p in EXAMPLES.glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("name", LAST_LINES)
def test_example(
    name: str,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)

    runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    assert LAST_LINES[name] in capsys.readouterr().out.splitlines()[-1]
