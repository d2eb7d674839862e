"""Strategies for worlds and filters that are out to hurt.

Each example has a small `Palette` of keys, texts and numbers, picked from long
lists of awkward ones.  The world is painted with it, and most predicates of the
filters are about facts of that world, so they hit and miss about equally often.

A filter is made as a tree as it is *written*: plain span predicates stand where
they are.  `normal_form` applies the scope rule of docs/language.md to it,
independently of the parser, and `written` spells it as text, in one of the many
ways there are, independently of the printer.

`scenarios` is the hypothesis strategy.  Hypothesis chooses a seed and nothing
else: of examples with thousands of choices it would make few and similar ones.
`reduction.py` makes a failing example small.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypeVar

from hypothesis import strategies as st
from insights_engine.language import storage, tree

from tests.semantics.world import (
    COST_COLUMNS,
    SESSION_METADATA,
    TOKEN_COLUMNS,
    Assessment,
    Experiment,
    Span,
    Trace,
    World,
    content,
    storable,
)

T = TypeVar("T")

# ------------------------------------------------------------------------ palettes

KEYS = (
    "k",
    "env",
    "K",
    "name",
    "run_id",
    "text",
    "prompt",
    "timestamp",
    "status",
    "a.b",
    "it's",
    'q"q',
    "back`tick",
    "sp ace",
    "br[0]",
    "br']['x",
    "back\\slash",
    "%",
    "k_",
    "-",
    "0",
    "日本",
    "e\u0301",
    "select",
    "AND",
    "attributes",
    "mlflow.chat.tokenUsage",
    "'; drop table spans; --",
    "line\nbreak",
    "$1",
)

TEXTS = (
    "",
    "a",
    "A",
    "prod",
    "production",
    "gpt-4",
    "GPT-4o",
    "5",
    "5.0",
    "05",
    " 5",
    "5 ",
    "+5",
    "-1",
    ".5",
    "5.",
    "1e3",
    "1E+03",
    "1000",
    "1_000",
    "1,000",
    "٥",
    "0x10",
    "5ms",
    "9007199254740993",
    "1e400",
    "1" * 400,
    "NaN",
    "Infinity",
    "-Infinity",
    "inf",
    "true",
    "false",
    "True",
    "null",
    "None",
    "yes",
    "it's",
    "''",
    'say "hi"',
    '"quoted"',
    "100%",
    "50%_off",
    "a_b",
    "back\\slash",
    "\\",
    "\\\\",
    "\\u0041",
    "%",
    "_",
    "two\nlines",
    "end\n",
    "\t",
    "\x01",
    "{}",
    '{"a": 1}',
    '{"a":{"b":[1,"x"]}}',
    "[1, 2]",
    '["a", "b"]',
    "Größe",
    "GRÖSSE",
    "größe",
    "ẞ",
    "İstanbul",
    "ΣΑΣ",
    "日本語",
    "😀",
    "é",
    "e\u0301",
    "\u200b",
    "\u2028",
    "\ufeff5",
    "'; drop table trace_info; --",
    "select",
    " OR 1=1",
    "$1",
    "$$",
    ":x",
    "{0}",
    "%s",
    "a(b",
    "[a]",
    "^$",
    ".*",
    "x" * 300,
)

UNHOLDABLE_TEXTS = (
    "\x00",
    "\x00\x00",
    "nul\x00nul\x00",
    "\ud800\ud800!",
    "\ud800",
    "lone \udc00 \ud83d",
    "\ud83d\ude00",
    "\\u0000",
    "\\ud800",
)
"""Texts that JSON can escape and PostgreSQL cannot hold (or that look like such escapes)."""

NUMBERS: tuple[int | float, ...] = (
    0,
    1,
    -1,
    2,
    3,
    5,
    5.0,
    0.5,
    2.5,
    -0.0,
    1000,
    1e3,
    0.1,
    0.30000000000000004,
    1e-7,
    1e300,
    1.7e308,
    -1.7e308,
    5e-324,
    2**53,
    2**53 + 1,
    1_700_000_000_000,
)

SPECIAL_VALUES: tuple[Any, ...] = (
    True,
    False,
    None,
    float("nan"),
    float("inf"),
    float("-inf"),
    10**400,
    10**25,
    {},
    [],
    {"a": 1},
    {"a": {"b": [1, "x", None]}, "0": "zero"},
    {"a": "5", "b": True, "k": None},
    [1, 2],
    ["a", {"k": "v", "a": 2.5}],
    [[[]]],
    {"a": "\x00", "\x00": "a"},
    {"größe": "日本"},
    ["é", "\ud800\udc00\ud800"],
    '{"a": "5"}',
    '"\\ud800"',
)

BROKEN_CONTENT = (
    "",
    " ",
    "not json",
    "null",
    "5",
    '"text"',
    "[]",
    "{}",
    '{"attributes": null}',
    '{"attributes": 5}',
    '{"attributes": "{\\"k\\": 1}"}',
    '{"attributes": ["k"]}',
    '{"attributes": {"k": "a"}',
    '{"attributes": {"k": "a"}} trailing',
    "{'attributes': {'k': 'a'}}",
    '\ufeff{"attributes": {"k": "a"}}',
    '{"attributes": {"k": "5", "k": "a"}, "name": "prod"}',
    '{"attributes": {"k": "5"}, "attributes": {"k": "a"}}',
    '{"attributes": {"k": "a"}, "attributes": null}',
    '{"Attributes": {"k": "a"}, "k": "a"}',
    '{"attributes": {"k": NaN, "env": Infinity, "K": -Infinity}}',
    '{"attributes": {"k": 1e400, "env": -1e400, "K": 1E2}}',
    '{"attributes": {"k": "\\u0000", "env": "a\\u0000b", "K": "\\ud800"}}',
    '{"attributes": {"k": "\\u0061", "env": "\\"\\\\u0061\\"", "K": "\\ud83d\\ude00"}}',
    '{"attributes": {"k": "\\x"}}',
    '{"attributes": {"k": "tab\tin a string"}}',
    '{"attributes": {"k": ' + "9" * 5000 + "}}",
    '{"attributes": {"k": "' + "9" * 5000 + '"}}',
    '{"attributes": {"k": ' + "[" * 50 + "]" * 50 + "}}",
    '{"attributes": {"k": ' + "[" * 20000 + "]" * 20000 + "}}",
    '{"attributes": {"env": "a", "k": "' + "[" * 20000 + '"}}',
    '{"attributes": {"k": "' + "x" * 1_000_000 + 'prod"}}',
)

SPAN_TYPES = ("LLM", "TOOL", "CHAIN", "llm")
STATUSES = ("OK", "ERROR", "IN_PROGRESS", "STATE_UNSPECIFIED")
SPAN_STATUSES = ("OK", "ERROR", "UNSET")
RUNS = ("run1", "run2", "0123456789abcdef0123456789abcdef")
PROMPTS = ("qa/1", "qa/2", "it's/1")
ISSUES = ("iss-1", "iss-2")
SESSIONS = ("s1", "s2")
DURATIONS_NS = (0, 1, 500_000, 1_000_000, 2_500_000, 3_600_000_000_000)
EPOCH_MS = 1_700_000_000_000  # 2023-11-14T22:13:20Z
HOUR_MS = 3_600_000
EXPERIMENTS = (Experiment(1), Experiment(2), Experiment(3, deleted=True))


@dataclass(frozen=True)
class Palette:
    """What one example is painted with."""

    keys: tuple[str, ...]
    texts: tuple[str, ...]
    numbers: tuple[int | float, ...]
    values: tuple[Any, ...]
    now_ms: int

    @property
    def timestamps(self) -> tuple[int, ...]:
        recent = tuple(self.now_ms - hours * HOUR_MS for hours in (1, 2, 48))
        return (EPOCH_MS, EPOCH_MS + 1, EPOCH_MS + 20_000, 0, 2**53, 2**53 + 1, *recent)


def palette_of(dice: Random) -> Palette:
    """A handful of everything; ``k`` is always among the keys."""
    keys = dice.sample(KEYS, 2)
    texts = dice.sample(TEXTS, dice.randint(3, 6))
    numbers = dice.sample(NUMBERS, dice.randint(2, 4))
    values = dice.sample(SPECIAL_VALUES + UNHOLDABLE_TEXTS, dice.randint(2, 4))
    return Palette(
        keys=tuple(dict.fromkeys(["k", *keys])),
        texts=tuple(texts),
        numbers=tuple(numbers),
        values=(*texts[:2], *numbers[:2], *values),
        now_ms=int(time.time() * 1000),
    )


def one_in(dice: Random, n: int) -> bool:
    """True once in ``n`` times."""
    return dice.randrange(n) == 0


def pick(dice: Random, options: Sequence[T]) -> T:
    """One of ``options``."""
    return options[dice.randrange(len(options))]


def some(dice: Random, options: Sequence[T], most: int, least: int = 0) -> list[T]:
    """Some of ``options``, each at most once."""
    return dice.sample(options, min(dice.randint(least, most), len(options)))


# -------------------------------------------------------------------------- worlds


def world_of(dice: Random, palette: Palette) -> World:
    """Up to eight traces in three experiments."""
    traces = (_trace(dice, palette) for _ in range(pick(dice, (3, 5, 8, 8))))
    named = (replace(trace, trace_id=f"tr-{index}") for index, trace in enumerate(traces))
    return World(EXPERIMENTS, tuple(named))


def _trace(dice: Random, palette: Palette) -> Trace:
    metadata: dict[str, str | None] = _rows(dice, palette)
    tags = _rows(dice, palette)
    if one_in(dice, 3):
        metadata["mlflow.trace.user"] = pick(dice, palette.texts)
    if one_in(dice, 3):
        metadata["mlflow.sourceRun"] = pick(dice, RUNS)
    if one_in(dice, 5):
        tags[pick(dice, palette.keys)] = None
    counts = [int(n) for n in palette.numbers if n == int(n) and abs(n) < 2**60] + [7]
    maybe_texts = (None, *palette.texts)
    client_request_id = pick(dice, maybe_texts)
    return Trace(
        trace_id="",
        experiment_id=pick(dice, (1, 1, 2, 2, 3)),
        timestamp_ms=pick(dice, palette.timestamps),
        execution_time_ms=pick(dice, (None, 0, 1, *counts)),
        status=pick(dice, STATUSES),
        client_request_id=client_request_id and client_request_id[:50],
        request_preview=pick(dice, maybe_texts),
        response_preview=pick(dice, maybe_texts),
        name=pick(dice, maybe_texts),
        session_id=pick(dice, (None, *SESSIONS, "s1")),
        tokens=_numbers(dice, TOKEN_COLUMNS, counts),
        cost=_numbers(dice, COST_COLUMNS, [float(n) + 0.0 for n in palette.numbers]),
        tags=tags,
        metadata=metadata,
        spans=tuple(_span(dice, palette, f"span-{n}") for n in range(pick(dice, (0, 1, 2, 4)))),
        assessments=tuple(_assessment(dice, palette) for _ in range(pick(dice, (0, 1, 2, 4)))),
        runs=_links(dice, RUNS),
        prompts=_links(dice, PROMPTS),
    )


def _rows(dice: Random, palette: Palette) -> dict[str, str | None]:
    return {key: pick(dice, palette.texts) for key in some(dice, palette.keys, 3)}


def _numbers(dice: Random, columns: Sequence[str], numbers: Sequence[Any]) -> dict[str, Any]:
    names = some(dice, columns, 3) if one_in(dice, 2) else ()
    return {name: pick(dice, numbers) for name in names}


def _links(dice: Random, targets: Sequence[str]) -> tuple[str, ...]:
    return tuple(some(dice, targets, 2)) if one_in(dice, 3) else ()


def _span(dice: Random, palette: Palette, span_id: str) -> Span:
    start = pick(dice, palette.timestamps) * 1_000 if one_in(dice, 4) else EPOCH_MS * 1_000_000
    duration = pick(dice, (None, *DURATIONS_NS))
    return Span(
        span_id,
        _content(dice, palette),
        name=pick(dice, (None, *palette.texts)),
        type=pick(dice, (None, *SPAN_TYPES)),
        status=pick(dice, SPAN_STATUSES),
        start_ns=start,
        end_ns=None if duration is None else start + duration,
        experiment_id=2 if one_in(dice, 10) else None,
    )


def _content(dice: Random, palette: Palette) -> str:
    if one_in(dice, 10):
        return ""  # archived
    if one_in(dice, 6):
        # The very long ones are rare, for the sake of speed.
        broken = pick(dice, BROKEN_CONTENT)
        return broken if len(broken) < 10_000 or one_in(dice, 4) else ""
    values = {key: pick(dice, palette.values) for key in some(dice, palette.keys, 3)}
    encoding = pick(dice, ("mlflow", "mlflow", "plain", "ascii"))
    if encoding == "plain":
        return content(values)
    stored = {k: json.dumps(v, ensure_ascii=encoding == "ascii") for k, v in values.items()}
    if encoding == "ascii":
        return json.dumps({"name": "span", "attributes": stored})
    return content(stored)


def _assessment(dice: Random, palette: Palette) -> Assessment:
    kind = pick(dice, ("feedback", "feedback", "feedback", "expectation", "issue"))
    if kind == "issue":
        return Assessment("issue", pick(dice, ISSUES), '{"issue_name": "a"}', not one_in(dice, 3))
    value = pick(dice, palette.values)
    stored = storable(value) if one_in(dice, 8) else json.dumps(value)
    return Assessment(
        kind=kind,
        name=pick(dice, palette.keys[:2]),
        value="not json" if one_in(dice, 20) else stored,
        valid=not one_in(dice, 4),
        metadata=pick(dice, (None, SESSION_METADATA, '{"mlflow.trace.session": null}', "{}")),
    )


# ------------------------------------------------------------------------- filters

TEXT_FORMS = ("=", "=", "!=", "LIKE", "LIKE", "IN", "NULL")
FREE_FORMS = (*TEXT_FORMS, "number", "number", "BETWEEN")
"""Text fields whose values users choose freely are compared with numbers, too."""
CONTENT_FORMS = ("LIKE", "LIKE", "LIKE", "NULL")
USAGE_FORMS = ("=", "!=", "NULL")
NUMBER_FORMS = ("number", "number", "BETWEEN", "NUMBERS", "NULL")
PLAIN_TEXT_FIELDS = (
    "client_request_id",
    "name",
    "session_id",
    "user",
    "request_preview",
    "response_preview",
)
OPERATORS = ("=", "!=", "<", "<=", ">", ">=")

Fact = tuple[Any, str]
"""A field and a text that it has somewhere in the world."""


@dataclass(frozen=True)
class Subject:
    """What filters are about: facts of a world by kind, and the palette for the rest."""

    palette: Palette
    trace_facts: dict[str, list[Fact]]
    span_facts: dict[str, list[Fact]]
    totals: dict[Any, list[float]]


def subject(palette: Palette, world: World) -> Subject:
    """Gathers the facts of a world."""
    trace_facts: dict[str, list[Fact]] = {}
    span_facts: dict[str, list[Fact]] = {}
    totals: dict[Any, list[float]] = {}
    for trace in world.traces:
        for field, text in _facts_of_trace(trace):
            trace_facts.setdefault(type(field).__name__, []).append((field, text))
        summed: dict[Any, list[float]] = {}
        for span in trace.spans:
            for field, text in _facts_of_span(span):
                kind = getattr(field, "name", "attribute")
                span_facts.setdefault(kind, []).append((field, text))
                if not isinstance(field, tree.SpanText):
                    for number in _numbers_in((text,)):
                        summed.setdefault(field, []).append(float(number))
        for field, numbers in summed.items():
            if max(map(abs, numbers)) < 1e15:
                totals.setdefault(field, []).extend((sum(numbers), sum(numbers) / len(numbers)))
    return Subject(palette, trace_facts, span_facts, totals)


def _facts_of_trace(trace: Trace) -> list[Fact]:
    facts: list[Fact] = [(tree.Tag(key), value or "") for key, value in trace.tags.items()]
    facts += [(tree.Metadata(k), v or "") for k, v in trace.metadata.items() if "." not in k]
    for name in (*PLAIN_TEXT_FIELDS, "trace_id", "status", "experiment_id"):
        value = trace.metadata.get("mlflow.trace.user") if name == "user" else None
        value = value if name == "user" else getattr(trace, name)
        if value is not None:
            facts.append((tree.TraceText(name), str(value)))
    facts += [(tree.TraceText("run_id"), run) for run in trace.runs]
    if "mlflow.sourceRun" in trace.metadata:
        facts.append((tree.TraceText("run_id"), str(trace.metadata["mlflow.sourceRun"])))
    facts += [(tree.TraceText("prompt"), prompt) for prompt in trace.prompts]
    for assessment in trace.assessments:
        if assessment.kind == "issue":
            facts.append((tree.Issue(), assessment.name))
            continue
        for kind in (assessment.kind, "assessment"):
            field = tree.Assessment(kind, assessment.name)
            facts.append((field, assessment.value))
            facts.append((field, _readable(_loaded(assessment.value))))
    for columns, key in ((trace.tokens, "tokenUsage"), (trace.cost, "cost")):
        facts += [(tree.TraceNumber(name), repr(number)) for name, number in columns.items()]
        if columns:
            order = TOKEN_COLUMNS if key == "tokenUsage" else COST_COLUMNS
            text = json.dumps({name: columns[name] for name in order if name in columns})
            facts.append((tree.Metadata(f"mlflow.trace.{key}"), text))
    facts.append((tree.TraceNumber("timestamp_ms"), repr(trace.timestamp_ms)))
    end = trace.timestamp_ms + (trace.execution_time_ms or 0)
    facts.append((tree.TraceNumber("end_time_ms"), repr(end)))
    facts.append((tree.TraceNumber("span_count"), repr(len(trace.spans))))
    if trace.execution_time_ms is not None:
        facts.append((tree.TraceNumber("execution_time_ms"), repr(trace.execution_time_ms)))
    return facts


def _facts_of_span(span: Span) -> list[Fact]:
    columns = (("name", span.name), ("type", span.type), ("status", span.status))
    facts: list[Fact] = [(tree.SpanText(n), text) for n, text in columns if text is not None]
    if span.end_ns is not None:
        milliseconds = (span.end_ns - span.start_ns) / 1e6
        facts.append((tree.SpanNumber("duration_ms"), repr(milliseconds)))
    if span.content:
        facts.append((tree.SpanText("content"), span.content[:60]))
        facts.append((tree.SpanText("content"), span.content[-30:]))
    body = _loaded(span.content)
    stored = body.get("attributes") if isinstance(body, dict) else None
    for key, value in (stored if isinstance(stored, dict) else {}).items():
        if isinstance(value, str):
            loaded = _loaded(value)
            value = value if loaded is _BROKEN else loaded
        facts += _facts_of_value((key,), value)
    return facts


def _facts_of_value(path: tuple[str, ...], value: Any) -> list[Fact]:
    if path[-1] != _readable(path[-1]):
        return []  # no filter can hold such a key
    facts = [(tree.SpanAttribute(path), _readable(value))]
    if len(path) < 4:
        children: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
        children = enumerate(value) if isinstance(value, list) else children
        for step, child in children:
            facts += _facts_of_value((*path, str(step)), child)
    return facts


_BROKEN = object()


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _BROKEN


def _readable(value: Any) -> str:
    """About the text that a value compares as; being right here only makes more hits."""
    if value is _BROKEN:
        return "not json"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", text)


def _numbers_in(texts: Sequence[str]) -> list[int | float]:
    found = (_loaded(text) for text in texts if len(text) < 30)
    return [
        n
        for n in found
        if isinstance(n, int | float) and n not in (True, False) and math.isfinite(n)
    ]


def filter_of(dice: Random, about: Subject, depth: int = 3) -> tree.Node:
    """A filter as it is written (see `normal_form`), at most ``depth`` + 1 levels deep."""
    kinds = ("leaf", "leaf", "leaf", "leaf", "leaf", "and", "and", "or", "not")
    kind = pick(dice, kinds) if depth else "leaf"
    if kind == "leaf":
        return _leaf(dice, about)
    if kind == "not":
        return tree.Not(filter_of(dice, about, depth - 1))
    items = tuple(filter_of(dice, about, depth - 1) for _ in range(pick(dice, (2, 2, 3))))
    return tree.And(items) if kind == "and" else tree.Or(items)


def _leaf(dice: Random, about: Subject) -> tree.Node:
    kind = pick(dice, ("trace", "trace", "trace", "span", "span", "any", "count", "aggregate"))
    if kind == "trace":
        return _trace_predicate(dice, about)
    if kind == "span":
        return _span_predicate(dice, about)
    if kind == "any":
        return tree.AnySpan(_span_condition(dice, about, 2))
    condition = None if one_in(dice, 3) else _span_condition(dice, about, 1)
    op = pick(dice, OPERATORS)
    if kind == "count":
        return tree.CountSpans(condition, op, pick(dice, (1, 0, 2, 3)))
    function = pick(dice, ("sum", "avg", "min", "max"))
    options: Sequence[Any] = (*about.palette.numbers, 0, 2.5)
    if about.totals and not one_in(dice, 4):
        field = pick(dice, tuple(about.totals))
        options = (*about.totals[field], *options[:1])
    else:
        field = tree.SpanNumber("duration_ms") if one_in(dice, 3) else _attribute(dice, about)
    return tree.AggregateSpans(function, field, condition, op, pick(dice, options))


def _span_condition(dice: Random, about: Subject, depth: int) -> tree.Node:
    kind = pick(dice, ("leaf", "leaf", "leaf", "and", "or", "not")) if depth else "leaf"
    if kind == "leaf":
        return _span_predicate(dice, about)
    if kind == "not":
        return tree.Not(_span_condition(dice, about, depth - 1))
    items = tuple(_span_condition(dice, about, depth - 1) for _ in range(2))
    return tree.And(items) if kind == "and" else tree.Or(items)


# Three in four predicates are about a fact, the others about anything.


def _trace_predicate(dice: Random, about: Subject) -> tree.Predicate:
    palette = about.palette
    if about.trace_facts and not one_in(dice, 4):
        field, text = pick(dice, about.trace_facts[pick(dice, tuple(about.trace_facts))])
        return _predicate_on(dice, palette, field, (text, text, text, *palette.texts[:2]))
    kind = pick(dice, ("text", "tag", "metadata", "assessment", "number", "run", "issue", "usage"))
    if kind == "run":
        return _predicate_on(dice, palette, tree.TraceText("run_id"), (*RUNS, ""))
    if kind == "issue":
        return _predicate_on(dice, palette, tree.Issue(), (*ISSUES, "iss-9"))
    if kind == "usage":
        usage = tree.Metadata(pick(dice, ("mlflow.trace.tokenUsage", "mlflow.trace.cost")))
        return _predicate_on(dice, palette, usage, ("{}", '{"total_tokens": 7}', *palette.texts))
    field = {
        "text": tree.TraceText(pick(dice, PLAIN_TEXT_FIELDS)),
        "tag": tree.Tag(pick(dice, palette.keys)),
        "metadata": tree.Metadata(pick(dice, palette.keys)),
        "assessment": tree.Assessment(
            pick(dice, ("feedback", "expectation", "assessment")), pick(dice, palette.keys)
        ),
        "number": pick(dice, _NUMBERS),
    }[kind]
    return _predicate_on(dice, palette, field, palette.texts)


_NUMBERS = [row.field for row in storage.TRACE.values() if isinstance(row.field, tree.TraceNumber)]


def _span_predicate(dice: Random, about: Subject) -> tree.Predicate:
    palette = about.palette
    if about.span_facts and not one_in(dice, 4):
        kinds = tuple(about.span_facts) + ("attribute",) * ("attribute" in about.span_facts) * 3
        field, text = pick(dice, about.span_facts[pick(dice, kinds)])
        return _predicate_on(dice, palette, field, (text, text, text, *palette.texts[:2]))
    kind = pick(dice, ("attribute", "attribute", "name", "type", "status", "content", "duration"))
    if kind == "attribute":
        return _predicate_on(dice, palette, _attribute(dice, about), (*palette.texts, "a"))
    if kind == "duration":
        return _predicate_on(dice, palette, tree.SpanNumber("duration_ms"), ())
    texts = {"type": SPAN_TYPES, "status": SPAN_STATUSES}.get(kind, palette.texts)
    return _predicate_on(dice, palette, tree.SpanText(kind), texts)


def _attribute(dice: Random, about: Subject) -> tree.SpanAttribute:
    path = [pick(dice, about.palette.keys)]
    while len(path) < 4 and one_in(dice, 4):
        path.append(pick(dice, ("a", "b", "0", "1", "k", "größe", "-1", "²", "9" * 30)))
    return tree.SpanAttribute(tuple(path))


def _forms(field: Any) -> Sequence[str]:
    """The kinds of predicates that the language has for a field."""
    if isinstance(field, tree.TraceText):
        free = field.name in ("experiment_id", "session_id", "user")
        return FREE_FORMS if free else TEXT_FORMS
    if isinstance(field, tree.SpanText):
        return CONTENT_FORMS if field.name == "content" else TEXT_FORMS
    if isinstance(field, tree.Metadata) and field.key.startswith("mlflow.trace."):
        return USAGE_FORMS
    return TEXT_FORMS if isinstance(field, tree.Issue) else FREE_FORMS


def _predicate_on(
    dice: Random, palette: Palette, field: Any, texts: Sequence[str]
) -> tree.Predicate:
    """Any predicate on ``field``, with values from ``texts`` if it has texts."""
    numbers: list[Any] = [*_numbers_in(texts), *palette.numbers]
    if isinstance(field, tree.TraceNumber):
        if field.name in ("timestamp_ms", "end_time_ms"):
            offsets = [tree.Now(-minutes * 60_000) for minutes in (30, 90, 1440, 0)]
            numbers = [*_numbers_in(texts), *palette.timestamps, *offsets, 1.7e12]
        elif not field.name.endswith("cost"):
            numbers = [n for n in numbers if abs(n) < 2**60]
        return _number_predicate(dice, field, [*numbers, 1, 0.5], NUMBER_FORMS)
    if isinstance(field, tree.SpanNumber):
        return _number_predicate(dice, field, [*numbers, 0, 0.5], NUMBER_FORMS)
    forms = _forms(field)
    form = pick(dice, forms)
    if form == "NULL":
        return tree.IsNull(field, one_in(dice, 2))
    if form in ("number", "BETWEEN"):
        return _number_predicate(dice, field, numbers, (form,))
    if form == "LIKE":
        op = pick(dice, ("LIKE", "LIKE", "ILIKE", "RLIKE"))
        text = pick(dice, texts)
        pattern = _regex(dice, text) if op == "RLIKE" else _like_pattern(dice, text)
        return tree.Match(field, op, pattern, one_in(dice, 3))
    texts = [text for text in texts if len(text) < 1000] or [""]
    if field == tree.TraceText("prompt"):
        texts = [text for text in texts if text in PROMPTS] or PROMPTS
    if form == "IN":
        values: list[Any] = some(dice, texts, 3, least=1)
        if forms is FREE_FORMS and one_in(dice, 3):
            values.append(pick(dice, numbers))
        return tree.In(field, tuple(values), one_in(dice, 3))
    return tree.TextCompare(field, form, pick(dice, texts))


def _number_predicate(
    dice: Random, field: Any, numbers: Sequence[Any], forms: Sequence[str]
) -> tree.Predicate:
    form = pick(dice, forms)
    if form == "NULL":
        return tree.IsNull(field, one_in(dice, 2))
    if form == "BETWEEN":
        return tree.Between(field, pick(dice, numbers), pick(dice, numbers), one_in(dice, 3))
    if form == "NUMBERS":
        values = some(dice, numbers, 3, least=1)
        return tree.In(field, tuple(values), one_in(dice, 3))
    return tree.NumberCompare(field, pick(dice, OPERATORS), pick(dice, numbers))


def _like_pattern(dice: Random, text: str) -> str:
    shape = pick(dice, ("%part%", "prefix%", "%suffix", "exact", "raw", "_", "case", "%", "%a%b%"))
    plain = re.sub(r"([\\%_])", r"\\\1", text)
    middle = re.sub(r"([\\%_])", r"\\\1", text[len(text) // 3 : len(text) // 3 + 4])
    pattern = {
        "%part%": f"%{middle}%",
        "prefix%": re.sub(r"([\\%_])", r"\\\1", text[:2]) + "%",
        "%suffix": "%" + re.sub(r"([\\%_])", r"\\\1", text[-2:]),
        "exact": plain,
        "raw": text,
        "_": "_" + re.sub(r"([\\%_])", r"\\\1", text[1:]),
        "case": plain.swapcase(),
        "%": "%",
        "%a%b%": "%" + "%".join(re.sub(r"([\\%_])", r"\\\1", c) for c in text[:4]) + "%",
    }[shape]
    trailing = len(pattern) - len(pattern.rstrip("\\"))
    return pattern + "\\" * (trailing % 2)


def _regex(dice: Random, text: str) -> str:
    """A POSIX expression from the part where PostgreSQL and Python agree."""
    characters = [_quoted(c) for c in text[:6]]
    shape = pick(dice, ("part", "^", "$", "^$", "dot", "star", "or", "class", "not", "{}"))
    body = "".join(characters)
    if shape == "part" or not characters:
        return "".join(characters[1:4]) or "a*"
    last = characters[-1]
    return {
        "^": f"^{body}",
        "$": f"{body}$",
        "^$": f"^{body}$",
        "dot": f"{characters[0]}.",
        "star": f"^{body}*.+$",
        "or": f"^({body}|prod|{last})+$",
        "class": "[a-f0-9]",
        "not": "^[^a-z%_]+$",
        "{}": f"({last}){{1,2}}",
    }[shape]


def _quoted(character: str) -> str:
    return "\\" + character if character in "\\^$.[]|()?*+{}" else character


# --------------------------------------------------------------------- normal form


def normal_form(node: tree.Node) -> tree.Node:
    """A written filter with its span predicates gathered into scopes."""
    if _is_pure_span(node):
        return tree.AnySpan(node)
    if isinstance(node, tree.Not):
        return tree.Not(normal_form(node.item))
    if isinstance(node, tree.Or):
        return tree.Or(tuple(normal_form(item) for item in node.items))
    if isinstance(node, tree.And):
        spans = tuple(item for item in node.items if _is_pure_span(item))
        others = [normal_form(item) for item in node.items if not _is_pure_span(item)]
        if spans:
            others.append(tree.AnySpan(tree.And(spans)))
        return tree.And(tuple(others))
    return node


def conjunction(*filters: tree.Node) -> tree.Node:
    """Written filters joined by AND: lists become one list, all else is parenthesised."""
    items: list[tree.Node] = []
    for node in filters:
        items += node.items if isinstance(node, tree.And) else [node]
    return tree.And(tuple(items))


def _is_pure_span(node: tree.Node) -> bool:
    if isinstance(node, tree.And | tree.Or):
        return bool(node.items) and all(_is_pure_span(item) for item in node.items)
    if isinstance(node, tree.Not | tree.AnySpan | tree.CountSpans | tree.AggregateSpans):
        return False
    return isinstance(node.field, tree.SpanText | tree.SpanNumber | tree.SpanAttribute)


# ------------------------------------------------------------------------- spelling

_SPELLINGS = {
    "trace_id": ("trace_id", "trace.trace_id", "request_id", "trace.request_id"),
    "experiment_id": ("experiment_id", "trace.experiment_id"),
    "status": ("status", "trace.status", "attributes.status", "`status`"),
    "client_request_id": ("client_request_id", "attribute.client_request_id"),
    "name": ("name", "trace.name", "trace.`name`", "tags.mlflow.traceName", "feedback.name"),
    "session_id": ("session", "session_id", "trace.session_id", "metadata.mlflow.trace.session"),
    "user": ("user", "trace.user", "metadata.mlflow.trace.user"),
    "run_id": ("run_id", "trace.run_id", "metadata.mlflow.sourceRun", "tags.run_id"),
    "prompt": ("prompt", "trace.prompt"),
    "timestamp_ms": ("timestamp_ms", "timestamp", "trace.timestamp_ms", "attributes.timestamp"),
    "execution_time_ms": ("execution_time_ms", "execution_time", "trace.execution_time"),
    "end_time_ms": ("end_time_ms", "end_time", "trace.end_time_ms"),
}
_REMAPPED = ("name", "prompt", "run_id", "text", "timestamp", "execution_time", "end_time")
_SIMPLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_RESERVED = ("select", "and", "or", "not")
_QUOTABLE_ORDER = (tree.Tag, tree.Metadata, tree.SpanAttribute)

Choose = Callable[[Sequence[str]], str]


def written(dice: Random, node: tree.Node) -> str:
    """One of the spellings of a filter."""
    return _write(node, lambda options: pick(dice, options), top=True)


def plainly_written(node: tree.Node) -> str:
    """The first spelling of a filter."""
    return _write(node, lambda options: options[0], top=True)


def _write(node: tree.Node, choose: Choose, *, top: bool = False) -> str:
    if isinstance(node, tree.And | tree.Or):
        if not node.items:
            return ""
        word = f" {_keyword('AND' if isinstance(node, tree.And) else 'OR', choose)} "
        text = word.join(_write(item, choose) for item in node.items)
        return text if top else f"({text})"
    if isinstance(node, tree.Not):
        return f"{_keyword('NOT', choose)} {_write(node.item, choose)}"
    if isinstance(node, tree.AnySpan):
        return f"{_keyword('ANY', choose)}({_write(node.condition, choose, top=True)})"
    if isinstance(node, tree.CountSpans):
        inner = "" if node.condition is None else _write(node.condition, choose, top=True)
        return f"{_keyword('COUNT', choose)}({inner}) {node.op} {node.value}"
    if isinstance(node, tree.AggregateSpans):
        inner = _field(node.field, choose)
        if node.condition is not None:
            where = _write(node.condition, choose, top=True)
            inner += f" {_keyword('WHERE', choose)} {where}"
        number = _number(node.value, choose)
        return f"{_keyword(node.function.upper(), choose)}({inner}) {node.op} {number}"
    return _predicate(node, choose)


def _predicate(node: tree.Predicate, choose: Choose) -> str:
    field = _field(node.field, choose)
    negation = _keyword("NOT", choose) + " " if getattr(node, "negated", False) else ""
    if isinstance(node, tree.IsNull):
        return f"{field} {_keyword('IS', choose)} {negation}{_keyword('NULL', choose)}"
    if isinstance(node, tree.Match):
        return f"{field} {negation}{_keyword(node.op, choose)} {_string(node.pattern, choose)}"
    if isinstance(node, tree.In):
        values = ", ".join(
            _string(v, choose) if isinstance(v, str) else _number(v, choose) for v in node.values
        )
        return f"{field} {negation}{_keyword('IN', choose)} ({values})"
    if isinstance(node, tree.Between):
        low, high = _number(node.low, choose), _number(node.high, choose)
        between, conjunction = _keyword("BETWEEN", choose), _keyword("AND", choose)
        return f"{field} {negation}{between} {low} {conjunction} {high}"
    if isinstance(node, tree.TextCompare):
        if (
            node.value in ("true", "false")
            and isinstance(node.field, (*_QUOTABLE_ORDER, tree.Assessment))
            and _forms(node.field) is not USAGE_FORMS
            and choose(("quoted", "bare")) == "bare"
        ):
            return f"{field} {node.op} {node.value}"
        return f"{field} {node.op} {_string(node.value, choose)}"
    value = _number(node.value, choose)
    if (
        node.op not in ("=", "!=")
        and isinstance(node.field, _QUOTABLE_ORDER)
        and choose(("bare", "bare", "quoted")) == "quoted"
    ):
        value = f"'{value}'"
    return f"{field}{choose((' ', ''))}{node.op} {value}"


def _keyword(word: str, choose: Choose) -> str:
    return choose((word, word.lower(), word.capitalize()))


def _string(text: str, choose: Choose) -> str:
    quote = choose(("'", "'", '"'))
    return quote + text.replace(quote, quote * 2) + quote


def _number(value: tree.Number, choose: Choose) -> str:
    if isinstance(value, tree.Now):
        if value.offset_ms == 0:
            return "now()"
        minutes = -value.offset_ms // 60_000
        return f"now() - '{minutes} minutes'"
    if value == EPOCH_MS + 20_000 and choose(("number", "iso")) == "iso":
        return _iso(value, choose)
    return repr(value)


def _iso(value: int | float, choose: Choose) -> str:
    moment = datetime.datetime.fromtimestamp(value / 1000, datetime.timezone.utc)
    zone = choose(("Z", "", "+00:00"))
    return f"'{moment.strftime('%Y-%m-%dT%H:%M:%S')}{zone}'"


def _field(field: tree.Field, choose: Choose) -> str:
    if isinstance(field, tree.TraceText | tree.TraceNumber):
        return choose(_SPELLINGS.get(field.name, (field.name, f"trace.{field.name}")))
    if isinstance(field, tree.SpanText) and field.name == "content":
        return choose(("span.content", "trace.text", "tags.text"))
    if isinstance(field, tree.SpanText | tree.SpanNumber):
        return f"span.{field.name}"
    if isinstance(field, tree.SpanAttribute):
        key = _key("span.attributes", field.path[0], choose, remapped=())
        return key + "".join(f"['{_doubled(step)}']" for step in field.path[1:])
    if isinstance(field, tree.Issue):
        return "issue.id"
    if isinstance(field, tree.Assessment):
        return _key(field.kind, field.name, choose)
    if isinstance(field, tree.Tag):
        return _key(choose(("tags", "tag")), field.key, choose)
    return _key(choose(("metadata", "request_metadata")), field.key, choose)


def _key(entity: str, key: str, choose: Choose, remapped: Sequence[str] = _REMAPPED) -> str:
    forms = [f"{entity}['{_doubled(key)}']", entity + '["' + key.replace('"', '""') + '"]']
    if key.lower() not in remapped:
        if "`" not in key:
            forms.append(f"{entity}.`{key}`")
        if '"' not in key:
            forms.append(f'{entity}."{key}"')
        if _SIMPLE.fullmatch(key) and key.lower() not in _RESERVED:
            forms.append(f"{entity}.{key}")
    return choose(forms)


def _doubled(text: str) -> str:
    return text.replace("'", "''")


# ------------------------------------------------------------------------ scenarios


@dataclass(frozen=True)
class Question:
    """A filter as it is written and as text, with what else a search is asked."""

    surface: tree.Node
    text: str
    order_by: tuple[tuple[tree.Field, bool], ...]
    page_size: int

    @property
    def node(self) -> tree.Node:
        """The filter as a tree in normal form."""
        return normal_form(self.surface)

    @property
    def order_clauses(self) -> list[str]:
        """``order_by`` as text."""
        return [
            f"{_order_field(field)}{' ASC' if ascending else ' DESC'}"
            for field, ascending in self.order_by
        ]

    def __repr__(self) -> str:
        return f"Question({self.text!r})"


def _order_field(field: tree.Field) -> str:
    if isinstance(field, tree.Tag | tree.Metadata):
        return f"{'tags' if isinstance(field, tree.Tag) else 'metadata'}['{_doubled(field.key)}']"
    if isinstance(field, tree.Assessment):
        return f"{field.kind}['{_doubled(field.name)}']"
    assert isinstance(field, tree.TraceText | tree.TraceNumber)
    return field.name


@dataclass(frozen=True)
class Scenario:
    """A world and questions to it, asked about the experiments of ``scope`` (None: all)."""

    world: World
    questions: tuple[Question, ...]
    scope: tuple[int, ...] | None
    now_ms: int


def scenarios(questions: int = 30) -> st.SearchStrategy[Scenario]:
    """A world with ``questions`` filters, all from one palette."""
    seeds = st.integers(0, 2**64 - 1)
    return seeds.map(lambda seed: scenario_of(Random(seed), questions))


def scenario_of(dice: Random, questions: int) -> Scenario:
    """The scenario that the dice give."""
    palette = palette_of(dice)
    world = world_of(dice, palette)
    about = subject(palette, world)
    asked = tuple(_question(dice, about) for _ in range(questions))
    scope = pick(dice, (None, (1, 2), (1,), (2,), (3, 2, 2)))
    return Scenario(world, asked, scope, palette.now_ms)


def _question(dice: Random, about: Subject) -> Question:
    surface = filter_of(dice, about, depth=pick(dice, (0, 0, 1, 3)))
    fields = some(dice, _order_fields(about.palette), 2)
    order_by = tuple((field, one_in(dice, 2)) for field in fields)
    return Question(surface, written(dice, surface), order_by, pick(dice, (1, 2, 3, 5, 8)))


def _order_fields(palette: Palette) -> list[tree.Field]:
    fields = [row.field for row in storage.TRACE.values() if row.name != "prompt"]
    for key in palette.keys:
        fields += [tree.Tag(key), tree.Metadata(key)]
        fields += [tree.Assessment(kind, key) for kind in ("feedback", "assessment")]
    return fields
