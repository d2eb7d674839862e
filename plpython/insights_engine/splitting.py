"""Numbers as facts: for each field the threshold that tells most about the target.

Of a field whose traces have one number each, ``x >= cut`` and ``x < cut`` are
compared for all cuts.  Where a trace may have several (attributes, durations,
feedback), "some number is at least" is asked of the largest and "some number is
below" of the smallest; those are two searches, both of which are paid for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from operator import itemgetter
from typing import Callable, NamedTuple, Optional, Union

from insights_engine import bitmaps, independence
from insights_engine.bounds import all_positions
from insights_engine.candidates import Name
from insights_engine.columns import flags
from insights_engine.options import goes
from insights_engine.population import Part, Population
from insights_engine.series import Cuts
from insights_engine.splits import Search
from insights_engine.thresholds import quantile_cuts

#: With more parts than these, thresholds are chosen in some of them, and then counted
#: in all.
MOST_SEARCHED = 16

Histogram = dict[int, int]


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


class _Counts:
    """How many traces have their smallest and largest number in each cell."""

    __slots__ = ("base", "several", "target")

    def __init__(self) -> None:
        self.base: tuple[Histogram, Histogram] = ({}, {})
        self.target: tuple[Histogram, Histogram] = ({}, {})
        self.several = False


class _Side(NamedTuple):
    """The facts of one operator: cuts with the numbers of traces beyond them."""

    op: str
    cuts: list[int]
    among: list[int]
    joint: list[int]
    #: Traces with a number.
    present: int


def best_thresholds(
    population: Population, names: Sequence[Name], direction: str, min_support: int
) -> tuple[list[Optional[Threshold]], bool]:
    """The best threshold of each field, None where none goes in that direction.

    Fields that have no threshold at all are left out.  Also tells whether the counts
    are those of a sample.
    """
    cuts = population.cuts(names)
    parts = population.parts
    sampled = len(parts) > MOST_SEARCHED
    if sampled:
        step = len(parts) / MOST_SEARCHED
        parts = [parts[int(number * step)] for number in range(MOST_SEARCHED)]
    total = sum(bitmaps.count(part.base) for part in parts)
    target = sum(bitmaps.count(part.target) for part in parts)
    if not 0 < target < total:
        return [], sampled
    found = []
    for name, counts in _counted(parts, cuts).items():
        searched = _searched(counts, target, total, min_support)
        if searched:
            searches = _searches(searched, counts.several, target, total)
            found.append(_best(name, cuts[name], searched, searches, direction, target, total))
    return found, sampled


def _counted(parts: Sequence[Part], cuts: Mapping[Name, Cuts]) -> dict[Name, _Counts]:
    found = {name: _Counts() for name, chosen in cuts.items() if chosen.values}
    wanted = {name: cuts[name] for name in found}
    for part in parts:
        base = None
        if part.base != all_positions(part.used):
            base = _picker(part.base, part.used)
        target = _picker(part.target, part.used)
        for name, cells in part.cells(wanted).items():
            counts = found[name]
            counts.several |= cells.high is not cells.low
            _add(counts.base, cells.whole if base is None else cells.counts(base))
            _add(counts.target, cells.counts(target))
    return found


def _add(totals: tuple[Histogram, Histogram], more: tuple[Histogram, Histogram]) -> None:
    for total, histogram in zip(totals, more):
        for cell, count in histogram.items():
            total[cell] = total.get(cell, 0) + count


def _picker(bits: int, used: int) -> Callable[[bytes], bytes]:
    """Picks the bytes at the positions of a set."""
    count = bitmaps.count(bits)
    if count < 2:
        positions = bitmaps.positions(bits)
        return lambda cells: bytes([cells[position] for position in positions])
    if 4 * count < used:
        chosen = itemgetter(*bitmaps.positions(bits))
        return lambda cells: bytes(chosen(cells))
    selectors = flags(bits, used)
    return lambda cells: bytes(compress(cells, selectors))


def _searched(counts: _Counts, target: int, total: int, min_support: int) -> list[_Side]:
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
    best: Optional[tuple[tuple[float, float, int], _Side, int]] = None
    for side in sides:
        for number, (among, joint) in enumerate(zip(side.among, side.joint)):
            table = (joint, target - joint, among - joint, total - target - among + joint)
            if not goes(table, direction):
                continue
            p_value = independence.p_value(*table)
            if p_value is None:
                continue
            order = (p_value, -independence.g_squared(*table), side.cuts[number])
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
