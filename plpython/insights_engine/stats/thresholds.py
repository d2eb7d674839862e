"""Where to cut a number: candidates by quantiles, and readable values for them.

Cuts are chosen from the base alone, before anyone looks at the target; only
then does a test of each cut remain a fair test.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from decimal import Decimal
from typing import Union

# Evenly spaced quantiles, and halvings beyond them in both tails: latencies
# and costs have their causes in the last percents.
EVEN_CUTS = 20
TAIL_CUTS = 6
MOST_CUTS = EVEN_CUTS + 2 * TAIL_CUTS

Number = Union[int, float, Decimal]


def quantile_cuts(cumulative: Sequence[int]) -> list[int]:
    """Where to cut values that occur often, at most `MOST_CUTS` times.

    ``cumulative[i]`` is the number of units of the base whose value is at most
    the i-th distinct value, in ascending order.  The result is ascending: cut
    ``i`` lies between the distinct values ``i - 1`` and ``i``, and
    ``cumulative[i - 1]`` units lie below it.  With few distinct values there is
    a cut between any two; otherwise at the 20 quantiles 1/21, 2/21, ... and,
    in each tail, at 1/42, 1/84, ... 1/1344, moved to the nearest gap.
    """
    if len(cumulative) <= MOST_CUTS + 1:
        return list(range(1, len(cumulative)))
    total = cumulative[-1]
    even = EVEN_CUTS + 1
    quantiles = [k / even for k in range(1, even)]
    for k in range(1, TAIL_CUTS + 1):
        quantiles += [1 / even / 2**k, 1 - 1 / even / 2**k]
    cuts = set()
    for quantile in quantiles:
        rank = quantile * total
        cut = bisect_left(cumulative, rank) + 1
        # cumulative[cut - 1] is at or above the rank, cumulative[cut - 2] below.
        if cut >= 2 and rank - cumulative[cut - 2] < cumulative[cut - 1] - rank:
            cut -= 1
        if cut < len(cumulative):
            cuts.add(cut)
    return sorted(cuts)


def roundest(low: Number, high: Number) -> Decimal:
    """The number of fewest significant digits in ``low < x <= high``.

    As a threshold it cuts ``value >= x`` from ``value < x`` exactly where any
    other number of the gap does: 10000 between 9871 and 10412.  Of several
    equally short ones it is the one that ends in 5, otherwise the one nearest
    to the middle; the result has no trailing zeros after a decimal point, and
    `decimal_text` writes it.  Floats are taken at their shortest decimal form,
    and the result, read as a float, lies in the gap as well.  Raises ValueError
    unless ``low < high``, both finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)) or not low < high:
        raise ValueError(f"no number to find between {low} and {high}")
    below, above = _exact(low), _exact(high)
    exponent = max(below.adjusted(), above.adjusted()) + 1
    while True:
        found = _multiple(below, above, exponent)
        # A decimal next to a float may be read as that float.  The search ends
        # at ``above`` at the latest, whose own digits are a multiple.
        if found is not None and (not isinstance(low, float) or float(found) > low):
            return found
        exponent -= 1


def decimal_text(number: Decimal) -> str:
    """``number`` in plain digits, without an exponent."""
    return format(number, "f")


def _exact(number: Number) -> Decimal:
    return Decimal(repr(number)) if isinstance(number, float) else Decimal(number)


def _multiple(below: Decimal, above: Decimal, exponent: int) -> Decimal | None:
    """The best multiple of ``10**exponent`` in the gap, None if there is none.

    No multiple of the next power of ten may be in it.
    """
    first = _floor(below, exponent) + 1
    last = _floor(above, exponent)
    if first > last:
        return None
    if first <= 0 <= last:
        return Decimal(0)
    middle = (first + last) / 2
    best = min(range(first, last + 1), key=lambda m: (m % 5 != 0, abs(m - middle), m))
    if exponent >= 0:
        return Decimal(best * 10**exponent)
    return Decimal((int(best < 0), tuple(map(int, str(abs(best)))), exponent))


def _floor(number: Decimal, exponent: int) -> int:
    """``floor(number / 10**exponent)``, in integers and so without rounding."""
    sign, digits, own = number.as_tuple()
    mantissa = int("".join(map(str, digits)))
    mantissa = -mantissa if sign else mantissa
    shift = (own if isinstance(own, int) else 0) - exponent
    power: int = 10 ** abs(shift)
    return mantissa * power if shift >= 0 else mantissa // power
