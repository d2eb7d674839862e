"""Text of a filter in, syntax tree in normal form out."""

from __future__ import annotations

from functools import lru_cache

from insights_engine.language import tree
from insights_engine.language.errors import FilterError, visible
from insights_engine.language.names import Names
from insights_engine.language.resolver import Resolver
from insights_engine.language.syntax import parse_syntax
from insights_engine.language.tokens import OPERATORS, check_text, scan, tokenize


def parse_filter(text: str | None) -> tree.Node:
    """The tree of a filter (None and '' match every trace).

    Raises FilterError.  Results are cached: trees are immutable.
    """
    return _parse_filter(text) if text else tree.EVERYTHING


@lru_cache(maxsize=256)
def _parse_filter(text: str) -> tree.Node:
    return _resolve(text).filter()


def parse_conjunction(*texts: str | None) -> tree.Node:
    """All of the filters ANDed into one.

    The scope rule for spans sees them as one text: plain ``span.*`` conditions
    of different filters speak of the same span.  A filter with OR counts as
    parenthesised.  Raises FilterError, placed in the text that is wrong.
    """
    return _parse_conjunction(tuple(text for text in texts if text))


@lru_cache(maxsize=256)
def _parse_conjunction(texts: tuple[str, ...]) -> tree.Node:
    if len(texts) == 1:
        return _parse_filter(texts[0])
    return Resolver.conjunction([_resolve(text) for text in texts])


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
    return Names(text).field(tokens[0])


def _resolve(text: str) -> Resolver:
    check_text(text)
    if not text.strip():
        raise FilterError(
            f"Invalid filter '{visible(text, 60)}'. Could not be parsed.",
            hint="The filter that matches every trace is the empty string.",
            filter=text,
        )
    try:
        return _resolve_once(text, escaped_quotes=False)
    except FilterError:
        # MLflow's lexer lets a backslash keep a quote inside a string.  Such a
        # filter is read, too, but only if it makes no sense otherwise.
        if "\\'" not in text and '\\"' not in text:
            raise
        try:
            return _resolve_once(text, escaped_quotes=True)
        except FilterError:
            pass
        raise


def _resolve_once(text: str, *, escaped_quotes: bool) -> Resolver:
    try:
        raw = parse_syntax(text, escaped_quotes=escaped_quotes)
    except FilterError as error:
        if error.position is not None:
            _check_names(text, error.position, escaped_quotes=escaped_quotes)
        raise
    resolver = Resolver(text, raw)
    resolver.resolve()
    return resolver


def _check_names(text: str, end: int, *, escaped_quotes: bool) -> None:
    """Raise for a wrong name before ``end``: the first error is the one to tell."""
    names = Names(text)
    before = None
    for token in scan(text, escaped_quotes=escaped_quotes):
        if before is not None and before.kind == "FIELD" and token.kind in OPERATORS:
            names.field(before)
        if token.end >= end:
            break
        before = token
