"""Printing and parsing are inverse to each other."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from insights_engine.language import tree
from insights_engine.language.parser import parse_filter
from insights_engine.language.printer import print_filter

from tests.unit.language.tree_strategies import filters

SPAN_A = tree.TextCompare(tree.SpanText("type"), "=", "A")
SPAN_B = tree.TextCompare(tree.SpanText("name"), "=", "B")
SPAN_C = tree.TextCompare(tree.SpanText("status"), "=", "C")
TRACE = tree.TextCompare(tree.TraceText("status"), "=", "OK")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(filters())
@example(tree.And((tree.AnySpan(SPAN_A), tree.AnySpan(SPAN_B))))
@example(tree.Or((tree.AnySpan(SPAN_A), tree.AnySpan(SPAN_B))))
@example(tree.AnySpan(tree.Or((SPAN_A, SPAN_B))))
@example(tree.And((TRACE, tree.Or((tree.AnySpan(SPAN_A), tree.AnySpan(SPAN_B))))))
@example(tree.And((TRACE, tree.AnySpan(tree.Or((SPAN_A, tree.And((SPAN_B, SPAN_C))))))))
@example(tree.Or((TRACE, tree.AnySpan(tree.Or((SPAN_A, SPAN_B))))))
@example(tree.Not(tree.Not(tree.AnySpan(tree.Not(SPAN_A)))))
def test_parsing_what_was_printed_gives_the_same_tree(node: tree.Node) -> None:
    text = print_filter(node)
    assert parse_filter(text) == node
    assert print_filter(parse_filter(text)) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("AND", ""),
        ("trace.status = 'OK'", "status = 'OK'"),
        ("request_id IN (\"a\",'b',)", "trace_id IN ('a', 'b')"),
        ("tag.`my key` = 'it''s'", "tags['my key'] = 'it''s'"),
        ("tags['name'] = 'x'", "tags['name'] = 'x'"),
        ("tags.name = 'x'", "name = 'x'"),
        ("request_metadata.a.b = 'x'", "metadata.a.b = 'x'"),
        ("metadata.mlflow.trace.session = 's'", "session_id = 's'"),
        ("trace.text like '%x%'", "span.content LIKE '%x%'"),
        ("span.attributes[\"a\"][`b`][0] > '5'", "span.attributes['a']['b'][0] > 5"),
        ("span.attributes.mlflow.spanType = 'x'", "span.attributes.mlflow.spanType = 'x'"),
        ("feedback.ok = true", "feedback.ok = 'true'"),
        ("span.type = 'A' AND span.name = 'B'", "span.type = 'A' AND span.name = 'B'"),
        (
            "span.type = 'A' status = 'OK' span.name = 'B'",
            "span.type = 'A' AND span.name = 'B' AND status = 'OK'",
        ),
        (
            "any(span.type = 'A') AND any(span.name = 'B')",
            "any(span.type = 'A') AND any(span.name = 'B')",
        ),
        ("any(span.type = 'A') AND status = 'OK'", "span.type = 'A' AND status = 'OK'"),
        ("span.type = 'A' OR span.name = 'B'", "span.type = 'A' OR span.name = 'B'"),
        ("span.type = 'A' OR status = 'OK'", "any(span.type = 'A') OR status = 'OK'"),
        ("NOT span.type = 'A'", "NOT any(span.type = 'A')"),
        ("COUNT(*) > 3", "count() > 3"),
        ("timestamp > now() - '90 min'", "timestamp_ms > now() - '1 hour 30 minutes'"),
        ("timestamp > NOW() + '1 w -1500ms'", "timestamp_ms > now() + '6 days 23 hours 59"
         " minutes 58 seconds 500 ms'"),
        ("timestamp >= '1970-01-02'", "timestamp_ms >= '1970-01-02'"),
        ("timestamp_ms < 1795778680093", "timestamp_ms < '2026-11-27T11:24:40.093Z'"),
        ("end_time IN (-1, 60000)", "end_time_ms IN ('1969-12-31T23:59:59.999Z',"
         " '1970-01-01T00:01Z')"),
        ("timestamp BETWEEN 1e3 AND 61000", "timestamp_ms BETWEEN 1000.0"
         " AND '1970-01-01T00:01:01Z'"),
        ("timestamp > 253402300800000", "timestamp_ms > 253402300800000"),
        ("timestamp > 253402300799999", "timestamp_ms > '9999-12-31T23:59:59.999Z'"),
        ("timestamp = -62135596800001", "timestamp_ms = -62135596800001"),
        ("timestamp = -62135596800000", "timestamp_ms = '0001-01-01'"),
        ("execution_time_ms > 1795778680093", "execution_time_ms > 1795778680093"),
        ("((status = 'a' OR (status = 'b')))", "status = 'a' OR status = 'b'"),
    ],
)  # fmt: skip
def test_canonical_text(text: str, canonical: str) -> None:
    assert print_filter(parse_filter(text)) == canonical
