"""From concrete syntax to the tree: names, types and the scope of spans.

Everything here recurses at most as deep as the filter is nested, which
tokens.py has bounded before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple, NoReturn, Union

from insights_engine.language import fields, storage, times, tree
from insights_engine.language.errors import visible
from insights_engine.language.names import Names, bare_set, quoted_set, unquote_name
from insights_engine.language.syntax import Raw
from insights_engine.language.times import NUMBER_AND_UNIT
from insights_engine.language.tokens import Token, unit_hint, unquote

# What stock MLflow prints in its messages; sets are printed sorted.
_MLFLOW_NUMBERS = (
    "end_time",
    "end_time_ms",
    "execution_time",
    "execution_time_ms",
    "timestamp",
    "timestamp_ms",
)
_MLFLOW_LISTS = ("client_request_id", "name", "request_id", "run_id", "status")
_MLFLOW_STRING_COMPARATORS = ("!=", "=", "ILIKE", "IN", "LIKE", "NOT IN", "RLIKE")
_MLFLOW_TAG_COMPARATORS = (
    "!=",
    "=",
    "ILIKE",
    "IS NOT NULL",
    "IS NULL",
    "LIKE",
    "RLIKE",
)
_MLFLOW_ASSESSMENT_COMPARATORS = (
    "!=",
    "<",
    "<=",
    "=",
    ">",
    ">=",
    "ILIKE",
    "IS NOT NULL",
    "IS NULL",
    "LIKE",
    "RLIKE",
)

#: How stock MLflow calls the type of what follows an entity.
_MLFLOW_TYPES = {
    "tag": "tag",
    "tags": "tag",
    "metadata": "request_metadata",
    "request_metadata": "request_metadata",
    "span": "span",
    "feedback": "feedback",
    "expectation": "expectation",
    "assessment": "assessment",
    "issue": "issue",
}

_ORDERINGS = frozenset(("<", "<=", ">", ">="))
_COMPARISONS = frozenset(("=", "!=", *_ORDERINGS))
_OPERATOR_HINTS = {
    "==": "Use = instead of ==.",
    "===": "Use = instead of ===.",
    "<>": "Use != instead of <>.",
    "!==": "Use != instead of !==.",
    "=!": "Use != instead of =!.",
    "=>": "Use >= instead of =>.",
    "=<": "Use <= instead of =<.",
    "REGEXP": "Use RLIKE instead of REGEXP.",
    "~": "Use RLIKE instead of ~.",
    "~~": "Use LIKE instead of ~~.",
    "=~": "Use RLIKE instead of =~.",
    "!~": "Use NOT RLIKE instead of !~.",
}

#: Beside MLflow's list of six.
_NUMBERS = (
    f"Numbers go with {', '.join(sorted(fields.TRACE_NUMBERS))},"
    " span.duration_ms, tags, metadata, assessments and attributes."
)

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\Z", re.ASCII)
_INTEGER = re.compile(r"([+-]?)(\d+)\Z", re.ASCII)


class _Part(NamedTuple):
    """A piece of the tree.

    ``pure``: it consists of plain conditions on spans, and still has to learn
    which others speak of the same span.
    """

    node: tree.Node
    pure: bool


class _Value(NamedTuple):
    """A value with its type settled: text, number, boolean or now()."""

    kind: str
    value: Union[str, int, float, tree.Now]
    start: int
    end: int


class Resolver(Names):
    """Resolves one filter."""

    def __init__(self, text: str, raw: Raw) -> None:
        super().__init__(text)
        self._raw = raw
        self._parts: list[_Part] = []

    def resolve(self) -> None:
        """Resolve everything but what joins the filter with others."""
        child = self._raw.children[0]
        if child.name == "ands":
            self._parts = []
        elif len(child.children) == 1:
            conjunction = child.children[0]
            self._parts = self._conditions(conjunction, None)
        else:
            self._parts = [self._disjunction(child, None)]

    def filter(self) -> tree.Node:
        """The tree of the filter."""
        return self.conjunction([self])

    @staticmethod
    def conjunction(resolvers: Iterable[Resolver]) -> tree.Node:
        """The tree of the AND of several filters."""
        parts = [part for resolver in resolvers for part in resolver._parts]
        return _close(_conjoin(parts)) if parts else tree.EVERYTHING

    # ------------------------------------------------------------------ algebra

    def _disjunction(self, raw: Raw, scope: str | None) -> _Part:
        """``scope`` is the function inside whose parentheses we are, if any."""
        alternatives = [child for child in raw.children if isinstance(child, Raw)]
        parts = []
        for alternative in alternatives:
            self._check_ands(alternative)
            parts.append(_conjoin(self._conditions(alternative, scope)))
        return _disjoin(parts)

    def _conditions(self, raw: Raw, scope: str | None) -> list[_Part]:
        return [
            self._condition(child, scope)
            for child in raw.children
            if isinstance(child, Raw) and child.name != "ands"
        ]

    def _check_ands(self, conjunction: Raw) -> None:
        """Outside a plain list of conditions AND stands between two of them."""
        leading, *rest = conjunction.children
        if leading.children:
            token = leading.children[0]
            self._fail("a condition is missing before AND", token, "Remove AND.")
        previous: Raw | Token | None = None
        for child in rest:
            if isinstance(child, Token) and isinstance(previous, Token):
                self._fail(
                    "a condition is missing between AND and AND",
                    child,
                    "Remove one AND.",
                )
            previous = child
        if isinstance(previous, Token):
            self._fail("a condition is missing after AND", previous, "Remove AND.")

    def _condition(self, raw: Raw, scope: str | None) -> _Part:
        children = raw.children
        if raw.name == "group":
            inner = children[1]
            return self._disjunction(inner, scope)
        if raw.name == "negation":
            inner = children[1]
            return _Part(tree.Not(_close(self._condition(inner, scope))), False)
        if raw.name == "any_span":
            token, condition = children[0], children[2]
            self._check_not_nested(token, scope)
            return _Part(tree.AnySpan(self._disjunction(condition, "any()").node), False)
        if raw.name == "count":
            return _Part(self._count(raw, scope), False)
        if raw.name == "aggregate":
            return _Part(self._aggregate(raw, scope), False)
        token = children[0]
        field = self.field(token)
        span = fields.is_span_field(field)
        if scope is not None and not span:
            self._refuse_trace_field(token, scope)
        return _Part(self._predicate(raw, field), span and scope is None)

    def _check_not_nested(self, token: Token, scope: str | None) -> None:
        if scope is not None:
            self._fail(
                f"{self._source(token).lower()}(...) cannot stand inside {scope}",
                token,
                f"{scope} looks at one span at a time; join two of them with AND instead.",
            )

    def _refuse_trace_field(self, token: Token, scope: str) -> NoReturn:
        name = self._source(token)
        key = name.rsplit(".", 1)[-1]
        hint = f"Conditions on the trace stand outside: {scope[:-1]}...) AND {name} ..."
        if "." not in name and key in fields.SPAN_FIELDS:
            hint = f"Did you mean span.{key}?"
        self._fail(
            f"{scope} takes conditions on spans, and {visible(name, 60)} is a field of the trace",
            token,
            visible(hint, 200),
        )

    # ------------------------------------------------------------- count and sum

    def _count(self, raw: Raw, scope: str | None) -> tree.CountSpans:
        token, operator, value = raw.children[0], raw.children[-2], raw.children[-1]
        self._check_not_nested(token, scope)
        inner = raw.children[2]
        condition = None
        if isinstance(inner, Raw):
            condition = self._disjunction(inner, "count()").node
        op = self._plain_operator(operator, "count(...)")
        number = self._value(value)
        if number.kind != "number" or not isinstance(number.value, int):
            hint = "For example count(...) > 0."
            if isinstance(number.value, float):
                hint = f"Write {math.floor(number.value)} or {math.ceil(number.value)}."
            elif isinstance(number.value, str) and _INTEGER.match(number.value):
                hint = f"Remove the quotes: {visible(number.value, 40)}."
            self._fail(
                f"count(...) is compared with a whole number, found {self._shown(number)}",
                number,
                hint,
            )
        self._check_bigint(number)
        return tree.CountSpans(condition, op, number.value)

    def _aggregate(self, raw: Raw, scope: str | None) -> tree.AggregateSpans:
        token, operand = raw.children[0], raw.children[2]
        operator, value = raw.children[-2], raw.children[-1]
        self._check_not_nested(token, scope)
        function = self._source(token).lower()
        field = self.field(operand)
        if not isinstance(field, (tree.SpanNumber, tree.SpanAttribute)):
            name = visible(self._source(operand), 60)
            if fields.is_span_field(field):
                problem = f"{name} is text"
            else:
                problem = f"{name} is a field of the trace"
            self._fail(
                f"{function}() needs a numeric span field, and {problem}",
                operand,
                "Use span.duration_ms or span.attributes['key']."
                + (
                    ""
                    if fields.is_span_field(field)
                    else " Fields of the trace are compared as they are."
                ),
            )
        condition = None
        inner = raw.children[4]
        if isinstance(inner, Raw):
            condition = self._disjunction(inner, f"{function}()").node
        op = self._plain_operator(operator, f"{function}(...)")
        number = self._value(value)
        if isinstance(number.value, (str, tree.Now)):
            hint = f"For example {function}(...) > 1000."
            if isinstance(number.value, str):
                duration = NUMBER_AND_UNIT.fullmatch(number.value)
                if _NUMBER.match(number.value):
                    hint = f"Remove the quotes: {visible(number.value, 40)}."
                elif duration:
                    hint = unit_hint(duration[1], duration[2])
            self._fail(
                f"{function}(...) is compared with a number, found {self._shown(number)}",
                number,
                hint,
            )
        return tree.AggregateSpans(function, field, condition, op, number.value)

    def _plain_operator(self, operator: Token, subject: str) -> str:
        op = self._source(operator)
        if op not in _COMPARISONS:
            self._fail(
                f"unknown operator {op} after {subject}",
                operator,
                _OPERATOR_HINTS.get(op, "Use =, !=, <, <=, > or >=."),
            )
        return op

    # --------------------------------------------------------------- predicates

    def _predicate(self, raw: Raw, field: tree.Field) -> tree.Predicate:
        children = raw.children
        name, operator = children[0], children[1]
        negated = operator.kind == "NOT"
        if raw.name == "is_null":
            return tree.IsNull(field, len(children) == 4)
        if raw.name == "compare":
            return self._compare(name, field, operator, children[2])
        word = self._source(operator).upper()
        if negated:
            following = children[2]
            operator = Token("", operator.start, following.end)
            word = "NOT " + self._source(following).upper()
        values = children[3:] if negated else children[2:]
        if raw.name == "match":
            pattern = self._value(values[0])
            if not fields.is_number(field) and pattern.kind != "text":
                self._refuse_type(name, field, word, pattern)
            self._check_comparator(name, field, word, operator)
            assert isinstance(pattern.value, str)
            return tree.Match(field, word.replace("NOT ", ""), pattern.value, negated)
        if raw.name == "in_list":
            items = values[1]
            return self._in_list(name, field, word, operator, items, negated)
        self._check_comparator(name, field, word, operator)
        low = self._number(name, field, word, self._value(values[0]))
        high = self._number(name, field, word, self._value(values[2]))
        return tree.Between(field, low, high, negated)

    def _compare(
        self, name: Token, field: tree.Field, operator: Token, raw: Raw | Token
    ) -> tree.Predicate:
        op = self._source(operator).upper()
        value = self._value(raw)
        self._check_type(name, field, op, value)
        self._check_comparator(name, field, op, operator, value)
        if fields.is_number(field):
            return tree.NumberCompare(field, op, self._number(name, field, op, value))
        if value.kind == "time":
            self._refuse_now(name, value)
        if value.kind == "number" or op in _ORDERINGS:
            return tree.NumberCompare(field, op, self._number(name, field, op, value))
        return tree.TextCompare(field, op, self._text_value(name, field, op, value))

    def _check_type(self, name: Token, field: tree.Field, op: str, value: _Value) -> None:
        """Refuse NULL, and numbers where only text can stand."""
        if value.kind == "null" or (value.kind == "number" and not fields.may_hold_numbers(field)):
            self._refuse_type(name, field, op, value)

    def _refuse_type(self, name: Token, field: tree.Field, op: str, value: _Value) -> NoReturn:
        """Raise with the sentence that stock MLflow has for a value that is no string."""
        shown = self._shown(value)
        entity = unquote_name(self._source(name).split(".", 1)[0])
        kind = _MLFLOW_TYPES.get(entity)
        if value.kind == "null" and isinstance(field, tree.Assessment) and op in _ORDERINGS:
            message = (
                f"Expected a numeric value for {field.kind} when using comparator '{op}'."
                f" Got value {shown}"
            )
        elif kind is not None:
            message = (
                f"Expected a quoted string value for {kind} (e.g. 'my-value'). Got value {shown}"
            )
        elif value.kind == "number":
            message = (
                f"Only the {quoted_set(_MLFLOW_NUMBERS)} attributes support comparison with numeric"
                " values."
            )
        else:
            message = (
                "Expected a quoted string value or a list of quoted string values for attributes."
                f" Got value {shown}"
            )
        hint = f"Write '{shown}'."
        if value.kind == "null":
            hint = "Missing values are found with IS NULL."
            if op == "!=":
                hint = "Values that are there are found with IS NOT NULL."
        elif op in _ORDERINGS or op.endswith("BETWEEN"):
            hint = self._takes(name, field, " is text: use")
        elif value.kind == "time":
            hint = "Times are timestamp_ms and end_time_ms."
        elif value.kind == "number" and kind is None:
            hint += f" {_NUMBERS}"
        self._fail(message, value, hint)

    def _takes(self, name: Token, field: tree.Field, verb: str = " takes") -> str:
        """Which operators there are, in a sentence."""
        return f"{visible(self._source(name), 60)}{verb} {fields.operators(field)}."

    def _text_value(self, name: Token, field: tree.Field, op: str, value: _Value) -> str:
        if value.kind == "boolean" and not fields.may_hold_booleans(field):
            self._fail(
                f"{visible(self._source(name), 60)} is text: expected a quoted string value."
                f" Got value {self._shown(value)}",
                value,
                f"Write '{value.value}'.",
            )
        if isinstance(field, tree.TraceText) and field.name == "prompt":
            self._check_prompt(value)
        assert isinstance(value.value, str)
        return value.value

    def _check_prompt(self, value: _Value) -> None:
        if str(value.value).count("/") != 1:
            self._fail(
                f"Invalid prompts filter value '{visible(str(value.value), 100)}'."
                ' Expected format: prompt = "name/version"',
                value,
                "For example prompt = 'greeting/2'.",
            )

    def _in_list(
        self,
        name: Token,
        field: tree.Field,
        word: str,
        operator: Token,
        raw: Raw,
        negated: bool,
    ) -> tree.In:
        self._check_comparator(name, field, word, operator)
        values = [self._value(child) for child in raw.children if not _is_comma(child)]
        items: list[tree.Value] = []
        for value in values:
            if value.kind == "null":
                self._refuse_type(name, field, word, value)
            if fields.is_number(field):
                items.append(self._number(name, field, word, value, values))
            elif value.kind == "time":
                self._refuse_now(name, value)
            elif value.kind == "number":
                if not fields.may_hold_numbers(field):
                    self._refuse_list(value, values)
                items.append(self._number(name, field, word, value))
            else:
                items.append(self._text_value(name, field, word, value))
        return tree.In(field, tuple(items), negated)

    def _refuse_list(self, value: _Value, values: list[_Value]) -> NoReturn:
        shown = visible(repr(tuple(item.value for item in values[:20])), 200)
        self._fail(
            "While parsing a list in the query, expected string value, punctuation, or"
            f" whitespace, but got different type in list: {shown}",
            value,
            f"Write '{self._shown(value)}'.",
        )

    # ------------------------------------------------------------------ operators

    def _check_comparator(
        self,
        name: Token,
        field: tree.Field,
        op: str,
        operator: Token,
        value: _Value | None = None,
    ) -> None:
        """Refuse an operator that the type of the field does not have."""
        word = op.replace("NOT ", "")
        if value is not None and op not in _COMPARISONS:
            hint = f"{_OPERATOR_HINTS.get(op, '')} {self._takes(name, field)}".lstrip()
            self._bad_comparator(name, field, op, operator, hint)
        if fields.is_number(field):
            if word in ("LIKE", "ILIKE", "RLIKE"):
                self._bad_comparator(
                    name,
                    field,
                    op,
                    operator,
                    self._takes(name, field, " is a number: use"),
                )
            return
        if fields.is_usage(field):
            if op not in ("=", "!="):
                assert isinstance(field, tree.Metadata)
                numbers = "total_tokens" if "token" in field.key else "total_cost"
                self._fail(
                    f"Comparator '{op}' is not supported for reserved metadata '{field.key}'."
                    " Only '=', '!=', 'IS NULL', and 'IS NOT NULL' are supported.",
                    operator,
                    f"The numbers in it have fields of their own, such as {numbers}.",
                )
            return
        if field == tree.SpanText("content") and op in ("=", "!="):
            negation = "NOT " if op == "!=" else ""
            text = visible(str(value.value), 40) if value is not None else "text"
            self._bad_comparator(
                name,
                field,
                op,
                operator,
                f"It is a whole document: use {negation}LIKE '%{text}%'."
                f" {self._takes(name, field)}",
            )
        if fields.may_hold_numbers(field):
            return
        if word == "BETWEEN" or op in _ORDERINGS:
            self._bad_comparator(
                name,
                field,
                op,
                operator,
                self._takes(name, field, " is text: use"),
            )

    def _bad_comparator(
        self, name: Token, field: tree.Field, op: str, operator: Token, hint: str
    ) -> NoReturn:
        """Raise with the sentence that stock MLflow has for the field's type."""
        if isinstance(field, tree.SpanText) and field.name == "content":
            message = f"span.content comparator '{op}' not one of '{{'ILIKE', 'LIKE'}}'"
        elif fields.is_span_field(field):
            message = (
                f"{self._source(name)} comparator '{op}' not one of"
                f" {quoted_set(_MLFLOW_STRING_COMPARATORS)}"
            )
        elif isinstance(field, tree.Assessment):
            message = (
                f"assessment.{field.name} comparator '{op}' not one of"
                f" {quoted_set(_MLFLOW_ASSESSMENT_COMPARATORS)}"
            )
        elif isinstance(field, tree.Issue):
            message = f"issue.id comparator '{op}' not one of '{{'='}}'"
        elif storage.of(field).entry.kind == "metadata":
            message = f"Invalid comparator '{op}' not one of {quoted_set(_MLFLOW_TAG_COMPARATORS)}"
        elif storage.of(field).entry.kind == "tag":
            message = (
                f"Invalid comparator '{op}' not one of {quoted_set(_MLFLOW_TAG_COMPARATORS)[:-1]}"
            )
        elif isinstance(field, tree.TraceNumber):
            # MLflow's sentence lacks the closing quote here, and for tags.
            message = (
                f"Invalid comparator '{op}' not one of"
                f" {quoted_set(_MLFLOW_STRING_COMPARATORS)[:-1]}"
            )
        else:
            message = (
                f"Invalid comparator '{op}' not one of {quoted_set(_MLFLOW_STRING_COMPARATORS)}"
            )
        self._fail(visible(message, 400), operator, hint)

    # --------------------------------------------------------------------- values

    def _value(self, raw: Raw | Token) -> _Value:
        if isinstance(raw, Raw):
            return self._now(raw)
        source = self._source(raw)
        if raw.kind == "NUMBER":
            return _Value("number", self._literal(source, raw), raw.start, raw.end)
        if raw.kind == "NULL":
            return _Value("null", source, raw.start, raw.end)
        if raw.kind == "BOOLEAN":
            return _Value("boolean", source.lower(), raw.start, raw.end)
        return _Value("text", unquote(source), raw.start, raw.end)

    def _literal(self, source: str, place: Token | _Value) -> int | float:
        number = float(source)
        if math.isinf(number):
            self._fail(
                f"number out of range: {visible(source, 40)}",
                place,
                "Numbers reach up to about 1.8e308.",
            )
        integer = _INTEGER.match(source)
        # Without the zeros, because Python reads no integer of 4300 digits.
        return int(integer[1] + (integer[2].lstrip("0") or "0")) if integer else number

    def _number(
        self,
        name: Token,
        field: tree.Field,
        op: str,
        value: _Value,
        values: list[_Value] | None = None,
    ) -> tree.Number:
        """The value as a number, for a numeric comparison of ``field``."""
        if value.kind == "null":
            self._refuse_type(name, field, op, value)
        if isinstance(value.value, tree.Now):
            if not fields.is_time(field):
                self._refuse_now(name, value)
            return value.value
        if value.kind == "number" and not isinstance(value.value, str):
            self._check_type(name, field, op, value)
            if fields.is_whole(field):
                self._check_bigint(value)
            return value.value
        shown = visible(self._source(name), 60)
        assert isinstance(value.value, str)
        text = value.value
        if value.kind == "text" and fields.is_time(field):
            try:
                moment = times.time_in_ms(text)
            except ValueError as error:
                self._fail(
                    f"invalid time {self._shown(value)}: {error}",
                    value,
                    "For example '2025-01-31' or '2025-01-31T12:00:00Z'.",
                )
            if moment is not None:
                return moment
            hint = "For example '2025-01-31', '2025-01-31T12:00:00Z' or now() - '24 hours'."
            if values is not None:
                self._refuse_text_list(f"{shown} takes a list of times", value, hint)
            if _NUMBER.match(text):
                hint = f"Milliseconds stand without quotes: {visible(text, 40)}."
            elif times.duration_in_ms(text) is not None:
                hint = f"Write now() - '{visible(text, 40)}'."
            self._fail(f"invalid time {self._shown(value)} for {shown}", value, hint)
        reads_as_number = value.kind == "text" and _NUMBER.match(text) is not None
        if fields.is_number(field):
            hint = "For example 1000; text goes with text fields."
            duration = NUMBER_AND_UNIT.fullmatch(text)
            if reads_as_number:
                hint = f"Remove the quotes: {visible(text, 40)}."
            elif duration:
                hint = unit_hint(duration[1], duration[2])
            if values is not None:
                self._refuse_text_list(f"{shown} takes a list of numbers", value, hint)
            self._fail(
                f"Expected a numeric value for {shown}. Got value {self._shown(value)}",
                value,
                hint,
            )
        if isinstance(field, tree.Assessment):
            hint = f"Remove the quotes: {visible(text, 40)}."
            if not reads_as_number:
                hint = f"{op} compares numbers; text is compared by =, !=, LIKE or IN."
            self._fail(
                f"Expected a numeric value for {field.kind} when using comparator '{op}'."
                f" Got value {self._shown(value)}",
                value,
                hint,
            )
        if reads_as_number:
            return self._literal(text, value)
        operator = Token("", value.start, value.end)
        self._bad_comparator(
            name,
            field,
            op,
            operator,
            f"{op} compares numbers, and {self._shown(value)} is none. {self._takes(name, field)}",
        )

    def _refuse_text_list(self, instead: str, value: _Value, hint: str) -> NoReturn:
        self._fail(
            f"Only attributes in {bare_set(_MLFLOW_LISTS)} supports comparison with a list of"
            f" quoted string values. {instead}",
            value,
            hint,
        )

    def _check_bigint(self, value: _Value) -> None:
        if isinstance(value.value, int) and not -(2**63) <= value.value < 2**63:
            self._fail(
                f"number out of range: {self._shown(value)}",
                value,
                f"Whole numbers reach up to {2**63 - 1} here.",
            )

    def _refuse_now(self, name: Token, value: _Value) -> NoReturn:
        self._fail(
            f"now() cannot be compared with {visible(self._source(name), 60)}",
            value,
            "Times are timestamp_ms and end_time_ms.",
        )

    def _now(self, raw: Raw) -> _Value:
        first, last = raw.children[0], raw.children[-1]
        offset = 0
        if len(raw.children) > 1:
            offset = self._duration(last)
            if self._source(raw.children[1]) == "-":
                offset = -offset
        return _Value("time", tree.Now(offset), first.start, last.end)

    def _duration(self, token: Token) -> int:
        text = unquote(self._source(token))
        milliseconds = times.duration_in_ms(text)
        if milliseconds is None:
            self._fail(
                f"invalid duration {visible(self._source(token), 60)}",
                token,
                times.duration_hint(text),
            )
        return milliseconds

    # -------------------------------------------------------------------- helpers

    def _shown(self, value: _Value) -> str:
        return visible(self._text[value.start : value.end], 60)


def _conjoin(parts: list[_Part]) -> _Part:
    """AND, by the rule that its plain conditions on spans share one span."""
    if len(parts) == 1:
        return parts[0]
    spans: list[tree.Node] = []
    items: list[tree.Node] = []
    place = 0
    for node, pure in parts:
        nodes = node.items if isinstance(node, tree.And) else (node,)
        if pure:
            if not spans:
                place = len(items)
            spans.extend(nodes)
        else:
            items.extend(nodes)
    if not items:
        return _Part(tree.And(tuple(spans)), True)
    if spans:
        items.insert(place, tree.AnySpan(tree.And(tuple(spans)) if len(spans) > 1 else spans[0]))
    return _Part(tree.And(tuple(items)), False)


def _disjoin(parts: list[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    pure = all(part.pure for part in parts)
    items: list[tree.Node] = []
    for part in parts:
        node = part.node if pure else _close(part)
        items.extend(node.items if isinstance(node, tree.Or) else (node,))
    return _Part(tree.Or(tuple(items)), pure)


def _close(part: _Part) -> tree.Node:
    return tree.AnySpan(part.node) if part.pure else part.node


def _is_comma(child: Raw | Token) -> bool:
    return isinstance(child, Token) and child.kind == "COMMA"
