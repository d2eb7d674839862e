"""From concrete syntax to the tree: names, types and the scope of spans.

Everything here recurses at most as deep as the filter is nested, which
tokens.py has bounded before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from insights_engine.language import fields, times, tree
from insights_engine.language.literals import Type, Value, is_number, number_of
from insights_engine.language.names import Names
from insights_engine.language.syntax import Raw
from insights_engine.language.tokens import Range, Token, unquote

if TYPE_CHECKING:
    from insights_engine.language.mistakes.values import WrongValues

_ORDERINGS = frozenset(("<", "<=", ">", ">="))
_COMPARISONS = frozenset(("=", "!=", *_ORDERINGS))


# ------------------------------------------------------------ the scope of spans


class Piece(NamedTuple):
    """A piece of the tree.

    ``open``: it consists of plain conditions on spans, and still has to learn
    which others speak of the same span.
    """

    node: tree.Node
    open: bool


def conjoin(pieces: Sequence[Piece]) -> Piece:
    """AND, by the rule that its plain conditions on spans share one span."""
    if len(pieces) == 1:
        return pieces[0]
    spans: list[tree.Node] = []
    items: list[tree.Node] = []
    place = 0
    for piece in pieces:
        nodes = tree.conjuncts(piece.node)
        if piece.open:
            if not spans:
                place = len(items)
            spans.extend(nodes)
        else:
            items.extend(nodes)
    if not items:
        return Piece(tree.And(tuple(spans)), bool(spans))
    if spans:
        items.insert(place, tree.AnySpan(tree.And(tuple(spans)) if len(spans) > 1 else spans[0]))
    return Piece(tree.And(tuple(items)), False)


def disjoin(pieces: Sequence[Piece]) -> Piece:
    """OR, within one span if all of it are plain conditions on spans."""
    if len(pieces) == 1:
        return pieces[0]
    open_ = all(piece.open for piece in pieces)
    items: list[tree.Node] = []
    for piece in pieces:
        node = piece.node if open_ else close(piece)
        items.extend(node.items if isinstance(node, tree.Or) else (node,))
    return Piece(tree.Or(tuple(items)), open_)


def close(piece: Piece) -> tree.Node:
    """The tree of a piece that nothing joins any more."""
    return tree.AnySpan(piece.node) if piece.open else piece.node


# ------------------------------------------------------------------ names and types


class Resolver:
    """Resolves one filter.

    ``patterns`` has where each pattern of LIKE, ILIKE and RLIKE stands, known once the
    filter is resolved: errors that come after parsing show it.
    """

    def __init__(self, text: str, raw: Raw) -> None:
        self.patterns: dict[tree.Match, Range] = {}
        self._text = text
        self._raw = raw
        self._names = Names(text)

    def resolve(self) -> list[Piece]:
        """Everything but what joins the filter with others.  Raises FilterError."""
        child = self._raw.children[0]
        if child.name == "ands":
            return []
        if len(child.children) == 1:
            return self._conditions(child.children[0], None)
        return [self._disjunction(child, None)]

    # ------------------------------------------------------------------ algebra

    def _disjunction(self, raw: Raw, scope: str | None) -> Piece:
        """``scope`` is the function inside whose parentheses we are, if any."""
        alternatives = [child for child in raw.children if isinstance(child, Raw)]
        pieces = []
        for alternative in alternatives:
            self._check_ands(alternative)
            pieces.append(conjoin(self._conditions(alternative, scope)))
        return disjoin(pieces)

    def _conditions(self, raw: Raw, scope: str | None) -> list[Piece]:
        return [
            self._condition(child, scope)
            for child in raw.children
            if isinstance(child, Raw) and child.name != "ands"
        ]

    def _check_ands(self, conjunction: Raw) -> None:
        """Outside a plain list of conditions AND stands between two of them."""
        leading, *rest = conjunction.children
        if leading.children:
            self._wrong().missing_before_and(leading.children[0])
        previous: Raw | Token | None = None
        for child in rest:
            if isinstance(child, Token) and isinstance(previous, Token):
                self._wrong().missing_between_ands(child)
            previous = child
        if isinstance(previous, Token):
            self._wrong().missing_after_and(previous)

    def _condition(self, raw: Raw, scope: str | None) -> Piece:
        children = raw.children
        if raw.name == "group":
            _, inner, _ = children
            return self._disjunction(inner, scope)
        if raw.name == "negation":
            _, inner = children
            return Piece(tree.Not(close(self._condition(inner, scope))), False)
        if raw.name == "any_span":
            token, _, condition, _ = children
            self._check_not_nested(token, scope)
            return Piece(tree.AnySpan(self._disjunction(condition, "any()").node), False)
        if raw.name == "count":
            return Piece(self._count(raw, scope), False)
        if raw.name == "aggregate":
            return Piece(self._aggregate(raw, scope), False)
        token = children[0]
        field = self._names.field(token)
        span = fields.is_span_field(field)
        if scope is not None and not span:
            self._wrong().trace_field(token, scope)
        return Piece(self._predicate(raw, field), span and scope is None)

    def _check_not_nested(self, token: Token, scope: str | None) -> None:
        if scope is not None:
            self._wrong().nested(token, scope)

    # ------------------------------------------------------------- count and sum

    def _count(self, raw: Raw, scope: str | None) -> tree.CountSpans:
        token, _, inner, *_, operator, value = raw.children
        self._check_not_nested(token, scope)
        condition = None
        if isinstance(inner, Raw):
            condition = self._disjunction(inner, "count()").node
        op = self._plain_operator(operator, "count(...)")
        number = self._value(value)
        if number.type is not Type.NUMBER or not isinstance(number.value, int):
            self._wrong().count(number)
        self._check_bigint(number)
        return tree.CountSpans(condition, op, number.value)

    def _aggregate(self, raw: Raw, scope: str | None) -> tree.AggregateSpans:
        token, _, operand, *where, operator, value = raw.children
        self._check_not_nested(token, scope)
        function = self._source(token).lower()
        field = self._names.field(operand)
        if not isinstance(field, (tree.SpanNumber, tree.SpanAttribute)):
            self._wrong().operand(function, operand, field)
        condition = None
        for inner in where:
            if isinstance(inner, Raw):
                condition = self._disjunction(inner, f"{function}()").node
        op = self._plain_operator(operator, f"{function}(...)")
        number = self._value(value)
        if isinstance(number.value, (str, tree.Now)):
            self._wrong().aggregate(function, number)
        return tree.AggregateSpans(function, field, condition, op, number.value)

    def _plain_operator(self, operator: Token, subject: str) -> str:
        op = self._source(operator)
        if op not in _COMPARISONS:
            self._wrong().function_operator(operator, subject)
        return op

    # --------------------------------------------------------------- predicates

    def _predicate(self, raw: Raw, field: tree.Field) -> tree.Predicate:
        name, operator, *rest = raw.children
        negated = operator.kind == "NOT"
        if raw.name == "is_null":
            return tree.IsNull(field, len(rest) == 2)
        if raw.name == "compare":
            return self._compare(name, field, operator, *rest)
        word = self._source(operator).upper()
        place = Range(operator.start, operator.end)
        if negated:
            following, *rest = rest
            place = Range(operator.start, following.end)
            word = "NOT " + self._source(following).upper()
        if raw.name == "match":
            return self._match(name, field, word, place, *rest, negated=negated)
        self._check_operator(name, field, word, place)
        if raw.name == "in_list":
            _, values, *_ = rest
            return self._in_list(name, field, word, values, negated)
        first, _, last = rest
        low = self._number(name, field, word, self._value(first))
        high = self._number(name, field, word, self._value(last))
        return tree.Between(field, low, high, negated)

    def _compare(
        self, name: Token, field: tree.Field, operator: Token, raw: Raw | Token
    ) -> tree.Predicate:
        op = self._source(operator).upper()
        value = self._value(raw)
        self._check_type(name, field, op, value)
        if op not in _COMPARISONS:
            self._wrong().unknown_operator(name, field, op, operator)
        self._check_operator(name, field, op, operator, value)
        if fields.is_number(field):
            return tree.NumberCompare(field, op, self._number(name, field, op, value))
        if value.type is Type.TIME:
            self._wrong().now(name, value)
        if value.type is Type.NUMBER or op in _ORDERINGS:
            return tree.NumberCompare(field, op, self._number(name, field, op, value))
        return tree.TextCompare(field, op, self._text_value(name, field, value))

    def _match(
        self,
        name: Token,
        field: tree.Field,
        word: str,
        operator: Range,
        token: Token,
        *,
        negated: bool,
    ) -> tree.Match:
        value = self._value(token)
        if not fields.is_number(field) and value.type is not Type.TEXT:
            self._wrong().value_type(name, field, word, value)
        self._check_operator(name, field, word, operator)
        assert isinstance(value.value, str)
        match = tree.Match(field, word.replace("NOT ", ""), value.value, negated)
        self.patterns.setdefault(match, Range(value.start, value.end))
        return match

    def _in_list(
        self, name: Token, field: tree.Field, word: str, raw: Raw, negated: bool
    ) -> tree.In:
        values = [self._value(child) for child in raw.children if not _is_comma(child)]
        items: list[tree.Value] = []
        for value in values:
            if value.type is Type.NULL:
                self._wrong().value_type(name, field, word, value)
            if fields.is_number(field):
                items.append(self._number(name, field, word, value, listed=True))
            elif value.type is Type.TIME:
                self._wrong().now(name, value)
            elif value.type is Type.NUMBER:
                if not fields.may_hold_numbers(field):
                    self._wrong().number_in_list(value, values)
                items.append(self._number(name, field, word, value))
            else:
                items.append(self._text_value(name, field, value))
        return tree.In(field, tuple(items), negated)

    # --------------------------------------------------------- types and operators

    def _check_type(self, name: Token, field: tree.Field, op: str, value: Value) -> None:
        """Refuse NULL, and numbers where only text can stand."""
        if value.type is Type.NULL or (
            value.type is Type.NUMBER and not fields.may_hold_numbers(field)
        ):
            self._wrong().value_type(name, field, op, value)

    def _check_operator(
        self,
        name: Token,
        field: tree.Field,
        op: str,
        operator: Token | Range,
        value: Value | None = None,
    ) -> None:
        """Refuse an operator that the type of the field does not have."""
        word = op.replace("NOT ", "")
        if fields.is_number(field):
            if word in ("LIKE", "ILIKE", "RLIKE"):
                self._wrong().type_operator(name, field, op, operator)
        elif isinstance(field, tree.Metadata) and fields.is_usage(field):
            if op not in ("=", "!="):
                self._wrong().usage_operator(field, op, operator)
        elif field == tree.SpanText("content") and op in ("=", "!="):
            self._wrong().content_operator(name, field, op, operator, value)
        elif not fields.may_hold_numbers(field) and (word == "BETWEEN" or op in _ORDERINGS):
            self._wrong().type_operator(name, field, op, operator)

    # --------------------------------------------------------------------- values

    def _value(self, raw: Raw | Token) -> Value:
        if isinstance(raw, Raw):
            return self._now(raw)
        source = self._source(raw)
        if raw.kind == "NUMBER":
            return Value(Type.NUMBER, self._literal(source, raw), raw.start, raw.end)
        if raw.kind == "NULL":
            return Value(Type.NULL, source, raw.start, raw.end)
        if raw.kind == "BOOLEAN":
            return Value(Type.BOOLEAN, source.lower(), raw.start, raw.end)
        return Value(Type.TEXT, unquote(source), raw.start, raw.end)

    def _literal(self, source: str, place: Token | Value) -> int | float:
        number = number_of(source)
        if isinstance(number, float) and math.isinf(number):
            self._wrong().infinite(place, source)
        return number

    def _text_value(self, name: Token, field: tree.Field, value: Value) -> str:
        if value.type is Type.BOOLEAN and not fields.may_hold_booleans(field):
            self._wrong().boolean(name, value)
        assert isinstance(value.value, str)
        if (
            isinstance(field, tree.TraceText)
            and field.name == "prompt"
            and value.value.count("/") != 1
        ):
            self._wrong().prompt(value)
        return value.value

    def _number(
        self, name: Token, field: tree.Field, op: str, value: Value, *, listed: bool = False
    ) -> tree.Number:
        """The value as a number, for a numeric comparison of ``field``."""
        if value.type is Type.NULL:
            self._wrong().value_type(name, field, op, value)
        if isinstance(value.value, tree.Now):
            if not fields.is_time(field):
                self._wrong().now(name, value)
            return value.value
        if value.type is Type.NUMBER and not isinstance(value.value, str):
            self._check_type(name, field, op, value)
            if fields.is_whole(field):
                self._check_bigint(value)
            return value.value
        assert isinstance(value.value, str)
        text = value.value
        if value.type is Type.TEXT and fields.is_time(field):
            return self._time(name, value, text, listed)
        if fields.is_number(field):
            self._wrong().number(name, value, text, listed)
        if isinstance(field, tree.Assessment):
            self._wrong().assessment(field, op, value, text)
        if value.type is not Type.TEXT or not is_number(text):
            self._wrong().ordering(name, field, op, value)
        return self._literal(text, value)

    def _time(self, name: Token, value: Value, text: str, listed: bool) -> tree.Number:
        try:
            moment = times.time_in_ms(text)
        except ValueError as error:
            self._wrong().no_such_time(value, str(error))
        return self._wrong().time(name, value, text, listed) if moment is None else moment

    def _check_bigint(self, value: Value) -> None:
        if isinstance(value.value, int) and not -(2**63) <= value.value < 2**63:
            self._wrong().beyond_bigint(value)

    def _now(self, raw: Raw) -> Value:
        now, *added = raw.children
        if not added:
            return Value(Type.TIME, tree.Now(), now.start, now.end)
        sign, *_, duration = added
        offset = self._duration(duration)
        if self._source(sign) == "-":
            offset = -offset
        return Value(Type.TIME, tree.Now(offset), now.start, duration.end)

    def _duration(self, token: Token) -> int:
        milliseconds = times.duration_in_ms(unquote(self._source(token)))
        return self._wrong().duration(token) if milliseconds is None else milliseconds

    # -------------------------------------------------------------------- helpers

    def _source(self, token: Token) -> str:
        return self._text[token.start : token.end]

    def _wrong(self) -> WrongValues:
        # Loaded for a mistake only.
        from insights_engine.language.mistakes.values import WrongValues

        return WrongValues(self._text)


def _is_comma(child: Raw | Token) -> bool:
    return isinstance(child, Token) and child.kind == "COMMA"
