"""Thresholds of a number: where they are sought, and what the search for the best one costs.

Cuts are chosen from the base alone, before anyone looks at the target; only
then does a test of each cut remain a fair test.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple, Union

from insights_engine.stats import independence

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
    cuts = set()
    parts = EVEN_CUTS + 1
    for quantile in _with_tails([number / parts for number in range(1, parts)]):
        rank = quantile * total
        cut = bisect_left(cumulative, rank) + 1
        # cumulative[cut - 1] is at or above the rank, cumulative[cut - 2] below.
        if cut >= 2 and rank - cumulative[cut - 2] < cumulative[cut - 1] - rank:
            cut -= 1
        if cut < len(cumulative):
            cuts.add(cut)
    return sorted(cuts)


def gaps(cumulative: Sequence[int]) -> list[tuple[int, int]]:
    """Where readable constants may divide a number: each above a value, not above another.

    ``cumulative`` as in `quantile_cuts`; the result has pairs of distinct values, by number.
    With few of them there is a gap between any two; otherwise one between any two of the
    quantiles 1/20, 2/20, ... and, in each tail, 1/40, 1/80, ... 1/1280.
    """
    if len(cumulative) <= EVEN_CUTS + 2 * TAIL_CUTS:
        return [(number - 1, number) for number in range(1, len(cumulative))]
    total = cumulative[-1]
    step = 1 / EVEN_CUTS
    quantiles = _with_tails([step * number for number in range(1, EVEN_CUTS)])
    found = []
    for begin, end in zip([0.0, *quantiles], [*quantiles, 1.0]):
        low = bisect_right(cumulative, begin * total)
        high = min(bisect_right(cumulative, end * total), len(cumulative) - 1)
        if low < high:
            found.append((low, high))
        else:
            # A value that is so frequent on its own: below it, and above it.
            found += [(at - 1, at) for at in (low, low + 1) if 0 < at < len(cumulative)]
    return found


def _with_tails(even: Sequence[float]) -> list[float]:
    """Evenly spaced quantiles, with halvings before the first and after the last; ascending."""
    halvings = [even[0] / 2**power for power in range(1, TAIL_CUTS + 1)]
    return sorted([*even, *halvings, *(1 - halving for halving in halvings)])


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


# ----------------------------------------------------------------- the price


@dataclass(frozen=True)
class Search:
    """What a search for a threshold compared.

    ``below`` are the numbers of units below the cut, ascending, for each fact
    ``value < cut``; ``at_least_below`` the same for each ``value >= cut``.
    ``missing`` units of ``total`` have no value and match neither.
    """

    below: Sequence[int]
    at_least_below: Sequence[int]
    missing: int
    target: int
    total: int

    @property
    def size(self) -> int:
        """How many different facts those are, a fact and its negation being one."""
        if not self.missing:
            return len({*self.below, *self.at_least_below})
        return len(set(self.below)) + len(set(self.at_least_below))

    def price(self, p: float) -> float:
        """The p value of the best of these thresholds, whose own is ``p``.

        That is an upper bound of the probability that some threshold of the
        search would reach ``p`` if the target were independent of the number.
        Bonferroni's is p times their number, far too much where neighbouring
        cuts nearly agree.  The improved one (Worsley, Biometrika 69, 1982;
        Hothorn and Lausen, Computational Statistics and Data Analysis 43, 2003)
        counts of each further threshold only the case that it reaches p while
        its neighbour does not,

            P(|Z_i| >= b, |Z_j| < b) <= 2 phi(b) / b erf(a b / sqrt(2)),
            a = sqrt((1 - r) / (1 + r)),

        with b the normal quantile of p and r the correlation of the two, which
        for a threshold in a threshold is that of a Brownian bridge.  (The left
        side is at most 4 T(b, a) with Owen's function T, and the right one
        bounds that; Lausen and Schumacher's expansion of the same probability
        is no bound and turns negative for small p.)  The asymptotic formula of
        Lausen and Schumacher (Biometrics 48, 1992) is for all cuts of an
        interval: of 32 cuts it asks twice the price at p = 0.001, more than Bonferroni.

        The normal approximation of two counts at once is trusted only at
        expected counts of 5.  A threshold with less, or whose neighbour has
        less, is counted in full; for those alone the price is Bonferroni's, of
        Fisher's exact p values, and thus never too low.  That it is never too
        low elsewhere either, the tests show by exact computation, for 60 to
        20,000 units and p down to 1e-5.  The actual error is 0.5 to 0.8 of the
        promised one where counts allow; by Bonferroni's price 0.3 to 0.6.
        """
        if not 0 < p < 1:
            return p
        b = normal_quantile(p)
        factor = 0.0
        for index, count in enumerate(self.below):
            factor += self._added(self.below[index - 1], count, b) if index else 1.0
        # Each of the others joins its predecessor, or the last that is below
        # within it, whichever it resembles more.  The neighbourhoods together
        # are a tree, which is what the bound requires.
        for index, count in enumerate(self.at_least_below):
            # "Not at least" includes the units without a value.
            outer = count + self.missing
            added = 1.0
            if index:
                added = self._added(self.at_least_below[index - 1] + self.missing, outer, b)
            position = bisect_right(self.below, count)
            if position:
                added = min(added, self._added(self.below[position - 1], outer, b))
            factor += added
        return min(1.0, p * factor)

    def _added(self, inner: int, outer: int, b: float) -> float:
        """The part of p that one of two nested sets adds to the other's."""
        if inner == outer:
            return 0.0
        total = self.total
        if self._is_small(inner) or self._is_small(outer):
            return 1.0
        # 1 - r², of r² = s (n - t) / (t (n - s)) for sets of s and t units.
        apart = total * (outer - inner) / (outer * (total - inner))
        a = math.sqrt(apart) / (1 + math.sqrt(max(0.0, 1 - apart)))
        # 2 phi(b) / b is at most (1 + 1 / b²) P(|Z| >= b).
        return min(1.0, (1 + 1 / (b * b)) * math.erf(a * b / math.sqrt(2)))

    def _is_small(self, count: int) -> bool:
        return independence.needs_fisher(
            self.target, count, self.total, independence.SMALL_EXPECTED_COUNT
        )


class Searches(NamedTuple):
    """The searches that a fact is the outcome of, as one search."""

    searches: tuple[Union[Search, Searches], ...]

    @property
    def size(self) -> int:
        """How many different facts were compared."""
        return sum([search.size for search in self.searches])

    def price(self, p: float) -> float:
        """The p value of the best of all compared, whose own is ``p``."""
        return min(1.0, sum([search.price(p) for search in self.searches]))


def normal_quantile(p: float) -> float:
    """The b with ``P(|Z| >= b) = p`` of a standard normal Z, for p in (0, 1].

    By Newton's method on the logarithm of erfc, which is concave: from
    ``sqrt(-2 log(p))``, which is above b, it descends without overshooting.
    """
    b = math.sqrt(-2 * math.log(p))
    if p < 1e-290:
        # Close enough, where erfc loses its digits and then underflows.
        return b
    for _ in range(50):
        tail = math.erfc(b / math.sqrt(2))
        density = math.sqrt(2 / math.pi) * math.exp(-b * b / 2)
        step = math.log(p / tail) * tail / density
        b -= step
        if step < 1e-12:
            break
    return b
