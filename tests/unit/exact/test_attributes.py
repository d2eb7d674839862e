"""The decoder of span attributes and JSON texts."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
from insights_engine.exact import attributes


def content(**values: Any) -> str:
    """A span's content as MLflow stores it: attribute values are JSON within JSON."""
    return json.dumps({"name": "s", "attributes": {k: json.dumps(v) for k, v in values.items()}})


def raw(**values: Any) -> str:
    """A span's content with attribute values as they are."""
    return json.dumps({"name": "s", "attributes": values})


@pytest.mark.parametrize(
    ("stored", "text", "number"),
    [
        (content(k="gpt-4"), "gpt-4", None),
        (content(k="0.7"), "0.7", 0.7),
        (content(k=0.7), "0.7", 0.7),
        (content(k=5), "5", 5.0),
        (content(k=True), "true", None),
        (content(k=False), "false", None),
        (content(k=None), None, None),
        (content(k=""), "", None),
        (content(k={"a": [1, "é"]}), '{"a": [1, "é"]}', None),
        (content(k=[]), "[]", None),
        (content(k="Größe 日本"), "Größe 日本", None),
        (content(k=math.nan), "NaN", None),
        (content(k=math.inf), "Infinity", None),
        (content(k=-math.inf), "-Infinity", None),
        (content(k="NaN"), "NaN", None),
        (content(k=10**400), "1" + "0" * 400, None),
        (content(k=1e22), "1e+22", 1e22),
        (content(k="1" + "0" * 400), "1" + "0" * 400, None),
        # Values that are not JSON within JSON.
        (raw(k="gpt-4"), "gpt-4", None),
        (raw(k=5), "5", 5.0),
        (raw(k=True), "true", None),
        (raw(k=None), None, None),
        (raw(k={"a": 1}), '{"a": 1}', None),
        (raw(k="{broken"), "{broken", None),
        (raw(k=" 5 "), "5", 5.0),
        (raw(k="1e2"), "100.0", 100.0),
        (raw(k="null"), None, None),
        (raw(k="9" * 5000), "9" * 5000, None),
        # What PostgreSQL cannot hold.
        ('{"attributes": {"k": "\\"a\\\\u0000b\\""}}', "a\ufffdb", None),
        ('{"attributes": {"k": "a\\u0000b"}}', "a\ufffdb", None),
        ('{"attributes": {"k": "\\ud800x\\udfff\\udfff"}}', "\ufffdx\ufffd\ufffd", None),
        ('{"attributes": {"k": "\\ud83d\\ude00"}}', "😀", None),
        ('{"attributes": {"k": {"a": "\\ud800"}}}', '{"a": "\ufffd"}', None),
        # Other writings of the same.
        ('{"attributes":{"\\u006b":"\\u0022x\\u0022"}}', "x", None),
        ('{"attributes": {"k": "1", "k": "2"}}', "2", 2.0),
        ('{"attributes": {"k": "1"}, "attributes": {"k": "3"}}', "3", 3.0),
        # Nothing to be read.
        ("", None, None),
        ("not JSON", None, None),
        ("[]", None, None),
        ("null", None, None),
        ("{}", None, None),
        ('{"attributes": null}', None, None),
        ('{"attributes": ["k"]}', None, None),
        ('{"attributes": "k"}', None, None),
        ('{"attributes": {"K": "1"}}', None, None),
        ('{"events": [{"attributes": {"k": "1"}}]}', None, None),
        ('{"k": "1", "attributes": {}}', None, None),
        ('{"attributes": {"k": "1"}} trailing', None, None),
        ('{"attributes": {"k": "1"}, "deep": ' + "[" * 100_000, None, None),
        ('{"attributes": {"k": "1"}, "n": ' + "9" * 5000 + "}", None, None),
    ],
)
def test_an_attribute_is_decoded(stored: str, text: str | None, number: float | None) -> None:
    value = attributes.attribute(stored, ["k"])
    assert attributes.text_form(value) == text
    assert attributes.number_form(value) == number


def test_an_attribute_too_deep_to_decode_is_its_own_text() -> None:
    deep = "[" * 100_000
    assert attributes.text_form(attributes.attribute(raw(k=deep), ["k"])) == deep


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (["u", "total"], "12"),
        (["u", "details", "1", "n"], "x"),
        (["u", "details", "0"], "1.5"),
        (["u", "details", "2"], None),
        (["u", "details", "-1"], None),
        (["u", "details", "٠"], None),
        (["u", "details", "9" * 400], None),
        (["u", "details", "x"], None),
        (["u", "total", "x"], None),
        (["u", "missing", "x"], None),
        (["u", "0"], "zero"),
        # Only the attribute itself is JSON within JSON.
        (["u", "inner"], '{"a": 1}'),
        (["u", "inner", "a"], None),
        (["u", "nothing"], None),
        # Whoever calls the functions by hand may send any array.
        ([], None),
        ([None], None),
        (["u", None], None),
        (["u", "details", None], None),
        ([["u"], ["v"]], None),
        (["u", ["total"]], None),
    ],
)
def test_a_path_leads_into_objects_and_lists(path: list[Any], text: str | None) -> None:
    value = {
        "total": 12,
        "details": [1.5, {"n": "x"}],
        "0": "zero",
        "inner": '{"a": 1}',
        "nothing": None,
    }
    for stored in (content(u=value), raw(u=value)):
        assert attributes.text_form(attributes.attribute(stored, path)) == text


def test_one_megabyte_is_read() -> None:
    long = "é" * 500_000
    assert attributes.text_form(attributes.attribute(content(k=long, z=1), ["k"])) == long


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12.0),
        ("+1.", 1.0),
        (".5", 0.5),
        ("-1e-3", -0.001),
        ("1E+2", 100.0),
        ("1e-999", 0.0),
        ("1e999", None),
        ("", None),
        (".", None),
        ("1 ", None),
        ("1\n", None),
        ("1_000", None),
        ("0x10", None),
        ("٣", None),
        ("nan", None),
        ("inf", None),
        ("1e", None),
        ("--1", None),
    ],
)
def test_a_text_wholly_reads_as_a_number_or_is_none(text: str, number: float | None) -> None:
    assert attributes.number_form(text) == number


def test_the_last_span_is_remembered() -> None:
    memory: dict[str, Any] = {}
    first, second = content(k=1), content(k=2)
    for stored in (first, first, second, first):
        found = attributes.remembered(memory, stored)
        assert found == attributes.attributes_of(stored)
        assert attributes.remembered(memory, stored) is found


def test_the_module_stands_alone() -> None:
    """Its source is inlined into PL/Python functions, which must not load the engine."""
    assert attributes.__file__ is not None
    tree = ast.parse(Path(attributes.__file__).read_text())
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported == {"collections.abc", "json", "math", "re", "typing"}
