"""Conditions on traces, written for native columns, and their algebra.

A filter of ours is a text that PostgreSQL's functions read; here stands what an
engineer would write for the same question over the tables of `bench.columns`.
"""

from __future__ import annotations

from dataclasses import dataclass


class Condition:
    """Something that is true or false of each trace."""

    def __and__(self, other: Condition) -> Condition:
        return Both(self, other)

    def __or__(self, other: Condition) -> Condition:
        return Either(self, other)

    def __invert__(self) -> Condition:
        return Not(self)


@dataclass(frozen=True)
class Trace(Condition):
    """A condition on a row of ``traces``; one that is NULL does not hold."""

    sql: str


@dataclass(frozen=True)
class Spans(Condition):
    """More than so many spans of the trace meet a condition on a row of ``spans``."""

    sql: str
    more_than: int = 0


@dataclass(frozen=True)
class Aggregate(Condition):
    """``having`` is true of the rows of ``spans`` of the trace that meet a condition."""

    sql: str
    having: str


@dataclass(frozen=True)
class Text(Condition):
    """Some span's content meets a condition on a row of ``texts``."""

    sql: str


@dataclass(frozen=True)
class Both(Condition):
    """AND."""

    left: Condition
    right: Condition


@dataclass(frozen=True)
class Either(Condition):
    """OR."""

    left: Condition
    right: Condition


@dataclass(frozen=True)
class Not(Condition):
    """The complement."""

    operand: Condition


Atom = Trace | Spans | Aggregate | Text


def atoms(*conditions: Condition | None) -> list[Atom]:
    """The atoms of some conditions, each once, in order."""
    found: dict[Atom, None] = {}
    left = [condition for condition in conditions if condition is not None][::-1]
    while left:
        condition = left.pop()
        if isinstance(condition, Both | Either):
            left += [condition.right, condition.left]
        elif isinstance(condition, Not):
            left.append(condition.operand)
        elif isinstance(condition, Trace | Spans | Aggregate | Text):
            found[condition] = None
    return list(found)


def merged(condition: Condition) -> Condition:
    """The same with conditions on rows of ``traces`` put together where they meet."""
    if isinstance(condition, Not):
        inner = merged(condition.operand)
        if isinstance(inner, Trace):
            return Trace(f"coalesce(not ({inner.sql}), true)")
        return Not(inner)
    if isinstance(condition, Both | Either):
        left, right = merged(condition.left), merged(condition.right)
        if isinstance(left, Trace) and isinstance(right, Trace):
            word = "and" if isinstance(condition, Both) else "or"
            return Trace(f"({left.sql}) {word} ({right.sql})")
        return type(condition)(left, right)
    return condition
