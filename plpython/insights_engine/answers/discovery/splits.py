"""Numbers against a target: the threshold that tells most, and its fair price.

The best of 32 thresholds is significant by chance far more often than one in
twenty times, so the search is paid for in the p value.  A threshold is found
rather than a Kolmogorov-Smirnov or Mann-Whitney test done because it *is* a
filter, to go on with, and because it also finds what sets in at some value and
no shift of the whole distribution shows: a timeout, a score of 0.

Of a field whose units have one number each, ``x >= cut`` and ``x < cut`` are
compared for all cuts; without missing values they are each other's negation.
Where a unit may have several numbers (attributes, durations, feedback), "some
number is at least" is asked of the largest and "some number is below" of the
smallest; those are two searches, both of which are paid for.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

from insights_engine.answers.discovery.options import goes
from insights_engine.answers.discovery.units import CellCounts
from insights_engine.stats import independence
from insights_engine.stats.thresholds import quantile_cuts


class Split(NamedTuple):
    """The best threshold: the fact ``value >= cut`` or ``value < cut``."""

    op: str
    #: Cut 1 is between the cells 1 and 2.
    cut: int
    #: Units of the base, and of the target, that have the fact.
    among: int
    joint: int
    searches: tuple[Search, ...]
    #: The p value of these counts by themselves, roughly.
    estimate: float

    @property
    def searched(self) -> int:
        """How many different thresholds were compared."""
        return sum([search.size for search in self.searches])

    def price(self, p: float) -> float:
        """Pays for the search: the p value of the best of all compared, whose own is ``p``."""
        return min(1.0, sum([search.price(p) for search in self.searches]))


class _Side(NamedTuple):
    """The facts of one operator: cuts with the numbers of units beyond them."""

    op: str
    cuts: list[int]
    among: list[int]
    joint: list[int]
    #: Units with a number.
    present: int


def best_split(
    counts: CellCounts, target: int, total: int, direction: str, min_support: int
) -> tuple[bool, Optional[Split]]:
    """Whether there is any threshold, and the one with the smallest p value.

    Considered are those that ``min_support`` units of the base or more match
    (not all of them), at the `quantile_cuts` of the cells; the best is of those
    that go with the ``target`` of ``total`` units in the ``direction`` wanted:
    ``positive``, ``negative`` or ``both``.  The price is that of all considered
    in either direction.  Where none goes there after a search, p is 1.

    Of equal p values (0 where a strong one underflows) the greater G² wins, then
    the fact that goes with the target and not its negation, then the lower cut.
    """
    sides = _sides(counts, min_support, total)
    best: Optional[tuple[tuple[float, float, bool, int], _Side, int]] = None
    for side in sides:
        for number, (among, joint) in enumerate(zip(side.among, side.joint)):
            table = (joint, target - joint, among - joint, total - target - among + joint)
            if not goes(table, direction):
                continue
            # Fisher's test where it is quick.  Whatever chooses, the price holds: that
            # one of several exact p values is small is no likelier than it says.
            statistic = independence.g_squared(*table)
            if independence.needs_fisher(target, among, total, independence.SMALL_EXPECTED_COUNT):
                p_value = independence.fisher_exact(*table)
            else:
                p_value = independence.chi_square_sf(statistic)
            against = not goes(table, "positive")
            order = (p_value, -statistic, against, side.cuts[number])
            if best is None or order < best[0]:
                best = (order, side, number)
    if best is None:
        return bool(sides), None
    (estimate, *_), side, number = best
    return True, Split(
        side.op,
        side.cuts[number],
        side.among[number],
        side.joint[number],
        tuple(_searches(sides, counts.several, target, total)),
        estimate,
    )


def _sides(counts: CellCounts, min_support: int, total: int) -> list[_Side]:
    """The facts that are compared; those of the smallest numbers first."""
    sides = []
    for op, number in (("<", 0), (">=", 1)):
        base, inside = counts.base[number], counts.target[number]
        cells = sorted(base)
        cumulative: list[int] = []
        joint: list[int] = []
        below = joint_below = 0
        for cell in cells:
            below += base[cell]
            joint_below += inside.get(cell, 0)
            cumulative.append(below)
            joint.append(joint_below)
        side = _Side(op, [], [], [], below)
        for cut in quantile_cuts(cumulative):
            among, of_target = cumulative[cut - 1], joint[cut - 1]
            if op == ">=":
                among, of_target = below - among, joint_below - of_target
            if max(1, min_support) <= among < total:
                # The cut that begins the cell: cell 1 is before cut 1.
                side.cuts.append(cells[cut] - 1)
                side.among.append(among)
                side.joint.append(of_target)
        if side.cuts:
            sides.append(side)
    return sides


def _searches(sides: Sequence[_Side], several: bool, target: int, total: int) -> list[Search]:
    """What was compared, for its price: two searches where smallest and largest differ."""
    below: list[int] = []
    at_least_below: list[int] = []
    missing = total
    for side in sides:
        missing = total - side.present
        if side.op == "<":
            below = side.among
        else:
            at_least_below = [side.present - among for among in side.among]
    if not several:
        return [Search(below, at_least_below, missing, target, total)]
    return [
        Search(below, [], missing, target, total),
        Search([], at_least_below, missing, target, total),
    ]


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
