create or replace function insights.load_engine() returns void
language plpython3u
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $insights_engine$
# PL/Python indents every line of a function's body by one tab, also inside
# strings; text() takes it out again.
def text(source):
    return source.replace("\n\t", "\n")

sources = {
"insights_engine": r'''"""The trace search engine that runs inside PostgreSQL.

An ordinary package: importable and testable without a database.  Functions
that need one take PL/Python's ``plpy`` module as their first argument.
"""
''',
"insights_engine.attributes": r'''"""Reads values out of the JSON that MLflow stores: span content, assessments.

This module uses nothing but the standard library and no other module of the
engine, because its source is inlined into small PL/Python helper functions:
those also run in parallel workers, which must not load the whole engine.
For the same reason its annotations are valid without ``__future__`` imports.

A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
other writers, to a plain value.  Whatever cannot be read counts as missing.
"""

import json
import math
import re
from typing import Any, List, Optional, Sequence

#: Stands for a value that is not there; JSON's null counts as missing too.
MISSING = None

# The decimal numbers that a text may consist of; float() alone would take
# blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

# What PostgreSQL's text cannot hold.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def loads(text: str) -> Any:
    """The decoded JSON text, or MISSING where it is none.

    ``json.loads`` fails with ValueError (not JSON, or an integer of more than
    4,300 digits) and with RecursionError.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return MISSING


def storable(text: str) -> str:
    """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub("\ufffd", text)


def attributes_of(content: str) -> Any:
    """The ``attributes`` of a span's content, ``{}`` where there are none."""
    span = loads(content)
    attributes = span.get("attributes") if isinstance(span, dict) else MISSING
    return attributes if isinstance(attributes, dict) else {}


def step_into(value: Any, path: Sequence[str]) -> Any:
    """The value under ``path``: keys of objects and decimal indexes of lists."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
            index = int(step)
            value = value[index] if index < len(value) else MISSING
        else:
            return MISSING
    return value


def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
    """The decoded value of one attribute, or of a part of it."""
    value = attributes.get(path[0])
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            pass  # not JSON: the text itself is the value
    return step_into(value, path[1:]) if len(path) > 1 else value


def attribute(content: str, path: Sequence[str]) -> Any:
    """The decoded value under ``path`` of a span's content, or MISSING."""
    return attribute_in(attributes_of(content), path)


def text_form(value: Any) -> Optional[str]:
    """A decoded value as text: strings as they are, all else as JSON prints it."""
    if value is MISSING:
        return None
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False)
        except (ValueError, RecursionError):
            return None
    return storable(value)


def number_form(value: Any) -> Optional[float]:
    """A decoded value as a finite number, or None.

    Numbers count, and strings that wholly read as a decimal number; booleans
    do not.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return None
    elif not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond every double
        return None
    return number if math.isfinite(number) else None


def total(numbers: Sequence[Optional[float]]) -> Optional[float]:
    """The correctly rounded sum, the same in any order; None for no numbers.

    A sum beyond the largest double is an infinity.
    """
    present: List[float] = [number for number in numbers if number is not None]
    if not present:
        return None
    try:
        return math.fsum(present)
    except OverflowError:  # a partial sum, perhaps not the whole
        from fractions import Fraction

        exact = sum((Fraction(number) for number in present), Fraction())
        try:
            return float(exact)
        except OverflowError:
            return math.inf if exact > 0 else -math.inf
''',
"insights_engine.errors": r'''"""The errors that users see: what is wrong, where, and what to write instead."""

from __future__ import annotations

import unicodedata

#: invalid_parameter_value
SQLSTATE_INVALID = "22023"

#: Columns of the filter that an error shows, before and after the place.
_BEFORE, _AFTER = 60, 40


def visible(text: str, limit: int = 0) -> str:
    """``text`` on one line: control characters escaped, cut to ``limit``."""
    if limit and len(text) > limit:
        text = text[: limit - 3] + "..."
    return "".join([_visible_character(character) for character in text])


def _visible_character(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def _columns(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


class InsightsError(Exception):
    """A bad argument: a message in one line, an SQLSTATE, DETAIL and HINT."""

    def __init__(
        self,
        message: str,
        sqlstate: str = SQLSTATE_INVALID,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self._detail = detail
        self.hint = hint

    def detail(self) -> str | None:
        """The text for the error's DETAIL, or None."""
        return self._detail


class FilterError(InsightsError):
    """A filter that cannot be read.

    ``position`` and ``length`` count characters of ``filter`` (``position``
    None: the error is about the filter as a whole).
    """

    def __init__(
        self,
        message: str,
        position: int | None = None,
        length: int = 1,
        hint: str | None = None,
        filter: str = "",
    ) -> None:
        super().__init__(message, SQLSTATE_INVALID, None, hint)
        self.position = position
        self.length = length
        self.filter = filter

    def detail(self) -> str | None:
        """The filter with a caret under the place.

        Of a filter with several lines only the offending one is shown, and of
        a long line only what surrounds the place.
        """
        if self.position is None:
            return None
        position = min(self.position, len(self.filter))
        start = self.filter.rfind("\n", 0, position) + 1
        end = self.filter.find("\n", position)
        end = len(self.filter) if end < 0 else end
        number = self.filter.count("\n", 0, start) + 1
        total = number + self.filter.count("\n", end)
        cut_start = start if position - start <= _BEFORE + 3 else position - _BEFORE
        cut_end = end if end - position <= _AFTER + 3 else position + _AFTER
        before = ("..." if cut_start > start else "") + visible(self.filter[cut_start:position])
        marked = visible(self.filter[position : min(position + max(self.length, 1), cut_end)])
        rest = visible(self.filter[position:cut_end]) + ("..." if cut_end < end else "")
        caret = " " * _columns(before) + "^" * max(_columns(marked), 1)
        heading = f"Line {number} of {total}:\n" if total > 1 else ""
        return f"{heading}{before}{rest}\n{caret}"
''',
"insights_engine.fields": r'''"""Every field of the language: its names, its type, what it may be compared with.

The one place to look a name up, for filters as for ``order_by``, and to print
a field in its canonical spelling.
"""

from __future__ import annotations

import re
from typing import Sequence

from insights_engine import tree

# ------------------------------------------------------------- trace-level names

#: Names without an entity, or after ``trace.``/``attribute.``/``attributes.``.
TRACE_FIELDS: dict[str, tree.Field] = {
    **{name: tree.TraceText(name) for name in tree.TRACE_TEXT_FIELDS},
    **{name: tree.TraceNumber(name) for name in tree.TRACE_NUMBER_FIELDS},
    "request_id": tree.TraceText("trace_id"),
    "session": tree.TraceText("session_id"),
    "timestamp": tree.TraceNumber("timestamp_ms"),
    "execution_time": tree.TraceNumber("execution_time_ms"),
    "end_time": tree.TraceNumber("end_time_ms"),
    "text": tree.SpanText("content"),
}

#: The entity of ``entity.key``: what MLflow's aliases stand for, plus our own.
ENTITIES: dict[str, str] = {
    "trace": "trace",
    "attribute": "trace",
    "attributes": "trace",
    "tag": "tags",
    "tags": "tags",
    "metadata": "metadata",
    "request_metadata": "metadata",
    "feedback": "feedback",
    "expectation": "expectation",
    "assessment": "assessment",
    "issue": "issue",
    "span": "span",
}

SPAN_FIELDS: dict[str, tree.SpanField] = {
    "name": tree.SpanText("name"),
    "type": tree.SpanText("type"),
    "status": tree.SpanText("status"),
    "content": tree.SpanText("content"),
    "duration_ms": tree.SpanNumber("duration_ms"),
}

#: MLflow replaces these keys whatever entity they stand in (except ``span``),
#: compared in lower case; brackets reach the real key.
KEY_TO_FIELD: dict[str, tree.Field] = {
    "name": tree.TraceText("name"),
    "prompt": tree.TraceText("prompt"),
    "run_id": tree.TraceText("run_id"),
    "text": tree.SpanText("content"),
}
KEY_TO_KEY: dict[str, str] = {
    "timestamp": "timestamp_ms",
    "execution_time": "execution_time_ms",
    "end_time": "end_time_ms",
}

#: Keys whose value MLflow keeps in a column or in links of the trace.
PROMOTED_TAGS: dict[str, tree.Field] = {
    "mlflow.traceName": tree.TraceText("name"),
    "mlflow.linkedPrompts": tree.TraceText("prompt"),
}
PROMOTED_METADATA: dict[str, tree.Field] = {
    "mlflow.trace.session": tree.TraceText("session_id"),
    "mlflow.trace.user": tree.TraceText("user"),
    "mlflow.sourceRun": tree.TraceText("run_id"),
}

#: Metadata that MLflow synthesises as JSON text from the number columns.
USAGE_METADATA = ("mlflow.trace.tokenUsage", "mlflow.trace.cost")

#: Trace texts that users choose freely, so that a number may stand in them.
_FREE_TEXTS = frozenset(("experiment_id", "session_id", "user"))

#: Integer columns: a literal beyond bigint can only be a mistake there.
INTEGER_FIELDS = frozenset(
    name for name in tree.TRACE_NUMBER_FIELDS if not name.endswith("_cost")
)

TIME_FIELDS = frozenset(("timestamp_ms", "end_time_ms"))


def is_span_field(field: tree.Field) -> bool:
    """Whether the field is one of a span (else of the trace)."""
    return isinstance(field, (tree.SpanText, tree.SpanNumber, tree.SpanAttribute))


def is_number(field: tree.Field) -> bool:
    """Whether the field holds numbers only."""
    return isinstance(field, (tree.TraceNumber, tree.SpanNumber))


def is_time(field: tree.Field) -> bool:
    """Whether the field is a point in time (milliseconds since 1970 UTC)."""
    return isinstance(field, tree.TraceNumber) and field.name in TIME_FIELDS


def is_usage(field: tree.Field) -> bool:
    """Whether the field is one of MLflow's two synthesised metadata entries."""
    return isinstance(field, tree.Metadata) and field.key in USAGE_METADATA


def may_hold_numbers(field: tree.Field) -> bool:
    """Whether the field can be compared with a number literal."""
    if isinstance(field, tree.TraceText):
        return field.name in _FREE_TEXTS
    if isinstance(field, tree.Metadata):
        return field.key not in USAGE_METADATA
    return not isinstance(field, (tree.SpanText, tree.Issue))


def may_hold_booleans(field: tree.Field) -> bool:
    """Whether the field can be compared with ``true`` and ``false``."""
    return isinstance(field, (tree.Tag, tree.Assessment, tree.SpanAttribute)) or (
        isinstance(field, tree.Metadata) and not is_usage(field)
    )


# ---------------------------------------------------------------------- spelling

_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
_INDEX = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")


def quote(text: str) -> str:
    """``text`` as a string of the language."""
    return "'" + text.replace("'", "''") + "'"


def spell(field: tree.Field) -> str:
    """The canonical text of a field."""
    if isinstance(field, (tree.TraceText, tree.TraceNumber)):
        return field.name
    if isinstance(field, (tree.SpanText, tree.SpanNumber)):
        return "span." + field.name
    if isinstance(field, tree.Tag):
        return _spell_key("tags", field.key)
    if isinstance(field, tree.Metadata):
        return _spell_key("metadata", field.key)
    if isinstance(field, tree.Assessment):
        return _spell_key(field.kind, field.name)
    if isinstance(field, tree.Issue):
        return "issue.id"
    if len(field.path) == 1 and _DOTTED.match(field.path[0]):
        return "span.attributes." + field.path[0]
    first, *rest = field.path
    return f"span.attributes[{quote(first)}]" + "".join(
        f"[{step}]" if _INDEX.match(step) else f"[{quote(step)}]" for step in rest
    )


def _spell_key(entity: str, key: str) -> str:
    plain = key.lower()
    if _DOTTED.match(key) and plain not in KEY_TO_FIELD and plain not in KEY_TO_KEY:
        return f"{entity}.{key}"
    return f"{entity}[{quote(key)}]"


# ------------------------------------------------------------------- suggestions

#: Names that other tools, or MLflow's own objects, give to what a field holds.
SYNONYMS: dict[str, str] = {
    "id": "trace_id",
    "trace": "trace_id",
    "traceid": "trace_id",
    "state": "status",
    "trace_status": "status",
    "trace_name": "name",
    "latency": "execution_time_ms",
    "latency_ms": "execution_time_ms",
    "duration": "execution_time_ms",
    "duration_ms": "execution_time_ms",
    "execution_duration": "execution_time_ms",
    "time": "timestamp_ms",
    "date": "timestamp_ms",
    "created": "timestamp_ms",
    "created_at": "timestamp_ms",
    "start_time": "timestamp_ms",
    "request_time": "timestamp_ms",
    "user_id": "user",
    "userid": "user",
    "sessionid": "session_id",
    "session": "session_id",
    "run": "run_id",
    "experiment": "experiment_id",
    "tokens": "total_tokens",
    "token_count": "total_tokens",
    "cost": "total_cost",
    "request": "request_preview",
    "input": "request_preview",
    "inputs": "request_preview",
    "response": "response_preview",
    "output": "response_preview",
    "outputs": "response_preview",
    "content": "span.content",
    "type": "span.type",
    "span_type": "span.type",
    "span_name": "span.name",
    "span_status": "span.status",
    "model": "span.attributes.model",
    "spans": "span_count",
    "span": "span.name",
}

SPAN_SYNONYMS: dict[str, str] = {
    "duration": "span.duration_ms",
    "latency": "span.duration_ms",
    "latency_ms": "span.duration_ms",
    "execution_time_ms": "span.duration_ms",
    "execution_time": "span.duration_ms",
    "duration_ns": "span.duration_ms",
    "span_type": "span.type",
    "kind": "span.type",
    "state": "span.status",
    "status_code": "span.status",
    "text": "span.content",
    "inputs": "span.attributes.mlflow.spanInputs",
    "outputs": "span.attributes.mlflow.spanOutputs",
}

ENTITY_SYNONYMS: dict[str, str] = {
    "assessments": "assessment",
    "feedbacks": "feedback",
    "expectations": "expectation",
    "scores": "feedback",
    "score": "feedback",
    "meta": "metadata",
    "attr": "span.attributes",
    "param": "tags",
    "params": "tags",
    "issues": "issue",
    "spans": "span",
    "traces": "trace",
}


def nearest(name: str, candidates: Sequence[str]) -> str | None:
    """The candidate that ``name`` is most likely a misspelling of, if any."""
    from difflib import get_close_matches  # slow to import, and needed for errors only

    found = get_close_matches(name[:100].lower(), candidates, n=1, cutoff=0.6)
    return found[0] if found else None
''',
"insights_engine.parser": r'''"""Text of a filter in, syntax tree in normal form out."""

from __future__ import annotations

from functools import lru_cache
from typing import List, NamedTuple, Union

from insights_engine import tree
from insights_engine.errors import FilterError
from insights_engine.resolver import Resolver
from insights_engine.syntax import refuse
from insights_engine.tables import RULES, STATES
from insights_engine.tokens import Token, check_text, tokenize


class Raw(NamedTuple):
    """A node of the concrete syntax: named as in grammar.lark."""

    name: str
    children: List[Union["Raw", Token]]


def parse_filter(text: str | None) -> tree.Node:
    """The tree of a filter (None and '' match every trace).

    Raises FilterError.  Results are cached: trees are immutable.
    """
    return _parse_filter(text) if text else tree.EVERYTHING


@lru_cache(maxsize=256)
def _parse_filter(text: str) -> tree.Node:
    return _resolver(text).filter()


def parse_conjunction(*texts: str | None) -> tree.Node:
    """All of the filters ANDed into one.

    The scope rule for spans sees them as one text: plain ``span.*`` conditions
    of different filters speak of the same span.  A filter with OR counts as
    parenthesised.
    """
    given = [text for text in texts if text]
    if len(given) == 1:
        return parse_filter(given[0])
    return Resolver.conjunction([_resolver(text) for text in given])


def parse_field(text: str) -> tree.Field:
    """The field that ``text`` names, as in a filter.  Raises FilterError."""
    check_text(text)
    tokens = tokenize(text)
    if len(tokens) != 1 or tokens[0].kind not in ("FIELD", "DOUBLE_QUOTED"):
        raise FilterError(
            "expected the name of one field",
            tokens[0].start if tokens else None,
            tokens[-1].end - tokens[0].start if tokens else 1,
            "For example timestamp_ms, tags.environment or span.attributes['model'].",
            text,
        )
    return Resolver(text, Raw("start", [])).field(tokens[0])


def _resolver(text: str) -> Resolver:
    check_text(text)
    try:
        return _resolved(text, escaped_quotes=False)
    except FilterError:
        # MLflow's lexer lets a backslash keep a quote inside a string.  Such
        # filters are read, too, but only if they make no sense otherwise.
        if "\\'" not in text and '\\"' not in text:
            raise
        try:
            return _resolved(text, escaped_quotes=True)
        except FilterError:
            pass
        raise


def _resolved(text: str, *, escaped_quotes: bool) -> Resolver:
    resolver = Resolver(text, parse_syntax(text, escaped_quotes=escaped_quotes))
    resolver.resolve()
    return resolver


def parse_syntax(text: str, *, escaped_quotes: bool = False) -> Raw:
    """The concrete syntax: shift and reduce by the tables, without recursion."""
    tokens = tokenize(text, escaped_quotes=escaped_quotes)
    tokens.append(Token("$END", len(text), len(text)))
    states = [0]
    values: list[Raw | Token] = []
    for index, token in enumerate(tokens):
        kind = token.kind
        while True:
            step = STATES[states[-1]].get(kind, 0)
            if step > 0:
                states.append(step)
                values.append(token)
                break
            if step == 0:
                refuse(text, tokens, index, STATES[states[-1]])
            symbol, size, name, how = RULES[-step - 1]
            if how != 1:
                children = values[len(values) - size :]
                if how == 2:
                    node = children[0]
                    assert isinstance(node, Raw)
                    node.children.extend(children[1:])
                else:
                    node = Raw(name, children)
                if size:
                    del values[-size:]
                values.append(node)
            if size:
                del states[-size:]
            states.append(STATES[states[-1]][symbol])
    root = values[0]
    assert isinstance(root, Raw)
    return root
''',
"insights_engine.statistics": r'''"""What the four counts of two filters say about how the filters belong together.

The counts form a 2x2 contingency table over the traces of the base filter:

======== =================== ====================
         filter 2 matches    filter 2 does not
filter 1 ``n11`` (joint)     ``n10``
not 1    ``n01``             ``n00``
======== =================== ====================

Everything here is plain arithmetic on those integers: standard library only,
no state, no database.  A statistic that the table does not determine is NaN
for the two NPMI values (that is what MLflow answers) and None, SQL NULL, for
all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Jeffreys' prior for a multinomial cell, the smoothing that MLflow uses.
JEFFREYS_PRIOR = 0.5

# The 97.5 % quantile of the standard normal distribution: a 95 % interval.
Z_95 = 1.959963984540054

# Cochran's rule: below this expected count the chi-square approximation of G²
# is not trusted and Fisher's exact test answers instead.
SMALL_EXPECTED_COUNT = 5

# Two tables count as equally probable up to this relative difference, as in
# scipy.stats.fisher_exact.  Held as an integer: ties are decided exactly.
FISHER_TOLERANCE_INVERSE = 10**14

_NAN = float("nan")


@dataclass(frozen=True)
class Counts:
    """Numbers of traces: matching filter 1, filter 2, both, and the base."""

    filter1: int
    filter2: int
    joint: int
    total: int

    @property
    def table(self) -> tuple[int, int, int, int]:
        """The cells ``(n11, n10, n01, n00)``."""
        return (
            self.joint,
            self.filter1 - self.joint,
            self.filter2 - self.joint,
            self.total - self.filter1 - self.filter2 + self.joint,
        )


@dataclass(frozen=True)
class Association:
    """The statistics of one pair of filters; None where undefined."""

    npmi: float
    npmi_smoothed: float
    lift: float | None
    phi: float | None
    odds_ratio: float | None
    odds_ratio_low: float | None
    odds_ratio_high: float | None
    p_value: float | None


def associate(counts: Counts) -> Association:
    """Every statistic of the table behind ``counts``."""
    npmi, npmi_smoothed = npmi_from_counts(
        counts.joint, counts.filter1, counts.filter2, counts.total
    )
    table = counts.table
    if min(table) < 0:
        raise ValueError(f"counts contradict each other: {counts}")
    odds, low, high = odds_ratio(*table)
    return Association(
        npmi, npmi_smoothed, lift(*table), phi(*table), odds, low, high, p_value(*table)
    )


# ------------------------------------------------------------------------ NPMI


def npmi_from_counts(joint: int, filter1: int, filter2: int, total: int) -> tuple[float, float]:
    """Normalised pointwise mutual information, plain and smoothed, in [-1, 1].

    ``pmi / -log p(1, 2)`` with ``pmi = log(p(1, 2) / (p(1) p(2)))``: Bouma,
    "Normalized (pointwise) mutual information in collocation extraction",
    GSCL 2009.  NaN where a filter matches nothing, -1 (plain) where they never
    meet; the smoothed value adds 0.5 to each cell.

    The order of the floating-point operations is that of MLflow's
    ``calculate_npmi_from_counts``, so the results are equal to the last bit.
    """
    if total <= 0 or filter1 == 0 or filter2 == 0:
        return _NAN, _NAN
    n11 = joint
    n10 = filter1 - joint
    n01 = filter2 - joint
    n00 = total - filter1 - filter2 + joint
    if min(n11, n10, n01, n00) < 0:
        return _NAN, _NAN
    plain = -1.0 if joint == 0 else _npmi(n11, n10, n01, n00, 0)
    return plain, _npmi(n11, n10, n01, n00, JEFFREYS_PRIOR)


def _npmi(n11: int, n10: int, n01: int, n00: int, smoothing: float) -> float:
    s11, s10, s01, s00 = n11 + smoothing, n10 + smoothing, n01 + smoothing, n00 + smoothing
    total = s11 + s10 + s01 + s00
    first = s11 + s10
    second = s11 + s01
    if first <= 0 or second <= 0 or s11 <= 0:
        return _NAN
    if n10 == 0 and n01 == 0 and n00 == 0:
        return 1.0
    log_joint = math.log(s11)
    log_total = math.log(total)
    pmi = (log_joint + log_total) - (math.log(first) + math.log(second))
    return max(-1.0, min(1.0, pmi / -(log_joint - log_total)))


# ---------------------------------------------------------------- effect sizes


def lift(n11: int, n10: int, n01: int, n00: int) -> float | None:
    """How much likelier both are together than if they were independent.

    ``p(1, 2) / (p(1) p(2))``; 1 is independence; undefined if a filter matches
    nothing.  Brin, Motwani, Ullman and Tsur, SIGMOD 1997 (there: "interest").
    """
    first, second = n11 + n10, n11 + n01
    if first == 0 or second == 0:
        return None
    return (n11 * (first + n01 + n00)) / (first * second)


def phi(n11: int, n10: int, n01: int, n00: int) -> float | None:
    """Pearson's correlation of the two yes/no variables, in [-1, 1].

    ``(n11 n00 - n10 n01) / sqrt(product of the four margins)`` (Yule 1912);
    undefined if a filter matches all traces or none.
    """
    margins = (n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00)
    if margins == 0:
        return None
    # isqrt on a scaled integer: the product of four counts of 1e8 has 107 bits,
    # and a float would round it before the square root does.
    scale = 64
    root = math.isqrt(margins << (2 * scale))
    return max(-1.0, min(1.0, ((n11 * n00 - n10 * n01) << scale) / root))


def odds_ratio(
    n11: int, n10: int, n01: int, n00: int
) -> tuple[float | None, float | None, float | None]:
    """The odds ratio ``n11 n00 / (n10 n01)`` with its 95 % interval.

    The interval is Woolf's: ``exp(log(ratio) -+ 1.96 sqrt(sum of 1/n))``
    (Annals of Human Genetics 19, 1955).  If, and only if, some cell is 0, the
    Haldane-Anscombe correction adds 0.5 to every cell first, for the ratio and
    for its bounds, so that they are finite.  Undefined, all three, if a filter
    matches all traces or none: the table then says nothing about association.
    """
    cells = (float(n11), float(n10), float(n01), float(n00))
    if 0 in (n11 + n10, n01 + n00, n11 + n01, n10 + n00):
        return None, None, None
    if 0 in cells:
        cells = (cells[0] + 0.5, cells[1] + 0.5, cells[2] + 0.5, cells[3] + 0.5)
    ratio = (cells[0] * cells[3]) / (cells[1] * cells[2])
    spread = math.exp(Z_95 * math.sqrt(math.fsum(1 / cell for cell in cells)))
    return ratio, ratio / spread, ratio * spread


# ---------------------------------------------------------------- significance


def p_value(n11: int, n10: int, n01: int, n00: int) -> float | None:
    """How probable so strong an association would be by chance, two-sided.

    The G² test, or Fisher's exact test where some expected count is below 5.
    Undefined if a filter matches all traces or none.
    """
    rows = (n11 + n10, n01 + n00)
    columns = (n11 + n01, n10 + n00)
    if 0 in rows or 0 in columns:
        return None
    if min(rows) * min(columns) < SMALL_EXPECTED_COUNT * sum(rows):
        return fisher_exact(n11, n10, n01, n00)
    return chi_square_sf(g_squared(n11, n10, n01, n00))


def g_squared(n11: int, n10: int, n01: int, n00: int) -> float:
    """The likelihood-ratio statistic ``2 sum(O log(O / E))`` of independence.

    Without continuity correction, one degree of freedom (Agresti, Categorical
    Data Analysis, 3.2.1).  No margin may be 0.

    All four ``O - E`` are ``+-(n11 n00 - n10 n01) / n``, exact in integers, and
    they add up to 0; subtracting them from the terms makes each term
    ``O log(O / E) - O + E`` positive, so that nothing cancels in the sum, not
    even for huge tables close to independence.
    """
    total = n11 + n10 + n01 + n00
    determinant = n11 * n00 - n10 * n01
    rows = (n11 + n10, n01 + n00)
    columns = (n11 + n01, n10 + n00)
    terms = []
    for sign, row, column in (
        (1, rows[0], columns[0]),
        (-1, rows[0], columns[1]),
        (-1, rows[1], columns[0]),
        (1, rows[1], columns[1]),
    ):
        expected_times_total = row * column
        deviation = (sign * determinant) / expected_times_total
        terms.append(expected_times_total / total * _deviance(deviation))
    return 2 * math.fsum(terms)


def _deviance(u: float) -> float:
    """``(1 + u) log(1 + u) - u`` for u >= -1, accurate around 0."""
    if abs(u) < 0.1:
        # The series sum((-u)**k / (k (k - 1)), k >= 2); 0.1**18 is below 1e-17.
        return math.fsum((-u) ** k / (k * (k - 1)) for k in range(2, 20))
    if u <= -1:
        return 1.0
    return (1 + u) * math.log1p(u) - u


def chi_square_sf(x: float) -> float:
    """The upper tail of the chi-square distribution with one degree of freedom.

    ``erfc(sqrt(x / 2))``, which keeps its relative precision far out until the
    result itself underflows, at x of about 1,400.
    """
    return math.erfc(math.sqrt(x / 2))


def fisher_exact(n11: int, n10: int, n01: int, n00: int) -> float:
    """Fisher's exact test, two-sided: the p-value.

    The probability, given the margins, of all tables that are at most as
    probable as this one, within a relative tolerance of 1e-14: the definition
    of ``scipy.stats.fisher_exact`` and of R's ``fisher.test``.

    Probabilities are taken relative to the mode and follow from each other by
    ``w(k + 1) / w(k) = (r - k)(c - k) / ((k + 1)(n - r - c + k + 1))``; sums
    run outwards until the terms vanish.  So there is no log-gamma of a large
    number, whose rounding would cost digits, and the work is a few standard
    deviations of terms plus the way from the mode to the observed cell.
    """
    total = n11 + n10 + n01 + n00
    # Mirror the table so that both margins are at most half: the cell's range
    # is then 0..min(row, column), and the cell is the one of least expectation.
    row, column, cell = n11 + n10, n11 + n01, n11
    if 2 * row > total:
        row, cell = total - row, column - cell
    if 2 * column > total:
        column, cell = total - column, row - cell
    return _Hypergeometric(row, column, total).two_sided(cell)


class _Hypergeometric:
    """The distribution of one cell of a 2x2 table whose margins are given.

    Requires ``2 row <= total`` and ``2 column <= total``.
    """

    def __init__(self, row: int, column: int, total: int) -> None:
        self._row = row
        self._column = column
        self._rest = total - row - column
        self._high = min(row, column)
        self._mode = (row + 1) * (column + 1) // (total + 2)

    def two_sided(self, cell: int) -> float:
        if cell == self._mode:
            return 1.0
        step = 1 if cell > self._mode else -1
        log_weight = self._log_weight(cell)
        near = self._outward_sum(cell, step)
        opposite = self._first_as_rare(cell, -step, log_weight)
        far = 0.0
        if opposite is not None:
            log_ratio = self._log_weight(opposite) - log_weight
            far = math.exp(log_ratio) * self._outward_sum(opposite, -step)
        whole = self._outward_sum(self._mode, 1) + self._outward_sum(self._mode, -1) - 1
        log_p = log_weight + math.log((near + far) / whole)
        return min(1.0, math.exp(log_p)) if log_p > -746 else 0.0

    def _ratio(self, k: int, step: int) -> tuple[int, int]:
        """``w(k + step) / w(k)`` as numerator and denominator."""
        if step > 0:
            return (self._row - k) * (self._column - k), (k + 1) * (self._rest + k + 1)
        return k * (self._rest + k), (self._row - k + 1) * (self._column - k + 1)

    def _outward_sum(self, start: int, step: int) -> float:
        """``sum(w(k) / w(start))`` from ``start`` to that end of the range."""
        total = term = 1.0
        end = self._high if step > 0 else 0
        k = start
        while k != end:
            numerator, denominator = self._ratio(k, step)
            term *= numerator / denominator
            total += term
            k += step
            # The ratios fall on the way out, so what is left is below a
            # geometric series; it is negligible once a term is.
            if term < total * 1e-19:
                break
        return total

    def _log_weight(self, cell: int) -> float:
        """``log(w(cell) / w(mode))``, by multiplying the ratios in between."""
        step = 1 if cell > self._mode else -1
        logs = []
        product = 1.0
        for k in range(self._mode, cell, step):
            numerator, denominator = self._ratio(k, step)
            product *= numerator / denominator
            if product < 1e-200:
                logs.append(math.log(product))
                product = 1.0
        logs.append(math.log(product))
        return math.fsum(logs)

    def _first_as_rare(self, cell: int, step: int, log_weight: float) -> int | None:
        """The first value on the other side of the mode as rare as ``cell``."""
        end = self._high if step > 0 else 0
        k = self._mode
        log_k = 0.0
        product = 1.0
        while True:
            difference = log_k + math.log(product) - log_weight
            # Rounding leaves no doubt outside of this band; inside, whether the
            # two are equally probable is decided in integers.
            if difference < -1e-9 or (difference < 1e-9 and self._as_rare(k, cell)):
                return k
            if k == end:
                return None
            numerator, denominator = self._ratio(k, step)
            product *= numerator / denominator
            if product < 1e-200:
                log_k += math.log(product)
                product = 1.0
            k += step

    def _as_rare(self, k: int, cell: int) -> bool:
        """Whether ``w(k) <= w(cell)``, within the tolerance of the test."""
        step = 1 if k > cell else -1
        ratios = [self._ratio(i, step) for i in range(cell, k, step)]
        numerator = math.prod(n for n, _ in ratios)
        denominator = math.prod(d for _, d in ratios)
        return numerator * FISHER_TOLERANCE_INVERSE <= denominator * (FISHER_TOLERANCE_INVERSE + 1)
''',
"insights_engine.tables": r'''"""LALR(1) tables, generated from grammar.lark by generate_tables.py.

RULES: (left side, number of symbols, node, how).  ``how`` is 0 for a new
node, 1 for passing the only child on, 2 for extending the first child.
STATES: symbol -> n: shift and go to n; -n: reduce by rule n - 1.
"""

from __future__ import annotations

# fmt: off
RULES: tuple[tuple[str, int, str, int], ...] = (
    ("ands", 0, "ands", 0),
    ("ands", 2, "ands", 2),
    ("condition", 2, "negation", 0),
    ("condition", 3, "group", 0),
    ("condition", 3, "compare", 0),
    ("condition", 3, "match", 0),
    ("condition", 4, "match", 0),
    ("condition", 5, "in_list", 0),
    ("condition", 6, "in_list", 0),
    ("condition", 6, "in_list", 0),
    ("condition", 7, "in_list", 0),
    ("condition", 5, "between", 0),
    ("condition", 6, "between", 0),
    ("condition", 3, "is_null", 0),
    ("condition", 4, "is_null", 0),
    ("condition", 4, "any_span", 0),
    ("condition", 5, "count", 0),
    ("condition", 6, "count", 0),
    ("condition", 6, "count", 0),
    ("condition", 6, "aggregate", 0),
    ("condition", 8, "aggregate", 0),
    ("conjunction", 2, "conjunction", 0),
    ("conjunction", 2, "conjunction", 2),
    ("conjunction", 2, "conjunction", 2),
    ("disjunction", 1, "disjunction", 0),
    ("disjunction", 3, "disjunction", 2),
    ("field", 1, "field", 1),
    ("field", 1, "field", 1),
    ("start", 1, "start", 0),
    ("start", 1, "start", 0),
    ("string", 1, "string", 1),
    ("string", 1, "string", 1),
    ("time", 1, "time", 0),
    ("time", 3, "time", 2),
    ("time", 4, "time", 2),
    ("value", 1, "value", 1),
    ("value", 1, "value", 1),
    ("value", 1, "value", 1),
    ("value", 1, "value", 1),
    ("values", 1, "values", 0),
    ("values", 3, "values", 2),
)
STATES: tuple[dict[str, int], ...] = (
    {"$END": -1, "AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1,
     "FIELD": -1, "LPAR": -1, "NOT": -1, "ands": 1, "conjunction": 2, "disjunction": 3,
     "start": 4},
    {"$END": -29, "AGGREGATE": 5, "AND": 6, "ANY": 7, "COUNT": 8, "DOUBLE_QUOTED": 9,
     "FIELD": 10, "LPAR": 11, "NOT": 12, "condition": 13, "field": 14},
    {"$END": -25, "AGGREGATE": 5, "AND": 15, "ANY": 7, "COUNT": 8, "DOUBLE_QUOTED": 9,
     "FIELD": 10, "LPAR": 11, "NOT": 12, "OR": -25, "RPAR": -25, "condition": 16, "field": 14},
    {"$END": -30, "OR": 17},
    {},
    {"LPAR": 18},
    {"$END": -2, "AGGREGATE": -2, "AND": -2, "ANY": -2, "COUNT": -2, "DOUBLE_QUOTED": -2,
     "FIELD": -2, "LPAR": -2, "NOT": -2},
    {"LPAR": 19},
    {"LPAR": 20},
    {"BETWEEN": -28, "CMP": -28, "IN": -28, "IS": -28, "LIKE": -28, "NOT": -28, "RPAR": -28,
     "WHERE": -28},
    {"BETWEEN": -27, "CMP": -27, "IN": -27, "IS": -27, "LIKE": -27, "NOT": -27, "RPAR": -27,
     "WHERE": -27},
    {"AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1, "FIELD": -1,
     "LPAR": -1, "NOT": -1, "ands": 21, "conjunction": 2, "disjunction": 22},
    {"AGGREGATE": 5, "ANY": 7, "COUNT": 8, "DOUBLE_QUOTED": 9, "FIELD": 10, "LPAR": 11,
     "NOT": 12, "condition": 23, "field": 14},
    {"$END": -22, "AGGREGATE": -22, "AND": -22, "ANY": -22, "COUNT": -22, "DOUBLE_QUOTED": -22,
     "FIELD": -22, "LPAR": -22, "NOT": -22, "OR": -22, "RPAR": -22},
    {"BETWEEN": 24, "CMP": 25, "IN": 26, "IS": 27, "LIKE": 28, "NOT": 29},
    {"$END": -24, "AGGREGATE": -24, "AND": -24, "ANY": -24, "COUNT": -24, "DOUBLE_QUOTED": -24,
     "FIELD": -24, "LPAR": -24, "NOT": -24, "OR": -24, "RPAR": -24},
    {"$END": -23, "AGGREGATE": -23, "AND": -23, "ANY": -23, "COUNT": -23, "DOUBLE_QUOTED": -23,
     "FIELD": -23, "LPAR": -23, "NOT": -23, "OR": -23, "RPAR": -23},
    {"AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1, "FIELD": -1,
     "LPAR": -1, "NOT": -1, "ands": 21, "conjunction": 30},
    {"DOUBLE_QUOTED": 9, "FIELD": 10, "field": 31},
    {"AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1, "FIELD": -1,
     "LPAR": -1, "NOT": -1, "ands": 21, "conjunction": 2, "disjunction": 32},
    {"AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1, "FIELD": -1,
     "LPAR": -1, "NOT": -1, "RPAR": 33, "STAR": 34, "ands": 21, "conjunction": 2,
     "disjunction": 35},
    {"AGGREGATE": 5, "AND": 6, "ANY": 7, "COUNT": 8, "DOUBLE_QUOTED": 9, "FIELD": 10, "LPAR": 11,
     "NOT": 12, "condition": 13, "field": 14},
    {"OR": 17, "RPAR": 36},
    {"$END": -3, "AGGREGATE": -3, "AND": -3, "ANY": -3, "COUNT": -3, "DOUBLE_QUOTED": -3,
     "FIELD": -3, "LPAR": -3, "NOT": -3, "OR": -3, "RPAR": -3},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 44},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 45},
    {"LPAR": 46},
    {"NOT": 47, "NULL": 48},
    {"DOUBLE_QUOTED": 38, "STRING": 41, "string": 49},
    {"BETWEEN": 50, "IN": 51, "LIKE": 52},
    {"$END": -26, "AGGREGATE": 5, "AND": 15, "ANY": 7, "COUNT": 8, "DOUBLE_QUOTED": 9,
     "FIELD": 10, "LPAR": 11, "NOT": 12, "OR": -26, "RPAR": -26, "condition": 16, "field": 14},
    {"RPAR": 53, "WHERE": 54},
    {"OR": 17, "RPAR": 55},
    {"CMP": 56},
    {"RPAR": 57},
    {"OR": 17, "RPAR": 58},
    {"$END": -4, "AGGREGATE": -4, "AND": -4, "ANY": -4, "COUNT": -4, "DOUBLE_QUOTED": -4,
     "FIELD": -4, "LPAR": -4, "NOT": -4, "OR": -4, "RPAR": -4},
    {"$END": -38, "AGGREGATE": -38, "AND": -38, "ANY": -38, "COMMA": -38, "COUNT": -38,
     "DOUBLE_QUOTED": -38, "FIELD": -38, "LPAR": -38, "NOT": -38, "OR": -38, "RPAR": -38},
    {"$END": -32, "AGGREGATE": -32, "AND": -32, "ANY": -32, "COMMA": -32, "COUNT": -32,
     "DOUBLE_QUOTED": -32, "FIELD": -32, "LPAR": -32, "NOT": -32, "OR": -32, "RPAR": -32,
     "SIGN": -32},
    {"$END": -33, "AGGREGATE": -33, "AND": -33, "ANY": -33, "COMMA": -33, "COUNT": -33,
     "DOUBLE_QUOTED": -33, "FIELD": -33, "LPAR": -33, "NOT": -33, "OR": -33, "RPAR": -33,
     "SIGN": -33},
    {"$END": -37, "AGGREGATE": -37, "AND": -37, "ANY": -37, "COMMA": -37, "COUNT": -37,
     "DOUBLE_QUOTED": -37, "FIELD": -37, "LPAR": -37, "NOT": -37, "OR": -37, "RPAR": -37},
    {"$END": -31, "AGGREGATE": -31, "AND": -31, "ANY": -31, "COMMA": -31, "COUNT": -31,
     "DOUBLE_QUOTED": -31, "FIELD": -31, "LPAR": -31, "NOT": -31, "OR": -31, "RPAR": -31,
     "SIGN": -31},
    {"$END": -36, "AGGREGATE": -36, "AND": -36, "ANY": -36, "COMMA": -36, "COUNT": -36,
     "DOUBLE_QUOTED": -36, "FIELD": -36, "LPAR": -36, "NOT": -36, "OR": -36, "RPAR": -36},
    {"$END": -39, "AGGREGATE": -39, "AND": -39, "ANY": -39, "COMMA": -39, "COUNT": -39,
     "DOUBLE_QUOTED": -39, "FIELD": -39, "LPAR": -39, "NOT": -39, "OR": -39, "RPAR": -39,
     "SIGN": 59},
    {"AND": 60},
    {"$END": -5, "AGGREGATE": -5, "AND": -5, "ANY": -5, "COUNT": -5, "DOUBLE_QUOTED": -5,
     "FIELD": -5, "LPAR": -5, "NOT": -5, "OR": -5, "RPAR": -5},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 61, "values": 62},
    {"NULL": 63},
    {"$END": -14, "AGGREGATE": -14, "AND": -14, "ANY": -14, "COUNT": -14, "DOUBLE_QUOTED": -14,
     "FIELD": -14, "LPAR": -14, "NOT": -14, "OR": -14, "RPAR": -14},
    {"$END": -6, "AGGREGATE": -6, "AND": -6, "ANY": -6, "COUNT": -6, "DOUBLE_QUOTED": -6,
     "FIELD": -6, "LPAR": -6, "NOT": -6, "OR": -6, "RPAR": -6},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 64},
    {"LPAR": 65},
    {"DOUBLE_QUOTED": 38, "STRING": 41, "string": 66},
    {"CMP": 67},
    {"AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1, "FIELD": -1,
     "LPAR": -1, "NOT": -1, "ands": 21, "conjunction": 2, "disjunction": 68},
    {"$END": -16, "AGGREGATE": -16, "AND": -16, "ANY": -16, "COUNT": -16, "DOUBLE_QUOTED": -16,
     "FIELD": -16, "LPAR": -16, "NOT": -16, "OR": -16, "RPAR": -16},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 69},
    {"CMP": 70},
    {"CMP": 71},
    {"DOUBLE_QUOTED": 38, "INTERVAL": 72, "STRING": 41, "string": 73},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 74},
    {"COMMA": -40, "RPAR": -40},
    {"COMMA": 75, "RPAR": 76},
    {"$END": -15, "AGGREGATE": -15, "AND": -15, "ANY": -15, "COUNT": -15, "DOUBLE_QUOTED": -15,
     "FIELD": -15, "LPAR": -15, "NOT": -15, "OR": -15, "RPAR": -15},
    {"AND": 77},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 61, "values": 78},
    {"$END": -7, "AGGREGATE": -7, "AND": -7, "ANY": -7, "COUNT": -7, "DOUBLE_QUOTED": -7,
     "FIELD": -7, "LPAR": -7, "NOT": -7, "OR": -7, "RPAR": -7},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 79},
    {"OR": 17, "RPAR": 80},
    {"$END": -17, "AGGREGATE": -17, "AND": -17, "ANY": -17, "COUNT": -17, "DOUBLE_QUOTED": -17,
     "FIELD": -17, "LPAR": -17, "NOT": -17, "OR": -17, "RPAR": -17},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 81},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 82},
    {"DOUBLE_QUOTED": 38, "STRING": 41, "string": 83},
    {"$END": -34, "AGGREGATE": -34, "AND": -34, "ANY": -34, "COMMA": -34, "COUNT": -34,
     "DOUBLE_QUOTED": -34, "FIELD": -34, "LPAR": -34, "NOT": -34, "OR": -34, "RPAR": -34,
     "SIGN": -34},
    {"$END": -12, "AGGREGATE": -12, "AND": -12, "ANY": -12, "COUNT": -12, "DOUBLE_QUOTED": -12,
     "FIELD": -12, "LPAR": -12, "NOT": -12, "OR": -12, "RPAR": -12},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "RPAR": 84, "STRING": 41,
     "string": 42, "time": 43, "value": 85},
    {"$END": -8, "AGGREGATE": -8, "AND": -8, "ANY": -8, "COUNT": -8, "DOUBLE_QUOTED": -8,
     "FIELD": -8, "LPAR": -8, "NOT": -8, "OR": -8, "RPAR": -8},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 86},
    {"COMMA": 87, "RPAR": 88},
    {"$END": -20, "AGGREGATE": -20, "AND": -20, "ANY": -20, "COUNT": -20, "DOUBLE_QUOTED": -20,
     "FIELD": -20, "LPAR": -20, "NOT": -20, "OR": -20, "RPAR": -20},
    {"CMP": 89},
    {"$END": -18, "AGGREGATE": -18, "AND": -18, "ANY": -18, "COUNT": -18, "DOUBLE_QUOTED": -18,
     "FIELD": -18, "LPAR": -18, "NOT": -18, "OR": -18, "RPAR": -18},
    {"$END": -19, "AGGREGATE": -19, "AND": -19, "ANY": -19, "COUNT": -19, "DOUBLE_QUOTED": -19,
     "FIELD": -19, "LPAR": -19, "NOT": -19, "OR": -19, "RPAR": -19},
    {"$END": -35, "AGGREGATE": -35, "AND": -35, "ANY": -35, "COMMA": -35, "COUNT": -35,
     "DOUBLE_QUOTED": -35, "FIELD": -35, "LPAR": -35, "NOT": -35, "OR": -35, "RPAR": -35,
     "SIGN": -35},
    {"$END": -9, "AGGREGATE": -9, "AND": -9, "ANY": -9, "COUNT": -9, "DOUBLE_QUOTED": -9,
     "FIELD": -9, "LPAR": -9, "NOT": -9, "OR": -9, "RPAR": -9},
    {"COMMA": -41, "RPAR": -41},
    {"$END": -13, "AGGREGATE": -13, "AND": -13, "ANY": -13, "COUNT": -13, "DOUBLE_QUOTED": -13,
     "FIELD": -13, "LPAR": -13, "NOT": -13, "OR": -13, "RPAR": -13},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "RPAR": 90, "STRING": 41,
     "string": 42, "time": 43, "value": 85},
    {"$END": -10, "AGGREGATE": -10, "AND": -10, "ANY": -10, "COUNT": -10, "DOUBLE_QUOTED": -10,
     "FIELD": -10, "LPAR": -10, "NOT": -10, "OR": -10, "RPAR": -10},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NUMBER": 40, "STRING": 41, "string": 42,
     "time": 43, "value": 91},
    {"$END": -11, "AGGREGATE": -11, "AND": -11, "ANY": -11, "COUNT": -11, "DOUBLE_QUOTED": -11,
     "FIELD": -11, "LPAR": -11, "NOT": -11, "OR": -11, "RPAR": -11},
    {"$END": -21, "AGGREGATE": -21, "AND": -21, "ANY": -21, "COUNT": -21, "DOUBLE_QUOTED": -21,
     "FIELD": -21, "LPAR": -21, "NOT": -21, "OR": -21, "RPAR": -21},
)
''',
"insights_engine.tokens": r'''"""Cuts a filter into tokens, and refuses what cannot be part of any filter."""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from insights_engine.errors import FilterError, visible

MAX_BYTES = 64 * 1024
MAX_PREDICATES = 1000
MAX_NESTING = 100


class Token(NamedTuple):
    """``text[start:end]`` of a filter.

    ``kind`` is a terminal of grammar.lark.  A FIELD that is followed by keys
    in brackets has them in ``steps``, and ``name_end`` is where its name ends.
    """

    kind: str
    start: int
    end: int
    name_end: int = 0
    steps: tuple[str, ...] = ()


KEYWORDS = {
    "AND": "AND",
    "OR": "OR",
    "NOT": "NOT",
    "LIKE": "LIKE",
    "ILIKE": "LIKE",
    "RLIKE": "LIKE",
    "IN": "IN",
    "BETWEEN": "BETWEEN",
    "IS": "IS",
    "NULL": "NULL",
    "TRUE": "BOOLEAN",
    "FALSE": "BOOLEAN",
    "WHERE": "WHERE",
    "INTERVAL": "INTERVAL",
}
FUNCTIONS = {
    "ANY": "ANY",
    "COUNT": "COUNT",
    "SUM": "AGGREGATE",
    "AVG": "AGGREGATE",
    "MIN": "AGGREGATE",
    "MAX": "AGGREGATE",
}

# A key may hold dashes without being quoted: nothing else in the language
# gives a dash between two words a meaning.
_SINGLE = r"'[^']*(?:''[^']*)*'"
_DOUBLE = r'"[^"]*(?:""[^"]*)*"'
_BACK = r"`[^`]*(?:``[^`]*)*`"
_KEY = rf"\.(?:\w+(?:-\w+)*|{_BACK}|{_DOUBLE}|{_SINGLE})?"
# MLflow's lexer: a backslash keeps the quote after it inside the string.
_SINGLE_ESCAPED = r"'(?:''|\\'|[^'])*'"
_DOUBLE_ESCAPED = r'"(?:""|\\"|[^"])*"'


def _token_pattern(single: str, double: str) -> re.Pattern[str]:
    return re.compile(
        rf"""
          (?P<SPACE>\s+)
        | (?P<FIELD>(?:[^\W\d]\w*|{_BACK}|{_DOUBLE}(?=\.))(?:{_KEY})*)
        | (?P<STRING>{single})
        | (?P<DOUBLE_QUOTED>{double})
        | (?P<NUMBER>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
        | (?P<COMMENT>--[^\n]*|/\*)
        | (?P<CMP>[<>=!~]+)
        | (?P<LPAR>\()
        | (?P<RPAR>\))
        | (?P<COMMA>,)
        | (?P<SIGN>[+-])
        | (?P<STAR>\*)
        """,
        re.VERBOSE,
    )


_PATTERN = _token_pattern(_SINGLE, _DOUBLE)
_PATTERN_ESCAPED = _token_pattern(_SINGLE_ESCAPED, _DOUBLE_ESCAPED)
_OPEN_PARENTHESIS = re.compile(r"\s*\(")
_NOW = re.compile(r"\s*\(\s*\)")
_STEP = re.compile(rf"\s*\[\s*(?:({_SINGLE}|{_DOUBLE}|{_BACK})|(\d+))\s*\]")
_OPEN_BRACKET = re.compile(r"\s*\[")
_WORD = re.compile(r"\w+")

_SMART_QUOTES = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2032\u2033\u00b4\u00ab\u00bb"
_INVISIBLE = {
    "\u200b": "zero-width space",
    "\u200c": "zero-width non-joiner",
    "\u200d": "zero-width joiner",
    "\u2060": "word joiner",
    "\ufeff": "byte order mark",
    "\u00ad": "soft hyphen",
}


def unquote(quoted: str) -> str:
    """The text inside a pair of quotes, in which a doubled quote is one."""
    mark = quoted[0]
    return quoted[1:-1].replace(mark * 2, mark)


def check_text(text: str) -> None:
    """Refuse what is too long, or cannot be text in PostgreSQL at all."""
    try:
        size = len(text) if len(text) > MAX_BYTES else len(text.encode())
    except UnicodeEncodeError as error:
        raise FilterError(
            "the filter contains half of a surrogate pair, which is not a character",
            error.start,
            filter=text,
        ) from None
    if size > MAX_BYTES:
        raise FilterError(
            f"the filter is too long: {size} bytes, at most {MAX_BYTES} are allowed",
            hint="Many values of one field fit into a list: field IN ('a', 'b', ...).",
            filter=text,
        )
    place = text.find("\0")
    if place >= 0:
        raise FilterError(
            "the filter contains a NUL character, which PostgreSQL's text cannot hold",
            place,
            filter=text,
        )


def tokenize(text: str, *, escaped_quotes: bool = False) -> list[Token]:
    """The tokens of a filter that `check_text` let pass.

    ``escaped_quotes``: a quote after a backslash does not end a string, as in
    MLflow's lexer (the backslash stays part of the string there, too).
    """
    pattern = _PATTERN_ESCAPED if escaped_quotes else _PATTERN
    tokens: list[Token] = []
    position = 0
    predicates = 0
    opened: list[int] = []  # how deep each open parenthesis goes
    depth = 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            _refuse_character(text, position, tokens)
        kind = match.lastgroup
        start, position = match.span()
        if kind == "SPACE":
            continue
        if kind == "FIELD":
            token, position = _word_or_field(text, start, position)
            kind = token.kind
        else:
            assert kind is not None
            token = Token(kind, start, position)
            if kind == "NUMBER":
                _check_number(text, token)
            elif kind == "COMMENT":
                _refuse_comment(text, start, position)
        if kind == "NOT":
            depth += 1
        elif kind == "LPAR":
            depth += 1
            opened.append(depth)
        else:
            if kind == "RPAR" and opened:
                opened.pop()
            depth = opened[-1] if opened else 0
            if kind in ("CMP", "LIKE", "IN", "BETWEEN", "IS"):
                predicates += 1
                if predicates > MAX_PREDICATES:
                    raise FilterError(
                        f"the filter has more than {MAX_PREDICATES} predicates",
                        start,
                        position - start,
                        "Many values of one field fit into a list: field IN ('a', 'b', ...).",
                        text,
                    )
        if depth > MAX_NESTING:
            raise FilterError(
                f"the filter is nested more than {MAX_NESTING} levels deep",
                start,
                position - start,
                "Parentheses and NOT may stand inside one another up to "
                f"{MAX_NESTING} levels deep.",
                text,
            )
        tokens.append(token)
    return tokens


def _word_or_field(text: str, start: int, end: int) -> tuple[Token, int]:
    word = text[start:end].upper()
    keyword = KEYWORDS.get(word)
    if keyword is not None:
        return Token(keyword, start, end), end
    function = FUNCTIONS.get(word)
    if function is not None and _OPEN_PARENTHESIS.match(text, end):
        return Token(function, start, end), end
    if word == "NOW":
        call = _NOW.match(text, end)
        if call:
            return Token("NOW", start, call.end()), call.end()
    name_end = end
    steps: list[str] = []
    step = _STEP.match(text, end)
    while step:
        steps.append(unquote(step[1]) if step[1] else step[2])
        end = step.end()
        step = _STEP.match(text, end)
    bracket = _OPEN_BRACKET.match(text, end)
    if bracket:
        _refuse_bracket(text, bracket.end() - 1)
    return Token("FIELD", start, end, name_end, tuple(steps)), end


def _check_number(text: str, token: Token) -> None:
    unit = _WORD.match(text, token.end)
    if unit is None:
        return
    literal = text[token.start : unit.end()]
    raise FilterError(
        f"number with a unit: {visible(literal, 60)}",
        token.start,
        len(literal),
        unit_hint(text[token.start : token.end], unit[0]),
        text,
    )


#: Milliseconds of the units of time (without the plural s).
UNITS = {
    "ms": 1,
    "msec": 1,
    "millisecond": 1,
    "s": 1000,
    "sec": 1000,
    "second": 1000,
    "m": 60_000,
    "min": 60_000,
    "minute": 60_000,
    "h": 3_600_000,
    "hr": 3_600_000,
    "hour": 3_600_000,
    "d": 86_400_000,
    "day": 86_400_000,
    "w": 604_800_000,
    "week": 604_800_000,
}


def unit_in_ms(unit: str) -> int | None:
    """Milliseconds of a unit of time, singular or plural; None for other words."""
    unit = unit.lower()
    return UNITS.get(unit) or (UNITS.get(unit[:-1]) if unit.endswith("s") else None)


def unit_hint(number: str, unit: str) -> str:
    """What to write instead of a number with a unit."""
    factor = unit_in_ms(unit)
    if factor is None or len(number) > 20:
        return "Write the plain number; a text goes in quotes."
    milliseconds = float(number) * factor
    plain = int(milliseconds) if milliseconds == int(milliseconds) else milliseconds
    return f"Durations are plain numbers of milliseconds: write {plain}."


def _refuse_comment(text: str, start: int, end: int) -> NoReturn:
    if text.startswith("/*", start):
        close = text.find("*/", end)
        end = close + 2 if close >= 0 else len(text)
    raise FilterError(
        f"Invalid clause(s) in filter string: '{visible(text[start:end], 60)}':"
        " a filter holds no comments",
        start,
        end - start,
        "Remove the comment.",
        text,
    )


def _refuse_bracket(text: str, start: int) -> NoReturn:
    rest = re.compile(r"\[\s*([^\]\['\"`\s]+)\s*\]").match(text, start)
    if rest:
        raise FilterError(
            f"a key in brackets must be quoted: [{visible(rest[1], 60)}]",
            start,
            rest.end() - start,
            f"Write ['{visible(rest[1], 60)}'].",
            text,
        )
    if re.compile(r"\[\s*\]").match(text, start):
        raise FilterError(
            "there is no key in the brackets", start, 2, "Write ['key'].", text
        )
    raise FilterError(
        "the bracket opened here is not closed after one quoted key",
        start,
        1,
        "Write ['key'].",
        text,
    )


def _refuse_character(text: str, position: int, tokens: list[Token]) -> NoReturn:
    character = text[position]
    hint: str | None = None
    length = 1
    if character in "'\"`":
        name = {"'": "string", '"': "string", "`": "name"}[character]
        message = f"the {name} opened here is not closed: {character} is missing"
        hint = f"Close it with {character}."
        if (
            character != "`"
            and len(tokens) > 1
            and tokens[-1].kind != "CMP"
            and any(t.kind in ("STRING", "DOUBLE_QUOTED") for t in tokens[-8:])
        ):
            hint += f" A {character} inside a string is written twice: {character * 2}."
    elif character in _SMART_QUOTES:
        message = f"typographic quotation mark {character}"
        hint = "Use straight quotes: 'text'."
    elif character in _INVISIBLE:
        message = f"invisible character in the filter: {_INVISIBLE[character]}"
        hint = "Remove it; it may have been pasted with the text around it."
    elif character == ";":
        message, hint, length = _semicolon(text, position)
    elif character == "&" or character == "|":
        length = 2 if text.startswith(character * 2, position) else 1
        word = "AND" if character == "&" else "OR"
        message = f"unknown operator {text[position : position + length]}"
        hint = f"Use {word}."
    elif character in "[]{}":
        message = f"unexpected '{character}'"
        if character in "[{":
            hint = "A list of values stands in parentheses: field IN ('a', 'b')."
        if character == "{" or character == "[":
            pass
    else:
        message = f"unexpected character '{visible(character)}'"
        before = tokens[-1] if tokens else None
        if before is not None and before.kind == "FIELD" and before.end == position:
            hint = "Quote a key that holds other characters than letters, digits, _, - and dots:" \
                " tags['my key']."
    raise FilterError(message, position, length, hint, text)


def _semicolon(text: str, position: int) -> tuple[str, str, int]:
    if text[position:].strip(" \t\r\n;"):
        return (
            f"Search filter contained multiple expression {visible(repr(text), 200)}."
            " Provide AND-ed expression list.",
            "A filter is one expression: join conditions with AND or OR.",
            1,
        )
    return "Invalid clause(s) in filter string: ';'", "Remove the semicolon.", 1
''',
"insights_engine.tree": r'''"""The syntax tree of a trace filter.

Every node is a frozen dataclass, so trees compare by value and can be cached.
The parser hands out trees in *normal form*, in which everything that depends
on the surroundings has been settled:

* names are resolved (``tags.name`` is the trace name, ``tags['name']`` a tag);
* every value has its type (a comparison is either a `TextCompare` or a
  `NumberCompare`);
* the scope of span conditions is explicit: plain ``span.*`` predicates of one
  AND group have been gathered into one `AnySpan`, so a span predicate never
  stands outside `AnySpan`, `CountSpans` or `AggregateSpans`;
* ``And`` and ``Or`` are flat (no And directly in And) and have at least two
  items, except that the filter matching everything is ``And(())``.

Consumers (the SQL compiler, the printer, the tests' oracle) rely on that and
need no context of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

# --------------------------------------------------------------------- fields


@dataclass(frozen=True)
class TraceText:
    """A text field of the trace itself.

    ``name`` is one of TRACE_TEXT_FIELDS.  ``run_id`` and ``prompt`` are sets
    of values per trace: a comparison holds if some value satisfies it.
    """

    name: str


@dataclass(frozen=True)
class TraceNumber:
    """A numeric field of the trace; ``name`` is one of TRACE_NUMBER_FIELDS."""

    name: str


@dataclass(frozen=True)
class Tag:
    """The tag whose key is exactly ``key`` (never one of the promoted keys)."""

    key: str


@dataclass(frozen=True)
class Metadata:
    """The request metadata entry whose key is exactly ``key``.

    ``mlflow.trace.tokenUsage`` and ``mlflow.trace.cost`` are possible here and
    stand for the JSON text that MLflow synthesises from the number columns.
    """

    key: str


@dataclass(frozen=True)
class Assessment:
    """The valid assessments called ``name``; a set of values per trace.

    ``kind`` is ``feedback``, ``expectation`` or ``assessment`` (either).
    """

    kind: str
    name: str


@dataclass(frozen=True)
class Issue:
    """The ids of the issues a trace is linked to; a set of values per trace."""


@dataclass(frozen=True)
class SpanText:
    """A text column of a span: ``name``, ``type``, ``status`` or ``content``."""

    name: str


@dataclass(frozen=True)
class SpanNumber:
    """A numeric column of a span: ``duration_ms`` (missing while it runs)."""

    name: str


@dataclass(frozen=True)
class SpanAttribute:
    """A span attribute: the key, then keys or list indexes inside its value."""

    path: tuple[str, ...]


TRACE_TEXT_FIELDS = (
    "trace_id",
    "experiment_id",
    "status",
    "client_request_id",
    "name",
    "session_id",
    "user",
    "run_id",
    "prompt",
    "request_preview",
    "response_preview",
)

TRACE_NUMBER_FIELDS = (
    "timestamp_ms",
    "execution_time_ms",
    "end_time_ms",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
    "input_cost",
    "output_cost",
    "total_cost",
    "span_count",
)

TraceField = Union[TraceText, TraceNumber, Tag, Metadata, Assessment, Issue]
SpanField = Union[SpanText, SpanNumber, SpanAttribute]
Field = Union[TraceField, SpanField]

# --------------------------------------------------------------------- values


@dataclass(frozen=True)
class Now:
    """``now()`` plus ``offset_ms`` (negative for the past), in milliseconds.

    Stays symbolic in the tree, so that a cached tree never holds a stale time.
    """

    offset_ms: int = 0


Number = Union[int, float, Now]
Value = Union[str, int, float, Now]

# ----------------------------------------------------------------- predicates


@dataclass(frozen=True)
class TextCompare:
    """``field = 'value'`` or ``field != 'value'``; ``op`` is ``=`` or ``!=``.

    The boolean literals arrive as the texts ``true`` and ``false``.
    """

    field: Field
    op: str
    value: str


@dataclass(frozen=True)
class NumberCompare:
    """A numeric comparison; ``op`` is one of ``= != < <= > >=``.

    A text field's value takes part if it is a JSON number or wholly reads as
    a finite decimal number; an assessment's only if it is a JSON number.
    Any other value is missing here and satisfies nothing, ``!=`` included.
    """

    field: Field
    op: str
    value: Number


@dataclass(frozen=True)
class Match:
    """``field [NOT] LIKE|ILIKE|RLIKE 'pattern'``; ``op`` is in upper case.

    Negated: the value exists and does not match.
    """

    field: Field
    op: str
    pattern: str
    negated: bool = False


@dataclass(frozen=True)
class In:
    """``field [NOT] IN (values)``: equal to some value.

    Text items compare as text, numbers as numbers.  Negated: the value exists
    and equals none of them.
    """

    field: Field
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True)
class Between:
    """``field [NOT] BETWEEN low AND high``, both bounds included, numeric.

    Negated: the value exists as a number and lies outside.
    """

    field: Field
    low: Number
    high: Number
    negated: bool = False


@dataclass(frozen=True)
class IsNull:
    """``field IS NULL``, or with ``negated`` ``field IS NOT NULL``."""

    field: Field
    negated: bool = False


Predicate = Union[TextCompare, NumberCompare, Match, In, Between, IsNull]

# ------------------------------------------------------------- span quantifiers


@dataclass(frozen=True)
class AnySpan:
    """Some span of the trace satisfies ``condition``."""

    condition: Node


@dataclass(frozen=True)
class CountSpans:
    """The number of spans that satisfy ``condition`` (None: all) compares so."""

    condition: Node | None
    op: str
    value: int


@dataclass(frozen=True)
class AggregateSpans:
    """``function(field WHERE condition) op value``.

    ``function`` is ``sum``, ``avg``, ``min`` or ``max`` over the numeric
    values of ``field``; over none of them it is missing and satisfies nothing.
    """

    function: str
    field: SpanNumber | SpanAttribute
    condition: Node | None
    op: str
    value: int | float


# ---------------------------------------------------------------------- algebra


@dataclass(frozen=True)
class And:
    """Every item holds; ``And(())`` is the filter that matches every trace."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """Some item holds."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    """The item does not hold (a complement: missing values do match it)."""

    item: Node


Node = Union[And, Or, Not, Predicate, AnySpan, CountSpans, AggregateSpans]

EVERYTHING = And(())
''',
}

import importlib.abc, importlib.machinery, linecache, sys

class Loader(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Compiles a module of the engine when it is first imported."""

    def find_spec(self, name, path=None, target=None):
        if name not in sources:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=self.is_package(name))

    def is_package(self, name):
        return name == "insights_engine"

    def get_source(self, name):
        return text(sources[name])

    def exec_module(self, module):
        name = module.__name__
        source = self.get_source(name)
        place = "<insights 0ffd6cc0187a271d " + name + ">"
        linecache.cache[place] = (len(source), None, source.splitlines(True), place)
        exec(compile(source, place, "exec", dont_inherit=True), module.__dict__)

# An engine from before an upgrade makes room: its modules, its finder, its api.
for name in [name for name in sys.modules if name.partition(".")[0] == "insights_engine"]:
    del sys.modules[name]
sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "engine", None) != "insights"]
for key in GD.pop("insights_engines", ()):
    GD.pop(key, None)

loader = Loader()
loader.engine = "insights"
sys.meta_path.insert(0, loader)
import insights_engine.api
GD["0ffd6cc0187a271d"] = sys.modules["insights_engine.api"]
GD["insights_engines"] = ["0ffd6cc0187a271d"]
$insights_engine$;

comment on function insights.load_engine() is
    'Loads the filter engine into this session; internal, called by the other functions';

revoke all on function insights.load_engine() from public;
grant execute on function insights.load_engine() to public;

-- sql/internal/decode_json_text.sql
-- What json_text leaves over: escapes, objects, arrays, unusual numbers.
create or replace function insights.decode_json_text(value text) returns text
language plpython3u
immutable
strict
parallel safe
cost 500
as $python$
read = SD.get("read")
if read is None:
    """Reads values out of the JSON that MLflow stores: span content, assessments.

    This module uses nothing but the standard library and no other module of the
    engine, because its source is inlined into small PL/Python helper functions:
    those also run in parallel workers, which must not load the whole engine.
    For the same reason its annotations are valid without ``__future__`` imports.

    A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
    map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
    other writers, to a plain value.  Whatever cannot be read counts as missing.
    """

    import json
    import math
    import re
    from typing import Any, List, Optional, Sequence

    #: Stands for a value that is not there; JSON's null counts as missing too.
    MISSING = None

    # The decimal numbers that a text may consist of; float() alone would take
    # blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
    _NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

    # What PostgreSQL's text cannot hold.
    _UNSTORABLE = re.compile("[\0\ud800-\udfff]")


    def loads(text: str) -> Any:
        """The decoded JSON text, or MISSING where it is none.

        ``json.loads`` fails with ValueError (not JSON, or an integer of more than
        4,300 digits) and with RecursionError.
        """
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return MISSING


    def storable(text: str) -> str:
        """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
        if text.isascii() and "\0" not in text:
            return text
        return _UNSTORABLE.sub("\ufffd", text)


    def attributes_of(content: str) -> Any:
        """The ``attributes`` of a span's content, ``{}`` where there are none."""
        span = loads(content)
        attributes = span.get("attributes") if isinstance(span, dict) else MISSING
        return attributes if isinstance(attributes, dict) else {}


    def step_into(value: Any, path: Sequence[str]) -> Any:
        """The value under ``path``: keys of objects and decimal indexes of lists."""
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
                index = int(step)
                value = value[index] if index < len(value) else MISSING
            else:
                return MISSING
        return value


    def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
        """The decoded value of one attribute, or of a part of it."""
        value = attributes.get(path[0])
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                pass  # not JSON: the text itself is the value
        return step_into(value, path[1:]) if len(path) > 1 else value


    def attribute(content: str, path: Sequence[str]) -> Any:
        """The decoded value under ``path`` of a span's content, or MISSING."""
        return attribute_in(attributes_of(content), path)


    def text_form(value: Any) -> Optional[str]:
        """A decoded value as text: strings as they are, all else as JSON prints it."""
        if value is MISSING:
            return None
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (ValueError, RecursionError):
                return None
        return storable(value)


    def number_form(value: Any) -> Optional[float]:
        """A decoded value as a finite number, or None.

        Numbers count, and strings that wholly read as a decimal number; booleans
        do not.
        """
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                return None
        elif not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            return None
        return number if math.isfinite(number) else None


    def total(numbers: Sequence[Optional[float]]) -> Optional[float]:
        """The correctly rounded sum, the same in any order; None for no numbers.

        A sum beyond the largest double is an infinity.
        """
        present: List[float] = [number for number in numbers if number is not None]
        if not present:
            return None
        try:
            return math.fsum(present)
        except OverflowError:  # a partial sum, perhaps not the whole
            from fractions import Fraction

            exact = sum((Fraction(number) for number in present), Fraction())
            try:
                return float(exact)
            except OverflowError:
                return math.inf if exact > 0 else -math.inf

    def read(value):
        return text_form(loads(value))

    SD["read"] = read
return read(value)
$python$;

comment on function insights.decode_json_text(text) is
    'The text of a JSON value: a string without quotes and escapes, all else as JSON prints it; '
    'NULL for null and for what is not JSON';

revoke all on function insights.decode_json_text(text) from public;
grant execute on function insights.decode_json_text(text) to public;

-- sql/internal/float_sum.sql
-- sum(double precision) depends on the order of the rows and fails beyond the
-- largest double; this one does neither.
create or replace function insights.float_sum(numbers double precision[])
returns double precision
language plpython3u
immutable
strict
parallel safe
cost 300
as $python$
add = SD.get("add")
if add is None:
    """Reads values out of the JSON that MLflow stores: span content, assessments.

    This module uses nothing but the standard library and no other module of the
    engine, because its source is inlined into small PL/Python helper functions:
    those also run in parallel workers, which must not load the whole engine.
    For the same reason its annotations are valid without ``__future__`` imports.

    A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
    map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
    other writers, to a plain value.  Whatever cannot be read counts as missing.
    """

    import json
    import math
    import re
    from typing import Any, List, Optional, Sequence

    #: Stands for a value that is not there; JSON's null counts as missing too.
    MISSING = None

    # The decimal numbers that a text may consist of; float() alone would take
    # blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
    _NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

    # What PostgreSQL's text cannot hold.
    _UNSTORABLE = re.compile("[\0\ud800-\udfff]")


    def loads(text: str) -> Any:
        """The decoded JSON text, or MISSING where it is none.

        ``json.loads`` fails with ValueError (not JSON, or an integer of more than
        4,300 digits) and with RecursionError.
        """
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return MISSING


    def storable(text: str) -> str:
        """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
        if text.isascii() and "\0" not in text:
            return text
        return _UNSTORABLE.sub("\ufffd", text)


    def attributes_of(content: str) -> Any:
        """The ``attributes`` of a span's content, ``{}`` where there are none."""
        span = loads(content)
        attributes = span.get("attributes") if isinstance(span, dict) else MISSING
        return attributes if isinstance(attributes, dict) else {}


    def step_into(value: Any, path: Sequence[str]) -> Any:
        """The value under ``path``: keys of objects and decimal indexes of lists."""
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
                index = int(step)
                value = value[index] if index < len(value) else MISSING
            else:
                return MISSING
        return value


    def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
        """The decoded value of one attribute, or of a part of it."""
        value = attributes.get(path[0])
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                pass  # not JSON: the text itself is the value
        return step_into(value, path[1:]) if len(path) > 1 else value


    def attribute(content: str, path: Sequence[str]) -> Any:
        """The decoded value under ``path`` of a span's content, or MISSING."""
        return attribute_in(attributes_of(content), path)


    def text_form(value: Any) -> Optional[str]:
        """A decoded value as text: strings as they are, all else as JSON prints it."""
        if value is MISSING:
            return None
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (ValueError, RecursionError):
                return None
        return storable(value)


    def number_form(value: Any) -> Optional[float]:
        """A decoded value as a finite number, or None.

        Numbers count, and strings that wholly read as a decimal number; booleans
        do not.
        """
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                return None
        elif not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            return None
        return number if math.isfinite(number) else None


    def total(numbers: Sequence[Optional[float]]) -> Optional[float]:
        """The correctly rounded sum, the same in any order; None for no numbers.

        A sum beyond the largest double is an infinity.
        """
        present: List[float] = [number for number in numbers if number is not None]
        if not present:
            return None
        try:
            return math.fsum(present)
        except OverflowError:  # a partial sum, perhaps not the whole
            from fractions import Fraction

            exact = sum((Fraction(number) for number in present), Fraction())
            try:
                return float(exact)
            except OverflowError:
                return math.inf if exact > 0 else -math.inf

    add = SD["add"] = total
return add(numbers)
$python$;

comment on function insights.float_sum(double precision[]) is
    'The correctly rounded sum of the numbers that are not NULL; NULL where there are none';

revoke all on function insights.float_sum(double precision[]) from public;
grant execute on function insights.float_sum(double precision[]) to public;

-- sql/internal/parse_number.sql
-- The numbers that PostgreSQL's own cast might refuse (see text_number): it
-- raises an error where Python's float() gives zero or infinity.
create or replace function insights.parse_number(value text) returns double precision
language plpython3u
immutable
strict
parallel safe
cost 300
as $python$
read = SD.get("read")
if read is None:
    """Reads values out of the JSON that MLflow stores: span content, assessments.

    This module uses nothing but the standard library and no other module of the
    engine, because its source is inlined into small PL/Python helper functions:
    those also run in parallel workers, which must not load the whole engine.
    For the same reason its annotations are valid without ``__future__`` imports.

    A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
    map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
    other writers, to a plain value.  Whatever cannot be read counts as missing.
    """

    import json
    import math
    import re
    from typing import Any, List, Optional, Sequence

    #: Stands for a value that is not there; JSON's null counts as missing too.
    MISSING = None

    # The decimal numbers that a text may consist of; float() alone would take
    # blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
    _NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

    # What PostgreSQL's text cannot hold.
    _UNSTORABLE = re.compile("[\0\ud800-\udfff]")


    def loads(text: str) -> Any:
        """The decoded JSON text, or MISSING where it is none.

        ``json.loads`` fails with ValueError (not JSON, or an integer of more than
        4,300 digits) and with RecursionError.
        """
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return MISSING


    def storable(text: str) -> str:
        """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
        if text.isascii() and "\0" not in text:
            return text
        return _UNSTORABLE.sub("\ufffd", text)


    def attributes_of(content: str) -> Any:
        """The ``attributes`` of a span's content, ``{}`` where there are none."""
        span = loads(content)
        attributes = span.get("attributes") if isinstance(span, dict) else MISSING
        return attributes if isinstance(attributes, dict) else {}


    def step_into(value: Any, path: Sequence[str]) -> Any:
        """The value under ``path``: keys of objects and decimal indexes of lists."""
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
                index = int(step)
                value = value[index] if index < len(value) else MISSING
            else:
                return MISSING
        return value


    def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
        """The decoded value of one attribute, or of a part of it."""
        value = attributes.get(path[0])
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                pass  # not JSON: the text itself is the value
        return step_into(value, path[1:]) if len(path) > 1 else value


    def attribute(content: str, path: Sequence[str]) -> Any:
        """The decoded value under ``path`` of a span's content, or MISSING."""
        return attribute_in(attributes_of(content), path)


    def text_form(value: Any) -> Optional[str]:
        """A decoded value as text: strings as they are, all else as JSON prints it."""
        if value is MISSING:
            return None
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (ValueError, RecursionError):
                return None
        return storable(value)


    def number_form(value: Any) -> Optional[float]:
        """A decoded value as a finite number, or None.

        Numbers count, and strings that wholly read as a decimal number; booleans
        do not.
        """
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                return None
        elif not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            return None
        return number if math.isfinite(number) else None


    def total(numbers: Sequence[Optional[float]]) -> Optional[float]:
        """The correctly rounded sum, the same in any order; None for no numbers.

        A sum beyond the largest double is an infinity.
        """
        present: List[float] = [number for number in numbers if number is not None]
        if not present:
            return None
        try:
            return math.fsum(present)
        except OverflowError:  # a partial sum, perhaps not the whole
            from fractions import Fraction

            exact = sum((Fraction(number) for number in present), Fraction())
            try:
                return float(exact)
            except OverflowError:
                return math.inf if exact > 0 else -math.inf

    read = SD["read"] = number_form
return read(value)
$python$;

comment on function insights.parse_number(text) is
    'The finite number that a text of any length wholly reads as, otherwise NULL';

revoke all on function insights.parse_number(text) from public;
grant execute on function insights.parse_number(text) to public;

-- sql/internal/span_attribute.sql
-- The text of a span attribute, decoded from the stored content.
--
-- Called for each candidate span, so it carries no SET clause (it runs no SQL)
-- and its COST keeps the planner from evaluating it before cheap conditions.
create or replace function insights.span_attribute(content text, path text[]) returns text
language plpython3u
immutable
strict
parallel safe
cost 1000
as $python$
read = SD.get("read")
if read is None:
    """Reads values out of the JSON that MLflow stores: span content, assessments.

    This module uses nothing but the standard library and no other module of the
    engine, because its source is inlined into small PL/Python helper functions:
    those also run in parallel workers, which must not load the whole engine.
    For the same reason its annotations are valid without ``__future__`` imports.

    A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
    map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
    other writers, to a plain value.  Whatever cannot be read counts as missing.
    """

    import json
    import math
    import re
    from typing import Any, List, Optional, Sequence

    #: Stands for a value that is not there; JSON's null counts as missing too.
    MISSING = None

    # The decimal numbers that a text may consist of; float() alone would take
    # blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
    _NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

    # What PostgreSQL's text cannot hold.
    _UNSTORABLE = re.compile("[\0\ud800-\udfff]")


    def loads(text: str) -> Any:
        """The decoded JSON text, or MISSING where it is none.

        ``json.loads`` fails with ValueError (not JSON, or an integer of more than
        4,300 digits) and with RecursionError.
        """
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return MISSING


    def storable(text: str) -> str:
        """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
        if text.isascii() and "\0" not in text:
            return text
        return _UNSTORABLE.sub("\ufffd", text)


    def attributes_of(content: str) -> Any:
        """The ``attributes`` of a span's content, ``{}`` where there are none."""
        span = loads(content)
        attributes = span.get("attributes") if isinstance(span, dict) else MISSING
        return attributes if isinstance(attributes, dict) else {}


    def step_into(value: Any, path: Sequence[str]) -> Any:
        """The value under ``path``: keys of objects and decimal indexes of lists."""
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
                index = int(step)
                value = value[index] if index < len(value) else MISSING
            else:
                return MISSING
        return value


    def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
        """The decoded value of one attribute, or of a part of it."""
        value = attributes.get(path[0])
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                pass  # not JSON: the text itself is the value
        return step_into(value, path[1:]) if len(path) > 1 else value


    def attribute(content: str, path: Sequence[str]) -> Any:
        """The decoded value under ``path`` of a span's content, or MISSING."""
        return attribute_in(attributes_of(content), path)


    def text_form(value: Any) -> Optional[str]:
        """A decoded value as text: strings as they are, all else as JSON prints it."""
        if value is MISSING:
            return None
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (ValueError, RecursionError):
                return None
        return storable(value)


    def number_form(value: Any) -> Optional[float]:
        """A decoded value as a finite number, or None.

        Numbers count, and strings that wholly read as a decimal number; booleans
        do not.
        """
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                return None
        elif not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            return None
        return number if math.isfinite(number) else None


    def total(numbers: Sequence[Optional[float]]) -> Optional[float]:
        """The correctly rounded sum, the same in any order; None for no numbers.

        A sum beyond the largest double is an infinity.
        """
        present: List[float] = [number for number in numbers if number is not None]
        if not present:
            return None
        try:
            return math.fsum(present)
        except OverflowError:  # a partial sum, perhaps not the whole
            from fractions import Fraction

            exact = sum((Fraction(number) for number in present), Fraction())
            try:
                return float(exact)
            except OverflowError:
                return math.inf if exact > 0 else -math.inf

    def read(content, path):
        return text_form(attribute(content, path))

    SD["read"] = read
return read(content, path)
$python$;

comment on function insights.span_attribute(text, text[]) is
    'The decoded text of a span attribute, or of the part of it under the further keys of path; '
    'NULL where it is missing or the content is not JSON';

revoke all on function insights.span_attribute(text, text[]) from public;
grant execute on function insights.span_attribute(text, text[]) to public;

-- sql/internal/span_attribute_number.sql
-- The number in a span attribute, decoded from the stored content.
--
-- Called for each candidate span, so it carries no SET clause (it runs no SQL)
-- and its COST keeps the planner from evaluating it before cheap conditions.
create or replace function insights.span_attribute_number(content text, path text[])
returns double precision
language plpython3u
immutable
strict
parallel safe
cost 1000
as $python$
read = SD.get("read")
if read is None:
    """Reads values out of the JSON that MLflow stores: span content, assessments.

    This module uses nothing but the standard library and no other module of the
    engine, because its source is inlined into small PL/Python helper functions:
    those also run in parallel workers, which must not load the whole engine.
    For the same reason its annotations are valid without ``__future__`` imports.

    A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
    map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
    other writers, to a plain value.  Whatever cannot be read counts as missing.
    """

    import json
    import math
    import re
    from typing import Any, List, Optional, Sequence

    #: Stands for a value that is not there; JSON's null counts as missing too.
    MISSING = None

    # The decimal numbers that a text may consist of; float() alone would take
    # blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
    _NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

    # What PostgreSQL's text cannot hold.
    _UNSTORABLE = re.compile("[\0\ud800-\udfff]")


    def loads(text: str) -> Any:
        """The decoded JSON text, or MISSING where it is none.

        ``json.loads`` fails with ValueError (not JSON, or an integer of more than
        4,300 digits) and with RecursionError.
        """
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return MISSING


    def storable(text: str) -> str:
        """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
        if text.isascii() and "\0" not in text:
            return text
        return _UNSTORABLE.sub("\ufffd", text)


    def attributes_of(content: str) -> Any:
        """The ``attributes`` of a span's content, ``{}`` where there are none."""
        span = loads(content)
        attributes = span.get("attributes") if isinstance(span, dict) else MISSING
        return attributes if isinstance(attributes, dict) else {}


    def step_into(value: Any, path: Sequence[str]) -> Any:
        """The value under ``path``: keys of objects and decimal indexes of lists."""
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
                index = int(step)
                value = value[index] if index < len(value) else MISSING
            else:
                return MISSING
        return value


    def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
        """The decoded value of one attribute, or of a part of it."""
        value = attributes.get(path[0])
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                pass  # not JSON: the text itself is the value
        return step_into(value, path[1:]) if len(path) > 1 else value


    def attribute(content: str, path: Sequence[str]) -> Any:
        """The decoded value under ``path`` of a span's content, or MISSING."""
        return attribute_in(attributes_of(content), path)


    def text_form(value: Any) -> Optional[str]:
        """A decoded value as text: strings as they are, all else as JSON prints it."""
        if value is MISSING:
            return None
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (ValueError, RecursionError):
                return None
        return storable(value)


    def number_form(value: Any) -> Optional[float]:
        """A decoded value as a finite number, or None.

        Numbers count, and strings that wholly read as a decimal number; booleans
        do not.
        """
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                return None
        elif not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            return None
        return number if math.isfinite(number) else None


    def total(numbers: Sequence[Optional[float]]) -> Optional[float]:
        """The correctly rounded sum, the same in any order; None for no numbers.

        A sum beyond the largest double is an infinity.
        """
        present: List[float] = [number for number in numbers if number is not None]
        if not present:
            return None
        try:
            return math.fsum(present)
        except OverflowError:  # a partial sum, perhaps not the whole
            from fractions import Fraction

            exact = sum((Fraction(number) for number in present), Fraction())
            try:
                return float(exact)
            except OverflowError:
                return math.inf if exact > 0 else -math.inf

    def read(content, path):
        return number_form(attribute(content, path))

    SD["read"] = read
return read(content, path)
$python$;

comment on function insights.span_attribute_number(text, text[]) is
    'A span attribute as a finite number: a JSON number, or a text that wholly reads as a decimal '
    'number; otherwise NULL';

revoke all on function insights.span_attribute_number(text, text[]) from public;
grant execute on function insights.span_attribute_number(text, text[]) to public;

-- sql/internal/json_text.sql
-- The decoded text of an assessment's stored JSON value.  The frequent cases
-- (plain strings, small integers, booleans) are settled without Python.
--
-- Meant to be inlined, hence neither STRICT nor a SET clause; the body was
-- resolved when it was created.
create or replace function insights.json_text(value text) returns text
language sql
immutable
parallel safe
return case
    when value ~ '^"[^"\\\x01-\x1f]*"$' then substr(value, 2, length(value) - 2)
    when value ~ '^(true|false|0|-?[1-9][0-9]{0,15})$' then value
    when value = 'null' then null
    else insights.decode_json_text(value)
end;

comment on function insights.json_text(text) is
    'The text of a JSON value: a string without quotes and escapes, all else as JSON prints it; '
    'NULL for null and for what is not JSON';

revoke all on function insights.json_text(text) from public;
grant execute on function insights.json_text(text) to public;

-- sql/internal/text_number.sql
-- The number that a text reads as.  Texts whose cast cannot leave the range of
-- double precision are cast right here, the others go to parse_number.
--
-- Meant to be inlined, hence neither STRICT nor a SET clause; the body was
-- resolved when it was created.
create or replace function insights.text_number(value text) returns double precision
language sql
immutable
parallel safe
return case
    when value ~ '^[+-]?([0-9]{1,99}(\.[0-9]{0,99})?|\.[0-9]{1,99})$'
        then value::double precision
    when value ~ '^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$'
        then insights.parse_number(value)
end;

comment on function insights.text_number(text) is
    'The finite number that a text wholly reads as (12, -0.5, 1e3), otherwise NULL';

revoke all on function insights.text_number(text) from public;
grant execute on function insights.text_number(text) to public;
