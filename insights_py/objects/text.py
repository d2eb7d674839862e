"""SQL as tokens, so that what we wrote can be compared with what PostgreSQL prints.

PostgreSQL keeps expressions (defaults, checks, indexes, views) as trees.  Printed, they have
other parentheses, casts of literals and names of columns than before; `canonical` leaves out
all of that, on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

SCHEMA = "insights"


class UnknownStatement(Exception):
    """A statement of a bundle that nothing here compares with a database."""


_PIECE = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\"[^\"]*\"|\$([a-z_]*)\$.*?\$\1\$|;", re.DOTALL)
_TOKEN = re.compile(
    r"""--[^\n]*
    | (?P<string>'(?:[^']|'')*')
    | "(?P<quoted>[^"]*)"
    | (?P<dollar>\$(?P<tag>[a-z_]*)\$.*?\$(?P=tag)\$)
    | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<word>[^\W\d]\w*)
    | (?P<sign>::|[-+*/<>=~!@\#%^&|?]+|[^\s\w])
    """,
    re.DOTALL | re.VERBOSE,
)
# Types as PostgreSQL prints them, shortened to one word.
_LONG_TYPES = (
    (("double", "precision"), "float8"),
    (("timestamp", "with", "time", "zone"), "timestamptz"),
    (("character", "varying"), "varchar"),
    (("integer",), "int"),
    (("bool",), "boolean"),
)


def statements(bundle: str) -> Iterator[str]:
    """The statements of a bundle, without their semicolons and the comments before them."""
    start = 0
    for piece in _PIECE.finditer(bundle):
        if piece.group() == ";":
            yield bundle[start : piece.start()]
            start = piece.end()
        elif piece.group().startswith("--") and not bundle[start : piece.start()].strip():
            start = piece.end()
    if bundle[start:].strip():
        yield bundle[start:]


def tokens(text: str) -> list[str]:
    """Words in lower case, names without quotes, strings, signs; types by their short names."""
    found = []
    for match in _TOKEN.finditer(text):
        if match["quoted"] is not None:
            found.append(match["quoted"])
        elif match["word"]:
            found.append(match["word"].lower())
        elif not match.group().startswith("--"):
            found.append(match.group())
    short: list[str] = []
    while found:
        for long, name in _LONG_TYPES:
            if tuple(found[: len(long)]) == long:
                found[: len(long)] = [name]
        short.append(found.pop(0))
    return short


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """An expression or a query as one text, whether we wrote it or PostgreSQL printed it."""
    rest = tokens(text)
    done: list[str] = []
    called = token = ""
    while rest:
        before, token = token, rest.pop(0)
        after = rest[0] if rest else ""
        if after == "." and token != SCHEMA:
            rest.pop(0)  # Columns are printed with or without their table, by version.
            continue
        if after == "(":
            called = token
        if token == "as" and after == called:
            rest.pop(0)  # A subquery's column, which PostgreSQL names like its function.
            continue
        if token in ("(", ")", "as"):
            continue
        if token == "using" and after == "btree":
            rest.pop(0)
            continue
        if token == "else" and after == "null":
            behind = rest[1:]
            if behind[:1] == ["::"]:
                _take_cast(behind)
            if behind[:1] == ["end"]:
                rest = behind
                continue
        if token == "::" and after == "oid":  # what turns regclass into it without a word
            rest.pop(0)
            continue
        if token.startswith("'") or token[:1].isdigit() or token == "null":
            while rest[:1] == ["::"] or (before == "(" and rest[:2] == [")", "::"]):
                if rest[0] == ")":
                    rest.pop(0)
                _take_cast(rest)
            token = token[1:-1] if _is_number(token[1:-1]) else token
        done.append(_number(token) if _is_number(token) else token)
    return " ".join(_without_between(done))


def _take_cast(rest: list[str]) -> None:
    """Takes ``:: schema.type(1)[]`` off."""
    del rest[:2]
    while rest[:1] == ["."]:
        del rest[:2]
    for opening, closing in (("(", ")"), ("[", "]")):
        if rest[:1] == [opening] and closing in rest:
            del rest[: rest.index(closing) + 1]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text) is not None


def _number(text: str) -> str:
    value = float(text)
    return text if text.isdigit() else str(int(value)) if value.is_integer() else repr(value)


def _without_between(words: list[str]) -> list[str]:
    while "between" in words:
        at = words.index("between")
        subject, low = words[at - 1], words[at + 1]
        words[at - 1 : at + 3] = [subject, ">=", low, "and", subject, "<="]
    return words


def split(words: list[str]) -> list[list[str]]:
    """The parts between commas outside of parentheses."""
    parts: list[list[str]] = [[]]
    depth = 0
    for word in words:
        depth += (word == "(") - (word == ")")
        if word == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def group(words: list[str], start: int) -> int:
    """Where the parenthesis that opens at ``start`` closes."""
    depth = 0
    for place in range(start, len(words)):
        depth += (words[place] == "(") - (words[place] == ")")
        if depth == 0:
            return place
    raise UnknownStatement(" ".join(words))
