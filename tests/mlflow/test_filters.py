"""Whatever stock MLflow accepts means the same here.

A corpus of filters goes through MLflow's own parser and the validations of its
PostgreSQL store.  What it accepts must parse here to the same conditions; where
both refuse, our message contains MLflow's sentence.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from typing import Any

import pytest
from insights_engine.language import fields, tree
from insights_engine.language.errors import FilterError, visible
from insights_engine.language.parser import parse_filter
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlTraceInfo
from mlflow.store.tracking.sqlalchemy_store import _get_filter_clauses_for_search_traces
from mlflow.utils.search_utils import SearchTraceUtils
from sqlalchemy.orm import Session

# ------------------------------------------------------------------ stock MLflow


Clauses = list[dict[str, Any]]


@functools.cache
def _outcome(text: str) -> Clauses | Exception:
    try:
        clauses: Clauses = SearchTraceUtils.parse_search_filter_for_search_traces(text)
        with Session() as session:
            query = session.query(SqlTraceInfo)
            _get_filter_clauses_for_search_traces(text, session, "postgresql", query)
    except Exception as error:  # stock fails in many ways, not only by its own
        return error
    for clause in clauses:
        # Two things that the store accepts, and PostgreSQL refuses.
        if isinstance(clause["value"], tuple) != (clause["comparator"].upper() in LISTS):
            return ValueError("a list without IN")
        if isinstance(clause["value"], str) and clause["key"] in NUMBERS:
            return ValueError("bigint compared with text")
    return clauses


LISTS = ("IN", "NOT IN")
NUMBERS = SearchTraceUtils.NUMERIC_ATTRIBUTES


def stock(text: str) -> Clauses:
    """The clauses that MLflow reads; raises what it raises."""
    outcome = _outcome(text)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


COLUMNS: dict[tuple[str, str], tree.Field] = {
    ("attribute", "request_id"): tree.TraceText("trace_id"),
    ("attribute", "status"): tree.TraceText("status"),
    ("attribute", "client_request_id"): tree.TraceText("client_request_id"),
    ("attribute", "timestamp_ms"): tree.TraceNumber("timestamp_ms"),
    ("attribute", "execution_time_ms"): tree.TraceNumber("execution_time_ms"),
    ("attribute", "end_time_ms"): tree.TraceNumber("end_time_ms"),
    ("tag", "mlflow.traceName"): tree.TraceText("name"),
    ("tag", "mlflow.linkedPrompts"): tree.TraceText("prompt"),
    ("request_metadata", "mlflow.trace.session"): tree.TraceText("session_id"),
    ("request_metadata", "mlflow.trace.user"): tree.TraceText("user"),
    ("request_metadata", "mlflow.sourceRun"): tree.TraceText("run_id"),
    ("issue", "id"): tree.Issue(),
    ("span", "name"): tree.SpanText("name"),
    ("span", "type"): tree.SpanText("type"),
    ("span", "status"): tree.SpanText("status"),
    ("span", "content"): tree.SpanText("content"),
}


def field_of(clause: dict[str, Any]) -> tree.Field:
    kind, key = clause["type"], clause["key"]
    known = COLUMNS.get((kind, key))
    if known is not None:
        return known
    if kind == "tag":
        return tree.Tag(key)
    if kind == "request_metadata":
        return tree.Metadata(key)
    if kind == "span":
        return tree.SpanAttribute((key.removeprefix("attributes.").strip("`\"'"),))
    return tree.Assessment(kind, key)


def predicate_of(clause: dict[str, Any]) -> tree.Predicate:
    field, value = field_of(clause), clause["value"]
    operator = re.sub(r"\s+", " ", clause["comparator"].upper())
    if operator in ("IS NULL", "IS NOT NULL"):
        return tree.IsNull(field, operator == "IS NOT NULL")
    if operator in ("IN", "NOT IN"):
        return tree.In(field, value, operator == "NOT IN")
    if operator in ("LIKE", "ILIKE", "RLIKE"):
        return tree.Match(field, operator, value)
    if isinstance(value, str):
        return tree.TextCompare(field, operator, value)
    return tree.NumberCompare(field, operator, value)


def expected(clauses: list[dict[str, Any]]) -> tree.Node:
    """The tree that the clauses of a stock filter stand for."""
    items: list[tree.Node] = []
    spans: list[tree.Node] = []
    place = 0
    for clause in clauses:
        predicate = predicate_of(clause)
        if fields.is_span_field(predicate.field):
            place = place if spans else len(items)
            spans.append(predicate)
        else:
            items.append(predicate)
    if spans:
        one = spans[0] if len(spans) == 1 else tree.And(tuple(spans))
        items.insert(place, tree.AnySpan(one))
    return items[0] if len(items) == 1 else tree.And(tuple(items))


# ------------------------------------------------------------------------ corpus

NAMES = [
    "request_id", "timestamp", "timestamp_ms", "execution_time", "execution_time_ms", "end_time",
    "end_time_ms", "status", "client_request_id", "name", "run_id", "prompt", "trace.text",
    "tag.a", "metadata.a", "metadata.mlflow.trace.session", "metadata.mlflow.trace.tokenUsage",
    "span.name", "span.type", "span.content", "span.attributes.k", "feedback.a", "expectation.a.b",
    "issue.id", "tag.name", "feedback.RUN_ID", "trace.timestamp",
]  # fmt: skip

#: Other spellings of those.
ALIASES = [
    "attributes.text", "trace.status", "attribute.status", "attributes.name", "trace.timestamp_ms",
    "trace.execution_time", "trace.run_id", "trace.prompt", "`name`", "trace.`name`", '"name"',
    "`trace`.name", "`timestamp`", "`status`", "tags.a", "tag.a.b.c", "tag.`my key`",
    'tag."my key"', "tag.'my key'", "`tag`.a", "tag.and", "tag.count", "tag.1a", "tag._a",
    "tag.ключ", "tag.``", "tag.''", "tags.`in`", "tags.Name", "tag.prompt", "tag.run_id",
    "tag.text", "tag.timestamp", "tag.execution_time", "tag.end_time", "tag.mlflow.traceName",
    "tag.mlflow.linkedPrompts", "tag.mlflow.trace.session", "tag.`name`", "tag.trace_id", "tag.",
    "tag..x", "tag.a.", "request_metadata.a.b", "metadata.`a b`", "metadata.name",
    "metadata.run_id", "metadata.mlflow.sourceRun", "metadata.mlflow.trace.user",
    "metadata.mlflow.trace.cost", "metadata.timestamp", "span.status", "span.`name`",
    "span.'type'", "span.attributes.a.b", "span.attributes.`k k`", "span.`attributes.k`",
    "span.attributes.name", "feedback.`a b`", "feedback.name", "expectation.prompt",
    "feedback.timestamp", "feedback.text", "expectation.mlflow.traceName", "issue.name",
    "issue.text", "metadata.Text",
]  # fmt: skip

WRONG_NAMES = [
    "span.Name", "span.duration", "span.attributes.", "span.", "feedback.", "feedback.``",
    "issue.x", "issue.timestamp", "Status", "trace.Name", "state", "request_time", "trace.tags.x",
    "foo", "foo.x", "Trace.name", "TAG.a", "spans.name", "feedbacks.a", "param.a", "metric.a",
    "trace_id", "experiment_id", "session_id", "assessment.a", '"trace".name', "text",
]  # fmt: skip

CONDITIONS = [
    "= 'v'", "!= 'v'", '= "v"', "='v'", "  =  'v' ", "\n=\n'v'", "= ''", "= 'a/1'", "= 'x'' y'",
    "= 'C:\\'", "= 'a \"b\" c'", "= \"it's\"", "= '%_'", "= '日本'", "= 'a\nb'",
    "== 'v'", "<> 'v'", "=> 'v'", "~ 'v'", "> 'v'", ">= '5'", "< 'v'", "<= '5'",
    "LIKE '%v%'", "like 'v'", "ILIKE 'V'", "iLike \"v\"", "RLIKE '^v$'", "rlike 'v|w'",
    "NOT LIKE 'v'", "REGEXP 'v'",
    "IN ('a', 'b')", "in ('a')", "IN (\"a\", 'b')", "IN ('a',)", "NOT IN ('a', 'b')",
    "not in ('a')", "Not  In ('a')", "IN('a')", "IN ()", "IN (1, 2)", "IN ('a', 1)",
    "IS NULL", "is null", "IS NOT NULL", "is\nnot null", "Is  Null",
    "= 5", "!= 5", "> 5", ">= 5", "< 5", "<= -5", "> 1.5", "> 1e2", "> .5", "> 5.", "=5", ">-1",
    "= v", "= `v`", "= NULL", "> NULL", "= true", "= ('a')", "LIKE 5", "LIKE v",
    "IN 'a'", "IN (a)", "BETWEEN 1 AND 2", "> 5s", "> 0x1F", "> +5",
]  # fmt: skip

WHOLE = [
    "", "AND", "and", "AND AND", "  ", "\n", "AND name = 'a'", "name = 'a' AND",
    "AND AND name = 'a'",
    "name = 'a' and AND status = 'b'", "name = 'a' status = 'b'", "name='a'status='b'",
    'status = "a" name = \'b\'', "name = 'a' AnD status = 'b' AND tag.x IS NULL",
    "tag.a LIKE 'a' tag.b LIKE 'b'", "tag.a IS NULL tag.b = 'c'", "tag.a = 'b' tag.b IS NOT NULL",
    "name = 'a';", "name = 'a' ;", "; name = 'a'", "name = 'a'; status = 'b'", "name = 'a' -- c",
    "name = 'a' /* c */", "/* c */ name = 'a'", "name = 'a', status = 'b'", "1 = 1", "'x' = tag.a",
    "name = 'a' OR status = 'b'", "(name = 'a')", "NOT name = 'a'", "name = 'a' xor status = 'b'",
    "name", "name =", "= 'a'", "name 'a'", "name = 'a", "name = 'it's'", "name = “a”",
    "span.name = 'a' AND span.type = 'b'", "span.name = 'a' status = 'OK' trace.text LIKE '%x%'",
    "timestamp > 5 AND timestamp_ms <= 10.5", "count(span.type = 'LLM') > 3", "SELECT 1",
    "name = 'it\\'s'", "name LIKE '%it\\'s%' AND status = 'OK'", 'name = "a\\"b"',
    "tag.a = 'C:\\' AND tag.b = 'x'",
]  # fmt: skip


COMMON_CONDITIONS = [
    "= 'v'", '!= "v"', "= 'a/1'", "LIKE '%v%'", "ilike 'V'", "RLIKE '^v$'", "IN ('a', \"b\")",
    "not in ('a',)", "IS NULL", "is not null", "> 5", "<= -1.5", "=5",
]  # fmt: skip


@functools.cache
def corpus() -> tuple[str, ...]:
    pairs = [
        *itertools.product(NAMES, CONDITIONS),
        *itertools.product(ALIASES, COMMON_CONDITIONS),
        *itertools.product(WRONG_NAMES, ["= 'v'", "LIKE 'v'", "!= v", "IN ()"]),
    ]
    return (*WHOLE, *(f"{name} {condition}" for name, condition in pairs))


#: Where stock MLflow is plainly broken, or part A of the semantics differs.
def differs(text: str) -> str | None:
    """Why a filter that stock accepts means something else here, if it does."""
    if re.search(r"'[^']+''|tag\.a = 'b' tag\.b IS NOT NULL", text):
        if "''" in text:
            return "a doubled quote is one quote"
        return "after a value without AND, stock takes IS NULL's field for part of the value"
    return None


# ------------------------------------------------------------------------- tests

#: The sentences of MLflow's that ours must contain, by how they begin.
SENTENCES = (
    "Invalid filter ", "Search filter contained multiple expression",
    "Invalid comparison clause. Expected 'Identifier'", "Invalid entity type",
    "Invalid attribute key", "Parameter value is either not quoted", "Expected a quoted string",
    "Expected a numeric value", "While parsing a list", "Invalid comparator", "span.",
    "assessment.", "issue.", "Invalid issue attribute", "Only the '{", "Only attributes in",
    "Invalid span attribute", "Span attribute name", "Assessment field name", "Comparator '",
    "Invalid prompts filter value",
)  # fmt: skip


#: Filters with two faults, of which MLflow names one and we the other, because
#: here the first is none or the field is at fault before its value.
OTHER_FAULT = (
    ("|".join(map(re.escape, WRONG_NAMES)), "!= v|IN \\(\\)", "the name and the rest are wrong"),
    (
        "prompt|.*time.*|.*text|metadata.*|feedback.*|expectation.*|issue.*",
        ".*IN ?\\(",
        "takes lists",
    ),
    (".*", "(=|LIKE) \\('a'\\)", "no list goes with ="),
    (".*prompt|.*linkedPrompts", "IN|not in|!=", "takes these comparators"),
    ("metadata.mlflow.trace.tokenUsage", "[<>]|NOT LIKE", "names the fewer comparators"),
    ("feedback.name|feedback.RUN_ID|expectation.prompt|feedback.text", "[<>]", "is a text field"),
    ("feedback.a|expectation.a.b", "> 5s", "names the unit"),
)


def other_fault(text: str) -> bool:
    """Whether MLflow and we name different faults of a filter."""
    return "''" in text or any(
        re.match(f"({names}) ({condition})", text, re.IGNORECASE)
        for names, condition, _ in OTHER_FAULT
    )


def comparable(message: str) -> str:
    """The message without the prefix of its code, sets sorted."""

    def members(found: re.Match[str]) -> str:
        return "{" + ", ".join(sorted(found[1].split(", "))) + "}"

    return re.sub(r"\{([^{}]*)\}", members, message)


def test_whatever_stock_accepts_means_the_same() -> None:
    accepted = 0
    wrong = []
    for text in corpus():
        clauses = _outcome(text)
        if isinstance(clauses, Exception) or differs(text):
            continue
        accepted += 1
        try:
            node: object = parse_filter(text)
        except FilterError as error:
            node = error.message
        if node != expected(clauses):
            wrong.append((text, node, expected(clauses)))
    assert not wrong, wrong[:20]
    assert accepted > 700


def test_lists_of_conditions_mean_the_same() -> None:
    conditions = [
        text.strip()
        for text in corpus()
        if text not in WHOLE and not isinstance(_outcome(text), Exception) and not differs(text)
    ]
    chance = random.Random(3172)
    compared = 0
    for _ in range(250):
        chosen = chance.choices(conditions, k=chance.randint(2, 4))
        text = chance.choice(["", "", "AND "]) + chosen[0]
        for condition in chosen[1:]:
            # Without AND, sqlparse takes some neighbours for one name.
            joints = [" AND ", " and ", " AND\n", " "]
            if condition.upper().endswith("NULL") or "'" not in text[-2:]:
                joints.pop()
            text += chance.choice(joints) + condition
        clauses = _outcome(text)
        if isinstance(clauses, Exception) or "\\" in text:
            continue
        compared += 1
        assert parse_filter(text) == expected(clauses), text
    assert compared > 200


def test_both_refuse_with_the_same_sentence() -> None:
    compared = 0
    wrong = []
    for text in corpus():
        refusal = _outcome(text)
        if not isinstance(refusal, MlflowException):
            continue
        sentence = visible(refusal.message)
        try:
            parse_filter(text)
        except FilterError as error:
            if not sentence.startswith(SENTENCES) or other_fault(text):
                continue
            compared += 1
            if comparable(sentence) not in comparable(error.message):
                wrong.append((text, sentence, error.message))
    for item in wrong:
        print(*item, sep="\n    ")
    assert not wrong, len(wrong)
    assert compared > 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("tag.a = 'it''s'", "it's"),
        ('tag.a = "say ""hi"""', 'say "hi"'),
        ("tag.a = 'it\\'s'", "it\\'s"),
        ("tag.a = 'C:\\' AND tag.b = 'x'", "C:\\"),
        ("tag.a = 'a\\\\b'", "a\\\\b"),
    ],
)
def test_quotes_and_backslashes_in_strings(text: str, value: str) -> None:
    node = parse_filter(text)
    first = node.items[0] if isinstance(node, tree.And) else node
    assert first == tree.TextCompare(tree.Tag("a"), "=", value)


#: What stock MLflow reads and we read otherwise or not at all, by name.
DIFFERENCES = {
    "a doubled quote is one quote": (
        "status = 'it''s'",
        tree.TextCompare(tree.TraceText("status"), "=", "it's"),
    ),
    "a doubled quote in a key is one quote": (
        'tag."a""b" = \'x\'',
        tree.TextCompare(tree.Tag('a"b'), "=", "x"),
    ),
    "a backslash in a list is a backslash": (
        "status IN ('a\\tb')",
        tree.In(tree.TraceText("status"), ("a\\tb",)),
    ),
    "a comma may not be missing in a list": (
        "status IN ('a' 'b')",
        "a comma is missing in the list before 'b'",
    ),
    "strings have no Python prefix": (
        "status IN (u'a')",
        "Parameter value is either not quoted",
    ),
    "a key is quoted as a whole": (
        "tag.a.\"b\" = 'x'",
        'a key is quoted as a whole, not in parts: a."b"',
    ),
    "a blank does not begin a key": (
        "tag. x = 'v'",
        "expected an operator after tag., found x",
    ),
    "a value is no part of the next key": (
        "tag.a = 'b' tag.c IS NOT NULL",
        tree.And(
            (
                tree.TextCompare(tree.Tag("a"), "=", "b"),
                tree.IsNull(tree.Tag("c"), True),
            )
        ),
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_named_differences(name: str) -> None:
    text, meaning = DIFFERENCES[name]
    clauses = stock(text)
    if isinstance(meaning, str):
        with pytest.raises(FilterError) as caught:
            parse_filter(text)
        assert caught.value.message.startswith(meaning)
    else:
        assert parse_filter(text) == meaning
        assert expected(clauses) != meaning
