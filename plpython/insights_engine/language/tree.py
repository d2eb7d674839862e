"""The syntax tree of a trace filter.

Every node is a frozen dataclass, so trees compare by value and can be cached.
The parser hands out trees in *normal form*, in which everything that depends
on the surroundings has been settled:

* names are resolved (``tags.name`` is the trace name, ``tags['name']`` a tag);
* every value has its type (a comparison is either a `TextCompare` or a
  `NumberCompare`);
* the scope of span conditions is explicit: plain ``span.*`` predicates of one
  AND group have been gathered into one `AnySpan`, so a span predicate never
  stands outside `AnySpan`, `CountSpans` or `AggregateSpans`;
* ``And`` and ``Or`` are flat (no And directly in And) and have at least two
  items, except that the filter matching everything is ``And(())``.

Consumers (the SQL compiler, the printer, the tests' oracle) rely on that and
need no context of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable, TypeVar, Union

# --------------------------------------------------------------------- fields


@dataclass(frozen=True)
class TraceText:
    """A text field of the trace itself.

    ``name`` is one of those in storage.py.  ``run_id`` and ``prompt`` are sets
    of values per trace: a comparison holds if some value satisfies it.
    """

    name: str


@dataclass(frozen=True)
class TraceNumber:
    """A numeric field of the trace; ``name`` is one of those in storage.py."""

    name: str


@dataclass(frozen=True)
class Tag:
    """The tag whose key is exactly ``key`` (never one of the promoted keys)."""

    key: str


@dataclass(frozen=True)
class Metadata:
    """The request metadata entry whose key is exactly ``key``.

    ``mlflow.trace.tokenUsage`` and ``mlflow.trace.cost`` are possible here and
    stand for the JSON text that MLflow synthesises from the number columns.
    """

    key: str


@dataclass(frozen=True)
class Assessment:
    """The valid assessments called ``name``; a set of values per trace.

    ``kind`` is ``feedback``, ``expectation`` or ``assessment`` (either).
    """

    kind: str
    name: str


@dataclass(frozen=True)
class Issue:
    """The ids of the issues a trace is linked to; a set of values per trace."""


@dataclass(frozen=True)
class SpanText:
    """A text column of a span: ``name``, ``type``, ``status`` or ``content``."""

    name: str


@dataclass(frozen=True)
class SpanNumber:
    """A numeric column of a span: ``duration_ms`` (missing while it runs)."""

    name: str


@dataclass(frozen=True)
class SpanAttribute:
    """A span attribute: the key, then keys or list indexes inside its value."""

    path: tuple[str, ...]


TraceField = Union[TraceText, TraceNumber, Tag, Metadata, Assessment, Issue]
SpanField = Union[SpanText, SpanNumber, SpanAttribute]
Field = Union[TraceField, SpanField]

# --------------------------------------------------------------------- values


@dataclass(frozen=True)
class Now:
    """``now()`` plus ``offset_ms`` (negative for the past), in milliseconds.

    Stays symbolic in the tree, so that a cached tree never holds a stale time.
    """

    offset_ms: int = 0


Number = Union[int, float, Now]
Value = Union[str, int, float, Now]

# ----------------------------------------------------------------- predicates


@dataclass(frozen=True)
class TextCompare:
    """``field = 'value'`` or ``field != 'value'``; ``op`` is ``=`` or ``!=``.

    The boolean literals arrive as the texts ``true`` and ``false``.
    """

    field: Field
    op: str
    value: str


@dataclass(frozen=True)
class NumberCompare:
    """A numeric comparison; ``op`` is one of ``= != < <= > >=``.

    A text field's value takes part if it is a JSON number or wholly reads as
    a finite decimal number; an assessment's only if it is a JSON number.
    Any other value is missing here and satisfies nothing, ``!=`` included.
    """

    field: Field
    op: str
    value: Number


@dataclass(frozen=True)
class Match:
    """``field [NOT] LIKE|ILIKE|RLIKE 'pattern'``; ``op`` is in upper case.

    Negated: the value exists and does not match.
    """

    field: Field
    op: str
    pattern: str
    negated: bool = False


@dataclass(frozen=True)
class In:
    """``field [NOT] IN (values)``: equal to some value.

    Text items compare as text, numbers as numbers.  Negated: the value exists
    and equals none of them.
    """

    field: Field
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True)
class Between:
    """``field [NOT] BETWEEN low AND high``, both bounds included, numeric.

    Negated: the value exists as a number and lies outside.
    """

    field: Field
    low: Number
    high: Number
    negated: bool = False


@dataclass(frozen=True)
class IsNull:
    """``field IS NULL``, or with ``negated`` ``field IS NOT NULL``."""

    field: Field
    negated: bool = False


Predicate = Union[TextCompare, NumberCompare, Match, In, Between, IsNull]
PREDICATES = (TextCompare, NumberCompare, Match, In, Between, IsNull)

# ------------------------------------------------------------- span quantifiers


@dataclass(frozen=True)
class AnySpan:
    """Some span of the trace satisfies ``condition``."""

    condition: Node


@dataclass(frozen=True)
class CountSpans:
    """The number of spans that satisfy ``condition`` (None: all) compares so."""

    condition: Node | None
    op: str
    value: int


@dataclass(frozen=True)
class AggregateSpans:
    """``function(field WHERE condition) op value``.

    ``function`` is ``sum``, ``avg``, ``min`` or ``max`` over the numeric
    values of ``field``; over none of them it is missing and satisfies nothing.
    """

    function: str
    field: SpanNumber | SpanAttribute
    condition: Node | None
    op: str
    value: int | float


# ---------------------------------------------------------------------- algebra


@dataclass(frozen=True)
class And:
    """Every item holds; ``And(())`` is the filter that matches every trace."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """Some item holds."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    """The item does not hold (a complement: missing values do match it)."""

    item: Node


#: What AND, OR and NOT put together.
Leaf = Union[Predicate, AnySpan, CountSpans, AggregateSpans]
Node = Union[And, Or, Not, Leaf]

#: The leaves with a condition on spans of their own.
QUANTIFIERS = (AnySpan, CountSpans, AggregateSpans)

EVERYTHING = And(())

# ---------------------------------------------------------------------- walking

_T = TypeVar("_T")


def fold(
    node: Node,
    leaf: Callable[[Leaf], _T],
    every: Callable[[list[_T]], _T],
    some: Callable[[list[_T]], _T],
    opposite: Callable[[_T], _T],
) -> _T:
    """What a filter comes to: ``leaf`` for its leaves, the others for And, Or and Not of them."""
    if isinstance(node, And):
        return every([fold(item, leaf, every, some, opposite) for item in node.items])
    if isinstance(node, Or):
        return some([fold(item, leaf, every, some, opposite) for item in node.items])
    if isinstance(node, Not):
        return opposite(fold(node.item, leaf, every, some, opposite))
    return leaf(node)


def leaves(node: Node) -> Iterator[Leaf]:
    """What AND, OR and NOT put together, in the order of the filter."""
    if isinstance(node, (And, Or)):
        for item in node.items:
            yield from leaves(item)
    elif isinstance(node, Not):
        yield from leaves(node.item)
    else:
        yield node


def walk(node: Node) -> Iterator[Leaf]:
    """The leaves, each followed by those of the condition on spans inside."""
    for leaf in leaves(node):
        yield leaf
        if isinstance(leaf, QUANTIFIERS) and leaf.condition is not None:
            yield from walk(leaf.condition)


def conjuncts(node: Node) -> Sequence[Node]:
    """What a filter requires, each by itself; nothing where it requires nothing."""
    return node.items if isinstance(node, And) else (node,)


def fields_of(node: Node) -> Iterator[Field]:
    """The fields of all predicates of a filter."""
    for leaf in walk(node):
        if isinstance(leaf, CountSpans):
            yield TraceNumber("span_count")
        elif not isinstance(leaf, AnySpan):
            yield leaf.field
