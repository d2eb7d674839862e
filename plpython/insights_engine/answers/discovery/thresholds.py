"""The best threshold of a number against a target.

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

from collections.abc import Sequence
from typing import NamedTuple, Optional, Union

from insights_engine.answers.discovery.options import goes
from insights_engine.answers.discovery.population import Population
from insights_engine.answers.discovery.units import CellCounts, Traces
from insights_engine.columns.names import Beyond, NumberField
from insights_engine.stats import independence
from insights_engine.stats.thresholds import Search, Searches, quantile_cuts


class Split(NamedTuple):
    """The best threshold: the fact ``value >= cut`` or ``value < cut``."""

    op: str
    #: Cut 1 is between the cells 1 and 2.
    cut: int
    #: Units of the base, and of the target, that have the fact.
    among: int
    joint: int
    search: Searches
    #: The p value of these counts by themselves, roughly.
    estimate: float


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
    associated with the ``target`` of ``total`` units in the ``direction`` wanted:
    ``positive``, ``negative`` or ``both``.  The price is that of all considered
    in either direction.  Where none is, the search counts with p = 1.

    Of equal p values (0 where a strong one underflows) the greater G² wins, then
    the fact that is positively associated and not its negation, then the lower cut.
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
        Searches(tuple(_searches(sides, counts.several, target, total))),
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


# ------------------------------------------------------------------- the fields


class Threshold(NamedTuple):
    """The best constant to compare a field with."""

    name: NumberField
    value: Union[int, float]
    split: Split

    @property
    def fact(self) -> Beyond:
        """The name of the fact."""
        field, split = self.name, self.split
        return Beyond(field.kind, field.key, field.span_name, split.op, self.value, split.cut)


def best_thresholds(
    population: Population,
    units: Traces,
    names: Sequence[NumberField],
    direction: str,
    min_support: int,
) -> list[Optional[Threshold]]:
    """The best threshold of each field, None where none has that direction.

    Fields that have no threshold at all are left out.
    """
    found: list[Optional[Threshold]] = []
    for some in population.some_number_fields(names):
        cuts = {name: chosen for name, chosen in population.cuts(some).items() if chosen.values}
        for name, counts in units.cells(cuts).items():
            searched, best = best_split(counts, units.target, units.total, direction, min_support)
            if best is not None:
                found.append(Threshold(name, cuts[name].values[best.cut - 1], best))
            elif searched:
                found.append(None)
    return found
