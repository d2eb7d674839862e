"""Numbers as facts: for each field the threshold that tells most about the target.

Of a field whose traces have one number each, ``x >= cut`` and ``x < cut`` are
compared for all cuts.  Where a trace may have several (attributes, durations,
feedback), "some number is at least" is asked of the largest and "some number is
below" of the smallest; those are two searches, both of which are paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional, Union

from insights_engine import independence
from insights_engine.candidates import Name
from insights_engine.cells import Cuts
from insights_engine.options import goes
from insights_engine.population import Population
from insights_engine.splits import Search
from insights_engine.thresholds import quantile_cuts
from insights_engine.units import CellCounts, Traces


class Threshold(NamedTuple):
    """A field compared with a constant."""

    name: Name
    op: str
    value: Union[int, float]
    #: The constant is cut so many, from 1.
    cut: int
    #: Traces of the base, and of the target, that have the fact.
    among: int
    joint: int
    #: Pays for the search: turns a p value into that of the best of all compared.
    price: Callable[[float], float]
    searched: int
    #: The p value of these counts by themselves, roughly.
    estimate: float

    @property
    def fact(self) -> Name:
        """The name of the fact."""
        return (*self.name, self.op, self.value, self.cut)


class _Side(NamedTuple):
    """The facts of one operator: cuts with the numbers of traces beyond them."""

    op: str
    cuts: list[int]
    among: list[int]
    joint: list[int]
    #: Traces with a number.
    present: int


def best_thresholds(
    population: Population,
    units: Traces,
    names: Sequence[Name],
    direction: str,
    min_support: int,
) -> list[Optional[Threshold]]:
    """The best threshold of each field, None where none goes in that direction.

    Fields that have no threshold at all are left out.
    """
    total, target = units.total, units.target
    found: list[Optional[Threshold]] = []
    for some in population.some_series(names):
        cuts = {name: chosen for name, chosen in population.cuts(some).items() if chosen.values}
        for name, counts in units.cells(cuts).items():
            searched = _searched(counts, min_support, total)
            if searched:
                searches = _searches(searched, counts.several, target, total)
                found.append(_best(name, cuts[name], searched, searches, direction, target, total))
    return found


def _searched(counts: CellCounts, min_support: int, total: int) -> list[_Side]:
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


def _best(
    name: Name,
    cuts: Cuts,
    sides: Sequence[_Side],
    searches: Sequence[Search],
    direction: str,
    target: int,
    total: int,
) -> Optional[Threshold]:
    best: Optional[tuple[tuple[float, float, bool, int], _Side, int]] = None
    for side in sides:
        for number, (among, joint) in enumerate(zip(side.among, side.joint)):
            table = (joint, target - joint, among - joint, total - target - among + joint)
            if not goes(table, direction):
                continue
            p_value = independence.p_value(*table)
            if p_value is None:
                continue
            # Of a fact and its negation the one that goes with the target.
            against = not goes(table, "positive")
            order = (p_value, -independence.g_squared(*table), against, side.cuts[number])
            if best is None or order < best[0]:
                best = (order, side, number)
    if best is None:
        return None
    side, number = best[1], best[2]
    return Threshold(
        name,
        side.op,
        cuts.values[side.cuts[number] - 1],
        side.cuts[number],
        side.among[number],
        side.joint[number],
        lambda p: min(1.0, sum(search.price(p) for search in searches)),
        sum(search.size for search in searches),
        best[0][0],
    )


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
