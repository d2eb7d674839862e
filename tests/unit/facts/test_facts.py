"""The facts collected of traces say exactly what reading their attributes says.

Where something is not captured, a fact of role ``o`` has to say so; everything
else must be there, and nothing more.
"""

from __future__ import annotations

import json
import sys
from binascii import crc32
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from insights_engine.exact import attributes
from insights_engine.facts import facts
from insights_engine.facts.facts import Facts
from insights_engine.facts.terms import (
    CONTENT,
    HIDDEN,
    NUMBER,
    PARTS,
    TEXT,
    bucket_of,
)
from insights_engine.language import storage
from insights_engine.language.storage import SEPARATOR

Content = str | None
#: (type, name, status, duration, content)
Span = tuple[str | None, str | None, str, int | None, Content]
Path = tuple[str, ...]


class Fresh:
    """A vocabulary that knows nothing but what it is given."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self.keys = list(keys)
        self.signatures: dict[Any, int] = {}
        self.known: dict[tuple[str, str], frozenset[tuple[int, str]]] = {}

    def signature(self, type: str | None, name: str | None, status: str) -> int:
        return self.signatures.setdefault((type, name, status), len(self.signatures) + 1)

    def attribute_keys(self) -> Iterable[str]:
        return self.keys

    def full_keys(self) -> set[tuple[str, str]]:
        return set(self.known)

    def values(self, kind: str, key: str) -> frozenset[tuple[int, str]]:
        return self.known.get((kind, key), frozenset())


class Said:
    """What the collected facts say about attributes."""

    def __init__(self, traces: Sequence[Sequence[Span]], vocabulary: Fresh | None = None) -> None:
        self.traces = traces
        self.facts = Facts(vocabulary or Fresh())
        self.rollups = [
            self.facts.add_spans(position, [(None, *span) for span in spans])
            for position, spans in enumerate(traces)
        ]
        for positions in self.lists():
            assert positions[0] == -1
            assert all(a < b for a, b in pairwise(positions))

    def lists(self) -> Iterable[list[int]]:
        yield from self.facts.plain.values()
        for texts in self.facts.texts.values():
            yield from texts.candidates.values()
        for series in self.facts.series.values():
            yield series.positions

    def has(
        self, position: int, key: str, signature: int, role: str, slot: int = 0, kind: str = ""
    ) -> bool:
        fact = (kind or "attribute", key, signature, role, slot)
        return position in self.facts.plain.get(fact, ())

    def values(self, position: int, key: str, signature: int) -> set[str]:
        texts = self.facts.texts.get(("attribute", key))
        if texts is None:
            return set()
        return {
            text
            for (of, text, _), positions in texts.candidates.items()
            if of == signature and position in positions
        }

    def numbers(self, position: int, key: str, signature: int) -> tuple[float, float] | None:
        series = self.facts.series.get(("attribute", key, signature))
        if series is None or position not in series.positions:
            return None
        low = series.low[series.positions.index(position)]
        return low, series.high.get(position, low)

    def check(self, paths: Iterable[Path]) -> None:
        """Everything that the facts say about some paths, and all that they do not."""
        paths = list(paths)
        for position, spans in enumerate(self.traces):
            by_signature: dict[int, list[Content]] = {}
            for type, name, status, _, content in spans:
                number = self.facts.vocabulary.signature(type, name, status)
                by_signature.setdefault(number, []).append(content)
            for path in paths:
                for signature, contents in by_signature.items():
                    self.check_path(position, path, signature, contents)

    def check_path(
        self, position: int, path: Path, signature: int, contents: Sequence[Content]
    ) -> None:
        key = SEPARATOR.join(path)
        unknown = (
            self.has(position, "", signature, "o", CONTENT)
            or self.has(position, "", signature, "o", HIDDEN + crc32(path[0].encode()) % 256)
            or (len(path) > 1 and self.has(position, path[0], signature, "o", PARTS))
        )
        if any(content is None for content in contents):
            assert unknown
        found = [attributes.attribute(content, path) for content in contents if content is not None]
        texts = {text for value in found if (text := attributes.text_form(value)) is not None}
        numbers = {n for value in found if (n := attributes.number_form(value)) is not None}
        about = (path, signature, contents)
        there = self.has(position, key, signature, "p")
        assert there == bool(texts) or (unknown and not there), about
        values = self.values(position, key, signature)
        assert values <= texts, about
        if unknown:
            return
        for text in texts - values:
            bucket = bucket_of(text)
            assert self.has(position, key, signature, "o", TEXT) or (
                self.has(position, key, 0, "h", bucket)
            ), about
        if self.has(position, key, signature, "o", NUMBER):
            return
        ends = self.numbers(position, key, signature)
        assert ends == ((min(numbers), max(numbers)) if numbers else None), about


def paths_of(traces: Sequence[Sequence[Span]]) -> set[Path]:
    """Every path that leads somewhere in some content, and some that do not."""
    found: set[Path] = {("nowhere",), ("a", "nowhere"), ("",)}

    def walk(path: Path, value: Any) -> None:
        inner: Iterable[tuple[str, Any]] = ()
        if isinstance(value, dict):
            inner = value.items()
        elif isinstance(value, list):
            inner = ((str(index), part) for index, part in enumerate(value))
        for name, part in inner:
            try:
                name.encode()
            except UnicodeEncodeError:
                continue
            if "\0" not in name and len(path) < 8:
                found.add((*path, name))
                walk((*path, name), part)

    for spans in traces:
        for *_, content in spans:
            if content is not None:
                for key, stored in attributes.attributes_of(content).items():
                    if "\0" in key or any("\ud800" <= c <= "\udfff" for c in key):
                        continue
                    found.add((key,))
                    walk((key,), attributes.attribute_in({key: stored}, (key,)))
    return found


# ------------------------------------------------------------------- at random

KEYS = st.sampled_from(
    [
        "a",
        "b",
        "ü",
        "",
        "0",
        "mlflow.spanInputs",
        "mlflow.spanStartTimeNs",
        "s\x1fep",
        "\ud800",
        "n\0",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 2**63])
    | st.floats()
    | st.sampled_from(
        [
            "",
            "x",
            "5",
            " 5",
            "5.0",
            "-1e3",
            "1e999",
            "true",
            "null",
            '"q"',
            "nan",
            "[",
            "{}",
            "\0",
            "é",
        ]
    )
    | st.sampled_from(["\ud800", "v" * 250, "v" * 251, "9" * 400])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
STORED = (
    VALUES | VALUES.map(json.dumps) | st.sampled_from(["{", "nul", "01", "NaN", "-Infinity", " 1"])
)
CONTENTS = (
    st.dictionaries(KEYS, STORED, max_size=5).map(lambda found: json.dumps({"attributes": found}))
    | st.sampled_from(
        ["", "{", "[]", "null", '{"attributes": []}', '{"attributes": {"a": 1, "a": "2"}}']
    )
    | st.none()
)
SPANS = st.tuples(
    st.sampled_from(["LLM", None]),
    st.sampled_from(["one", None]),
    st.just("OK"),
    st.none() | st.integers(-5, 5),
    CONTENTS,
)


@given(st.lists(st.lists(SPANS, max_size=4), max_size=3))
@example([[("LLM", "one", "OK", 1, '{"attributes": {"a": "\\ud800", "b": 1e400}}')]])
def test_facts_say_what_the_attributes_are(traces: list[list[Span]]) -> None:
    Said(traces).check(paths_of(traces))


# ------------------------------------------------------------ limits, one by one


def span(stored: Any, type: str = "LLM") -> Span:
    return (type, "one", "OK", 1, json.dumps({"attributes": stored}))


def test_values_beyond_the_limit_are_hashed_but_known_ones_stay() -> None:
    traces = [[span({"a": f"v{n}", "n": n})] for n in range(3000)]
    said = Said([*traces, [span({"a": "late"})]])
    assert len(said.facts.texts["attribute", "a"].candidates) == 2000
    assert said.has(3000, "a", 0, "h", bucket_of("late"))
    # A number printed by JSON is found by its value.
    assert said.has(2999, "n", 1, "o", TEXT)
    assert not any(fact[1] == "n" and fact[3] == "h" for fact in said.facts.plain)
    said.check([("a",), ("n",)])

    vocabulary = Fresh()
    vocabulary.known["attribute", "a"] = frozenset({(1, "late")})
    said = Said([*traces[:500], [span({"a": "late"})]], vocabulary)
    assert len(said.facts.texts["attribute", "a"].candidates) == 101
    assert said.values(500, "a", 1) == {"late"}
    said.check([("a",), ("n",)])


def test_texts_that_are_nearly_unique_are_hashed_early() -> None:
    collected = Facts(Fresh())
    for position in range(5000):
        collected.add_pairs(position, "tag", ["id", "user"], [f"i{position}", f"u{position // 2}"])
    assert len(collected.texts["tag", "id"].candidates) == 1000
    assert len(collected.texts["tag", "user"].candidates) == 2500


def test_keys_beyond_the_limit_are_hidden() -> None:
    traces = [[span({f"k{n}": n, "a": {"new": n}})] for n in range(2500)]
    said = Said(traces, Fresh(["a"]))
    assert len(said.facts.keys) == facts.KEYS
    said.check([("k0",), ("k2400",), ("a",), ("a", "new"), ("k2499",)])


@pytest.mark.parametrize("key", ["k" * 251, "s\x1fep"])
def test_odd_keys_are_hidden(key: str) -> None:
    said = Said([[span({key: "x"})]])
    assert said.has(0, "", 1, "o", HIDDEN + crc32(key.encode()) % 256)
    assert key not in said.facts.keys


def test_parts_are_limited_in_number_and_depth() -> None:
    many = {f"p{n}": n for n in range(40)}
    deep: Any = "x"
    for _ in range(6):
        deep = {"in": deep}
    for value in (many, deep, {"list": [1]}, [1, 2]):
        traces = [[span({"a": value})], [span({"a": json.dumps(value)})]]
        said = Said(traces)
        assert all(said.has(position, "a", 1, "o", PARTS) for position in range(2))
        said.check(paths_of(traces))
    said = Said([[span({"a": {"x": 1, "y": {"z": [], "u": {"v": True}}}})]])
    assert not said.has(0, "a", 1, "o", PARTS)
    assert said.values(0, SEPARATOR.join(("a", "y", "u", "v")), 1) == {"true"}


def test_an_object_with_new_keys_all_the_time_leaves_room_for_others() -> None:
    traces = [[span({"a": {f"id{n}": n}})] for n in range(300)]
    said = Said(traces)
    assert len(said.facts.keys) == 1 + facts.PARTS_OF_KEY
    said.check([("a", "id0"), ("a", "id299")])


@pytest.mark.parametrize("depth", [290, 400, 900, 5000])
def test_what_nests_too_deep_is_not_captured(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    said = Said([[span({"a": nested, "b": "x", "c": '"y"'})]])
    deep = depth > 300
    assert said.has(0, "", 1, "o", CONTENT) == deep
    content = '{"attributes": {"a": ' + nested + "}}"
    said = Said([[("LLM", "one", "OK", 1, content)]])
    assert said.has(0, "", 1, "o", CONTENT) == deep
    # Escaped, the brackets of the text can be seen only when it is decoded.
    escaped = "\\u005b" * depth + "\\u005d" * depth
    said = Said([[("LLM", "one", "OK", 1, '{"attributes": {"a": "' + escaped + '"}}')]])
    assert said.has(0, "", 1, "o", CONTENT) == deep
    assert sys.getrecursionlimit() >= 1000


def test_many_brackets_that_do_not_nest_are_read() -> None:
    said = Said([[span({"a": json.dumps([{}] * 1000), "b": "[" * 200 + "{" * 200})]])
    assert not said.has(0, "", 1, "o", CONTENT)
    said.check([("a",), ("b",)])


def test_content_that_was_not_read_leaves_its_signature_unknown() -> None:
    said = Said([[("LLM", "one", "OK", 1, None), span({"a": "x"}, "TOOL")]])
    assert said.has(0, "", 1, "o", CONTENT)
    assert not said.has(0, "", 2, "o", CONTENT)
    assert said.values(0, "a", 2) == {"x"}


# -------------------------------------------------- counts, durations, columns


def test_spans_are_counted_and_timed_by_signature() -> None:
    spans: list[Span] = [
        ("LLM", "one", "OK", 7, ""),
        ("LLM", "one", "OK", -3, ""),
        ("LLM", "one", "OK", None, ""),
        ("TOOL", None, "ERROR", None, ""),
        (None, None, "OK", 5, ""),
    ]
    said = Said([spans, []])
    assert said.rollups == ["1:3:4:-3:7 2:1::: 3:5", None]
    assert said.has(0, "count", 1, "n", 0, "span")
    assert said.has(0, "count", 1, "n", 1, "span")
    assert said.has(0, "count", 2, "n", 0, "span")
    series = said.facts.series["span", "duration", 1]
    assert (series.positions, series.low, series.high) == ([-1, 0], [0, -3], {0: 7})
    assert not said.has(0, "duration", 2, "p", 0, "span")
    counts = said.facts.series["trace", "span_count", 0]
    assert (counts.positions, counts.low) == ([-1, 0, 1], [0, 5, 0])


ROW: dict[str, Any] = {
    **dict.fromkeys(row.name for row in storage.COLUMNS),
    "status": "OK",
    "timestamp_ms": 10,
}


def test_columns_that_are_null_have_no_facts() -> None:
    collected = Facts(Fresh())
    collected.add_trace(0, ROW)
    assert {fact for fact, positions in collected.plain.items() if 0 in positions} == {
        ("trace", "status", 0, "p", 0),
        ("trace", "timestamp_ms", 0, "p", 0),
        ("trace", "end_time_ms", 0, "p", 0),
    }


def test_numbers_that_cannot_be_captured_are_said_not_to_be() -> None:
    collected = Facts(Fresh())
    collected.add_trace(0, {**ROW, "total_cost": float("nan"), "input_cost": float("-inf")})
    collected.add_trace(1, {**ROW, "timestamp_ms": 2**63 - 1, "execution_time_ms": 1})
    collected.add_trace(2, {**ROW, "total_cost": -0.0, "timestamp_ms": -(2**63)})
    not_captured = {
        (fact[1], position)
        for fact, positions in collected.plain.items()
        for position in positions[1:]
        if fact[3:] == ("o", NUMBER)
    }
    assert not_captured == {("total_cost", 0), ("input_cost", 0), ("end_time_ms", 1)}
    assert collected.series["trace", "total_cost", 0].positions == [-1, 2]


def test_tags_without_a_value_are_there() -> None:
    collected = Facts(Fresh())
    collected.add_pairs(0, "tag", ["a", "b"], [None, "0x5"])
    collected.add_pairs(1, "tag", ["a"], ["1e2"])
    assert collected.plain["tag", "a", 0, "p", 0] == [-1, 0, 1]
    assert collected.series["tag", "a", 0].low == [0, 100.0]
    assert ("tag", "b", 0) not in collected.series


def test_assessments_have_their_stored_text_and_the_number_beside_it() -> None:
    collected = Facts(Fresh())
    collected.add_assessment(0, "feedback", "f", '"yes"', False, 1.0)
    collected.add_assessment(0, "feedback", "f", "4", True, 4.0)
    collected.add_assessment(1, "feedback", "f", "NaN", True, float("nan"))
    collected.add_assessment(2, "feedback", "f", "5", True, None)
    texts = collected.texts["feedback", "f"].candidates
    assert {text for _, text, _ in texts} == {'"yes"', "4", "NaN", "5"}
    assert collected.series["feedback", "f", 0].positions == [-1, 0]
    assert collected.plain["feedback", "f", 0, "o", NUMBER] == [-1, 1, 2]
