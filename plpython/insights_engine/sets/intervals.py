"""Numeric conditions as intervals of whole numbers.

A condition on a number holds on a few intervals of its ordered domain: the
integers that `bitmaps.ordered` gives for integers and doubles alike.  Bounds are
found so that the condition means what exact SQL means, rounding
included: an integer compared with a large double, or a duration in nanoseconds
compared in milliseconds, is compared as a double.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable, Union

from insights_engine.language import tree
from insights_engine.language.storage import Type
from insights_engine.sets.bitmaps import (
    double_of,
    integer_of,
    ordered,
    pattern_of_double,
    pattern_of_integer,
)

#: Both ends included, ascending, disjoint.
Intervals = tuple[tuple[int, int], ...]
#: For a constant: the first number not below it, and the first above it.
Bounds = tuple[int, int]

LAST = 2**64 - 1
#: Where 0 is, of integers and doubles alike.
ZERO = 2**63
ALL: Intervals = ((0, LAST),)

_EXACT = 2.0**53


def intervals_of(node: tree.Predicate, bounds: Callable[[tree.Value], Bounds]) -> Intervals:
    """Where a numeric predicate holds; ``bounds`` places a constant in the domain."""
    if isinstance(node, tree.NumberCompare):
        return _comparison(node.op, *bounds(node.value))
    if isinstance(node, tree.Between):
        found = _normal([(bounds(node.low)[0], bounds(node.high)[1] - 1)])
        return complement(found) if node.negated else found
    if isinstance(node, tree.In):
        found = _normal(
            [
                (start, end - 1)
                for start, end in (bounds(value) for value in node.values if _is_number(value))
            ]
        )
        return complement(found) if node.negated else found
    raise TypeError(f"not a comparison of numbers: {node}")


def _is_number(value: tree.Value) -> bool:
    return not isinstance(value, str)


def _comparison(op: str, start: int, end: int) -> Intervals:
    if op == "=":
        return _normal([(start, end - 1)])
    if op == "!=":
        return complement(_normal([(start, end - 1)]))
    if op == "<":
        return _normal([(0, start - 1)])
    if op == "<=":
        return _normal([(0, end - 1)])
    if op == ">":
        return _normal([(end, LAST)])
    if op == ">=":
        return _normal([(start, LAST)])
    raise ValueError(f"operator {op!r}")


def _normal(found: Sequence[tuple[int, int]]) -> Intervals:
    """Sorted, clipped to the domain, without empty ones, overlaps joined."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted((max(low, 0), min(high, LAST)) for low, high in found):
        if low > high:
            continue
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return tuple(joined)


def complement(found: Intervals) -> Intervals:
    """Where ``found`` does not hold."""
    rest = []
    start = 0
    for low, high in found:
        if start < low:
            rest.append((start, low - 1))
        start = high + 1
    if start <= LAST:
        rest.append((start, LAST))
    return tuple(rest)


def bounds_of(type: Type, number: Union[int, float]) -> Bounds:
    """A constant among the numbers of a field of that type."""
    if type in (Type.INTEGER, Type.TIME):
        if isinstance(number, float):
            return bounds_among_integers(number)
        return bounds_of_integer(number)
    of_double = bounds_of_duration if type is Type.NANOSECONDS else bounds_of_double
    return of_double(float(number))


def number_of(type: Type, pattern: int) -> Union[int, float]:
    """The number of a field of that type that a pattern of bits stands for."""
    if type in (Type.INTEGER, Type.TIME):
        return integer_of(pattern)
    return float(integer_of(pattern)) / 1e6 if type is Type.NANOSECONDS else double_of(pattern)


def bounds_of_double(number: float) -> Bounds:
    """A constant among doubles."""
    place = ordered(pattern_of_double(number))
    return place, place + 1


def bounds_of_integer(number: int) -> Bounds:
    """A constant among 64-bit integers, which it may lie outside of."""
    if number < -(2**63):
        return 0, 0
    if number >= 2**63:
        return LAST + 1, LAST + 1
    place = ordered(pattern_of_integer(number))
    return place, place + 1


def bounds_among_integers(number: float) -> Bounds:
    """A double among 64-bit integers, as exact SQL compares them.

    Below 2^53 the comparison is exact; from there on the integers are rounded
    to doubles first.
    """
    if abs(number) < _EXACT:
        low = bounds_of_integer(math.ceil(number))[0]
        return low, low + (number == math.floor(number))
    return search(number, float)


def bounds_of_duration(milliseconds: float) -> Bounds:
    """A constant in milliseconds among durations in nanoseconds."""
    return search(milliseconds, _milliseconds)


def _milliseconds(nanoseconds: int) -> float:
    return float(nanoseconds) / 1e6


def search(number: float, value: Callable[[int], float]) -> Bounds:
    """The bounds of ``number`` among integers whose ``value``, which ascends, is compared."""

    def first(holds: Callable[[float], bool]) -> int:
        low, high = -(2**63), 2**63
        while low < high:
            middle = (low + high) // 2
            if holds(value(middle)):
                high = middle
            else:
                low = middle + 1
        return bounds_of_integer(low)[0]

    return first(lambda found: found >= number), first(lambda found: found > number)
