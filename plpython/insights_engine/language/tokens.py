"""The tokens of a filter, up to the first place where nothing in any filter could stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from insights_engine.language.errors import FilterError

MAX_BYTES = 64 * 1024
MAX_PREDICATES = 1000
MAX_VALUES = 5000
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


class Range(NamedTuple):
    """``text[start:end]`` of a filter."""

    start: int
    end: int


class Problem(Enum):
    """Why no token stands at a place; mistakes/characters.py says more."""

    CHARACTER = "no token begins with this character"
    UNIT = "a word follows a number at once"
    COMMENT = "a comment"
    BRACKET = "a bracket after a name holds no key"
    VALUES = "too many values in lists"
    PREDICATES = "too many predicates"
    NESTING = "parentheses and NOT inside one another too deep"


class Break(NamedTuple):
    """Where the tokens of a filter end before its text does: at ``text[start:end]``."""

    problem: Problem
    start: int
    end: int


class Tokens(NamedTuple):
    """A filter in pieces.

    The last of ``tokens`` is of kind $END, unless there is a ``problem``.
    """

    text: str
    tokens: Sequence[Token]
    problem: Break | None = None


KEYWORDS = {
    "AND": "AND",
    "OR": "OR",
    "NOT": "NOT",
    "LIKE": "LIKE",
    "ILIKE": "LIKE",
    "RLIKE": "LIKE",
    "REGEXP": "CMP",  # to be refused like any other operator that is none of ours
    "IN": "IN",
    "BETWEEN": "BETWEEN",
    "IS": "IS",
    "NULL": "NULL",
    "TRUE": "BOOLEAN",
    "FALSE": "BOOLEAN",
    "WHERE": "WHERE",
    "INTERVAL": "INTERVAL",
}
#: Every predicate has exactly one of these.
OPERATORS = frozenset(("CMP", "LIKE", "IN", "BETWEEN", "IS"))
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


@lru_cache(maxsize=2)
def _token_pattern(escaped_quotes: bool) -> re.Pattern[str]:
    single = _SINGLE_ESCAPED if escaped_quotes else _SINGLE
    double = _DOUBLE_ESCAPED if escaped_quotes else _DOUBLE
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


_OPEN_PARENTHESIS = re.compile(r"\s*\(")
_NOW = re.compile(r"\s*\(\s*\)")
_STEP = re.compile(rf"\s*\[\s*(?:({_SINGLE}|{_DOUBLE}|{_BACK})|(\d+))\s*\]")
_OPEN_BRACKET = re.compile(r"\s*\[")
_WORD = re.compile(r"\w+")


def unquote(quoted: str) -> str:
    """The text inside a pair of quotes, in which a doubled quote is one."""
    mark = quoted[0]
    return quoted[1:-1].replace(mark * 2, mark)


def unquote_name(part: str) -> str:
    """A name or key without its quotes, if it has any."""
    return unquote(part) if part[0] in "`\"'" else part


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


def tokenize(text: str, *, escaped_quotes: bool = False) -> Tokens:
    """The tokens of a filter that `check_text` let pass.

    ``escaped_quotes``: a quote after a backslash does not end a string, as in
    MLflow's lexer (the backslash stays part of the string there, too).
    """
    tokens: list[Token] = []
    problem = _read(text, _token_pattern(escaped_quotes), tokens)
    if problem is None:
        tokens.append(Token("$END", len(text), len(text)))
    return Tokens(text, tokens, problem)


def _read(text: str, pattern: re.Pattern[str], tokens: list[Token]) -> Break | None:
    """Append the tokens of ``text``, up to the first place where there is none."""
    position = 0
    predicates = 0
    commas = 0
    opened: list[int] = []  # how deep each open parenthesis goes
    depth = 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            return Break(Problem.CHARACTER, position, position + 1)
        kind = match.lastgroup
        start, position = match.span()
        if kind == "SPACE":
            continue
        if kind == "FIELD":
            token = _word_or_field(text, start, position)
            if isinstance(token, Break):
                return token
            kind = token.kind
            position = token.end
        else:
            assert kind is not None
            token = Token(kind, start, position)
            if kind == "NUMBER":
                unit = _WORD.match(text, position)
                if unit is not None:
                    return Break(Problem.UNIT, start, position)
            elif kind == "COMMENT":
                return Break(Problem.COMMENT, start, position)
        if kind == "NOT":
            depth += 1
        elif kind == "LPAR":
            depth += 1
            opened.append(depth)
        elif kind == "COMMA":
            commas += 1
            if commas >= MAX_VALUES:
                return Break(Problem.VALUES, start, position)
        else:
            if kind == "RPAR" and opened:
                opened.pop()
            depth = opened[-1] if opened else 0
            if kind in OPERATORS:
                predicates += 1
                if predicates > MAX_PREDICATES:
                    return Break(Problem.PREDICATES, start, position)
        if depth > MAX_NESTING:
            return Break(Problem.NESTING, start, position)
        tokens.append(token)
    return None


def _word_or_field(text: str, start: int, end: int) -> Token | Break:
    word = text[start:end].upper()
    keyword = KEYWORDS.get(word)
    if keyword is not None:
        return Token(keyword, start, end)
    function = FUNCTIONS.get(word)
    if function is not None and _OPEN_PARENTHESIS.match(text, end):
        return Token(function, start, end)
    if word == "NOW":
        call = _NOW.match(text, end)
        if call:
            return Token("NOW", start, call.end())
    name_end = end
    steps: list[str] = []
    step = _STEP.match(text, end)
    while step:
        steps.append(unquote(step[1]) if step[1] else step[2])
        end = step.end()
        step = _STEP.match(text, end)
    bracket = _OPEN_BRACKET.match(text, end)
    if bracket:
        return Break(Problem.BRACKET, bracket.end() - 1, bracket.end())
    return Token("FIELD", start, end, name_end, tuple(steps))


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
