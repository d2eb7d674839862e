"""What a filter means, in plain Python: the judge of every other implementation.

`matches` evaluates a syntax tree in normal form over a `World` straight from
the definitions, one trace and one value at a time.  It shares nothing with the
engine but the tree's classes, knows no SQL, and is written to be read, not to
be fast.

Conventions: a *value* is None if it is missing.  Missing values satisfy no
predicate except IS NULL; `Not` is the plain complement.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from insights_engine.language import tree

from tests.semantics.world import (
    COST_COLUMNS,
    SESSION_KEY,
    TOKEN_COLUMNS,
    Assessment,
    Span,
    Trace,
    World,
)

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

# ------------------------------------------------------------------------- traces


def matches(
    world: World, node: tree.Node, scope: Iterable[int] | None = None, now_ms: int = 0
) -> set[str]:
    """The ids of the traces in the experiments ``scope`` (None: all) that satisfy ``node``."""
    wanted = None if scope is None else set(scope)
    traces = [t for t in world.traces if wanted is None or t.experiment_id in wanted]
    evaluation = _Evaluation(traces, now_ms)
    return {t.trace_id for t in traces if evaluation.trace_satisfies(t, node)}


@dataclass(frozen=True)
class _Evaluation:
    """One question: the traces that are in scope, and the time."""

    traces: Sequence[Trace]
    now_ms: int

    def trace_satisfies(self, trace: Trace, node: tree.Node) -> bool:
        if isinstance(node, tree.And):
            return all(self.trace_satisfies(trace, item) for item in node.items)
        if isinstance(node, tree.Or):
            return any(self.trace_satisfies(trace, item) for item in node.items)
        if isinstance(node, tree.Not):
            return not self.trace_satisfies(trace, node.item)
        if isinstance(node, tree.AnySpan):
            return any(self.span_satisfies(s, node.condition) for s in own_spans(trace))
        if isinstance(node, tree.CountSpans):
            return _COMPARE[node.op](len(self.chosen_spans(trace, node.condition)), node.value)
        if isinstance(node, tree.AggregateSpans):
            return self.aggregate_satisfies(trace, node)
        if isinstance(node.field, tree.Assessment):
            return self.assessments_satisfy(trace, node, node.field)
        if isinstance(node.field, tree.TraceNumber):
            number = trace_number(trace, node.field.name)
            exact = node.field.name not in COST_COLUMNS
            return self.number_satisfies(number, node, exact=exact)
        return self.texts_satisfy(trace_texts(trace, node.field), trace, node)

    def chosen_spans(self, trace: Trace, condition: tree.Node | None) -> list[Span]:
        return [
            s for s in own_spans(trace) if condition is None or self.span_satisfies(s, condition)
        ]

    def aggregate_satisfies(self, trace: Trace, node: tree.AggregateSpans) -> bool:
        numbers = []
        for span in self.chosen_spans(trace, node.condition):
            number = span_number(span, node.field)
            if number is not None and isinstance(node.field, tree.SpanNumber):
                assert span.end_ns is not None
                # Durations are whole nanoseconds; their sums are exact in milliseconds.
                numbers.append(Fraction(span.end_ns - span.start_ns, 10**6))
            elif number is not None:
                numbers.append(Fraction(repr(number)))  # as it prints: 0.1 is a tenth
        if not numbers:
            return False
        total = aggregate(node.function, numbers)
        return _COMPARE[node.op](total, float(node.value))

    # ------------------------------------------------------------------- spans

    def span_satisfies(self, span: Span, node: tree.Node) -> bool:
        if isinstance(node, tree.And):
            return all(self.span_satisfies(span, item) for item in node.items)
        if isinstance(node, tree.Or):
            return any(self.span_satisfies(span, item) for item in node.items)
        if isinstance(node, tree.Not):
            return not self.span_satisfies(span, node.item)
        assert not isinstance(node, tree.AnySpan | tree.CountSpans | tree.AggregateSpans)
        field = node.field
        if isinstance(field, tree.SpanNumber):
            return self.number_satisfies(span_number(span, field), node, exact=False)
        if isinstance(field, tree.SpanAttribute):
            value = attribute(span.content, field.path)
            return self.value_satisfies(json_text(value), json_number(value), node)
        assert isinstance(field, tree.SpanText)
        text = span_text(span, field.name)
        return self.value_satisfies(text, text_number(text), node)

    # -------------------------------------------------------------- predicates

    def value_satisfies(self, text: str | None, number: float | None, node: tree.Predicate) -> bool:
        """One value, given as its text and as the number it reads as, against ``node``."""
        if isinstance(node, tree.IsNull):
            return (text is None) != node.negated
        if text is None:
            return False
        if isinstance(node, tree.TextCompare):
            return (text == node.value) == (node.op == "=")
        if isinstance(node, tree.Match):
            return pattern_matches(node.op, node.pattern, text) != node.negated
        if isinstance(node, tree.In):
            found = any(
                text == item
                if isinstance(item, str)
                else number is not None and number == float(self.settled(item))
                for item in node.values
            )
            return found != node.negated
        return self.number_satisfies(number, node, exact=False)

    def number_satisfies(
        self, number: int | float | None, node: tree.Predicate, *, exact: bool
    ) -> bool:
        """A number against ``node``; ``exact``: integers are not rounded to doubles."""
        if isinstance(node, tree.IsNull):
            return (number is None) != node.negated
        if number is None:
            return False

        def compare(op: str, literal: tree.Value) -> bool:
            assert not isinstance(literal, str)
            other = self.settled(literal)
            if exact and isinstance(number, int) and isinstance(other, int):
                return _COMPARE[op](number, other)
            return _COMPARE[op](float(number), float(other))

        if isinstance(node, tree.NumberCompare):
            return compare(node.op, node.value)
        if isinstance(node, tree.Between):
            inside = compare(">=", node.low) and compare("<=", node.high)
            return inside != node.negated
        assert isinstance(node, tree.In), node
        return any(compare("=", item) for item in node.values) != node.negated

    def settled(self, literal: tree.Value) -> int | float:
        if isinstance(literal, tree.Now):
            return self.now_ms + literal.offset_ms
        assert not isinstance(literal, str)
        return literal

    def texts_satisfy(self, texts: list[str] | None, trace: Trace, node: tree.Predicate) -> bool:
        """A set of values (None: a row without a value): some value satisfies ``node``."""
        if isinstance(node, tree.IsNull):
            return (texts == []) != node.negated
        return any(self.value_satisfies(text, text_number(text), node) for text in texts or ())

    # ------------------------------------------------------------- assessments

    def assessments_satisfy(
        self, trace: Trace, node: tree.Predicate, field: tree.Assessment
    ) -> bool:
        if isinstance(node, tree.IsNull):
            present = any(is_for(a, field) for a in self.assessments_of(trace))
            return present == node.negated
        return any(
            is_for(a, field) and self.assessment_satisfies(a, node)
            for a in self.assessments_of(trace)
        )

    def assessments_of(self, trace: Trace) -> list[Assessment]:
        """The trace's own valid assessments, and those made for its session within the scope."""
        found = [a for a in trace.assessments if a.valid]
        if trace.session_id is not None:
            for other in self.traces:
                if other is not trace and other.session_id == trace.session_id:
                    found += [a for a in other.assessments if a.valid and is_session_scoped(a)]
        return found

    def assessment_satisfies(self, assessment: Assessment, node: tree.Predicate) -> bool:
        stored = assessment.value
        number = json_number(decoded(stored), strings=False)
        if isinstance(node, tree.TextCompare):
            return equals_stored(stored, node.value) == (node.op == "=")
        if isinstance(node, tree.Match):
            texts = [t for t in (json_text(decoded(stored)), stored) if t is not None]
            return any(pattern_matches(node.op, node.pattern, t) for t in texts) != node.negated
        if isinstance(node, tree.In):
            found = any(
                equals_stored(stored, item)
                if isinstance(item, str)
                else number is not None and number == float(self.settled(item))
                for item in node.values
            )
            return found != node.negated
        return self.number_satisfies(number, node, exact=False)


def is_for(assessment: Assessment, field: tree.Assessment) -> bool:
    kinds = ("feedback", "expectation") if field.kind == "assessment" else (field.kind,)
    return assessment.kind in kinds and assessment.name == field.name


def is_session_scoped(assessment: Assessment) -> bool:
    """MLflow's test: the key in the metadata's text, whatever its value."""
    return assessment.metadata is not None and f'"{SESSION_KEY}":' in assessment.metadata


def equals_stored(stored: str, value: str) -> bool:
    """MLflow's equality: the JSON text itself, or the text of a JSON string."""
    return stored in (value, json.dumps(value))


# ------------------------------------------------------------------------- values


def own_spans(trace: Trace) -> list[Span]:
    """The spans that are stored under the trace's experiment; filters see no others."""
    return [s for s in trace.spans if s.experiment_id in (None, trace.experiment_id)]


def trace_texts(trace: Trace, field: tree.Field) -> list[str] | None:
    """The values of a text field; [] if it is missing, None for a row without a value."""
    if isinstance(field, tree.Issue):
        return [a.name for a in trace.assessments if a.kind == "issue"]
    if isinstance(field, tree.Tag):
        return row_texts(trace.tags, field.key)
    if isinstance(field, tree.Metadata):
        if field.key == "mlflow.trace.tokenUsage":
            return synthesised(trace.tokens, TOKEN_COLUMNS)
        if field.key == "mlflow.trace.cost":
            return synthesised(trace.cost, COST_COLUMNS)
        return row_texts(trace.metadata, field.key)
    assert isinstance(field, tree.TraceText), field
    if field.name == "user":
        return row_texts(trace.metadata, "mlflow.trace.user")
    if field.name == "run_id":
        return (row_texts(trace.metadata, "mlflow.sourceRun") or []) + list(trace.runs)
    if field.name == "prompt":
        return list(trace.prompts)
    if field.name == "experiment_id":
        return [str(trace.experiment_id)]
    value = getattr(trace, field.name)
    return [] if value is None else [value]


def row_texts(rows: dict[str, str | None], key: str) -> list[str] | None:
    if key not in rows:
        return []
    value = rows[key]
    return None if value is None else [value]


def synthesised(columns: dict[str, Any], order: Sequence[str]) -> list[str]:
    """The JSON text that MLflow makes of the number columns when it reads a trace."""
    present = {name: columns[name] for name in order if columns.get(name) is not None}
    return [json.dumps(present)] if present else []


def trace_number(trace: Trace, name: str) -> int | float | None:
    if name == "end_time_ms":
        return trace.timestamp_ms + (trace.execution_time_ms or 0)
    if name == "span_count":
        return len(own_spans(trace))
    if name in TOKEN_COLUMNS:
        return trace.tokens.get(name)
    if name in COST_COLUMNS:
        return trace.cost.get(name)
    number: int | None = getattr(trace, name)
    return number


def span_text(span: Span, name: str) -> str | None:
    if name == "content":
        return span.content or None
    text: str | None = getattr(span, name)
    return text


def span_number(span: Span, field: tree.SpanNumber | tree.SpanAttribute) -> float | None:
    if isinstance(field, tree.SpanAttribute):
        return json_number(attribute(span.content, field.path))
    return None if span.end_ns is None else (span.end_ns - span.start_ns) / 1e6


MISSING = None


def attribute(content: str, path: Sequence[str]) -> Any:
    """The decoded value of an attribute, or None where there is none (or it is null)."""
    body = decoded(content)
    if not isinstance(body, dict) or not isinstance(body.get("attributes"), dict):
        return MISSING
    value = body["attributes"].get(path[0])
    if isinstance(value, str):
        value = decoded(value, otherwise=value)
    for step in path[1:]:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and re.fullmatch("[0-9]{1,9}", step):
            value = value[int(step)] if int(step) < len(value) else MISSING
        else:
            return MISSING
    return value


def decoded(text: str, otherwise: Any = MISSING) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def json_text(value: Any) -> str | None:
    """A decoded JSON value as the text it compares as."""
    if value is None:
        return None
    if isinstance(value, str):
        return holdable(value)
    return holdable(json.dumps(value, ensure_ascii=False))


def holdable(text: str) -> str:
    """NUL and lone surrogates, which PostgreSQL cannot hold, as U+FFFD."""
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", text)


def json_number(value: Any, *, strings: bool = True) -> float | None:
    """The finite number that a decoded JSON value is or, if ``strings``, reads as."""
    if isinstance(value, str):
        return text_number(value) if strings else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def text_number(text: str | None) -> float | None:
    """The finite number that a text wholly reads as."""
    if text is None or _DECIMAL.fullmatch(text) is None:
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def aggregate(function: str, numbers: Sequence[Fraction]) -> float:
    """sum, avg, min or max of at least one number, exact and then rounded once."""
    if function in ("min", "max"):
        return rounded(min(numbers) if function == "min" else max(numbers))
    total = sum(numbers, Fraction(0))
    return rounded(total if function == "sum" else total / len(numbers))


def rounded(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


# ----------------------------------------------------------------------- patterns


def pattern_matches(op: str, pattern: str, text: str) -> bool:
    if op == "LIKE":
        return like(pattern, text)
    if op == "ILIKE":
        return like(lower(pattern), lower(text))
    assert op == "RLIKE", op
    return re.search(python_regex(pattern), text, re.DOTALL) is not None


def lower(text: str) -> str:
    """PostgreSQL's lower() in C.UTF-8: character by character, never two for one."""
    return "".join("i" if c == "\u0130" else c.lower() for c in text)


def like(pattern: str, text: str) -> bool:
    """LIKE with its default escape, the backslash; the pattern does not end in one.

    The pieces between the percent signs are looked for from left to right; the
    first must stand at the beginning, the last at the end.
    """
    pieces = [""]  # as regular expressions of literal characters and dots
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            pieces.append("")
        elif character == "_":
            pieces[-1] += "."
        else:
            pieces[-1] += re.escape(next(characters) if character == "\\" else character)
    if len(pieces) == 1:
        return re.fullmatch(pieces[0], text, re.DOTALL) is not None
    position = 0
    for index, piece in enumerate(pieces[:-1]):
        expression = re.compile(piece, re.DOTALL)
        found = expression.search(text, position) if index else expression.match(text)
        if found is None:
            return False
        position = found.end()
    return re.search(f"(?:{pieces[-1]})\\Z", text[position:], re.DOTALL) is not None


def python_regex(pattern: str) -> str:
    """The subset of PostgreSQL's expressions that the tests generate, for Python's re.

    They differ in ``$``, which in Python also matches before a final newline.
    """
    result = []
    escaped = bracketed = False
    for character in pattern:
        if not escaped and not bracketed and character == "$":
            result.append(r"\Z")
        else:
            result.append(character)
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == "[":
                bracketed = True
            elif character == "]":
                bracketed = False
    return "".join(result)


# ------------------------------------------------------------------------- search


def search(
    world: World,
    node: tree.Node,
    scope: Iterable[int] | None = None,
    order_by: Sequence[tuple[tree.Field, bool]] = (),
    now_ms: int = 0,
) -> list[str]:
    """The matching ids in order; ``order_by`` holds fields, each with "ascending".

    Missing values come last in either direction.  Ties: newest first, then by id.
    """
    found = matches(world, node, scope, now_ms)
    traces = [t for t in world.traces if t.trace_id in found]
    traces.sort(key=lambda t: t.trace_id)
    traces.sort(key=lambda t: t.timestamp_ms, reverse=True)
    for field, ascending in reversed(order_by):
        keys = {t.trace_id: order_value(t, field) for t in traces}
        present = [t for t in traces if keys[t.trace_id] is not None]
        missing = [t for t in traces if keys[t.trace_id] is None]
        present.sort(key=lambda t: keys[t.trace_id], reverse=not ascending)
        traces = present + missing
    return [t.trace_id for t in traces]


def order_value(trace: Trace, field: tree.Field) -> Any:
    """What ``order_by`` compares; None sorts last."""
    if isinstance(field, tree.Assessment):
        return newest_assessment(trace, field)
    if isinstance(field, tree.TraceNumber):
        return trace_number(trace, field.name)
    if isinstance(field, tree.TraceText) and field.name == "experiment_id":
        return trace.experiment_id
    if isinstance(field, tree.TraceText) and field.name == "run_id":
        field = tree.Metadata("mlflow.sourceRun")  # of the links none comes first
    texts = trace_texts(trace, field)
    return texts[0] if texts else None


def newest_assessment(trace: Trace, field: tree.Assessment) -> tuple[int, float, str] | None:
    """Numbers come before texts; the session's assessments do not count here."""
    own = [a for a in trace.assessments if a.valid and is_for(a, field)]
    if not own:
        return None
    value = decoded(own[-1].value)  # the loader makes each one newer than the one before
    number = json_number(value, strings=False)
    if number is not None:
        return 0, number, ""
    text = json_text(value)
    return None if text is None else (1, 0.0, text[:1000])


def shown(trace: Trace) -> list[Any]:
    """Tags, metadata and number of assessments, as reading the trace in MLflow gives them."""
    names = {} if trace.name is None else {"mlflow.traceName": trace.name}
    session = {} if trace.session_id is None else {SESSION_KEY: trace.session_id}
    usage = {
        key: text
        for key in ("mlflow.trace.tokenUsage", "mlflow.trace.cost")
        for text in trace_texts(trace, tree.Metadata(key)) or ()
    }
    return [
        {**trace.tags, **names},
        {**trace.metadata, **session, **usage},
        len(trace.assessments),
    ]
