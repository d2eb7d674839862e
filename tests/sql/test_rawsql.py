"""The raw predicate, node type by node type, over rows inserted by hand.

Each case names the traces that match.  It is asked in both shapes, and each
time the compiled expression must be true or false for every trace.
"""

from __future__ import annotations

import json
import re
from typing import Any

import psycopg
import pytest
from insights_engine.exact import rawsql
from insights_engine.language.errors import FilterError
from insights_engine.language.tree import (
    AggregateSpans,
    And,
    AnySpan,
    Assessment,
    Between,
    CountSpans,
    In,
    IsNull,
    Issue,
    Match,
    Metadata,
    Node,
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

NOW = 1_000_000

#: The traces; each test says which of them match.
TRACES = ("a", "b", "c", "d", "e", "f")

BIG = 2**53


def _insert(connection: psycopg.Connection[Any], table: str, **values: Any) -> None:
    columns = ", ".join(values)
    places = ", ".join(["%s"] * len(values))
    connection.execute(
        f"insert into public.{table} ({columns}) values ({places})", list(values.values())
    )


def _attributes(**values: Any) -> str:
    return json.dumps(
        {
            "name": "the name",
            "events": [{"name": "event", "attributes": {"model": "from-event"}}],
            "attributes": {
                key: json.dumps(value, ensure_ascii=False) for key, value in values.items()
            },
        },
        ensure_ascii=False,
    )


def _world(connection: psycopg.Connection[Any]) -> None:
    for number in (1, 2):
        _insert(
            connection,
            "experiments",
            experiment_id=100 + number,
            name=f"e{number}",
            lifecycle_stage="active",
        )

    def trace(key: str, experiment: int, **values: Any) -> None:
        _insert(
            connection,
            "trace_info",
            **{
                "request_id": key,
                "experiment_id": 100 + experiment,
                "timestamp_ms": 1000,
                "status": "OK",
                **values,
            },
        )

    trace(
        "a",
        1,
        timestamp_ms=1000,
        execution_time_ms=500,
        trace_name="chat%app",
        session_id="s1",
        client_request_id="c-1",
        request_preview="Größe?",
        response_preview="42",
        input_tokens=10,
        output_tokens=5,
        total_tokens=15,
        input_cost=0.1,
        output_cost=1e-05,
        total_cost=0.10001,
    )
    trace(
        "b",
        1,
        timestamp_ms=2000,
        execution_time_ms=0,
        status="ERROR",
        trace_name="",
        session_id="s1",
    )
    trace("c", 1, timestamp_ms=BIG, trace_name="12", total_tokens=BIG + 1)
    trace("d", 2, timestamp_ms=3000, execution_time_ms=1500, session_id="s1", total_cost=2.0)
    trace("e", 2, timestamp_ms=2**63 - 1, execution_time_ms=2**63 - 1, session_id="s2")
    trace("f", 2, timestamp_ms=-(2**63), execution_time_ms=-5, trace_name="no such\\thing")

    def pair(table: str, trace_id: str, key: str, value: str | None) -> None:
        _insert(connection, table, request_id=trace_id, key=key, value=value)

    pair("trace_tags", "a", "env", "prod")
    pair("trace_tags", "b", "env", "dev")
    pair("trace_tags", "c", "env", "")
    pair("trace_tags", "d", "env", None)
    pair("trace_tags", "a", "n", "1.50")
    pair("trace_tags", "b", "n", "1e999")
    pair("trace_tags", "c", "n", "1e-999")
    pair("trace_tags", "d", "n", "twelve")
    pair("trace_tags", "e", "n", "12")
    pair("trace_tags", "f", "n", "9" * 5000)
    pair("trace_tags", "f", "mlflow.traceName", "ignored")
    pair("trace_request_metadata", "a", "k'; drop table spans; --", "x")
    pair("trace_request_metadata", "a", "mlflow.trace.user", "ann")
    pair("trace_request_metadata", "b", "mlflow.trace.user", "bob")
    pair("trace_request_metadata", "b", "mlflow.trace.session", "ignored")
    pair("trace_request_metadata", "a", "mlflow.sourceRun", "r1")
    pair("trace_request_metadata", "b", "mlflow.sourceRun", "r2")

    def link(trace_id: str, kind: str, target: str) -> None:
        _insert(
            connection,
            "entity_associations",
            association_id=f"{trace_id}{kind}{target}",
            source_type="trace",
            source_id=trace_id,
            destination_type=kind,
            destination_id=target,
        )

    link("a", "run", "r2")
    link("c", "run", "r1")
    link("d", "prompt_version", "qa/1")
    link("d", "prompt_version", "qa/2")
    link("e", "prompt_version", "qa/2")
    link("f", "model", "m")

    def assess(
        trace_id: str, name: str, value: Any, stored: str | None = None, **more: Any
    ) -> None:
        text = json.dumps(value) if stored is None else stored
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        _insert(
            connection,
            "assessments",
            **{
                "assessment_id": f"{trace_id}{name}{text}"[:50],
                "trace_id": trace_id,
                "name": name,
                "assessment_type": "feedback",
                "value": text,
                "created_timestamp": 0,
                "last_updated_timestamp": 0,
                "source_type": "HUMAN",
                "valid": True,
                "aggregate_value": float(value) if isinstance(value, (int, float)) else None,
                "is_numeric_value": number,
                **more,
            },
        )

    assess("a", "quality", "Great 日本")
    assess("a", "score", 5)
    assess("b", "score", "5")
    assess("c", "score", True)
    assess("d", "score", None)
    assess("e", "score", 4.5)
    assess("e", "score", "low", valid=False)
    assess("f", "score", None, stored='"broken')
    assess("c", "label", "yes", assessment_type="expectation")
    assess("f", "label", {"k": "ü"})
    assess("f", "label", 'say "hi"\u0000')
    assess("a", "helpful", "no", assessment_metadata='{"mlflow.trace.session": "s1"}')
    assess("c", "helpful", "maybe", assessment_metadata='{"mlflow.trace.session": "none"}')
    assess("b", "iss-1", None, assessment_type="issue", valid=False)
    assess("f", "iss-2", None, assessment_type="issue")

    def span(trace_id: str, key: str, content: str, **values: Any) -> None:
        _insert(
            connection,
            "spans",
            **{
                "trace_id": trace_id,
                "experiment_id": 101 if trace_id in "abc" else 102,
                "span_id": key,
                "name": key,
                "type": "LLM",
                "status": "OK",
                "start_time_unix_nano": 0,
                "end_time_unix_nano": 1_000_000,
                "content": content,
                **values,
            },
        )

    usage = {"total": 12, "parts": [1.5, "x"], "inner": '{"z": 1}'}
    span("a", "call", _attributes(model="gpt-4", temperature=0.70, ok=True, usage=usage))
    span("a", "tool%", _attributes(model="none", temperature="0.7"), type="TOOL", status="ERROR")
    span("b", "call", _attributes(model='say "hi"', path="a/b\\c", empty="", nothing=None))
    span("b", "open", _attributes(model="Größe", usage=[1e2]), end_time_unix_nano=None, type=None)
    span("b", "nameless", "", name=None, end_time_unix_nano=300_000)
    # Written by others: escapes, no spaces, plain values.
    span("c", "odd", '{"attributes":{"m\\u006fdel":"\\u0022gpt-4\\u0022","model2":"raw","n":5}}')
    span("c", "slash", r'{"attributes": {"path": "\"a\\/b\\\\c\"", "usage": {"total": "12"}}}')
    # Nothing to be read, but a name, a type and a status.
    span("d", "broken", '{"attributes": {"model": "\\"gpt-4\\""}', type="TOOL")
    span("d", "deep", '{"attributes": {"model": ' + "[" * 100_000)
    span("d", "array", '["model"]')
    span("d", "listed", '{"attributes": ["model"]}')
    span("d", "none", '{"attributes": null, "model": "gpt-4"}')
    span("e", "long", _attributes(model="x" * 1_000_000, huge=1e308, temperature=1e308))
    span("e", "nan", '{"attributes": {"model": "NaN", "temperature": "Infinity", "huge": "1e308"}}')
    span("e", "nul", '{"attributes": {"model": "\\"a\\\\u0000\\\\ud800z\\""}}')
    # Of another experiment than its trace: not looked at.
    span("f", "elsewhere", _attributes(model="gpt-4", temperature=1), experiment_id=101)
    span("f", "quoted", json.dumps({"attributes": {'a"b.c\\d': '"v"', "": '"empty key"'}}))


@pytest.fixture(scope="module")
def world(module_conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    _world(module_conn)
    return module_conn


def found(
    connection: psycopg.Connection[Any],
    node: Node,
    scope: list[int] | None = None,
    shape: str = "set",
) -> str:
    """The ids of the matching traces, run together."""
    params = rawsql.Params()
    condition = rawsql.compile_filter(
        node, params, schema="public", scope=scope, now_ms=NOW, shape=shape
    )
    values = {f"p{index}": value for index, value in enumerate(params.values, 1)}

    def place(match: re.Match[str]) -> str:
        number = int(match.group(1))
        return f"%(p{number})s::{params.types[number - 1]}"

    def ask(query: str) -> list[Any]:
        if scope is not None:
            query += " and t.experiment_id = any(%(scope)s)"
        text = re.sub(r"\$(\d+)", place, query.replace("%", "%%").replace("%%(scope)", "%(scope)"))
        return connection.execute(text, {**values, "scope": scope}).fetchall()

    selected = ask(f"select t.request_id from public.trace_info t where {condition}")
    every = ask(f"select t.request_id, {condition} from public.trace_info t where true")
    assert {truth for _, truth in every} <= {True, False}
    ids = sorted(row[0] for row in selected)
    assert ids == sorted(key for key, truth in every if truth)
    return "".join(ids)


def text(name: str, op: str, value: str) -> TextCompare:
    return TextCompare(TraceText(name), op, value)


def number(name: str, op: str, value: int | float | Now) -> NumberCompare:
    return NumberCompare(TraceNumber(name), op, value)


def attribute(op: str, value: str, *path: str) -> AnySpan:
    return AnySpan(TextCompare(SpanAttribute(path or ("model",)), op, value))


def some(*items: Any) -> AnySpan:
    return AnySpan(And(items) if len(items) > 1 else items[0])


MODEL = SpanAttribute(("model",))
TEMPERATURE = SpanAttribute(("temperature",))
TYPE = SpanText("type")
ENV, N = Tag("env"), Tag("n")
SCORE = Assessment("feedback", "score")

ALGEBRA = [
    (And(()), "abcdef"),
    (And((text("status", "=", "OK"), number("timestamp_ms", ">", 1000))), "cde"),
    (Or((text("status", "=", "ERROR"), TextCompare(ENV, "=", "prod"))), "ab"),
    (Not(And(())), ""),
    (Not(TextCompare(ENV, "=", "prod")), "bcdef"),
    (Not(TextCompare(ENV, "!=", "prod")), "adef"),
    (Not(number("execution_time_ms", ">", 100)), "bcf"),
    (Not(Not(text("name", "=", "12"))), "c"),
]

TRACE_TEXTS = [
    (text("trace_id", "=", "a"), "a"),
    (text("trace_id", "!=", "a"), "bcdef"),
    (IsNull(TraceText("trace_id")), ""),
    (IsNull(TraceText("status"), True), "abcdef"),
    (text("status", "=", "ok"), ""),
    (Match(TraceText("status"), "ILIKE", "ok"), "acdef"),
    (text("experiment_id", "=", "101"), "abc"),
    (text("experiment_id", "=", "0101"), ""),
    (text("experiment_id", "=", "99999999999"), ""),
    (text("experiment_id", "!=", "101"), "def"),
    (In(TraceText("experiment_id"), ("102", "7")), "def"),
    (Match(TraceText("experiment_id"), "LIKE", "%2"), "def"),
    (NumberCompare(TraceText("experiment_id"), ">", 101.5), "def"),
    (text("name", "=", ""), "b"),
    (text("name", "!=", "12"), "abf"),
    (IsNull(TraceText("name")), "de"),
    (IsNull(TraceText("name"), True), "abcf"),
    (In(TraceText("name"), ("12", "")), "bc"),
    (In(TraceText("name"), ("12", ""), True), "af"),
    (In(TraceText("name"), (12, "x")), "c"),
    (In(TraceText("name"), (12, "x"), True), "abf"),
    (Match(TraceText("name"), "LIKE", "chat\\%%"), "a"),
    (Match(TraceText("name"), "LIKE", "%\\\\thing"), "f"),
    (Match(TraceText("name"), "LIKE", "%", True), ""),
    (Match(TraceText("name"), "RLIKE", "^c.*p$"), "a"),
    (Match(TraceText("name"), "RLIKE", "^c", True), "bcf"),
    (NumberCompare(TraceText("name"), "=", 12), "c"),
    (Between(TraceText("name"), 1, 5, True), "c"),
    (Match(TraceText("request_preview"), "LIKE", "Gr__e?"), "a"),
    (NumberCompare(TraceText("response_preview"), ">=", 42), "a"),
    (text("client_request_id", "!=", "x"), "a"),
    (text("session_id", "=", "s1"), "abd"),
    (TextCompare(Metadata("mlflow.trace.session"), "=", "s1"), "abd"),
    (IsNull(Metadata("mlflow.trace.session")), "cf"),
    (TextCompare(Tag("mlflow.traceName"), "=", "12"), "c"),
    (text("user", "=", "ann"), "a"),
    (IsNull(TraceText("user")), "cdef"),
]

TRACE_NUMBERS = [
    (number("timestamp_ms", "=", BIG), "c"),
    (number("timestamp_ms", "=", BIG + 1), ""),
    (number("timestamp_ms", "=", float(BIG)), "c"),
    (number("timestamp_ms", ">", 1999.5), "bcde"),
    (number("timestamp_ms", ">=", 2000.5), "cde"),
    (number("timestamp_ms", "<", 2000.5), "abf"),
    (number("timestamp_ms", "<=", 1999.5), "af"),
    (number("timestamp_ms", "=", 1999.5), ""),
    (number("timestamp_ms", "!=", 1999.5), "abcdef"),
    (number("timestamp_ms", ">", 1e308), ""),
    (number("timestamp_ms", "<", 1e308), "abcdef"),
    (number("timestamp_ms", "=", float(2**63)), "e"),
    (number("timestamp_ms", "<", Now(-999_000)), "f"),
    (number("timestamp_ms", "<=", Now(-999_000)), "af"),
    (Between(TraceNumber("timestamp_ms"), 1000, 2000.5), "ab"),
    (Between(TraceNumber("timestamp_ms"), 1000, 3000, True), "cef"),
    (Between(TraceNumber("timestamp_ms"), Now(-999_000), Now()), "abd"),
    (In(TraceNumber("timestamp_ms"), (1000, 2000.0, 1.5)), "ab"),
    (In(TraceNumber("timestamp_ms"), (1000, 2000.0, 1.5), True), "cdef"),
    (number("execution_time_ms", "!=", 500), "bdef"),
    (IsNull(TraceNumber("execution_time_ms")), "c"),
    (In(TraceNumber("execution_time_ms"), (500,), True), "bdef"),
    (number("end_time_ms", "=", 1500), "a"),
    (number("end_time_ms", "=", 2000), "b"),
    (number("end_time_ms", "=", BIG), "c"),
    (number("end_time_ms", ">", 2**63 - 1), "e"),
    (number("end_time_ms", "<", -(2**63)), "f"),
    (number("end_time_ms", ">", 1.5e300), ""),
    (IsNull(TraceNumber("end_time_ms"), True), "abcdef"),
    (Between(TraceNumber("end_time_ms"), 1500, 4500.5), "abd"),
    (number("total_tokens", "=", BIG + 1), "c"),
    (number("total_tokens", "=", float(BIG)), "c"),
    (number("total_tokens", "!=", 15), "c"),
    (IsNull(TraceNumber("total_tokens")), "bdef"),
    (number("total_cost", "=", 0.10001), "a"),
    (number("total_cost", ">", 2), ""),
    (number("total_cost", ">=", 2), "d"),
    (IsNull(TraceNumber("total_cost"), True), "ad"),
    (number("span_count", "=", 2), "ac"),
    (number("span_count", ">", 2), "bde"),
    (number("span_count", "<", 1.5), "f"),
    (number("span_count", "!=", 2.5), "abcdef"),
    (In(TraceNumber("span_count"), (1, 5)), "df"),
    (Between(TraceNumber("span_count"), 2, 3, True), "df"),
    (IsNull(TraceNumber("span_count")), ""),
]

KEYED = [
    (TextCompare(ENV, "=", "prod"), "a"),
    (TextCompare(ENV, "!=", "prod"), "bc"),
    (TextCompare(ENV, "=", ""), "c"),
    (IsNull(ENV), "ef"),
    (IsNull(ENV, True), "abcd"),
    (In(ENV, ("prod", "dev")), "ab"),
    (In(ENV, ("prod", "dev"), True), "c"),
    (Match(ENV, "LIKE", "%"), "abc"),
    (Match(ENV, "ILIKE", "PRO_"), "a"),
    (Match(ENV, "RLIKE", "^(prod|dev)$"), "ab"),
    (Match(ENV, "RLIKE", "^(prod|dev)$", True), "c"),
    (NumberCompare(N, "=", 1.5), "a"),
    (NumberCompare(N, "!=", 1.5), "ce"),
    (NumberCompare(N, "<", 1), "c"),
    (NumberCompare(N, "<", 1e308), "ace"),
    (TextCompare(N, "=", "1.5"), ""),
    (Between(N, 1, 12), "ae"),
    (Between(N, 1, 12, True), "c"),
    (In(N, (12, 1.5)), "ae"),
    (In(N, (12, 1.5), True), "bcdf"),
    (In(N, ("twelve", 12)), "de"),
    (In(N, ("twelve", 12), True), "abcf"),
    (TextCompare(Metadata("k'; drop table spans; --"), "=", "x"), "a"),
    (IsNull(Metadata("K'; drop table spans; --")), "abcdef"),
]

USAGE, COST = Metadata("mlflow.trace.tokenUsage"), Metadata("mlflow.trace.cost")
SYNTHESISED = [
    (TextCompare(USAGE, "=", '{"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}'), "a"),
    (TextCompare(USAGE, "=", '{"output_tokens": 5, "input_tokens": 10, "total_tokens": 15}'), ""),
    (TextCompare(USAGE, "=", '{"input_tokens":10, "output_tokens": 5, "total_tokens": 15}'), ""),
    (TextCompare(USAGE, "=", '{"input_tokens": 10, "output_tokens": 5}'), ""),
    (TextCompare(USAGE, "!=", '{"total_tokens": 9007199254740993}'), "a"),
    (TextCompare(USAGE, "!=", "x"), "ac"),
    (TextCompare(USAGE, "=", '{"total_tokens": ' + "9" * 5000 + "}"), ""),
    (In(USAGE, ('{"total_tokens": 9007199254740993}', "x")), "c"),
    (In(USAGE, ('{"total_tokens": 9007199254740993}', "x"), True), "a"),
    (IsNull(USAGE), "bdef"),
    (IsNull(USAGE, True), "ac"),
    (
        TextCompare(COST, "=", '{"input_cost": 0.1, "output_cost": 1e-05, "total_cost": 0.10001}'),
        "a",
    ),
    (TextCompare(COST, "=", '{"total_cost": 2.0}'), "d"),
    (TextCompare(COST, "=", '{"total_cost": 2}'), ""),
    (TextCompare(COST, "!=", '{"total_cost": 2.0}'), "a"),
    (IsNull(COST, True), "ad"),
]

LINKS = [
    (text("run_id", "=", "r1"), "ac"),
    (text("run_id", "=", "r2"), "ab"),
    (text("run_id", "!=", "r1"), "ab"),
    (text("run_id", "=", ""), ""),
    (In(TraceText("run_id"), ("r1", "r9")), "ac"),
    (In(TraceText("run_id"), ("r1", "r2"), True), ""),
    (Match(TraceText("run_id"), "LIKE", "%1"), "ac"),
    (IsNull(TraceText("run_id")), "def"),
    (IsNull(TraceText("run_id"), True), "abc"),
    (text("prompt", "=", "qa/1"), "d"),
    (text("prompt", "!=", "qa/1"), "de"),
    (Match(TraceText("prompt"), "LIKE", "qa/%"), "de"),
    (IsNull(TraceText("prompt")), "abcf"),
    (TextCompare(Issue(), "=", "iss-1"), "b"),
    (In(Issue(), ("iss-1", "iss-2")), "bf"),
    (TextCompare(Issue(), "!=", "iss-1"), "f"),
    (IsNull(Issue()), "acde"),
]

HELPFUL = Assessment("feedback", "helpful")
LABEL = Assessment("assessment", "label")
ASSESSMENTS = [
    (TextCompare(SCORE, "=", "5"), "ab"),
    (TextCompare(SCORE, "=", '"5"'), "b"),
    (TextCompare(SCORE, "!=", "5"), "cdef"),
    (TextCompare(SCORE, "=", "true"), "c"),
    (TextCompare(SCORE, "=", "null"), "d"),
    (TextCompare(SCORE, "=", "low"), ""),
    (NumberCompare(SCORE, ">", 4), "ae"),
    (NumberCompare(SCORE, "!=", 5), "e"),
    (NumberCompare(SCORE, "=", 5), "a"),
    (Between(SCORE, 4, 4.5), "e"),
    (Between(SCORE, 4, 4.5, True), "a"),
    (In(SCORE, (5, 4.5)), "ae"),
    (In(SCORE, (5, 4.5), True), "bcdf"),
    (In(SCORE, ("5", "true")), "abc"),
    (In(SCORE, ("5", "true"), True), "def"),
    (In(SCORE, ("true", 5)), "ac"),
    (IsNull(SCORE), ""),
    (IsNull(SCORE, True), "abcdef"),
    (Match(SCORE, "LIKE", '"%'), "bf"),
    (Match(Assessment("feedback", "quality"), "LIKE", "Great%"), "a"),
    (Match(Assessment("feedback", "quality"), "LIKE", '"Great%'), "a"),
    (Match(Assessment("feedback", "quality"), "LIKE", "%日本"), "a"),
    (Match(Assessment("feedback", "quality"), "LIKE", "%u65e5%"), "a"),
    (Match(Assessment("feedback", "quality"), "RLIKE", "^Great"), "a"),
    (Match(Assessment("feedback", "quality"), "LIKE", "Great%", True), ""),
    (Match(Assessment("feedback", "quality"), "ILIKE", "bad%", True), "a"),
    (Match(SCORE, "LIKE", "5", True), "cdef"),
    (TextCompare(LABEL, "=", "yes"), "c"),
    (TextCompare(Assessment("feedback", "label"), "=", "yes"), ""),
    (TextCompare(Assessment("expectation", "label"), "=", "yes"), "c"),
    (Match(LABEL, "LIKE", '{"k": "ü"}'), "f"),
    (Match(LABEL, "LIKE", 'say "hi"_'), "f"),
    (Match(LABEL, "LIKE", "%hi%", True), "cf"),
    (IsNull(LABEL), "abde"),
    # Session-scoped: a's feedback counts for b and d too; c is in no session.
    (TextCompare(HELPFUL, "=", "no"), "abd"),
    (TextCompare(HELPFUL, "!=", "no"), "c"),
    (TextCompare(HELPFUL, "=", "maybe"), "c"),
    (Match(HELPFUL, "LIKE", "n%"), "abd"),
    (IsNull(HELPFUL), "ef"),
    (IsNull(HELPFUL, True), "abcd"),
    (Not(TextCompare(HELPFUL, "=", "no")), "cef"),
]

LLM, TOOL = TextCompare(TYPE, "=", "LLM"), TextCompare(TYPE, "=", "TOOL")
SPANS = [
    (some(TOOL), "ad"),
    (some(LLM, TOOL), ""),
    (And((some(LLM), some(TOOL))), "ad"),
    (some(Or((TOOL, IsNull(TYPE)))), "abd"),
    (some(TextCompare(TYPE, "!=", "LLM")), "ad"),
    (some(Not(LLM)), "abd"),
    (Not(some(LLM)), ""),
    (Not(some(TOOL)), "bcef"),
    (some(IsNull(TYPE)), "b"),
    (some(IsNull(SpanText("name"))), "b"),
    (some(TextCompare(SpanText("status"), "=", "ERROR")), "a"),
    (some(In(TYPE, ("TOOL", "X"))), "ad"),
    (some(In(TYPE, ("TOOL", "LLM"), True)), ""),
    (some(Match(SpanText("name"), "LIKE", "tool\\%")), "a"),
    (some(Match(SpanText("name"), "LIKE", "elsewhere")), ""),
    (some(Match(SpanText("name"), "RLIKE", "^(call|odd)$")), "abc"),
    (some(Match(SpanText("content"), "LIKE", "%Größe%")), "b"),
    (some(Match(SpanText("content"), "ILIKE", "%GRÖSSE%")), ""),
    (some(Match(SpanText("content"), "ILIKE", "%FROM-event%")), "abe"),
    (
        some(Match(SpanText("content"), "LIKE", "%"), TextCompare(SpanText("status"), "=", "OK")),
        "abcdef",
    ),
    (some(Match(SpanText("content"), "LIKE", "%"), IsNull(SpanText("name"))), ""),
    (some(Match(SpanText("content"), "RLIKE", "^$")), ""),
    (some(TextCompare(SpanText("content"), "!=", "x"), IsNull(SpanText("name"))), ""),
    (some(IsNull(SpanText("content"))), "b"),
    (some(IsNull(SpanText("content"), True), IsNull(SpanText("name"))), ""),
    (some(NumberCompare(SpanNumber("duration_ms"), "<", 1)), "b"),
    (some(NumberCompare(SpanNumber("duration_ms"), "=", 0.3)), "b"),
    (some(NumberCompare(SpanNumber("duration_ms"), "!=", 1)), "b"),
    (some(Between(SpanNumber("duration_ms"), 0.3, 1)), "abcdef"),
    (some(IsNull(SpanNumber("duration_ms"))), "b"),
    (some(Not(NumberCompare(SpanNumber("duration_ms"), ">=", 0))), "b"),
    (some(NumberCompare(SpanText("name"), ">", 1)), ""),
]

ATTRIBUTES = [
    (attribute("=", "gpt-4"), "ac"),
    (attribute("!=", "gpt-4"), "abe"),
    (attribute("=", "from-event"), ""),
    (attribute("=", 'say "hi"'), "b"),
    (attribute("=", "Größe"), "b"),
    (attribute("=", "NaN"), "e"),
    (attribute("=", "a\ufffd\ufffdz"), "e"),
    (attribute("=", "x" * 1_000_000), "e"),
    (attribute("=", "raw", "model2"), "c"),
    (attribute("=", "5", "n"), "c"),
    (attribute("=", "a/b\\c", "path"), "bc"),
    (attribute("=", "v", 'a"b.c\\d'), "f"),
    (attribute("=", "empty key", ""), "f"),
    (attribute("=", "", "empty"), "b"),
    (attribute("=", "true", "ok"), "a"),
    (attribute("=", "0.7", "temperature"), "a"),
    (attribute("=", "12", "usage", "total"), "ac"),
    (attribute("=", "1.5", "usage", "parts", "0"), "a"),
    (attribute("=", "[100.0]", "usage"), "b"),
    (attribute("=", '{"total": "12"}', "usage"), "c"),
    (attribute("=", '{"z": 1}', "usage", "inner"), "a"),
    (attribute("=", "x", "usage", "missing"), ""),
    (some(IsNull(SpanAttribute(("nothing",)), True)), ""),
    (some(IsNull(MODEL, True)), "abce"),
    (some(IsNull(MODEL), LLM), "bcdf"),
    (some(IsNull(SpanAttribute(('a"b.c\\d',)), True)), "f"),
    (some(IsNull(SpanAttribute(('a"b.c\\d',)))), "abcde"),
    (some(Match(MODEL, "LIKE", "gpt%")), "ac"),
    (some(Match(MODEL, "LIKE", "%p_-4")), "ac"),
    (some(Match(MODEL, "LIKE", 'say "%')), "b"),
    (some(Match(MODEL, "LIKE", "%", True)), ""),
    (some(Match(MODEL, "ILIKE", "GPT-_")), "ac"),
    (some(Match(MODEL, "RLIKE", "^(gpt|none)")), "ac"),
    (some(Match(MODEL, "LIKE", "gpt%", True)), "abe"),
    (some(Match(SpanAttribute(("usage",)), "LIKE", '%"total": %12%')), "ac"),
    (some(Match(SpanAttribute(("usage",)), "LIKE", "%00.0]")), "b"),
    (some(Match(TEMPERATURE, "LIKE", "%fin%")), "e"),
    (some(In(MODEL, ("none", "gpt-4", 'say "hi"'))), "abc"),
    (some(In(MODEL, ("none", "gpt-4"), True)), "be"),
    (some(In(TEMPERATURE, (0.7, 3))), "a"),
    (some(In(TEMPERATURE, ("0.7", 1e308))), "ae"),
    (some(In(TEMPERATURE, (0.7,), True)), "e"),
    (some(In(MODEL, tuple(f"m{n}" for n in range(50)))), ""),
    (some(NumberCompare(TEMPERATURE, "=", 0.7), LLM), "a"),
    (some(NumberCompare(TEMPERATURE, "=", 0.7), TOOL), "a"),
    (some(NumberCompare(TEMPERATURE, "!=", 0.7)), "e"),
    (some(NumberCompare(TEMPERATURE, ">=", 1e308)), "e"),
    (some(NumberCompare(MODEL, "<", 1e308)), ""),
    (some(Between(TEMPERATURE, 0, 1)), "a"),
    (some(Between(TEMPERATURE, 0, 1, True)), "e"),
    (some(TextCompare(MODEL, "=", "none"), NumberCompare(TEMPERATURE, ">", 0.5), TOOL), "a"),
    (some(TextCompare(MODEL, "=", "gpt-4"), TOOL), ""),
    (some(Or((TextCompare(MODEL, "=", "none"), TextCompare(TYPE, "=", "X")))), "a"),
    (some(Or((TextCompare(MODEL, "=", "none"), IsNull(TYPE)))), "ab"),
    (some(Not(TextCompare(MODEL, "=", "gpt-4")), TextCompare(SpanText("name"), "=", "call")), "b"),
    (some(And((Not(And((LLM, TextCompare(MODEL, "=", "gpt-4")))), LLM))), "bcdef"),
    (Not(attribute("=", "gpt-4")), "bdef"),
]

SECONDS = SpanNumber("duration_ms")
COUNTS = [
    (CountSpans(None, "=", 2), "ac"),
    (CountSpans(LLM, ">", 1), "bcde"),
    (CountSpans(LLM, ">", 0), "abcdef"),
    (CountSpans(TOOL, ">=", 1), "ad"),
    (CountSpans(TOOL, "!=", 0), "ad"),
    (CountSpans(TOOL, "=", 0), "bcef"),
    (CountSpans(TOOL, "<", 1), "bcef"),
    (CountSpans(TOOL, "<=", 0), "bcef"),
    (CountSpans(LLM, "<", 2), "af"),
    (CountSpans(LLM, "!=", 2), "adef"),
    (CountSpans(LLM, ">=", 0), "abcdef"),
    (CountSpans(LLM, "<", 0), ""),
    (CountSpans(LLM, ">", -5), "abcdef"),
    (CountSpans(LLM, "<", 10**30), "abcdef"),
    (CountSpans(LLM, "=", -(10**30)), ""),
    (CountSpans(TextCompare(MODEL, "=", "gpt-4"), "=", 1), "ac"),
    (CountSpans(IsNull(MODEL, True), ">", 1), "abe"),
    (Not(CountSpans(LLM, ">", 1)), "af"),
    (Or((CountSpans(LLM, ">", 3), CountSpans(TOOL, "=", 1), text("trace_id", "=", "f"))), "adf"),
    (AggregateSpans("sum", SECONDS, None, "=", 2), "ac"),
    (AggregateSpans("sum", SECONDS, None, "=", 1.3), "b"),
    (AggregateSpans("avg", SECONDS, None, "=", 0.65), "b"),
    (AggregateSpans("avg", SECONDS, None, "!=", 0.65), "acdef"),
    (AggregateSpans("min", SECONDS, None, "<", 0.5), "b"),
    (AggregateSpans("max", SECONDS, TOOL, "<=", 1), "ad"),
    (AggregateSpans("max", SECONDS, IsNull(TYPE), ">", -1), ""),
    (AggregateSpans("sum", TEMPERATURE, None, "=", 1.4), "a"),
    (AggregateSpans("sum", TEMPERATURE, TOOL, "=", 0.7), "a"),
    (AggregateSpans("avg", TEMPERATURE, None, "<", 1), "a"),
    (AggregateSpans("min", TEMPERATURE, None, ">=", 1e308), "e"),
    (AggregateSpans("sum", SpanAttribute(("huge",)), None, ">", 1e308), "e"),
    (AggregateSpans("avg", SpanAttribute(("huge",)), None, "=", 1e308), "e"),
    (AggregateSpans("sum", SpanAttribute(("usage", "total")), None, ">=", 12), "ac"),
    (AggregateSpans("max", SpanAttribute(("usage", "parts", "0")), LLM, "=", 1.5), "a"),
    (AggregateSpans("max", SpanAttribute(('a"b.c\\d',)), None, "!=", 0), ""),
    (AggregateSpans("sum", MODEL, None, "!=", 0), ""),
    (Not(AggregateSpans("sum", TEMPERATURE, None, "=", 1.4)), "bcdef"),
]

CASES = [
    *ALGEBRA,
    *TRACE_TEXTS,
    *TRACE_NUMBERS,
    *KEYED,
    *SYNTHESISED,
    *LINKS,
    *ASSESSMENTS,
    *SPANS,
    *ATTRIBUTES,
    *COUNTS,
]


def _name(value: object) -> str:
    try:
        shown = str(value)
    except ValueError:  # a number of more than 4,300 digits
        return "long number"
    return shown if len(shown) < 200 else shown[:200] + "..."


@pytest.mark.parametrize("shape", ["set", "probe"])
@pytest.mark.parametrize(("node", "expected"), CASES, ids=_name)
def test_the_matching_traces(
    world: psycopg.Connection[Any], node: Node, expected: str, shape: str
) -> None:
    assert found(world, node, shape=shape) == expected


@pytest.mark.parametrize("shape", ["set", "probe"])
@pytest.mark.parametrize(
    ("node", "scope", "expected"),
    [
        # Sessions reach as far as the requested experiments, and so do their carriers.
        (TextCompare(HELPFUL, "=", "no"), [101], "ab"),
        (TextCompare(HELPFUL, "=", "no"), [102], ""),
        (TextCompare(HELPFUL, "=", "no"), [101, 102], "abd"),
        (IsNull(HELPFUL), [102], "def"),
        (CountSpans(LLM, "<", 2), [101], "a"),
        (CountSpans(LLM, ">", 1), [102], "de"),
        (attribute("=", "gpt-4"), [102], ""),
        (Not(attribute("=", "gpt-4")), [101], "b"),
        (Not(Or((attribute("=", "gpt-4"), CountSpans(LLM, ">", 1)))), [101, 102], "f"),
        (And(()), [], ""),
    ],
    ids=_name,
)
def test_the_scope(
    world: psycopg.Connection[Any], node: Node, scope: list[int], expected: str, shape: str
) -> None:
    assert found(world, node, scope, shape) == expected


@pytest.mark.parametrize(
    "node",
    [
        number("timestamp_ms", ">", 2**63),
        number("total_tokens", "=", -(2**63) - 1),
        number("total_cost", ">", 10**400),
        NumberCompare(TEMPERATURE, ">", float("inf"))
        and some(NumberCompare(TEMPERATURE, ">", 10**309)),
        AggregateSpans("sum", SECONDS, None, ">", 10**5000),
    ],
    ids=_name,
)
def test_a_number_out_of_range(node: Node) -> None:
    with pytest.raises(FilterError, match="out of range"):
        rawsql.compile_filter(
            node, rawsql.Params(), schema="public", scope=None, now_ms=NOW, shape="set"
        )


@pytest.mark.parametrize("op", ["LIKE", "ILIKE", "RLIKE"])
def test_reserved_metadata_has_no_patterns(op: str) -> None:
    with pytest.raises(FilterError, match=f"Comparator '{op}' is not supported for reserved"):
        rawsql.compile_filter(
            Match(USAGE, op, "%"),
            rawsql.Params(),
            schema="public",
            scope=None,
            now_ms=NOW,
            shape="set",
        )


def test_values_and_keys_never_become_sql() -> None:
    evil = "x'); drop table spans; --"
    node = And(
        (
            text("name", "=", evil),
            TextCompare(Tag(evil), "=", evil),
            TextCompare(Assessment("feedback", evil), "=", evil),
            some(TextCompare(SpanAttribute((evil, evil)), "=", evil)),
            some(Match(SpanText("name"), "LIKE", evil)),
        )
    )
    for shape in ("set", "probe"):
        params = rawsql.Params()
        condition = rawsql.compile_filter(
            node, params, schema='"my schema"', scope=[1], now_ms=NOW, shape=shape
        )
        assert "drop" not in condition
        assert '"my schema".spans' in condition
        assert evil in params.values


class TestPatterns:
    """Patterns are checked before any row is looked at."""

    @pytest.mark.parametrize(
        ("match", "reason"),
        [
            (Match(ENV, "LIKE", "x\\"), "must not end with escape"),
            (Match(ENV, "ILIKE", "\\\\\\"), "must not end with escape"),
            (Match(ENV, "RLIKE", "("), "parentheses"),
            (Match(ENV, "RLIKE", "a{2,1}"), "invalid repetition count"),
        ],
    )
    def test_refused(self, world: psycopg.Connection[Any], match: Match, reason: str) -> None:
        for node in (match, Not(match), some(match), CountSpans(match, ">", 1)):
            with pytest.raises(FilterError, match=reason):
                rawsql.check_patterns(_Plpy(world), node)

    def test_accepted(self, world: psycopg.Connection[Any]) -> None:
        node = Or((Match(ENV, "LIKE", "x\\\\"), Match(ENV, "RLIKE", "^[[:alpha:]]+$")))
        rawsql.check_patterns(_Plpy(world), node)


class _Plpy:
    """As much of plpy as `rawsql.check_patterns` uses."""

    SPIError = psycopg.Error

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def prepare(self, query: str, types: list[str]) -> str:
        return query.replace("$1", "%s")

    def execute(self, plan: str, values: list[str]) -> list[Any]:
        return self._connection.execute(plan, values).fetchall()
