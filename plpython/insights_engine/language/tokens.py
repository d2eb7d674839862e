"""Cuts a filter into tokens, and refuses what cannot be part of any filter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, NoReturn

from insights_engine.language.errors import FilterError, visible

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


def pattern_place(text: str, pattern: str) -> tuple[int | None, int]:
    """Where ``text`` has the string ``pattern`` after LIKE, and how long it is there.

    A tree does not know the places of its nodes; this finds one again for the
    errors that come after parsing.
    """
    for escaped_quotes in (False, True):
        try:
            tokens = tokenize(text, escaped_quotes=escaped_quotes)
        except FilterError:
            continue
        for before, token in zip(tokens, tokens[1:]):
            if before.kind == "LIKE" and unquote(text[token.start : token.end]) == pattern:
                return token.start, token.end - token.start
    return None, 1


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
    """All tokens of a filter.  Raises FilterError."""
    return list(scan(text, escaped_quotes=escaped_quotes))[:-1]


def scan(text: str, *, escaped_quotes: bool = False) -> Iterator[Token]:
    """The tokens of a filter that `check_text` let pass, then one of kind $END.

    ``escaped_quotes``: a quote after a backslash does not end a string, as in
    MLflow's lexer (the backslash stays part of the string there, too).

    Raises FilterError on reaching a place where there is no token, or one
    beyond the limits; a reader that stops before never learns of it.
    """
    pattern = _token_pattern(escaped_quotes)
    tokens: list[Token] = []
    position = 0
    predicates = 0
    commas = 0
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
        elif kind == "COMMA":
            commas += 1
            if commas >= MAX_VALUES:
                _refuse_excess(text, token, f"has more than {MAX_VALUES} values in lists")
        else:
            if kind == "RPAR" and opened:
                opened.pop()
            depth = opened[-1] if opened else 0
            if kind in OPERATORS:
                predicates += 1
                if predicates > MAX_PREDICATES:
                    _refuse_excess(text, token, f"has more than {MAX_PREDICATES} predicates")
        if depth > MAX_NESTING:
            _refuse_excess(text, token, f"is nested more than {MAX_NESTING} levels deep")
        tokens.append(token)
        yield token
    yield Token("$END", len(text), len(text))


def _refuse_excess(text: str, token: Token, problem: str) -> NoReturn:
    hints = {
        "COMMA": "Split the list over several filters.",
        "LPAR": "Parentheses and NOT may stand inside one another no deeper than that.",
        "NOT": "Parentheses and NOT may stand inside one another no deeper than that.",
    }
    raise FilterError(
        f"the filter {problem}",
        token.start,
        token.end - token.start,
        hints.get(token.kind, "Values of one field fit into a list: field IN ('a', 'b', ...)."),
        text,
    )


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


def unquoted_message(literal: str) -> str:
    """What stock MLflow says to a value without quotes."""
    return (
        "Parameter value is either not quoted or unidentified quote types used for string value"
        f" {visible(literal, 60)}. Use either single or double quotes."
    )


def _check_number(text: str, token: Token) -> None:
    unit = _WORD.match(text, token.end)
    if unit is None:
        return
    literal = text[token.start : unit.end()]
    problem = "malformed number" if unit_in_ms(unit[0]) is None else "number with a unit"
    raise FilterError(
        f"{problem}. {unquoted_message(literal)}",
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
        raise FilterError("there is no key in the brackets", start, 2, "Write ['key'].", text)
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
    else:
        message = f"unexpected character '{visible(character)}'"
        hint = _character_hint(text, position, tokens)
    raise FilterError(message, position, length, hint, text)


def _character_hint(text: str, position: int, tokens: list[Token]) -> str | None:
    before = tokens[-1] if tokens else None
    if before is None:
        return "A filter is a condition such as status = 'OK'."
    if before.kind == "FIELD" and before.end == position:
        if text[position] == ":":
            return f"Compare with =: {visible(text[before.start : before.end], 60)} = 'value'."
        return (
            "Quote a key that holds other characters than letters, digits, _, - and dots:"
            " tags['my key']."
        )
    if text[position] in "[{":
        return "A list of values stands in parentheses: field IN ('a', 'b')."
    if before.kind in ("CMP", "LIKE") and text[position] in "$:%?@":
        return "Parameters are not filled in: write the value itself, a text in quotes."
    return None


def _semicolon(text: str, position: int) -> tuple[str, str, int]:
    if text[position:].strip(" \t\r\n;"):
        return (
            f"Search filter contained multiple expression {visible(repr(text), 200)}."
            " Provide AND-ed expression list.",
            "A filter is one expression: join conditions with AND or OR.",
            1,
        )
    return "Invalid clause(s) in filter string: ';'", "Remove the semicolon.", 1
