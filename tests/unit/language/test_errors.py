"""Every malformed filter gets one clear error, placed and with a hint, at once."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from insights_engine.language import fields, tree
from insights_engine.language.errors import FilterError
from insights_engine.language.parser import parse_conjunction, parse_field, parse_filter
from insights_engine.language.printer import print_filter

from tests.unit.language.tree_strategies import HOSTILE_TEXTS, filters

SETS = {
    "keys": "client_request_id end_time end_time_ms execution_time execution_time_ms name prompt"
    " request_id run_id status text timestamp timestamp_ms",
    "entities": "attribute attributes expectation feedback issue metadata request_metadata span"
    " tag tags trace",
    "numeric keys": "end_time end_time_ms execution_time execution_time_ms timestamp timestamp_ms",
    "string comparators": "!= = ILIKE IN LIKE NOT_IN RLIKE",
    "tag comparators": "!= = ILIKE IS_NOT_NULL IS_NULL LIKE RLIKE",
}

#: What stands in <...> in a hint: all that the language has, beside MLflow's lists.
LISTS = {
    "fields of the trace": "Fields of the trace: cache_creation_input_tokens,"
    " cache_creation_input_tokens_above_1hr, cache_read_input_tokens, client_request_id,"
    " end_time_ms, execution_time_ms, experiment_id, input_cost, input_tokens, name, output_cost,"
    " output_tokens, prompt, request_preview, response_preview, run_id, session_id, span_count,"
    " status, timestamp_ms, total_cost, total_tokens, trace_id, user.",
    "fields of a span": "Fields of a span: name, type, status, content, duration_ms,"
    " attributes['key'].",
    "before a dot": "Before a dot stand trace, span, tags, metadata, feedback, expectation,"
    " assessment or issue.",
    "numbers": "Numbers go with cache_creation_input_tokens, cache_creation_input_tokens_above_1hr,"
    " cache_read_input_tokens, end_time_ms, execution_time_ms, input_cost, input_tokens,"
    " output_cost, output_tokens, span_count, timestamp_ms, total_cost, total_tokens,"
    " span.duration_ms, tags, metadata, assessments and attributes.",
    "text operators": "=, !=, LIKE, ILIKE, RLIKE, IN or IS NULL.",
    "number operators": "=, !=, <, <=, >, >=, IN, BETWEEN or IS NULL.",
    "all operators": "=, !=, <, <=, >, >=, LIKE, ILIKE, RLIKE, IN, BETWEEN or IS NULL.",
}


def _hint(text: str) -> str:
    return re.sub("<([a-z ]+)>", lambda name: LISTS[name[1]], text)


def _expand(message: str) -> str:
    for name, members in SETS.items():
        shown = ", ".join(f"'{member.replace('_', ' ') if member.isupper() else member}'"
                          for member in members.split())  # fmt: skip
        message = message.replace(f"<{name}>", "{" + shown + "}")
    return message


def _cases() -> list[tuple[str, str, str]]:
    text = Path(__file__).with_name("malformed_filters.txt").read_text(encoding="utf-8")
    cases = re.findall(r"^filter: (.*)\nerror:  (.*)\nhint:   (.*)$", text, re.MULTILINE)
    assert text.count("\nfilter: ") == len(cases)
    return cases


def refusal(text: str) -> FilterError:
    """The error of a filter, checked for what holds for every error."""
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    error = caught.value
    check(error)
    assert (error.detail() is None) == (error.position is None)
    assert quickest(text) < AT_MOST
    return error


#: Seconds that any filter takes at most; `make coverage` looks at every line and takes longer.
AT_MOST = 0.1 if sys.gettrace() is None else 1.0


def quickest(text: str) -> float:
    """Seconds of processor time that a filter takes (not cached), best of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        try:
            parse_conjunction(text)
        except FilterError as error:
            error.detail()
        times.append(time.process_time() - start)
        if times[-1] < 0.05:
            break
    return min(times)


def check(error: FilterError) -> None:
    assert error.message == str(error)
    assert error.message.isprintable()
    assert error.hint is None or error.hint.isprintable()
    assert len(error.message) < 600
    detail = error.detail()
    if detail is not None:
        *heading, line, caret = detail.split("\n")
        assert len(heading) <= 1
        assert line.isprintable()
        assert set(caret.lstrip(" ")) == {"^"}
        assert len(line) < 700


@pytest.mark.parametrize(("marked", "message", "hint"), _cases())
def test_malformed_filter(marked: str, message: str, hint: str) -> None:
    before, place, after = re.split("[⟦⟧]", marked)
    error = refusal(before + place + after)
    assert error.message == _expand(message)
    assert error.hint == _hint(hint)
    assert error.position == len(before)
    assert error.filter[error.position :][: error.length] == place


@pytest.mark.parametrize(
    "field",
    [
        "status",
        "name",
        "experiment_id",
        "timestamp_ms",
        "total_cost",
        "prompt",
        "issue.id",
        "tags.a",
        "metadata.a",
        "feedback.a",
        "span.name",
        "span.duration_ms",
        "span.attributes.a",
        "span.content",
        "metadata.mlflow.trace.tokenUsage",
    ],
)
def test_the_operators_that_hints_list_are_those_that_there_are(field: str) -> None:
    accepted = set()
    for operator in LISTS["all operators"].rstrip(".").replace(" or", ",").split(", "):
        for value in ("", "'a/1'", "1", "('a/1')", "(1)", "1 AND 2"):
            try:
                parse_filter(f"{field} {operator} {value}")
            except FilterError:
                continue
            accepted.add(operator)
    error = refusal(f"{field} == 'a/1'")
    listed = str(error.hint).partition(" takes ")[2].rstrip(".").replace(" or", ",").split(", ")
    # IN is taken by span.content, and makes no sense there.
    assert set(listed) == accepted - ({"IN"} if field == "span.content" else set())


def test_the_fields_that_hints_list_are_those_that_there_are() -> None:
    names = LISTS["fields of the trace"].rstrip(".").partition(": ")[2].split(", ")
    assert {fields.spell(parse_field(name)) for name in names} == set(names)
    assert set(names) == {
        fields.spell(field)
        for field in fields.TRACE_FIELDS.values()
        if not fields.is_span_field(field)
    }
    for name in LISTS["fields of a span"].rstrip(".").partition(": ")[2].split(", "):
        assert fields.is_span_field(parse_field(f"span.{name}"))
    for name in LISTS["numbers"].partition(",")[2].partition(" tags")[0].strip(" ,").split(", "):
        assert fields.is_number(parse_field(name))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("statsu", "status"),
        ("usr", "user"),
        ("names", "name"),
        ("cotsl_total", None),
        ("unit", None),
        ("time", "timestamp"),
        ("x", None),
        ("", None),
        ("statistics", None),
        ("exection_tme_ms", "execution_time_ms"),
    ],
)
def test_what_is_suggested_is_near(name: str, near: str | None) -> None:
    assert fields.nearest(name, list(fields.TRACE_FIELDS)) == near


def test_the_table_covers_the_language() -> None:
    assert len(_cases()) >= 250


@pytest.mark.parametrize(
    ("text", "message", "detail"),
    [
        (
            "status = 'OK'\nAND name = 'x'\nAND spna.type = 'LLM'\nAND tags.a = 'b'",
            "Invalid entity type 'spna'",
            "Line 3 of 4:\nAND spna.type = 'LLM'\n    ^^^^",
        ),
        (
            "tags.a = '" + "x" * 200 + "' AND statsu = 'OK' AND tags.b = '" + "y" * 200 + "'",
            "Invalid attribute key 'statsu'",
            "..." + "x" * 54 + "' AND statsu = 'OK' AND tags.b = '" + "y" * 12 + "...\n"
            + " " * 63 + "^^^^^^",
        ),
        (
            "tags.名前 = '東京' AND statsu = 'OK'",
            "Invalid attribute key 'statsu'",
            "tags.名前 = '東京' AND statsu = 'OK'\n" + " " * 23 + "^^^^^^",
        ),
        (
            "tags.a = 'tab\there' AND statsu = 'OK'",
            "Invalid attribute key 'statsu'",
            "tags.a = 'tab\\there' AND statsu = 'OK'\n" + " " * 25 + "^^^^^^",
        ),
        (
            "status = 'O\0K'",
            "the filter contains a NUL character, which PostgreSQL's text cannot hold",
            "status = 'O\\x00K'\n" + " " * 11 + "^^^^",
        ),
        (
            "status = '\ud800'",
            "the filter contains half of a surrogate pair, which is not a character",
            "status = '\\ud800'\n" + " " * 10 + "^^^^^^",
        ),
        (
            "status = 'OK' AND\u200b name = 'x'",
            "invisible character in the filter: zero-width space",
            "status = 'OK' AND\\u200b name = 'x'\n" + " " * 17 + "^^^^^^",
        ),
        ("  ", "Invalid filter '  '. Could not be parsed.", None),
        (" \n ", "Invalid filter ' \\n '. Could not be parsed.", None),
        (
            "status = 'OK'" + " AND status = 'OK'" * 6000,
            "the filter is too long: 108013 bytes, at most 65536 are allowed",
            None,
        ),
        ("name = '" + "日" * 22000 + "'", "the filter is too long: 66009 bytes", None),
        (
            "(" * 10_000 + "status = 'OK'" + ")" * 10_000,
            "the filter is nested more than 100 levels deep",
            "..." + "(" * 100 + "...\n" + " " * 63 + "^",
        ),
        ("NOT " * 101 + "status = 'OK'", "the filter is nested more than 100 levels deep", ...),
        ("any(" * 101, "the filter is nested more than 100 levels deep", ...),
        ("NOT (" * 51 + "a" + ")" * 51, "the filter is nested more than 100 levels deep", ...),
        ("status = 'OK' " * 1001, "the filter has more than 1000 predicates", ...),
        ("tags.a = 1 OR " * 1000 + "x", "x is compared with nothing", ...),
        (
            "status IN (" + ", ".join(["''"] * 5001) + ")",
            "the filter has more than 5000 values in lists",
            ...,
        ),
    ],
)  # fmt: skip
def test_place_and_limits(text: str, message: str, detail: object) -> None:
    error = refusal(text)
    assert error.message.startswith(message)
    if detail is not ...:
        assert error.detail() == detail


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100 + "status = 'OK'" + ")" * 100,
        "NOT " * 100 + "status = 'OK'",
        "NOT (" * 50 + "status = 'OK'" + ")" * 50,
        " OR ".join(["(NOT (name = 'a'))"] * 1000),
        "status = 'OK' " * 1000,
        "status IN (" + ",".join(["'ä'"] * 5000) + ")",
        "name = '" + "x" * 65_527 + "'",
        "AND " * 16_000,
        "span.attributes" + "['a']" * 13_000 + " = 'x'",
    ],
)
def test_what_is_within_the_limits_is_accepted(text: str) -> None:
    node = parse_filter(text)
    if len(text) < 20_000:
        assert parse_filter(print_filter(node)) == node
    assert hash(node) == hash(node)


@pytest.mark.parametrize(
    "text",
    [
        "status = " + "'" * 60_001,
        "status = 'x " + "\\' y" * 15_000,
        "status = 'x" + "''" * 30_000,
        'status = "x' + '""' * 30_000,
        "`x" + "``" * 30_000,
        "tags" + "." * 60_000,
        "tags.a" + "-a" * 30_000,
        "span.attributes" + "[" * 60_000,
        "span.attributes['a'" + " " * 60_000,
        " " * 60_000 + "x",
        "execution_time > " + "9" * 60_000,
        "execution_time > 5" + "s" * 60_000,
        "tags.a > '" + "9" * 60_000 + "'",
        "tags.a > " + "0" * 60_000 + ".",
        "tags.a > " + "0" * 60_000 + "1",
        "tags.a > '" + "0" * 60_000 + ".'",
        "count() = " + "0" * 60_000,
        "x" * 60_000 + " = 'y'",
        "x" * 30_000 + "." + "y" * 30_000 + " = 'y'",
        "timestamp > now() - '" + "1" * 60_000 + "'",
        "timestamp > now() - '" + "1 day " * 10_000 + "x'",
        "timestamp > '" + " " * 60_000 + "'",
        "timestamp > '2025-01-01 " + " " * 60_000 + "'",
        "," * 60_000,
        ")" * 60_000,
        "()" * 30_000,
        "*" * 60_000,
        "=" * 60_000,
        "/*" + "*" * 60_000,
        "日" * 20_000,
        "status IN (" + "''," * 20_000,
        "status IN (" + "1," * 30_000,
        "NOT " * 15_000,
        "any(" * 15_000,
    ],
)
def test_nothing_takes_long(text: str) -> None:
    assert quickest(text) < AT_MOST


# ----------------------------------------------------------------------- fuzzing

WORDS = re.split(
    " ",
    "status name text session_id user tags.a metadata['x'] span.type span.attributes['k'] prompt"
    " span.duration_ms feedback.q issue.id timestamp_ms now() any( count( sum( ( ) AND OR NOT LIKE"
    " RLIKE IN BETWEEN IS NULL WHERE 'a' \"b\" `c` 5 -1.5 true = != > <= == , ; * + - . [ ] ' \" \\"
    " interval '1day' '2025-01-01' SELECT é \u2028 \0 \ud800",
)


def fuzz(text: str) -> None:
    """Either a tree that prints and parses, or a FilterError; and at once."""
    try:
        node = parse_filter(text)
    except FilterError as error:
        check(error)
    else:
        assert parse_filter(print_filter(node)) == node
    assert quickest(text) < AT_MOST


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
def test_words_in_any_order(text: str) -> None:
    fuzz(text)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_any_text(text: str) -> None:
    fuzz(text)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(filters(max_leaves=3), st.data())
def test_mutated_filters(node: tree.Node, data: st.DataObject) -> None:
    text = print_filter(node)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text)))
        removed = data.draw(st.integers(0, 4))
        insertion = data.draw(st.sampled_from(["", " ", "'", *WORDS, *HOSTILE_TEXTS]))
        text = text[:place] + insertion + text[place + removed :]
    fuzz(text)


# ---------------------------------------------------------------- other entries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the name of one field"),
        ("timestamp_ms DESC", "expected the name of one field"),
        ("'x'", "expected the name of one field"),
        ("statsu", "Invalid attribute key 'statsu'"),
        ("span.typ", "Invalid span attribute 'typ'"),
        ("tags['x", "the bracket opened here is not closed"),
        ("x" * 70_000, "the filter is too long"),
    ],
)
def test_field_errors(text: str, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_field(text)
    assert caught.value.message.startswith(message)
    check(caught.value)


def test_an_error_in_one_of_several_filters_is_placed_in_that_one() -> None:
    with pytest.raises(FilterError) as caught:
        parse_conjunction("status = 'OK'", "nmae = 'x'")
    assert caught.value.filter == "nmae = 'x'"
    assert caught.value.position == 0
