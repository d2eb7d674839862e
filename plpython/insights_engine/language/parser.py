"""Text of a filter in, syntax tree in normal form out.

The text goes one way: tokens, concrete syntax, names and types, tree. Where a step stops,
`insights_engine.language.mistakes` is asked why, with what the steps before have found.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, Union

from insights_engine.language import tree
from insights_engine.language.errors import FilterError, visible
from insights_engine.language.names import Names
from insights_engine.language.resolver import Piece, Resolver, close, conjoin, disjoin
from insights_engine.language.syntax import NoSyntax, parse_syntax
from insights_engine.language.tokens import OPERATORS, Range, check_text, tokenize


class _Filter(NamedTuple):
    """One filter as it has been read, before it is closed or joined with others."""

    pieces: tuple[Piece, ...]
    patterns: Mapping[tree.Match, Range]


def parse_filter(text: str | None) -> tree.Node:
    """The tree of a filter (None and '' match every trace).

    Raises FilterError.  Results are cached: trees are immutable.
    """
    return _conjunction((text,)) if text else tree.EVERYTHING


def parse_conjunction(*texts: str | None) -> tree.Node:
    """All of the filters ANDed into one.

    The scope rule for spans sees them as one text: plain ``span.*`` conditions
    of different filters speak of the same span.  A filter with OR counts as
    parenthesised.  Raises FilterError, placed in the text that is wrong.
    """
    return _conjunction(tuple(text for text in texts if text))


def parse_disjunction(*texts: str | None) -> tree.Node:
    """All of the filters ORed into one, each as if in parentheses."""
    return _disjunction(texts) if all(texts) else tree.EVERYTHING


def pattern_places(text: str) -> Mapping[tree.Match, Range]:
    """Where a filter that has been parsed has its patterns of LIKE, ILIKE and RLIKE."""
    return _read(text).patterns


def parse_field(text: str) -> tree.Field:
    """The field that ``text`` names, as in a filter.  Raises FilterError."""
    check_text(text)
    found = tokenize(text)
    if found.problem is not None:
        from insights_engine.language.mistakes import characters

        raise characters.explain(found, found.problem)
    tokens = found.tokens[:-1]
    if len(tokens) != 1 or tokens[0].kind not in ("FIELD", "DOUBLE_QUOTED"):
        raise FilterError(
            "expected the name of one field",
            tokens[0].start if tokens else None,
            tokens[-1].end - tokens[0].start if tokens else 1,
            "For example timestamp_ms, tags.environment or span.attributes['model'].",
            text,
        )
    return Names(text).field(tokens[0])


# Trees are known again by their identity, so joined ones are kept, too.
@lru_cache(maxsize=512)
def _conjunction(texts: tuple[str, ...]) -> tree.Node:
    pieces = [piece for text in texts for piece in _read(text).pieces]
    return close(conjoin(pieces)) if pieces else tree.EVERYTHING


@lru_cache(maxsize=256)
def _disjunction(texts: tuple[str, ...]) -> tree.Node:
    return close(disjoin([conjoin(_read(text).pieces) for text in texts]))


@lru_cache(maxsize=256)
def _read(text: str) -> _Filter:
    check_text(text)
    if not text.strip():
        raise FilterError(
            f"Invalid filter '{visible(text, 60)}'. Could not be parsed.",
            hint="The filter that matches every trace is the empty string.",
            filter=text,
        )
    try:
        return _read_once(text, escaped_quotes=False)
    except (FilterError, NoSyntax) as error:
        # MLflow's lexer lets a backslash keep a quote inside a string.  Such a
        # filter is read, too, but only if it makes no sense otherwise.
        if "\\'" in text or '\\"' in text:
            try:
                return _read_once(text, escaped_quotes=True)
            except (FilterError, NoSyntax):
                pass
        raise _explained(error) from None


def _read_once(text: str, *, escaped_quotes: bool) -> _Filter:
    raw = parse_syntax(tokenize(text, escaped_quotes=escaped_quotes))
    resolver = Resolver(text, raw)
    pieces = resolver.resolve()
    return _Filter(tuple(pieces), resolver.patterns)


def _explained(error: Union[FilterError, NoSyntax]) -> FilterError:
    """The first error in the order of the text: a wrong name may stand before."""
    if isinstance(error, FilterError):
        return error
    # Loaded for a mistake only: it takes longer than parsing does.
    from insights_engine.language.mistakes import grammar

    found = grammar.explain(error)
    try:
        _check_names(error, found.position)
    except FilterError as wrong_name:
        return wrong_name
    return found


def _check_names(stop: NoSyntax, end: int | None) -> None:
    """Raise for a wrong name before ``end``."""
    if end is None:
        return
    names = Names(stop.tokens.text)
    before = None
    for token in stop.tokens.tokens:
        if before is not None and before.kind == "FIELD" and token.kind in OPERATORS:
            names.field(before)
        if token.end >= end:
            break
        before = token
