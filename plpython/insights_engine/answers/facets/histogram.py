"""Intervals of round numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Optional, Union

Number = Union[int, float]
#: Where intervals begin and the last one ends; None at either end: without a bound.
Edges = Sequence[Optional[Number]]

#: Widths of intervals, times a power of ten.
_ROUND = (Fraction(1), Fraction(2), Fraction(5, 2), Fraction(5))
_INT64 = range(-(2**63), 2**63)


def edges(low: Number, high: Number, most: int, whole: bool) -> Edges:
    """The edges of at most ``most`` intervals, but two around 0, that hold ``low`` to ``high``.

    Ascending; their width is 1, 2, 2.5 or 5 times a power of ten, and one begins at 0
    if they reach that far.  ``whole``: of integers, of 64 bits.
    """
    # As they print: 0.3 lies at 0.3, not just below.
    least, greatest = Fraction(repr(low)), Fraction(repr(high))
    target = (greatest - least) / most
    power = Fraction(1)
    if target:
        digits = len(str(target.numerator)) - len(str(target.denominator))
        power = Fraction(10) ** (digits - 1)
    while True:
        for factor in _ROUND:
            step = factor * power
            if whole and step.denominator != 1:
                continue
            first, last = least // step, greatest // step
            if last - first + 1 <= max(most, 2 if first < 0 <= last else 1):
                found = [_edge(number * step, whole) for number in range(first, last + 2)]
                return _bounded(found, low, high)
        power *= 10


def _edge(number: Fraction, whole: bool) -> Optional[Number]:
    if number.denominator == 1 and (abs(number) < 10**15 or whole):
        return int(number) if not whole or int(number) in _INT64 else None
    try:
        return float(number)
    except OverflowError:
        return None


def _bounded(found: list[Optional[Number]], low: Number, high: Number) -> Edges:
    """Without the edges that rounding has made equal, or has moved inside."""
    inner = [edge for edge in found[1:-1] if edge is not None]
    first, last = found[0], found[-1]
    inner = sorted({edge for edge in inner if edge not in (first, last)})
    return [
        None if first is None or first > low else first,
        *inner,
        None if last is None or last <= high else last,
    ]
