"""Numbers against a target: the threshold that tells most, and its fair price.

The best of 32 thresholds is significant by chance far more often than one in
twenty times, so the search is paid for in the p value.  A threshold is found
rather than a Kolmogorov-Smirnov or Mann-Whitney test done because it *is* a
filter, to go on with, and because it also finds what sets in at some value and
no shift of the whole distribution shows: a timeout, a score of 0.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from insights_engine.independence import (
    chi_square_sf,
    fisher_exact,
    g_squared,
    needs_fisher,
)

# The expected count up to which the p value of the best is Fisher's; there is
# only one to compute, and beyond, G² is as good.
_EXACT_BELOW = 1000

_POSITIVE, _NEGATIVE, _BOTH = "positive", "negative", "both"


@dataclass(frozen=True)
class Histogram:
    """How many units of base and target lie below each cut of a number.

    ``below[i]`` units of the base, and ``target_below[i]`` of them in the
    target, have a value below cut i; cuts ascend, as `quantile_cuts` yields
    them.  ``present`` units of the base and ``target_present`` of the target
    have a value at all, of ``total`` and ``target``.
    """

    below: Sequence[int]
    target_below: Sequence[int]
    present: int
    target_present: int
    target: int
    total: int


@dataclass(frozen=True)
class Split:
    """The best threshold: the fact ``value >= cut`` or ``value < cut``."""

    # Which cut, and whether the fact is ``value >= cut``.
    cut: int
    at_least: bool
    # (n11, n10, n01, n00) of target and fact, among all units of the base:
    # those without a value do not match the fact.
    table: tuple[int, int, int, int]
    # After paying for the search, and without: of the table alone.
    p_value: float
    single_p_value: float
    # How many different thresholds the search compared.
    searched: int
    # "best of N splits, Fisher", or "..., G2" from an expected count of 1,000 on.
    test: str


@dataclass(frozen=True)
class _Candidate:
    cut: int
    at_least: bool
    table: tuple[int, int, int, int]
    single_p_value: float
    statistic: float


def best_split(
    histogram: Histogram, direction: str = _POSITIVE, min_support: int = 1
) -> Optional[Split]:
    """The threshold with the smallest p value, or None if there is none.

    Each cut offers two facts, ``value >= cut`` and ``value < cut``; without
    missing values they are each other's negation.  Considered are those that
    ``min_support`` units of the base or more match (not all of them), and
    returned is the best that goes with the target in the ``direction`` wanted:
    ``positive``, ``negative`` or ``both``.  The price is that of all considered
    in either direction.  Where None is returned after a search, p is 1.

    Of equal p values (0 where a strong one underflows) the greater G² wins,
    then the lower cut.  Raises ValueError for counts that contradict each other.
    """
    if direction not in (_POSITIVE, _NEGATIVE, _BOTH):
        raise ValueError(f"no direction: {direction}")
    if not 0 < histogram.target < histogram.total:
        return None
    candidates = list(_candidates(histogram, min_support))
    wanted = [c for c in candidates if _goes(c.table, direction)]
    if not wanted:
        return None
    best = min(wanted, key=lambda c: (c.single_p_value, -c.statistic, c.cut))
    # Whatever chose it: that one of several exact p values is small is no
    # likelier than `Search.price` says, and the approximate ones may be too small.
    single, test = best.single_p_value, "G2"
    fact = best.table[0] + best.table[2]
    if needs_fisher(histogram.target, fact, histogram.total, _EXACT_BELOW):
        single, test = fisher_exact(*best.table), "Fisher"
    search = Search(
        [histogram.below[c.cut] for c in candidates if not c.at_least],
        [histogram.below[c.cut] for c in candidates if c.at_least],
        histogram.total - histogram.present,
        histogram.target,
        histogram.total,
    )
    return Split(
        best.cut,
        best.at_least,
        best.table,
        search.price(single),
        single,
        search.size,
        f"best of {search.size} splits, {test}",
    )


def _candidates(histogram: Histogram, min_support: int) -> Iterator[_Candidate]:
    target, total, present = histogram.target, histogram.total, histogram.present
    for cut, (below, joint) in enumerate(zip(histogram.below, histogram.target_below)):
        tested = None
        for at_least, fact, both in (
            (True, present - below, histogram.target_present - joint),
            (False, below, joint),
        ):
            if not max(1, min_support) <= fact < total:
                continue
            table = (both, target - both, fact - both, total - target - fact + both)
            if min(table) < 0:
                raise ValueError(f"counts contradict each other: {table} at cut {cut}")
            # A fact and its negation have the same test.
            if tested is None or present < total:
                tested = _tested(*table)
            yield _Candidate(cut, at_least, table, *tested)


def _tested(n11: int, n10: int, n01: int, n00: int) -> tuple[float, float]:
    """The p value to choose by, and G²."""
    statistic = g_squared(n11, n10, n01, n00)
    if needs_fisher(n11 + n10, n11 + n01, n11 + n10 + n01 + n00):
        return fisher_exact(n11, n10, n01, n00), statistic
    return chi_square_sf(statistic), statistic


def _goes(table: tuple[int, int, int, int], direction: str) -> bool:
    determinant = table[0] * table[3] - table[1] * table[2]
    if direction == _POSITIVE:
        return determinant > 0
    return determinant < 0 if direction == _NEGATIVE else True


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
        target, total = self.target, self.total
        if needs_fisher(target, inner, total) or needs_fisher(target, outer, total):
            return 1.0
        # 1 - r², of r² = s (n - t) / (t (n - s)) for sets of s and t units.
        apart = total * (outer - inner) / (outer * (total - inner))
        a = math.sqrt(apart) / (1 + math.sqrt(max(0.0, 1 - apart)))
        # 2 phi(b) / b is at most (1 + 1 / b²) P(|Z| >= b).
        return min(1.0, (1 + 1 / (b * b)) * math.erf(a * b / math.sqrt(2)))


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
