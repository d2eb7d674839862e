"""Hypothesis strategies for worlds and filters that are out to hurt.

Each example has a small `Palette` of keys, texts and numbers, picked from long
lists of awkward ones.  The world and the filters draw from the same palette, so
a filter hits and misses about equally often.

A filter is drawn as a tree as it is *written*: plain span predicates stand
where they are.  `normal_form` applies the scope rule of docs/language.md to it,
independently of the parser, and `written` spells it as text, in one of the many
ways there are, independently of the printer.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st
from insights_engine import tree

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
Draw = Callable[[st.SearchStrategy[T]], T]

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
    "nul\x00nul\x00",
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
        return (EPOCH_MS, EPOCH_MS + 1, EPOCH_MS + 20_000, 0, 2**53 + 1, *recent)


@st.composite
def palettes(draw: Draw[Any]) -> Palette:
    """A handful of everything; ``k`` is always among the keys."""
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=2, max_size=3, unique=True))
    texts = draw(st.lists(st.sampled_from(TEXTS), min_size=3, max_size=6, unique=True))
    numbers = draw(st.lists(st.sampled_from(NUMBERS), min_size=2, max_size=4))
    values = draw(
        st.lists(st.sampled_from(SPECIAL_VALUES + UNHOLDABLE_TEXTS), min_size=1, max_size=3)
    )
    return Palette(
        keys=tuple(dict.fromkeys(["k", *keys])),
        texts=tuple(texts),
        numbers=tuple(numbers),
        values=(*texts[:2], *numbers[:2], *values),
        now_ms=int(time.time() * 1000),
    )


def one_in(draw: Draw[Any], n: int) -> bool:
    """True once in ``n`` times; False is what examples shrink to."""
    return bool(draw(st.integers(0, n - 1)) == n - 1)


def pick(draw: Draw[Any], options: Sequence[T]) -> T:
    return draw(st.sampled_from(options))  # type: ignore[no-any-return]


# -------------------------------------------------------------------------- worlds


def worlds(palette: Palette) -> st.SearchStrategy[World]:
    """Up to eight traces in three experiments."""
    sizes = st.sampled_from((1, 4, 6, 8))
    traces = sizes.flatmap(lambda n: st.lists(_traces(palette), min_size=n, max_size=n))
    return traces.map(
        lambda drawn: World(
            EXPERIMENTS,
            tuple(_renamed(trace, f"tr-{index}") for index, trace in enumerate(drawn)),
        )
    )


def _renamed(trace: Trace, trace_id: str) -> Trace:
    return Trace(**{**trace.__dict__, "trace_id": trace_id})


@st.composite
def _traces(draw: Draw[Any], palette: Palette) -> Trace:
    texts = st.sampled_from(palette.texts)
    maybe_text = st.one_of(st.none(), texts)
    rows = st.dictionaries(st.sampled_from(palette.keys), texts, max_size=len(palette.keys))
    metadata: dict[str, str | None] = dict(draw(rows))
    tags: dict[str, str | None] = dict(draw(rows))
    if one_in(draw, 3):
        metadata["mlflow.trace.user"] = draw(texts)
    if one_in(draw, 3):
        metadata["mlflow.sourceRun"] = pick(draw, RUNS)
    if one_in(draw, 10):
        tags[pick(draw, palette.keys)] = None
    counts = [int(n) for n in palette.numbers if n == int(n) and abs(n) < 2**60] + [7]
    return Trace(
        trace_id="",
        experiment_id=pick(draw, (1, 2, 3)),
        timestamp_ms=pick(draw, palette.timestamps),
        execution_time_ms=pick(draw, (None, 0, 1, *counts)),
        status=pick(draw, STATUSES),
        client_request_id=draw(maybe_text.map(lambda t: t and t[:50])),
        request_preview=draw(maybe_text),
        response_preview=draw(maybe_text),
        name=draw(maybe_text),
        session_id=pick(draw, (None, *SESSIONS)),
        tokens=_numbers(draw, TOKEN_COLUMNS, counts),
        cost=_numbers(draw, COST_COLUMNS, [float(n) + 0.0 for n in palette.numbers]),
        tags=tags,
        metadata=metadata,
        spans=tuple(
            Span(f"span-{index}", **columns)
            for index, columns in enumerate(draw(st.lists(_spans(palette), max_size=4)))
        ),
        assessments=tuple(draw(st.lists(_assessments(palette), max_size=3))),
        runs=_links(draw, RUNS),
        prompts=_links(draw, PROMPTS),
    )


def _numbers(draw: Draw[Any], columns: Sequence[str], numbers: Sequence[Any]) -> dict[str, Any]:
    if not one_in(draw, 2):
        return {}
    names = draw(st.lists(st.sampled_from(columns), max_size=3, unique=True))
    return {name: pick(draw, numbers) for name in names}


def _links(draw: Draw[Any], targets: Sequence[str]) -> tuple[str, ...]:
    if not one_in(draw, 3):
        return ()
    return tuple(draw(st.lists(st.sampled_from(targets), max_size=2, unique=True)))


@st.composite
def _spans(draw: Draw[Any], palette: Palette) -> dict[str, Any]:
    start = pick(draw, palette.timestamps) * 1_000 if one_in(draw, 4) else EPOCH_MS * 1_000_000
    duration = pick(draw, (None, *DURATIONS_NS))
    return {
        "name": pick(draw, (None, *palette.texts)),
        "type": pick(draw, (None, *SPAN_TYPES)),
        "status": pick(draw, SPAN_STATUSES),
        "start_ns": start,
        "end_ns": None if duration is None else start + duration,
        "content": draw(_contents(palette)),
        "experiment_id": 2 if one_in(draw, 10) else None,
    }


@st.composite
def _contents(draw: Draw[Any], palette: Palette) -> str:
    if one_in(draw, 6):
        # The very long ones are rare, for the sake of speed.
        broken = pick(draw, BROKEN_CONTENT)
        return broken if len(broken) < 10_000 or one_in(draw, 4) else ""
    values = draw(
        st.dictionaries(st.sampled_from(palette.keys), st.sampled_from(palette.values), max_size=4)
    )
    encoding = pick(draw, ("mlflow", "mlflow", "plain", "ascii"))
    if encoding == "plain":
        return content(values)
    stored = {k: json.dumps(v, ensure_ascii=encoding == "ascii") for k, v in values.items()}
    if encoding == "ascii":
        return json.dumps({"name": "span", "attributes": stored})
    return content(stored)


@st.composite
def _assessments(draw: Draw[Any], palette: Palette) -> Assessment:
    kind = pick(draw, ("feedback", "feedback", "expectation", "issue"))
    if kind == "issue":
        return Assessment("issue", pick(draw, ISSUES), '{"issue_name": "a"}', not one_in(draw, 3))
    value = pick(draw, palette.values)
    stored = storable(value) if one_in(draw, 8) else json.dumps(value)
    return Assessment(
        kind=kind,
        name=pick(draw, palette.keys),
        value="not json" if one_in(draw, 20) else stored,
        valid=not one_in(draw, 5),
        metadata=pick(draw, (None, None, SESSION_METADATA, '{"mlflow.trace.session": null}', "{}")),
    )


# ------------------------------------------------------------------------- filters

TEXT_FORMS = ("=", "=", "!=", "LIKE", "LIKE", "IN", "NULL")
FREE_FORMS = (*TEXT_FORMS, "number", "BETWEEN")
"""Text fields whose values users choose freely are compared with numbers, too."""
NUMBER_FORMS = ("number", "number", "BETWEEN", "NUMBERS", "NULL")
PLAIN_TEXT_FIELDS = (
    "client_request_id",
    "name",
    "session_id",
    "user",
    "request_preview",
    "response_preview",
)


def filters(palette: Palette) -> st.SearchStrategy[tree.Node]:
    """Filters as they are written (see `normal_form`), at most four levels deep."""
    return st.composite(lambda draw: _filter(draw, palette, 3))()


def _filter(draw: Draw[Any], palette: Palette, depth: int) -> tree.Node:
    kind = pick(draw, ("leaf", "leaf", "leaf", "and", "or", "not")) if depth else "leaf"
    if kind == "leaf":
        return _leaf(draw, palette)
    if kind == "not":
        return tree.Not(_filter(draw, palette, depth - 1))
    items = tuple(_filter(draw, palette, depth - 1) for _ in range(pick(draw, (2, 2, 3))))
    return tree.And(items) if kind == "and" else tree.Or(items)


def _leaf(draw: Draw[Any], palette: Palette) -> tree.Node:
    kind = pick(draw, ("trace", "trace", "span", "any", "count", "aggregate"))
    if kind == "trace":
        return _trace_predicate(draw, palette)
    if kind == "span":
        return _span_predicate(draw, palette)
    if kind == "any":
        return tree.AnySpan(_span_condition(draw, palette, 2))
    condition = None if one_in(draw, 3) else _span_condition(draw, palette, 1)
    op = pick(draw, ("=", "!=", "<", "<=", ">", ">="))
    if kind == "count":
        return tree.CountSpans(condition, op, pick(draw, (1, 0, 2, 3)))
    field = _span_number(draw, palette)
    options = (*palette.numbers, 0, 1, 2.5)
    return tree.AggregateSpans(
        pick(draw, ("sum", "avg", "min", "max")), field, condition, op, pick(draw, options)
    )


def _span_number(draw: Draw[Any], palette: Palette) -> tree.SpanNumber | tree.SpanAttribute:
    return tree.SpanNumber("duration_ms") if one_in(draw, 3) else _attribute(draw, palette)


def _span_condition(draw: Draw[Any], palette: Palette, depth: int) -> tree.Node:
    kind = pick(draw, ("leaf", "leaf", "and", "or", "not")) if depth else "leaf"
    if kind == "leaf":
        return _span_predicate(draw, palette)
    if kind == "not":
        return tree.Not(_span_condition(draw, palette, depth - 1))
    items = tuple(_span_condition(draw, palette, depth - 1) for _ in range(2))
    return tree.And(items) if kind == "and" else tree.Or(items)


def _trace_predicate(draw: Draw[Any], palette: Palette) -> tree.Predicate:
    kind = pick(
        draw, ("tag", "metadata", "assessment", "assessment", "text", "number", "set", "closed")
    )
    if kind == "tag":
        return _text_predicate(draw, palette, tree.Tag(pick(draw, palette.keys)))
    if kind == "metadata":
        return _text_predicate(draw, palette, tree.Metadata(pick(draw, palette.keys)))
    if kind == "assessment":
        return _assessment_predicate(draw, palette)
    if kind == "text":
        field = tree.TraceText(pick(draw, PLAIN_TEXT_FIELDS))
        texts = SESSIONS if field.name == "session_id" else palette.texts
        forms = FREE_FORMS if field.name in ("session_id", "user") else TEXT_FORMS
        return _text_predicate(draw, palette, field, texts, forms)
    if kind == "number":
        return _number_predicate(draw, palette)
    if kind == "set":
        return _set_predicate(draw, palette)
    return _closed_predicate(draw, palette)


def _closed_predicate(draw: Draw[Any], palette: Palette) -> tree.Predicate:
    """Fields with a vocabulary of their own."""
    kind = pick(draw, ("status", "trace_id", "experiment_id", "usage"))
    if kind == "usage":
        field = tree.Metadata(pick(draw, ("mlflow.trace.tokenUsage", "mlflow.trace.cost")))
        if one_in(draw, 2):
            return tree.IsNull(field, one_in(draw, 2))
        column = pick(draw, TOKEN_COLUMNS if "token" in field.key else COST_COLUMNS)
        number = pick(draw, (*palette.numbers, 7))
        value: Any = int(number) if "token" in field.key else float(number)
        return tree.TextCompare(field, pick(draw, ("=", "!=")), json.dumps({column: value}))
    texts = {
        "status": STATUSES,
        "trace_id": ("tr-0", "tr-1", "tr-99"),
        "experiment_id": ("1", "2", "9"),
    }[kind]
    forms = FREE_FORMS if kind == "experiment_id" else TEXT_FORMS
    return _text_predicate(draw, palette, tree.TraceText(kind), texts, forms)


def _set_predicate(draw: Draw[Any], palette: Palette) -> tree.Predicate:
    kind = pick(draw, ("run_id", "prompt", "issue"))
    if kind == "run_id":
        texts: Sequence[str] = (*RUNS, "")
        return _text_predicate(draw, palette, tree.TraceText("run_id"), texts, TEXT_FORMS)
    if kind == "prompt":
        return _text_predicate(draw, palette, tree.TraceText("prompt"), PROMPTS, TEXT_FORMS)
    return _text_predicate(draw, palette, tree.Issue(), (*ISSUES, "iss-9"), TEXT_FORMS)


def _span_predicate(draw: Draw[Any], palette: Palette) -> tree.Predicate:
    kind = pick(draw, ("attribute", "attribute", "name", "type", "status", "content", "duration"))
    if kind == "attribute":
        field = _attribute(draw, palette)
        texts = [_readable(value) for value in palette.values]
        return _text_predicate(draw, palette, field, (*palette.texts, *texts, "a"))
    if kind == "duration":
        numbers = (0, 0.5, 1, 2.5, 3_600_000)
        return _number_forms(draw, tree.SpanNumber("duration_ms"), numbers)
    if kind == "content":
        field = tree.SpanText("content")
        texts = (*palette.texts, '"k"', "attributes", "STATUS_CODE_OK", "")
        return _text_predicate(draw, palette, field, texts, ("LIKE", "LIKE", "LIKE", "NULL"))
    texts = {"name": palette.texts, "type": SPAN_TYPES, "status": SPAN_STATUSES}[kind]
    return _text_predicate(draw, palette, tree.SpanText(kind), texts, TEXT_FORMS)


def _attribute(draw: Draw[Any], palette: Palette) -> tree.SpanAttribute:
    path = [pick(draw, palette.keys)]
    while len(path) < 4 and one_in(draw, 4):
        path.append(pick(draw, ("a", "b", "0", "1", "k", "größe", "-1", "²", "9" * 30)))
    return tree.SpanAttribute(tuple(path))


def _readable(value: Any) -> str:
    """The text that an attribute compares as, written down without using the oracle's rules."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", text)


def _number_predicate(draw: Draw[Any], palette: Palette) -> tree.Predicate:
    field = tree.TraceNumber(pick(draw, tree.TRACE_NUMBER_FIELDS))
    if field.name in ("timestamp_ms", "end_time_ms"):
        offsets = [tree.Now(-minutes * 60_000) for minutes in (30, 90, 1440, 0)]
        return _number_forms(draw, field, (*palette.timestamps, *offsets, 1.7e12))
    if field.name == "span_count":
        return _number_forms(draw, field, (0, 1, 2, 3, 1.5))
    return _number_forms(draw, field, (*palette.numbers, 7))


def _number_forms(
    draw: Draw[Any], field: Any, numbers: Sequence[Any], forms: Sequence[str] = NUMBER_FORMS
) -> tree.Predicate:
    form = pick(draw, forms)
    if form == "NULL":
        return tree.IsNull(field, one_in(draw, 2))
    if form == "BETWEEN":
        return tree.Between(field, pick(draw, numbers), pick(draw, numbers), one_in(draw, 3))
    if form == "NUMBERS":
        values = draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=3))
        return tree.In(field, tuple(values), one_in(draw, 3))
    return tree.NumberCompare(
        field, pick(draw, ("=", "!=", "<", "<=", ">", ">=")), pick(draw, numbers)
    )


def _assessment_predicate(draw: Draw[Any], palette: Palette) -> tree.Predicate:
    kind = pick(draw, ("feedback", "feedback", "expectation", "assessment"))
    field = tree.Assessment(kind, pick(draw, palette.keys))
    texts = [*palette.texts]
    for value in palette.values:
        text = json.dumps(value)
        texts += [text, _readable(value)]
    return _text_predicate(draw, palette, field, texts)


def _text_predicate(
    draw: Draw[Any],
    palette: Palette,
    field: Any,
    texts: Sequence[str] | None = None,
    forms: Sequence[str] = FREE_FORMS,
) -> tree.Predicate:
    texts = palette.texts if texts is None else texts
    form = pick(draw, forms)
    if form == "NULL":
        return tree.IsNull(field, one_in(draw, 2))
    if form in ("number", "BETWEEN"):
        return _number_forms(draw, field, palette.numbers, (form,))
    if form == "LIKE":
        op = pick(draw, ("LIKE", "LIKE", "ILIKE", "RLIKE"))
        text = pick(draw, texts)
        pattern = _regex(draw, text) if op == "RLIKE" else _like_pattern(draw, text)
        return tree.Match(field, op, pattern, one_in(draw, 3))
    if form == "IN":
        values = draw(st.lists(st.sampled_from(texts), min_size=1, max_size=3))
        if forms is FREE_FORMS and one_in(draw, 3):
            values.append(pick(draw, palette.numbers))
        return tree.In(field, tuple(values), one_in(draw, 3))
    return tree.TextCompare(field, form, pick(draw, texts))


def _like_pattern(draw: Draw[Any], text: str) -> str:
    shape = pick(draw, ("%part%", "prefix%", "%suffix", "exact", "raw", "_", "case", "%", "%a%b%"))
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


def _regex(draw: Draw[Any], text: str) -> str:
    """A POSIX expression from the part where PostgreSQL and Python agree."""
    characters = [_quoted(c) for c in text[:6]]
    shape = pick(draw, ("part", "^", "$", "^$", "dot", "star", "or", "class", "not", "{}"))
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
        items = list(_and_items(node))
        spans = tuple(item for item in items if _is_pure_span(item))
        others = [normal_form(item) for item in items if not _is_pure_span(item)]
        if spans:
            others.append(tree.AnySpan(tree.And(spans)))
        return tree.And(tuple(others))
    return node


def _and_items(node: tree.And) -> list[tree.Node]:
    """The items of an AND group; parentheses around an AND in an AND change nothing."""
    items: list[tree.Node] = []
    for item in node.items:
        items += _and_items(item) if isinstance(item, tree.And) else [item]
    return items


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


@st.composite
def written(draw: Draw[Any], node: tree.Node) -> str:
    """One of the spellings of a filter."""
    return _write(node, lambda options: pick(draw, options), top=True)


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


@st.composite
def scenarios(draw: Draw[Any], questions: int = 30) -> Scenario:
    """A world with ``questions`` filters, all from one palette."""
    palette = draw(palettes())
    world = draw(worlds(palette))
    asked = draw(st.lists(_questions(palette), min_size=questions, max_size=questions))
    scope = pick(draw, (None, None, (1, 2), (1,), (3, 2, 2)))
    return Scenario(world, tuple(asked), scope, palette.now_ms)


@st.composite
def _questions(draw: Draw[Any], palette: Palette) -> Question:
    surface = draw(filters(palette))
    fields = draw(st.lists(_order_fields(palette), max_size=2, unique=True))
    return Question(
        surface,
        draw(written(surface)),
        tuple((field, pick(draw, (True, False))) for field in fields),
        pick(draw, (1, 2, 3, 5, 8)),
    )


def _order_fields(palette: Palette) -> st.SearchStrategy[tree.Field]:
    texts = [name for name in tree.TRACE_TEXT_FIELDS if name != "prompt"]
    keys = st.sampled_from(palette.keys)
    return st.one_of(
        st.sampled_from(texts).map(tree.TraceText),
        st.sampled_from(tree.TRACE_NUMBER_FIELDS).map(tree.TraceNumber),
        keys.map(tree.Tag),
        keys.map(tree.Metadata),
        st.builds(tree.Assessment, st.sampled_from(("feedback", "assessment")), keys),
    )
