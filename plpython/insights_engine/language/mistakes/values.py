"""What is wrong with a condition whose names and syntax are right: operators, values, scopes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

from insights_engine.language import fields, storage, times, tree
from insights_engine.language.errors import bare_set, quoted_set, visible
from insights_engine.language.literals import Type, Value, is_integer, is_number
from insights_engine.language.mistakes.characters import unit_hint
from insights_engine.language.mistakes.places import Mistakes, Place
from insights_engine.language.times import NUMBER_AND_UNIT
from insights_engine.language.tokens import Token, unquote, unquote_name

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


class WrongValues(Mistakes):
    """Raises the errors of the conditions in one filter.

    ``name`` is the token of a field, ``op`` its operator in upper case.
    """

    # ---------------------------------------------------------------------- AND

    def missing_before_and(self, token: Token) -> NoReturn:
        """A list of conditions begins with AND."""
        self.fail("a condition is missing before AND", token, "Remove AND.")

    def missing_between_ands(self, token: Token) -> NoReturn:
        """AND follows AND."""
        self.fail("a condition is missing between AND and AND", token, "Remove one AND.")

    def missing_after_and(self, token: Token) -> NoReturn:
        """A list of conditions ends with AND."""
        self.fail("a condition is missing after AND", token, "Remove AND.")

    # -------------------------------------------------------------------- spans

    def nested(self, token: Token, scope: str) -> NoReturn:
        """A function of spans stands inside another."""
        self.fail(
            f"{self.source(token).lower()}(...) cannot stand inside {scope}",
            token,
            f"{scope} looks at one span at a time; join two of them with AND instead.",
        )

    def trace_field(self, token: Token, scope: str) -> NoReturn:
        """A field of the trace stands inside a function of spans."""
        name = self.source(token)
        key = name.rsplit(".", 1)[-1]
        hint = f"Conditions on the trace stand outside: {scope[:-1]}...) AND {name} ..."
        if "." not in name and key in fields.SPAN_FIELDS:
            hint = f"Did you mean span.{key}?"
        self.fail(
            f"{scope} takes conditions on spans, and {visible(name, 60)} is a field of the trace",
            token,
            visible(hint, 200),
        )

    def count(self, number: Value) -> NoReturn:
        """A count is compared with what is no whole number."""
        hint = "For example count(...) > 0."
        if isinstance(number.value, float):
            hint = f"Write {math.floor(number.value)} or {math.ceil(number.value)}."
        elif isinstance(number.value, str) and is_integer(number.value):
            hint = f"Remove the quotes: {visible(number.value, 40)}."
        self.fail(
            f"count(...) is compared with a whole number, found {self.shown(number)}",
            number,
            hint,
        )

    def operand(self, function: str, token: Token, field: tree.Field) -> NoReturn:
        """An aggregate is made of what is no number."""
        of_span = fields.is_span_field(field)
        what = "text" if of_span else "a field of the trace"
        rest = "" if of_span else " Fields of the trace are compared as they are."
        self.fail(
            f"{function}() needs a numeric span field, and {self.shown(token)} is {what}",
            token,
            f"Use span.duration_ms or span.attributes['key'].{rest}",
        )

    def aggregate(self, function: str, number: Value) -> NoReturn:
        """An aggregate is compared with what is no number."""
        hint = f"For example {function}(...) > 1000."
        if isinstance(number.value, str):
            duration = NUMBER_AND_UNIT.fullmatch(number.value)
            if is_number(number.value):
                hint = f"Remove the quotes: {visible(number.value, 40)}."
            elif duration:
                hint = unit_hint(duration[1], duration[2])
        self.fail(
            f"{function}(...) is compared with a number, found {self.shown(number)}",
            number,
            hint,
        )

    def function_operator(self, operator: Token, subject: str) -> NoReturn:
        """No such operator compares a function of spans."""
        op = self.source(operator)
        self.fail(
            f"unknown operator {op} after {subject}",
            operator,
            _OPERATOR_HINTS.get(op, "Use =, !=, <, <=, > or >=."),
        )

    # ---------------------------------------------------------------- operators

    def unknown_operator(
        self, name: Token, field: tree.Field, op: str, operator: Place
    ) -> NoReturn:
        """There is no such operator."""
        hint = f"{_OPERATOR_HINTS.get(op, '')} {self._takes(name, field)}".lstrip()
        self._operator(name, field, op, operator, hint)

    def type_operator(self, name: Token, field: tree.Field, op: str, operator: Place) -> NoReturn:
        """The operator goes with numbers and not with text, or with text and not with numbers."""
        kind = "number" if fields.is_number(field) else "text"
        verb = " is a number: use" if kind == "number" else " is text: use"
        self._operator(name, field, op, operator, self._takes(name, field, verb))

    def usage_operator(self, field: tree.Metadata, op: str, operator: Place) -> NoReturn:
        """Metadata that MLflow makes of numbers is compared in some way but by equality."""
        numbers = "total_tokens" if "token" in field.key else "total_cost"
        self.fail(
            f"Comparator '{op}' is not supported for reserved metadata '{field.key}'."
            " Only '=', '!=', 'IS NULL', and 'IS NOT NULL' are supported.",
            operator,
            f"The numbers in it have fields of their own, such as {numbers}.",
        )

    def content_operator(
        self, name: Token, field: tree.Field, op: str, operator: Place, value: Value | None
    ) -> NoReturn:
        """The content of a span is compared as a whole."""
        negation = "NOT " if op == "!=" else ""
        text = visible(str(value.value), 40) if value is not None else "text"
        self._operator(
            name,
            field,
            op,
            operator,
            f"It is a whole document: use {negation}LIKE '%{text}%'. {self._takes(name, field)}",
        )

    def ordering(self, name: Token, field: tree.Field, op: str, value: Value) -> NoReturn:
        """A text that reads as no number is compared as one."""
        self._operator(
            name,
            field,
            op,
            value,
            f"{op} compares numbers, and {self.shown(value)} is none. {self._takes(name, field)}",
        )

    def _takes(self, name: Token, field: tree.Field, verb: str = " takes") -> str:
        """Which operators there are, in a sentence."""
        return f"{self.shown(name)}{verb} {fields.operators(field)}."

    def _operator(
        self, name: Token, field: tree.Field, op: str, operator: Place, hint: str
    ) -> NoReturn:
        """Raise with the sentence that stock MLflow has for the field's type."""
        if isinstance(field, tree.SpanText) and field.name == "content":
            message = f"span.content comparator '{op}' not one of '{{'ILIKE', 'LIKE'}}'"
        elif fields.is_span_field(field):
            message = (
                f"{self.source(name)} comparator '{op}' not one of"
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
        self.fail(visible(message, 400), operator, hint)

    # ------------------------------------------------------------------- values

    def value_type(self, name: Token, field: tree.Field, op: str, value: Value) -> NoReturn:
        """Raise with the sentence that stock MLflow has for a value that is no string."""
        shown = self.shown(value)
        entity = unquote_name(self.source(name).split(".", 1)[0])
        kind = _MLFLOW_TYPES.get(entity)
        if value.type is Type.NULL and isinstance(field, tree.Assessment) and op in _ORDERINGS:
            message = (
                f"Expected a numeric value for {field.kind} when using comparator '{op}'."
                f" Got value {shown}"
            )
        elif kind is not None:
            message = (
                f"Expected a quoted string value for {kind} (e.g. 'my-value'). Got value {shown}"
            )
        elif value.type is Type.NUMBER:
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
        if value.type is Type.NULL:
            hint = "Missing values are found with IS NULL."
            if op == "!=":
                hint = "Values that are there are found with IS NOT NULL."
        elif op in _ORDERINGS or op.endswith("BETWEEN"):
            hint = self._takes(name, field, " is text: use")
        elif value.type is Type.TIME:
            hint = "Times are timestamp_ms and end_time_ms."
        elif value.type is Type.NUMBER and kind is None:
            hint += f" {_NUMBERS}"
        self.fail(message, value, hint)

    def boolean(self, name: Token, value: Value) -> NoReturn:
        """A field that holds no booleans is compared with one."""
        self.fail(
            f"{self.shown(name)} is text: expected a quoted string value."
            f" Got value {self.shown(value)}",
            value,
            f"Write '{value.value}'.",
        )

    def prompt(self, value: Value) -> NoReturn:
        """The value does not name a version of a prompt."""
        self.fail(
            f"Invalid prompts filter value '{visible(str(value.value), 100)}'."
            ' Expected format: prompt = "name/version"',
            value,
            "For example prompt = 'greeting/2'.",
        )

    def number_in_list(self, value: Value, values: Sequence[Value]) -> NoReturn:
        """A list of texts has a number in it."""
        shown = visible(repr(tuple(item.value for item in values[:20])), 200)
        self.fail(
            "While parsing a list in the query, expected string value, punctuation, or"
            f" whitespace, but got different type in list: {shown}",
            value,
            f"Write '{self.shown(value)}'.",
        )

    def infinite(self, place: Place, number: str) -> NoReturn:
        """A number is larger than any of type double precision."""
        self.fail(
            f"number out of range: {visible(number, 40)}",
            place,
            "Numbers reach up to about 1.8e308.",
        )

    def beyond_bigint(self, value: Value) -> NoReturn:
        """A whole number is larger than any of type bigint."""
        self.fail(
            f"number out of range: {self.shown(value)}",
            value,
            f"Whole numbers reach up to {2**63 - 1} here.",
        )

    def now(self, name: Token, value: Value) -> NoReturn:
        """What is no time is compared with now()."""
        self.fail(
            f"now() cannot be compared with {self.shown(name)}",
            value,
            "Times are timestamp_ms and end_time_ms.",
        )

    def duration(self, token: Token) -> NoReturn:
        """What follows now() + or - is no duration."""
        self.fail(
            f"invalid duration {self.shown(token)}",
            token,
            times.duration_hint(unquote(self.source(token))),
        )

    def no_such_time(self, value: Value, reason: str) -> NoReturn:
        """A text has the form of a time, and there is no such time."""
        self.fail(
            f"invalid time {self.shown(value)}: {reason}",
            value,
            "For example '2025-01-31' or '2025-01-31T12:00:00Z'.",
        )

    def time(self, name: Token, value: Value, text: str, listed: bool) -> NoReturn:
        """A text is compared with a time, maybe in a list, and is none."""
        shown = self.shown(name)
        hint = "For example '2025-01-31', '2025-01-31T12:00:00Z' or now() - '24 hours'."
        if listed:
            self._text_in_list(f"{shown} takes a list of times", value, hint)
        if is_number(text):
            hint = f"Milliseconds stand without quotes: {visible(text, 40)}."
        elif times.duration_in_ms(text) is not None:
            hint = f"Write now() - '{visible(text, 40)}'."
        self.fail(f"invalid time {self.shown(value)} for {shown}", value, hint)

    def number(self, name: Token, value: Value, text: str, listed: bool) -> NoReturn:
        """A text or a boolean is compared with a number, maybe in a list."""
        shown = self.shown(name)
        hint = "For example 1000; text goes with text fields."
        duration = NUMBER_AND_UNIT.fullmatch(text)
        if value.type is Type.TEXT and is_number(text):
            hint = f"Remove the quotes: {visible(text, 40)}."
        elif duration:
            hint = unit_hint(duration[1], duration[2])
        if listed:
            self._text_in_list(f"{shown} takes a list of numbers", value, hint)
        self.fail(
            f"Expected a numeric value for {shown}. Got value {self.shown(value)}",
            value,
            hint,
        )

    def assessment(self, field: tree.Assessment, op: str, value: Value, text: str) -> NoReturn:
        """An assessment is compared as a number with a text or a boolean."""
        hint = f"Remove the quotes: {visible(text, 40)}."
        if value.type is not Type.TEXT or not is_number(text):
            hint = f"{op} compares numbers; text is compared by =, !=, LIKE or IN."
        self.fail(
            f"Expected a numeric value for {field.kind} when using comparator '{op}'."
            f" Got value {self.shown(value)}",
            value,
            hint,
        )

    def _text_in_list(self, instead: str, value: Value, hint: str) -> NoReturn:
        self.fail(
            f"Only attributes in {bare_set(_MLFLOW_LISTS)} supports comparison with a list of"
            f" quoted string values. {instead}",
            value,
            hint,
        )
