"""What is wrong with a filter that has no syntax."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from insights_engine.language import fields
from insights_engine.language.errors import FilterError, visible
from insights_engine.language.mistakes import characters
from insights_engine.language.mistakes.characters import unit_hint, unquoted_message
from insights_engine.language.syntax import NoSyntax
from insights_engine.language.tables import RULES, STATES
from insights_engine.language.tokens import FUNCTIONS, Token, unit_in_ms

_SQL_WORDS = re.compile(
    "SELECT|FROM|WITH|INSERT|UPDATE|DELETE|DROP|ALTER|CREATE|TRUNCATE|GRANT|UNION|EXPLAIN"
    "|ORDER|GROUP|HAVING|LIMIT|OFFSET|JOIN|RETURNING|INTO|VALUES|SET"
)
_OPERATOR_WORDS = {
    "CONTAINS": "LIKE '%text%'",
    "CONTAIN": "LIKE '%text%'",
    "INCLUDES": "LIKE '%text%'",
    "HAS": "LIKE '%text%'",
    "STARTSWITH": "LIKE 'text%'",
    "STARTS_WITH": "LIKE 'text%'",
    "STARTS": "LIKE 'text%'",
    "ENDSWITH": "LIKE '%text'",
    "ENDS_WITH": "LIKE '%text'",
    "ENDS": "LIKE '%text'",
    "REGEX": "RLIKE",
    "MATCHES": "RLIKE",
    "MATCH": "RLIKE",
    "SIMILAR": "RLIKE",
    "GLOB": "LIKE",
    "EQUALS": "=",
    "EQUAL": "=",
    "EQ": "=",
    "NE": "!=",
    "GT": ">",
    "GTE": ">=",
    "GE": ">=",
    "LT": "<",
    "LTE": "<=",
    "LE": "<=",
    "ISNULL": "IS NULL",
    "NOTNULL": "IS NOT NULL",
    "EXISTS": "IS NOT NULL",
}
_FUNCTION_WORDS = {
    "SOME": "any(...)",
    "EXISTS": "any(...)",
    "HAS": "any(...)",
    "ALL": "NOT any(NOT ...)",
    "EVERY": "NOT any(NOT ...)",
    "NONE": "NOT any(...)",
    "AVERAGE": "avg(...)",
    "MEAN": "avg(...)",
    "TOTAL": "sum(...)",
    "CURRENT_TIMESTAMP": "now()",
    "GETDATE": "now()",
    "LOWER": "field ILIKE 'text', which ignores case",
    "UPPER": "field ILIKE 'text', which ignores case",
}
_FUNCTION_NAMES = ("any", "count", "sum", "avg", "min", "max", "now")
_VALUES = ("STRING", "DOUBLE_QUOTED", "NUMBER", "BOOLEAN", "NULL", "RPAR", "NOW")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}")

_QUOTING = "A name or text with spaces goes in quotes: tags['my key'] = 'my value'."
_CONDITION = "a condition such as status = 'OK'"


def explain(stop: NoSyntax) -> FilterError:
    """The error at the place where reading a filter stopped."""
    if stop.index == len(stop.tokens.tokens):
        assert stop.tokens.problem is not None
        return characters.explain(stop.tokens, stop.tokens.problem)
    try:
        _Refusal(stop).refuse()
    except FilterError as error:
        return error


class _Refusal:
    """Explains why a token cannot stand where it stands."""

    def __init__(self, stop: NoSyntax) -> None:
        self.text = stop.tokens.text
        self.index = stop.index
        end = Token("$END", len(self.text), len(self.text))
        self.tokens = [*stop.tokens.tokens[: stop.index + 2], end]
        self.token = self.tokens[stop.index]
        self.before = self.tokens[stop.index - 1] if stop.index else None
        self.expected = _acceptable(stop.states)

    def refuse(self) -> NoReturn:
        """Raise the FilterError."""
        token = self.token
        kind = token.kind
        if kind == "RPAR" and self._innermost(self.index) is None:
            self._fail("this parenthesis closes nothing", "Remove it, or open one before it.")
        if kind == "$END" and "RPAR" in self.expected:
            self._unclosed()
        if "STRING" in self.expected:
            self._value()
        if self.before is not None and self.before.kind in ("IN", "BETWEEN", "IS", "NOT"):
            self._after_word(self.before)
        if "CMP" in self.expected and "LIKE" in self.expected:
            self._operator()
        if "WHERE" in self.expected:
            self._aggregate(token)
        if "AND" in self.expected and "OR" not in self.expected and "FIELD" not in self.expected:
            self._fail(
                f"BETWEEN takes two values joined by AND, found {self._named(token)}",
                "For example execution_time_ms BETWEEN 100 AND 200.",
            )
        if "CMP" in self.expected:
            self._function_comparison()
        if "COMMA" in self.expected:
            self._list()
        if "FIELD" in self.expected and "OR" not in self.expected:
            self._condition()
        self._after_condition()

    # -------------------------------------------------------------- the cases

    def _value(self) -> NoReturn:
        """A value, or for LIKE a string, is missing."""
        token, before = self.token, self.before
        shown = self._shown(token)
        assert before is not None
        operator = self._source(before).upper()
        in_list = before.kind in ("LPAR", "COMMA")
        if token.kind == "FIELD":
            self._unquoted(token, shown)
        if in_list and token.kind == "RPAR":
            self._fail(
                "While parsing a list in the query, expected a non-empty list of string values,"
                " but got empty list",
                "Put at least one value between the parentheses.",
            )
        if in_list and token.kind == "COMMA":
            self._fail("a value is missing between the commas", "Remove one comma.")
        if before.kind == "SIGN":
            self._fail(
                f"expected a duration in quotes after {operator}, found {self._named(token)}",
                "For example now() - '24 hours'.",
            )
        if token.kind == "$END":
            self._fail(
                f"a value is missing after {operator}",
                f"For example {operator} '%text%'."
                if before.kind == "LIKE"
                else "For example 'text' or 100.",
            )
        if token.kind == "LPAR":
            self._fail(
                f"{operator} takes one value, found a parenthesis",
                "A list of values goes with IN: field IN ('a', 'b').",
            )
        if token.kind in ("CMP", "LIKE", "IN", "IS", "BETWEEN"):
            hint = "Remove one of them."
            if operator in ("!", "<", ">") and shown == "=":
                hint = f"Write {operator}{shown} without a space."
            self._fail(f"a second operator after {operator}: {shown}", hint)
        if token.kind in ("AGGREGATE", "COUNT", "ANY"):
            self._fail(
                f"expected a value after {operator}, found {shown}(...)",
                f"{shown}(...) stands on the left of a comparison with a number.",
            )
        self._fail(
            f"expected a value after {operator}, found {self._named(token)}",
            "For example 'text' or 100.",
        )

    def _unquoted(self, token: Token, shown: str) -> NoReturn:
        word = self._source(token)
        following = self.tokens[self.index + 1].kind
        if following == "LPAR":
            self._unknown_function(token, "now() is the only function that is a value.")
        if _SQL_WORDS.fullmatch(word.upper()):
            self._sql(token)
        hint = f"Write '{shown}'."
        if self._compares_function() or self._compares_number():
            hint = "A number must follow."
        if word.startswith("`"):
            hint = f"Write {visible(fields.quote(word[1:-1]), 60)}; backticks are for names."
        elif word.upper() in ("NOW", "CURRENT_TIMESTAMP", "CURRENT_DATE", "TODAY"):
            hint = "The present time is now()."
        elif word.upper() in ("NONE", "NIL"):
            hint = f"Write '{shown}' for the text, IS NULL for a missing value."
        elif "." in word or word in fields.TRACE_FIELDS:
            hint += " A field is compared with a value, not with another field."
        self._fail(unquoted_message(word), hint)

    def _compares_function(self) -> bool:
        """Whether the value at ``index`` is compared with count(...) or the like."""
        return self.index > 1 and self.tokens[self.index - 2].kind == "RPAR"

    def _compares_number(self) -> bool:
        """Whether it is compared with a field that is known to hold numbers."""
        name = self._source(self.tokens[self.index - 2]).rsplit(".", 1)[-1]
        field = fields.TRACE_FIELDS.get(name)
        return field is not None and fields.is_number(field)

    def _after_word(self, before: Token) -> NoReturn:
        """After IN, BETWEEN (which also takes values), IS, or NOT."""
        token = self.token
        if before.kind == "IN":
            shown = self._shown(token)
            if token.kind in ("STRING", "DOUBLE_QUOTED", "NUMBER"):
                self._fail("IN takes a list in parentheses", f"Write IN ({shown}).")
            self._fail(
                f"IN takes a list in parentheses, found {self._named(token)}",
                "For example IN ('a', 'b').",
            )
        if before.kind == "IS":
            self._fail(
                f"IS goes with NULL or NOT NULL only, found {self._named(token)}",
                "Compare with a value by = or !=.",
            )
        if "NULL" in self.expected:
            self._fail(
                f"IS NOT goes with NULL only, found {self._named(token)}",
                "Compare with a value by !=.",
            )
        if "LIKE" in self.expected and "FIELD" not in self.expected:
            hint = "Write != instead of NOT =." if token.kind == "CMP" else None
            self._fail(
                "after a field NOT goes with LIKE, ILIKE, RLIKE, IN or BETWEEN,"
                f" found {self._named(token)}",
                hint or "NOT before a whole condition negates it: NOT status = 'OK'.",
            )
        self._condition()

    def _operator(self) -> NoReturn:
        """A field stands here, and no operator follows."""
        token, before = self.token, self.before
        assert before is not None
        name = self._shown(before)
        word = self._source(before).upper()
        if token.kind == "LPAR":
            self._unknown_function(before)
        if _SQL_WORDS.fullmatch(word):
            self._sql(before)
        following = self._source(token).upper() if token.kind == "FIELD" else ""
        if _SQL_WORDS.fullmatch(following):
            self._sql(token)
        earlier = self.tokens[self.index - 2].kind if self.index > 1 else ""
        if earlier == "NUMBER" and unit_in_ms(word) is not None:
            number = self.tokens[self.index - 2]
            literal = f"{self._source(number)} {name}"
            self._fail(
                f"number with a unit. {unquoted_message(literal)}",
                unit_hint(self._source(number), word),
                Token("", number.start, before.end),
            )
        if token.kind == "SIGN" and self.text.startswith("->", token.start):
            self._fail("unknown operator ->", f"A key goes in brackets: {name}['key'].", length=2)
        if (
            token.kind in ("FIELD", "STRING", "DOUBLE_QUOTED", "NUMBER")
            and earlier in _VALUES
            and word not in FUNCTIONS
            and following not in _OPERATOR_WORDS
            and "." not in word
            and name not in fields.TRACE_FIELDS
        ):
            self._fail(f"expected AND or OR, found {name}", _QUOTING, before)
        if following in _OPERATOR_WORDS:
            self._fail(
                f"unknown operator {self._shown(token)}",
                f"Use {_OPERATOR_WORDS[following]}.",
            )
        if token.kind in ("STRING", "DOUBLE_QUOTED", "NUMBER", "BOOLEAN", "NOW"):
            self._fail(
                f"an operator is missing between {name} and {self._shown(token)}",
                f"Write {name} = {self._shown(token)}.",
            )
        if token.kind == "STAR" or token.kind == "SIGN":
            self._fail(
                f"there is no arithmetic on fields: {name} {self._shown(token)}",
                "Compare a field directly with a value.",
            )
        if token.kind == "FIELD":
            if word in FUNCTIONS:
                self._fail(
                    f"a parenthesis is missing after {name}",
                    f"{name}(...) is a function.",
                    before,
                )
            self._fail(f"expected an operator after {name}, found {self._shown(token)}", _QUOTING)
        where = "" if token.kind == "$END" else f", found {self._named(token)}"
        hint = f"For example {name} = 'value', or {name} IS NOT NULL."
        opening = self._innermost(self.index)
        function = self._function_of(opening) if opening is not None else None
        if function is not None and function.kind == "COUNT" and token.kind == "RPAR":
            hint = "count() counts all spans, count(span.type = 'LLM') those of one type."
        self._fail(
            f"{name} is compared with nothing{where}", hint, before if where == "" else token
        )

    def _aggregate(self, token: Token) -> NoReturn:
        """sum(field stands here, and neither ) nor WHERE follows."""
        opening = self._innermost(self.index)
        function = self._function_of(opening) if opening is not None else None
        assert function is not None
        name = self._shown(function).lower()
        form = f"{name}(span.duration_ms WHERE span.type = 'LLM') > 1000"
        if token.kind in ("CMP", "LIKE", "IN", "IS", "BETWEEN", "NOT"):
            self._fail(
                f"{name}() takes a numeric span field, not a condition",
                f"A condition comes after WHERE: {form}. count(...) counts spans.",
            )
        self._fail(
            f"expected ')' or WHERE after the field of {name}(), found {self._named(token)}",
            f"For example {form}.",
        )

    def _function_comparison(self) -> NoReturn:
        """count(...) or an aggregate is complete, and nothing compares it."""
        closing = self.index - 1
        depth = 0
        opening = closing
        for opening in range(closing, -1, -1):
            kind = self.tokens[opening].kind
            depth += (kind == "RPAR") - (kind == "LPAR")
            if depth == 0:
                break
        function = self._function_of(opening)
        assert function is not None
        name = self._shown(function).lower()
        token = self.token
        place = Token("", function.start, self.tokens[closing].end)
        if token.kind in ("IN", "BETWEEN", "LIKE", "IS", "NOT"):
            self._fail(
                f"{name}(...) is compared by =, !=, <, <=, > or >=, found {self._shown(token)}",
                f"For example {name}(...) >= 2 AND {name}(...) <= 5.",
            )
        self._fail(
            f"{name}(...) is a number and must be compared",
            f"Add > 0, as in {name}(...) > 0.",
            place,
        )

    def _list(self) -> NoReturn:
        """In a list of values: neither a comma nor the end follows."""
        token = self.token
        if token.kind in ("STRING", "DOUBLE_QUOTED", "NUMBER", "BOOLEAN", "FIELD"):
            self._fail(
                f"a comma is missing in the list before {self._shown(token)}",
                f"Write , {self._shown(token)}. A quote inside a string is written twice: ''.",
            )
        self._fail(f"expected , or ) in the list, found {self._named(token)}", "Close it with ).")

    def _condition(self) -> NoReturn:
        """A condition is expected."""
        token, before = self.token, self.before
        shown = self._shown(token)
        after = "at the beginning" if before is None else f"after {self._shown(before)}"
        if before is not None and before.kind == "LPAR":
            function = self._function_of(self.index - 1)
            if function is not None and token.kind == "RPAR":
                name = self._shown(function).lower()
                if function.kind == "ANY":
                    self._fail(
                        "any() needs a condition on spans",
                        "For example any(span.type = 'LLM'); a trace with any span at all has"
                        " span_count > 0.",
                    )
                self._fail(
                    f"{name}() needs a numeric span field", f"For example {name}(span.duration_ms)."
                )
            if token.kind == "RPAR":
                self._fail("there is nothing in the parentheses", f"Put {_CONDITION} there.")
        if before is not None and before.kind == "LPAR" and self._is_aggregate(self.index - 1):
            function = self._function_of(self.index - 1)
            assert function is not None
            name = self._shown(function).lower()
            self._fail(
                f"{name}() needs a numeric span field, found {self._named(token)}",
                f"For example {name}(span.duration_ms).",
            )
        if token.kind in ("STRING", "NUMBER", "BOOLEAN", "NULL", "NOW"):
            self._fail(
                f"Invalid comparison clause. Expected 'Identifier' found '{shown}'",
                "The field stands on the left, the value on the right: status = 'OK'.",
            )
        if token.kind == "OR" and before is None:
            self._fail(
                "a condition is missing before OR", f"OR joins two conditions, {_CONDITION}."
            )
        if token.kind in ("$END", "OR", "RPAR", "AND"):
            assert before is not None
            self._fail(
                f"a condition is missing after {self._shown(before)}",
                f"Add {_CONDITION}, or remove {self._shown(before)}.",
                before if token.kind == "$END" else token,
            )
        if token.kind == "CMP":
            self._fail(f"a field is missing before {shown}", f"For example status {shown} 'OK'.")
        if token.kind == "COMMA":
            self._comma()
        if token.kind == "WHERE":
            self._fail("a filter begins without WHERE", "Remove WHERE.")
        self._fail(
            f"Invalid clause(s) in filter string: '{shown}': expected a condition {after}",
            f"For example {_CONDITION[len('a condition such as ') :]}.",
        )

    def _after_condition(self) -> NoReturn:
        """A condition is complete, and something follows that cannot."""
        token, before = self.token, self.before
        shown = self._shown(token)
        assert before is not None
        if token.kind == "COMMA":
            self._comma()
        if token.kind in ("CMP", "LIKE", "IN", "IS", "BETWEEN"):
            if before.kind in ("STRING", "DOUBLE_QUOTED", "NUMBER", "BOOLEAN", "NOW"):
                self._fail(
                    f"a comparison cannot be continued with {shown}",
                    "Write two conditions joined by AND, or field BETWEEN low AND high.",
                )
            if before.kind == "RPAR":
                self._fail(
                    f"what is in parentheses is a condition and is not compared: {shown}",
                    "Only count(...), sum(...), avg(...), min(...) and max(...) are.",
                )
        if token.kind in ("STRING", "NUMBER", "DOUBLE_QUOTED"):
            hint = "Join conditions with AND or OR."
            date = _DATE.match(self.text, before.start)
            if date:
                hint = f"A time goes in quotes: '{date[0]}'."
            elif before.kind == "NOW":
                hint = "A duration goes in quotes: now() - '24 hours'."
            elif token.kind != "NUMBER":
                hint += " A quote inside a string is written twice: ''."
            self._fail(
                f"Invalid clause(s) in filter string: '{shown}': a value without a field", hint
            )
        if token.kind in ("SIGN", "STAR"):
            self._fail(
                f"there is no arithmetic on values: {shown}",
                "Only now() takes + or -, and one duration: now() - '1 day 2 hours'.",
            )
        if token.kind == "WHERE":
            self._fail(
                "WHERE stands inside sum, avg, min and max only",
                "Join conditions with AND.",
            )
        self._fail(
            f"Invalid clause(s) in filter string: '{shown}': expected AND, OR or the end",
            "Join conditions with AND or OR.",
        )

    # ---------------------------------------------------------------- helpers

    def _comma(self) -> NoReturn:
        before, after = self.before, self.tokens[self.index + 1]
        if before is not None and before.kind == after.kind == "NUMBER":
            self._fail(
                "a comma stands inside a number",
                f"Write {self._shown(before)}{self._shown(after)}.",
            )
        self._fail(
            "Invalid clause(s) in filter string: ',': conditions are not separated by commas",
            "Use AND or OR.",
        )

    def _unclosed(self) -> NoReturn:
        opening = self._innermost(self.index)
        assert opening is not None
        self._fail(
            "the parenthesis opened here is not closed: ) is missing",
            "Close it with ).",
            self.tokens[opening],
        )

    def _sql(self, token: Token) -> NoReturn:
        word = self._shown(token).upper()
        hints = {
            "ORDER": "The order is an argument of its own (order_by), not part of the filter.",
            "LIMIT": "The limit is an argument of its own (max_results), not part of the filter.",
        }
        self._fail(
            f"Invalid clause(s) in filter string: '{self._shown(token)}': a filter is a condition,"
            " not an SQL statement",
            hints.get(word, f"Write only {_CONDITION}."),
            token,
        )

    def _unknown_function(self, token: Token, otherwise: str | None = None) -> NoReturn:
        word = self._source(token)
        name = self._shown(token)
        if _SQL_WORDS.fullmatch(word.upper()):
            self._sql(token)
        known = _FUNCTION_WORDS.get(word.upper())
        near = None if known else fields.nearest(word, _FUNCTION_NAMES)
        if known:
            hint = f"Write {known}."
        elif near:
            hint = f"Did you mean {near}(...)?"
        else:
            hint = otherwise or "The functions are any, count, sum, avg, min, max and now."
        self._fail(f"unknown function {name}()", hint, token)

    def _innermost(self, index: int) -> int | None:
        """The index of the parenthesis that is open before ``index``."""
        opened = []
        for position in range(index):
            kind = self.tokens[position].kind
            if kind == "LPAR":
                opened.append(position)
            elif kind == "RPAR" and opened:
                opened.pop()
        return opened[-1] if opened else None

    def _function_of(self, opening: int) -> Token | None:
        """The function whose parenthesis stands at ``opening``."""
        token = self.tokens[opening - 1] if opening else None
        return token if token and token.kind in ("ANY", "COUNT", "AGGREGATE") else None

    def _is_aggregate(self, opening: int) -> bool:
        function = self._function_of(opening)
        return function is not None and function.kind == "AGGREGATE"

    def _source(self, token: Token) -> str:
        return self.text[token.start : token.end]

    def _shown(self, token: Token) -> str:
        return visible(self._source(token), 60)

    def _named(self, token: Token) -> str:
        return "the end" if token.kind == "$END" else self._shown(token)

    def _fail(
        self, message: str, hint: str, token: Token | None = None, length: int = 0
    ) -> NoReturn:
        token = token or self.token
        length = length or token.end - token.start
        raise FilterError(message, token.start, length, hint, self.text)


def _acceptable(states: Sequence[int]) -> frozenset[str]:
    """The kinds of tokens that could follow.

    The table's row alone names too many: it would reduce on some that turn out
    not to fit afterwards.
    """
    return frozenset(
        kind for kind in STATES[states[-1]] if kind.isupper() and _can_shift(states, kind)
    )


def _can_shift(before: Sequence[int], kind: str) -> bool:
    states = list(before)
    while True:
        step = STATES[states[-1]].get(kind, 0)
        if step >= 0:
            return step > 0
        symbol, size, _, _ = RULES[-step - 1]
        if symbol == "start":
            return True
        if size:
            del states[-size:]
        states.append(STATES[states[-1]][symbol])
