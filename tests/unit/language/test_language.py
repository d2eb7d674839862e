"""What the language means beyond MLflow's part of it: the trees that filters become."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from insights_engine.language import fields, tree
from insights_engine.language.errors import FilterError
from insights_engine.language.parser import parse_conjunction, parse_field, parse_filter
from insights_engine.language.printer import print_filter
from insights_engine.language.tree import (
    AggregateSpans,
    And,
    AnySpan,
    Between,
    CountSpans,
    In,
    IsNull,
    Match,
    Not,
    Now,
    NumberCompare,
    Or,
    SpanAttribute,
    SpanNumber,
    SpanText,
    Tag,
    TextCompare,
    TraceNumber,
    TraceText,
)

REFERENCE = Path(__file__).parents[3] / "docs" / "language.md"

A = TextCompare(SpanText("type"), "=", "A")
B = TextCompare(SpanText("name"), "=", "B")
C = TextCompare(SpanText("status"), "=", "C")
T = TextCompare(TraceText("status"), "=", "OK")
U = TextCompare(Tag("u"), "=", "x")
TEXTS = {
    "a": "span.type = 'A'",
    "b": "span.name = 'B'",
    "c": "span.status = 'C'",
    "t": "status = 'OK'",
    "u": "tags.u = 'x'",
}


@pytest.mark.parametrize(
    ("short", "node"),
    [
        # Plain conditions of one AND group share a span.
        ("a", AnySpan(A)),
        ("a AND b", AnySpan(And((A, B)))),
        ("a AND t AND b", And((AnySpan(And((A, B))), T))),
        ("t AND a AND u AND b", And((T, AnySpan(And((A, B))), U))),
        ("a t b", And((AnySpan(And((A, B))), T))),
        # So do parentheses of nothing but such conditions.
        ("a AND (b OR c)", AnySpan(And((A, Or((B, C)))))),
        ("a AND t AND (b OR c)", And((AnySpan(And((A, Or((B, C))))), T))),
        ("a AND (b AND c)", AnySpan(And((A, B, C)))),
        ("a AND (b AND (c OR a))", AnySpan(And((A, B, Or((C, A)))))),
        ("(a)", AnySpan(A)),
        # OR of nothing but such conditions needs one span only.
        ("a OR b", AnySpan(Or((A, B)))),
        ("a AND b OR c", AnySpan(Or((And((A, B)), C)))),
        ("(a OR b) OR c", AnySpan(Or((A, B, C)))),
        # With anything else in an alternative, each has its own span.
        ("a OR t", Or((AnySpan(A), T))),
        ("a OR b OR t", Or((AnySpan(A), AnySpan(B), T))),
        ("(a OR b) OR t", Or((AnySpan(Or((A, B))), T))),
        ("a AND (b OR t)", And((AnySpan(A), Or((AnySpan(B), T))))),
        ("a AND (b AND t)", And((AnySpan(A), AnySpan(B), T))),
        # NOT speaks of the trace.
        ("NOT a", Not(AnySpan(A))),
        ("NOT (a AND b)", Not(AnySpan(And((A, B))))),
        ("a AND NOT b", And((AnySpan(A), Not(AnySpan(B))))),
        ("a AND (NOT b)", And((AnySpan(A), Not(AnySpan(B))))),
        ("a AND (b OR NOT c)", And((AnySpan(A), Or((AnySpan(B), Not(AnySpan(C))))))),
        ("NOT NOT t", Not(Not(T))),
        # any() and its like have scopes of their own.
        ("any(a) AND any(b)", And((AnySpan(A), AnySpan(B)))),
        ("any(a) AND b", And((AnySpan(A), AnySpan(B)))),
        ("any(a) OR any(b)", Or((AnySpan(A), AnySpan(B)))),
        ("any(a AND NOT b)", AnySpan(And((A, Not(B))))),
        ("any((a OR b) AND c)", AnySpan(And((Or((A, B)), C)))),
        ("a AND count(b) > 1", And((AnySpan(A), CountSpans(B, ">", 1)))),
        # The rest of the algebra.
        ("t AND u OR NOT t", Or((And((T, U)), Not(T)))),
        ("t AND (u AND (t AND u))", And((T, U, T, U))),
        ("t OR (u OR (t OR u))", Or((T, U, T, U))),
        ("(t OR u) AND (t OR u)", And((Or((T, U)), Or((T, U))))),
    ],
)
def test_scope(short: str, node: tree.Node) -> None:
    text = re.sub(r"\b[abctu]\b", lambda found: TEXTS[found[0]], short)
    assert parse_filter(text) == node
    assert parse_filter(print_filter(node)) == node


@pytest.mark.parametrize(
    ("texts", "node"),
    [
        ((None, ""), tree.EVERYTHING),
        (("", "t"), T),
        (("a", "b"), AnySpan(And((A, B)))),
        (("a AND t", "u AND b"), And((AnySpan(And((A, B))), T, U))),
        (("a", "b OR c"), AnySpan(And((A, Or((B, C)))))),
        (("a", "b OR t"), And((AnySpan(A), Or((AnySpan(B), T))))),
        (("t OR u", "t OR u"), And((Or((T, U)), Or((T, U))))),
        (("any(a)", "b"), And((AnySpan(A), AnySpan(B)))),
        (("AND t AND", "AND"), T),
    ],
)
def test_conjunction_of_filters(texts: tuple[str | None, ...], node: tree.Node) -> None:
    long = [text and re.sub(r"\b[abctu]\b", lambda found: TEXTS[found[0]], text) for text in texts]
    assert parse_conjunction(*long) == node


DURATION = SpanNumber("duration_ms")
TIMESTAMP = TraceNumber("timestamp_ms")


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("tags['name'] = 'x'", TextCompare(Tag("name"), "=", "x")),
        ('tags [ "a""b" ] = 1', NumberCompare(Tag('a"b'), "=", 1)),
        ("tags['mlflow.traceName'] = 'x'", TextCompare(TraceText("name"), "=", "x")),
        ("metadata['run_id'] IS NULL", IsNull(tree.Metadata("run_id"))),
        ("assessment['text'] IS NULL", IsNull(tree.Assessment("assessment", "text"))),
        ("issue['id'] IN ('a')", In(tree.Issue(), ("a",))),
        ("attributes.session = '1'", TextCompare(TraceText("session_id"), "=", "1")),
        ("user = 5", NumberCompare(TraceText("user"), "=", 5)),
        ("experiment_id IN ('1', 2)", In(TraceText("experiment_id"), ("1", 2))),
        ("tags.a > '5'", NumberCompare(Tag("a"), ">", 5)),
        ("metadata.a <= '-.5e1'", NumberCompare(tree.Metadata("a"), "<=", -5.0)),
        ("tags.a BETWEEN '1' AND 2.5", Between(Tag("a"), 1, 2.5)),
        ("tags.a not between 1 and 2", Between(Tag("a"), 1, 2, True)),
        ("tags.a IN ('x', 1, true, FALSE)", In(Tag("a"), ("x", 1, "true", "false"))),
        ("tags.a NOT RLIKE '^x'", Match(Tag("a"), "RLIKE", "^x", True)),
        ("feedback.ok = TRUE", TextCompare(tree.Assessment("feedback", "ok"), "=", "true")),
        ("tags.a = 00012", NumberCompare(Tag("a"), "=", 12)),
        ("tags.a = 123456789012345678901", NumberCompare(Tag("a"), "=", 123456789012345678901)),
        ("span_count IN (1, 2)", In(TraceNumber("span_count"), (1, 2))),
        ("total_cost IS NOT NULL", IsNull(TraceNumber("total_cost"), True)),
        ("count() >= 0", CountSpans(None, ">=", 0)),
        ("Count(*) != -1", CountSpans(None, "!=", -1)),
        ("any(span.duration_ms > 1.5)", AnySpan(NumberCompare(DURATION, ">", 1.5))),
        ("any(trace.text LIKE 'x')", AnySpan(Match(SpanText("content"), "LIKE", "x"))),
        ("MAX(span.duration_ms) < 5", AggregateSpans("max", DURATION, None, "<", 5)),
        (
            "avg(span.attributes.a['b'][0] where span.type = 'A' OR NOT span.name = 'B') = 2",
            AggregateSpans("avg", SpanAttribute(("a", "b", "0")), Or((A, Not(B))), "=", 2),
        ),
        ("span.attributes['']['x.y'] IS NULL", AnySpan(IsNull(SpanAttribute(("", "x.y"))))),
        ("timestamp = '1970-01-01'", NumberCompare(TIMESTAMP, "=", 0)),
        ("timestamp = '1969-12-31T23:59:59.999Z'", NumberCompare(TIMESTAMP, "=", -1)),
        ("timestamp = '1970-01-01 01:00'", NumberCompare(TIMESTAMP, "=", 3_600_000)),
        ("timestamp = '1970-01-01T02:00:00+02:00'", NumberCompare(TIMESTAMP, "=", 0)),
        ("timestamp = '1970-01-01T00:00:00-0130'", NumberCompare(TIMESTAMP, "=", 5_400_000)),
        ("timestamp = '1970-01-01T00:00:01.0015Z'", NumberCompare(TIMESTAMP, "=", 1001.5)),
        ("timestamp > now()", NumberCompare(TIMESTAMP, ">", Now(0))),
        ("timestamp > now()-'1.5h'", NumberCompare(TIMESTAMP, ">", Now(-5_400_000))),
        ("timestamp > NOW ( ) + INTERVAL '2 w'", NumberCompare(TIMESTAMP, ">", Now(1_209_600_000))),
        (
            "timestamp > now() - '1 day, 2 hrs 3min 4s 5ms'",
            NumberCompare(TIMESTAMP, ">", Now(-93_784_005)),
        ),
        ("end_time BETWEEN '1970-01-01' AND now()", Between(TraceNumber("end_time_ms"), 0, Now(0))),
        ("timestamp IN (1, '1970-01-01', now())", In(TIMESTAMP, (1, 0, Now(0)))),
    ],
)  # fmt: skip
def test_conditions(text: str, node: tree.Node) -> None:
    assert parse_filter(text) == node
    assert parse_filter(print_filter(node)) == node


def test_every_name_is_a_field() -> None:
    for name, field in fields.TRACE_FIELDS.items():
        for spelling in (name, f"trace.{name}", f"attribute.`{name}`", f"`{name}`"):
            assert parse_field(spelling) == field
    for name, span_field in fields.SPAN_FIELDS.items():
        assert parse_field(f"span.{name}") == span_field
    assert parse_field(" tags['a b'] ") == Tag("a b")
    assert parse_field("feedback.a.b") == tree.Assessment("feedback", "a.b")


def _examples() -> list[str]:
    """The filters in the reference: whole lines of the blocks, first cells of the tables."""
    text = REFERENCE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    examples = [line for block in blocks for line in block.splitlines() if line]
    for table in re.findall(r"^\| filter \|.*\n\|---.*\n((?:\|.*\n)+)", text, re.MULTILINE):
        examples += re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)
    sentences = re.findall(r"`([^`]* (?:=|!=|>|LIKE) (?:'[^`]*'|true|[0-9.]+))`", text)
    return [*examples, *sentences]


@pytest.mark.parametrize("text", _examples())
def test_the_examples_of_the_reference(text: str) -> None:
    node = parse_filter(re.sub(r"^(field )?(?=LIKE|NOT LIKE)", "name ", text))
    assert parse_filter(print_filter(node)) == node


def test_the_reference_names_every_field() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert len(_examples()) > 45
    for name in fields.TRACE_FIELDS:
        assert f"`{name}`" in text or f"`trace.{name}`" in text
    for name in fields.SPAN_FIELDS:
        assert f"`span.{name}`" in text


def test_the_example_of_an_error_is_real() -> None:
    block = re.search(r"^```text\n(.*?)^```", REFERENCE.read_text(encoding="utf-8"), re.M | re.S)
    assert block
    with pytest.raises(FilterError) as caught:
        parse_filter("span.typ = 'LLM' AND status = 'OK'")
    error = caught.value
    line, caret = str(error.detail()).split("\n")
    shown = f"ERROR:  {error.message}\nDETAIL:  {line}\n{' ' * 9}{caret}\nHINT:  {error.hint}\n"
    assert block[1] == shown


def test_parsing_is_fast_and_cached() -> None:
    text = (
        "span.type = 'LLM' AND span.name LIKE '%x%' AND tags.a = 'b'"
        " AND span.attributes['a'] = 'b' AND execution_time_ms > "
    )
    assert parse_filter(text + "0") is parse_filter(text + "0")
    best = 1.0
    for turn in range(1, 21):
        start = time.process_time()
        for number in range(20):
            parse_filter(f"{text}{turn}{number}")
        best = min(best, (time.process_time() - start) / 20)
    assert best < 0.001
