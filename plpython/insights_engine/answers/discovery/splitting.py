"""Numbers as facts: for each field the threshold that tells most about the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional, Union

from insights_engine.answers.discovery.population import Population
from insights_engine.answers.discovery.splits import Split, best_split
from insights_engine.answers.discovery.units import Traces
from insights_engine.columns.candidates import Name


class Threshold(NamedTuple):
    """A field compared with a constant, the best of all constants that were."""

    name: Name
    value: Union[int, float]
    split: Split

    @property
    def fact(self) -> Name:
        """The name of the fact."""
        return (*self.name, self.split.op, self.value, self.split.cut)


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
    found: list[Optional[Threshold]] = []
    for some in population.some_series(names):
        cuts = {name: chosen for name, chosen in population.cuts(some).items() if chosen.values}
        for name, counts in units.cells(cuts).items():
            searched, best = best_split(counts, units.target, units.total, direction, min_support)
            if best is not None:
                found.append(Threshold(name, cuts[name].values[best.cut - 1], best))
            elif searched:
                found.append(None)
    return found
