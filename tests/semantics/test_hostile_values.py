"""Single traces with broken or extreme content: found by what is intact, never an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.semantics.conftest import Asked
from tests.semantics.strategies import BROKEN_CONTENT
from tests.semantics.world import (
    SESSION_METADATA,
    Assessment,
    Experiment,
    Span,
    Trace,
    World,
    attributes,
    content,
)

Ask = Callable[[World], Asked]


def one_experiment(*traces: Trace) -> World:
    return World((Experiment(1),), traces)


def with_content(trace_id: str, *contents: str, **columns: Any) -> Trace:
    spans = tuple(Span(f"span-{n}", text, **columns) for n, text in enumerate(contents))
    return Trace(trace_id, 1, 1, spans=spans)


GOOD = with_content("good", attributes(k="needle", n=5))


@pytest.mark.parametrize("broken", BROKEN_CONTENT, ids=range(len(BROKEN_CONTENT)))
def test_broken_content_hides_no_other_trace_and_nothing_else_of_its_own(
    ask: Ask, broken: str
) -> None:
    asked = ask(one_experiment(GOOD, with_content("broken", broken, name="named")))
    assert asked("span.attributes.k = 'needle'") == {"good"}
    assert asked("span.attributes.n > 4") == {"good"}
    assert asked("sum(span.attributes.n) = 5") == {"good"}
    assert asked("span.name = 'named'") == {"broken"}
    assert asked("span.name = 'named' AND span.attributes.n IS NULL") == {"broken"}
    assert asked("count() = 1") == {"good", "broken"}
    asked("span.attributes.k IS NULL OR span.attributes.k LIKE '%a%'")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("nul \x00 inside", "nul \ufffd inside"),
        ("\ud800\ud800", "\ufffd\ufffd"),
        ("\ud83d\ude00", "😀"),
        ({"k": "\x00"}, '{"k": "\\u0000"}'),
        ({"k": "\ud800"}, '{"k": "\ufffd"}'),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        (10**400, str(10**400)),
        ("\\u0041", "\\u0041"),
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_what_postgresql_cannot_hold_is_replaced_one_by_one(
    ask: Ask, value: Any, text: str, escaped: bool
) -> None:
    stored = json.dumps(value, ensure_ascii=escaped)
    asked = ask(one_experiment(GOOD, with_content("odd", content({"k": stored}))))
    quoted = text.replace("'", "''")
    assert asked(f"span.attributes.k = '{quoted}'") == {"odd"}
    assert asked(f"span.attributes.k IN ('x', '{quoted}')") == {"odd"}
    assert asked("span.attributes.k > -1e308") == set()


def test_long_values_compare_to_the_end(ask: Ask) -> None:
    long = "x" * 1_000_000
    asked = ask(
        one_experiment(
            with_content("a", attributes(k=long + "a")), with_content("b", attributes(k=long + "b"))
        )
    )
    assert asked("span.attributes.k LIKE '%xa'") == {"a"}
    assert asked("span.attributes.k RLIKE 'xb$'") == {"b"}
    assert asked("span.attributes.k != 'x'") == {"a", "b"}


def test_numbers_beyond_doubles_and_sums_beyond_them(ask: Ask) -> None:
    asked = ask(
        one_experiment(
            with_content("over", attributes(n=1.7e308), attributes(n=1.7e308)),
            with_content("under", attributes(n=-1.7e308), attributes(n=-1.7e308)),
            with_content(
                "back", attributes(n=1.7e308), attributes(n=1.7e308), attributes(n=-1e308)
            ),
            with_content("none", attributes(n=10**400), attributes(n="1e999"), attributes(n=True)),
        )
    )
    assert asked("sum(span.attributes.n) > 1.7e308") == {"over", "back"}
    assert asked("sum(span.attributes.n) < -1.7e308") == {"under"}
    assert asked("avg(span.attributes.n) = 1.7e308") == {"over"}
    assert asked("max(span.attributes.n) = 1.7e308") == {"over", "back"}
    assert asked("span.attributes.n IS NOT NULL") == {"over", "under", "back", "none"}
    assert asked("any(span.attributes.n > 0)") == {"over", "back"}


def test_sums_depend_on_no_order(ask: Ask) -> None:
    tenths = [attributes(n=0.1)] * 10
    asked = ask(
        one_experiment(
            with_content("tenths", *tenths),
            with_content("huge", attributes(n=1e16), attributes(n=1), attributes(n=-1e16)),
        )
    )
    assert asked("sum(span.attributes.n) = 1") == {"tenths", "huge"}
    assert asked("avg(span.attributes.n) = 0.1") == {"tenths"}


def test_integers_compare_exactly(ask: Ask) -> None:
    big = 2**53 + 1
    asked = ask(
        one_experiment(
            Trace("odd", 1, big, execution_time_ms=0),
            Trace("even", 1, big - 1, tokens={"total_tokens": 2**62}),
        )
    )
    assert asked(f"timestamp_ms = {big}") == {"odd"}
    assert asked(f"timestamp_ms > {big - 1}") == {"odd"}
    assert asked(f"end_time = {big - 1}") == {"even"}
    assert asked(f"total_tokens = {2**62}") == {"even"}
    assert asked(f"total_tokens IN ({2**62 - 1})") == set()


def test_times_at_the_ends_of_their_range(ask: Ask) -> None:
    most, least = 2**63 - 1, -(2**63)
    asked = ask(
        one_experiment(
            Trace("last", 1, most, execution_time_ms=most),
            Trace("first", 1, least, execution_time_ms=least),
            Trace("usual", 1, 1_700_000_000_000, execution_time_ms=5),
        )
    )
    assert asked("timestamp_ms > 0") == {"last", "usual"}
    assert asked("end_time > 1700000000000") == {"last", "usual"}
    assert asked("end_time < 0") == {"first"}
    assert asked("execution_time_ms = 5") == {"usual"}
    assert asked.search("", order_by=["end_time DESC"]) == ["last", "usual", "first"]
    assert asked.search("") == ["last", "usual", "first"]


@pytest.mark.parametrize("step", ["-1", "+1", "1.0", "²", "٣", "9" * 5000, " 1", "1 ", "x", ""])
def test_only_decimal_indexes_reach_into_lists(ask: Ask, step: str) -> None:
    asked = ask(one_experiment(with_content("list", attributes(k=["a", "b", "c", "d"]))))
    assert asked("span.attributes['k']['1'] = 'b'") == {"list"}
    assert asked("span.attributes['k'][1] = 'b'") == {"list"}
    if step:
        assert asked(f"span.attributes['k']['{step}'] IS NOT NULL") == set()
        assert asked(f"max(span.attributes['k']['{step}']) > 0") == set()


@pytest.mark.parametrize(
    "text",
    [
        "'; drop table trace_info; --",
        "$1",
        "%s",
        ":x",
        "{0}",
        "\\",
        "\\'",
        "$$",
        "\n",
        "\u2028",
        "x' OR '1'='1",
    ],
)
def test_nothing_becomes_sql(ask: Ask, text: str) -> None:
    quoted = text.replace("'", "''")
    asked = ask(
        one_experiment(
            Trace(
                "odd",
                1,
                1,
                name=text,
                session_id="s",
                tags={text: text},
                metadata={text: text},
                spans=(Span("1", attributes(**{text: text}), name=text),),
                assessments=(
                    Assessment("feedback", text, json.dumps(text), metadata=SESSION_METADATA),
                ),
            ),
            Trace("plain", 1, 1, name="x"),
        )
    )
    for field in (
        "name",
        f"tags['{quoted}']",
        f"metadata['{quoted}']",
        f"feedback['{quoted}']",
        "span.name",
        f"span.attributes['{quoted}']",
        f"any(span.attributes['{quoted}']",
    ):
        end = ")" if "(" in field and field.startswith("any(") else ""
        assert asked(f"{field} = '{quoted}'{end}") == {"odd"}
        assert asked(f"{field} IN ('{quoted}'){end}") == {"odd"}
    clauses = [f"tags['{quoted}']", f"feedback['{quoted}'] DESC"]
    assert asked.search("", order_by=clauses) == ["odd", "plain"]


def test_a_row_shows_what_json_could_not_hold(
    ask: Ask, module_conn: psycopg.Connection[Any]
) -> None:
    values = ["\x00", "\ud800", float("nan"), 10**400]
    ask(
        one_experiment(
            Trace(
                "odd",
                1,
                1,
                tags={"null": None, "control": "\x01"},
                assessments=(
                    *(Assessment("feedback", f"f{n}", json.dumps(v)) for n, v in enumerate(values)),
                    Assessment("feedback", "broken", "not json"),
                ),
            )
        )
    )
    row = module_conn.execute(
        "select tags, jsonb_array_length(assessments) from insights_search(array['1'])"
    ).fetchone()
    assert row is not None
    assert row[0]["control"] == "\x01"
    assert row[1] == 5
