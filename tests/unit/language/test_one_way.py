"""A filter goes from tokens to tree once; what explains mistakes runs only where there is one."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from insights_engine.language import parser, tree
from insights_engine.language.errors import FilterError
from insights_engine.language.parser import (
    parse_conjunction,
    parse_disjunction,
    parse_filter,
    pattern_places,
)

from plpython import build
from tests.unit.language.test_tables import VALID

NUMBERS = count()


def unseen(text: str) -> str:
    """A filter that no cache knows."""
    return f"{text} AND execution_time_ms != {10**9 + next(NUMBERS)}"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each step was taken."""
    seen: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        step = getattr(parser, name)

        def call(*args: Any, **options: Any) -> Any:
            seen[name] += 1
            return step(*args, **options)

        return call

    for name in ("tokenize", "parse_syntax", "Resolver", "_explained"):
        monkeypatch.setattr(parser, name, counted(name))
    return seen


def test_each_step_is_taken_once_a_filter(calls: Counter[str]) -> None:
    first = unseen("span.type = 'LLM' AND name LIKE 'a%'")
    second = unseen("NOT (status = 'OK' OR span.name RLIKE '^x')")
    for _ in range(2):
        parse_filter(first)
        parse_filter(second)
        parse_conjunction(first, second)
        parse_disjunction(first, second)
        pattern_places(first)
    assert calls == {"tokenize": 2, "parse_syntax": 2, "Resolver": 2}


def test_a_mistake_is_explained_from_what_has_been_read(calls: Counter[str]) -> None:
    with pytest.raises(FilterError):
        parse_filter(unseen("nam = 'x' AND status = AND"))
    assert calls == {"tokenize": 1, "parse_syntax": 1, "_explained": 1}


def test_mlflows_escapes_are_tried_before_anything_is_explained(calls: Counter[str]) -> None:
    parse_filter(unseen(r"name = 'it\'s'"))
    assert calls == {"tokenize": 2, "parse_syntax": 2, "Resolver": 1}
    with pytest.raises(FilterError):
        parse_filter(unseen(r"name = = 'it\'s'"))
    assert calls["_explained"] == 1


def test_filters_that_make_sense_load_no_explanations() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(build.ENGINE.parent)!r})
from insights_engine.language import parser
for text in {VALID!r}:
    parser.parse_filter(text)
parser.parse_field("tags['a b']")
print(*[name for name in sys.modules if ".mistakes" in name])
try:
    parser.parse_filter("nam = 'x'")
except Exception:
    print(*sorted(name for name in sys.modules if ".mistakes." in name))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    good, wrong = done.stdout.splitlines()
    assert good == ""
    assert wrong.split() == [
        f"insights_engine.language.mistakes.{name}" for name in ("names", "places")
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("span.type = 'LLM'", "span.name = 'x' AND span.status = 'OK'"),
        ("span.type = 'LLM'", "status = 'OK'"),
        ("status = 'OK' AND span.type = 'LLM'", "status = 'ERROR' OR span.name = 'y'"),
        ("NOT span.type = 'LLM'", "any(span.type = 'LLM')"),
    ],
)
def test_a_disjunction_means_its_text(one: str, other: str) -> None:
    assert parse_disjunction(one, other) == parse_filter(f"({one}) OR ({other})")
    assert parse_disjunction(one, "") == tree.EVERYTHING
    assert parse_disjunction(one, other) is parse_disjunction(one, other)


def test_a_disjunction_reads_each_filter_by_itself() -> None:
    """As a list of conditions with an AND too many, and with MLflow's escapes."""
    assert parse_disjunction("status = 'OK' AND", r"name = 'it\'s'") == parse_filter(
        r"status = 'OK' OR name = 'it\''s'"
    )


def test_places_of_patterns() -> None:
    text = (
        "tags.a LIKE 'x' AND NOT tags.b RLIKE 'x' AND span.name ILIKE 'it''s' AND tags.a LIKE 'x'"
    )
    found = {match: text[place.start : place.end] for match, place in pattern_places(text).items()}
    assert found == {
        tree.Match(tree.Tag("a"), "LIKE", "x"): "'x'",
        tree.Match(tree.Tag("b"), "RLIKE", "x"): "'x'",
        tree.Match(tree.SpanText("name"), "ILIKE", "it's"): "'it''s'",
    }
    places = list(pattern_places(text).values())
    assert places == sorted(places)
    assert places[1].start == text.index("RLIKE 'x'") + 6
