"""Where an error shows the pattern that PostgreSQL refuses."""

from __future__ import annotations

from typing import Any

import pytest
from insights_engine.exact.rawsql import check_patterns
from insights_engine.language.errors import FilterError
from insights_engine.language.parser import parse_filter, pattern_places


class Refuses(Exception):
    sqlstate = "2201B"


class Database:
    """Refuses every regular expression with a bracket."""

    SPIError = Refuses

    def prepare(self, query: str, types: list[str]) -> str:
        return query

    def execute(self, plan: str, values: list[Any]) -> None:
        if "[" in values[0]:
            raise Refuses("brackets [] not balanced")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name RLIKE 'a' AND tags.x RLIKE '['", "'['"),
        # The same text is a fine pattern of LIKE.
        ("tags.x LIKE '[' AND any(span.name NOT RLIKE '[')", "'[')"),
        (r"name = 'it\'s' AND tags.x LIKE 'a\\\'", r"'a\\\'"),
        ("count(span.name LIKE 'it''s\\') > 1", "'it''s\\'"),
    ],
)
def test_the_caret_is_under_the_pattern(text: str, place: str) -> None:
    with pytest.raises(FilterError) as caught:
        check_patterns(Database(), parse_filter(text), text, pattern_places(text))
    assert caught.value.position == text.rindex(place)
    assert caught.value.length == len(place.rstrip(")"))


def test_without_a_text_there_is_no_place() -> None:
    with pytest.raises(FilterError) as caught:
        check_patterns(Database(), parse_filter("name LIKE 'x\\'"))
    assert caught.value.position is None
