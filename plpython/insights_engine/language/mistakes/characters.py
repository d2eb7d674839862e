"""What is wrong where a filter has no token."""

from __future__ import annotations

import re
from collections.abc import Sequence

from insights_engine.language.errors import FilterError, visible
from insights_engine.language.tokens import (
    MAX_NESTING,
    MAX_PREDICATES,
    MAX_VALUES,
    Break,
    Problem,
    Token,
    Tokens,
    unit_in_ms,
)

_WORD = re.compile(r"\w+")
_QUOTES = {"'": "string", '"': "string", "`": "name"}
_SMART_QUOTES = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2032\u2033\u00b4\u00ab\u00bb"
_INVISIBLE = {
    "\u200b": "zero-width space",
    "\u200c": "zero-width non-joiner",
    "\u200d": "zero-width joiner",
    "\u2060": "word joiner",
    "\ufeff": "byte order mark",
    "\u00ad": "soft hyphen",
}


_PLAIN_KEY = re.compile(r"\[\s*([^\]\['\"`\s]+)\s*\]")
_NO_KEY = re.compile(r"\[\s*\]")

_EXCESS = {
    Problem.VALUES: (
        f"has more than {MAX_VALUES} values in lists",
        "Split the list over several filters.",
    ),
    Problem.PREDICATES: (
        f"has more than {MAX_PREDICATES} predicates",
        "Values of one field fit into a list: field IN ('a', 'b', ...).",
    ),
    Problem.NESTING: (
        f"is nested more than {MAX_NESTING} levels deep",
        "Parentheses and NOT may stand inside one another no deeper than that.",
    ),
}


def explain(tokens: Tokens, place: Break) -> FilterError:
    """The error at a place where there is no token."""
    text = tokens.text
    if place.problem is Problem.CHARACTER:
        return _character(text, place.start, tokens.tokens)
    if place.problem is Problem.UNIT:
        return _unit(text, place)
    if place.problem is Problem.COMMENT:
        return _comment(text, place)
    if place.problem is Problem.BRACKET:
        return _bracket(text, place.start)
    problem, hint = _EXCESS[place.problem]
    return FilterError(f"the filter {problem}", place.start, place.end - place.start, hint, text)


def unquoted_message(literal: str) -> str:
    """What stock MLflow says to a value without quotes."""
    return (
        "Parameter value is either not quoted or unidentified quote types used for string value"
        f" {visible(literal, 60)}. Use either single or double quotes."
    )


def _unit(text: str, number: Break) -> FilterError:
    unit = _WORD.match(text, number.end)
    assert unit is not None
    literal = text[number.start : unit.end()]
    problem = "malformed number" if unit_in_ms(unit[0]) is None else "number with a unit"
    return FilterError(
        f"{problem}. {unquoted_message(literal)}",
        number.start,
        len(literal),
        unit_hint(text[number.start : number.end], unit[0]),
        text,
    )


def unit_hint(number: str, unit: str) -> str:
    """What to write instead of a number with a unit."""
    factor = unit_in_ms(unit)
    if factor is None or len(number) > 20:
        return "Write the plain number; a text goes in quotes."
    milliseconds = float(number) * factor
    plain = int(milliseconds) if milliseconds == int(milliseconds) else milliseconds
    return f"Durations are plain numbers of milliseconds: write {plain}."


def _comment(text: str, place: Break) -> FilterError:
    start, end = place.start, place.end
    if text.startswith("/*", start):
        close = text.find("*/", end)
        end = close + 2 if close >= 0 else len(text)
    return FilterError(
        f"Invalid clause(s) in filter string: '{visible(text[start:end], 60)}':"
        " a filter holds no comments",
        start,
        end - start,
        "Remove the comment.",
        text,
    )


def _bracket(text: str, start: int) -> FilterError:
    unquoted = _PLAIN_KEY.match(text, start)
    if unquoted:
        key = visible(unquoted[1], 60)
        return FilterError(
            f"a key in brackets must be quoted: [{key}]",
            start,
            unquoted.end() - start,
            f"Write ['{key}'].",
            text,
        )
    if _NO_KEY.match(text, start):
        return FilterError("there is no key in the brackets", start, 2, "Write ['key'].", text)
    return FilterError(
        "the bracket opened here is not closed after one quoted key",
        start,
        1,
        "Write ['key'].",
        text,
    )


def _character(text: str, position: int, tokens: Sequence[Token]) -> FilterError:
    character = text[position]
    hint: str | None = None
    length = 1
    if character in _QUOTES:
        message = f"the {_QUOTES[character]} opened here is not closed: {character} is missing"
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
    return FilterError(message, position, length, hint, text)


def _character_hint(text: str, position: int, tokens: Sequence[Token]) -> str | None:
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
