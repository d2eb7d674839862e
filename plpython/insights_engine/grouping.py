"""Facts that are nearly the same are shown as one, under the strongest of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from insights_engine import ranking
from insights_engine.candidates import Name
from insights_engine.findings import Found, Shown, written
from insights_engine.units import Traces

#: The strongest facts are compared with each other so many at a time.
COMPARED_AT_ONCE = 60


def grouped(units: Traces, found: Sequence[Found], apart: bool, most: int) -> list[Shown]:
    """The strongest facts, each with the near-identical ones that are weaker."""
    groups: list[Shown] = []
    at_once = max(COMPARED_AT_ONCE, most)
    for start in range(0, len(found), at_once):
        some = []
        for one in found[start : start + at_once]:
            text = written(one.fact.name, apart)
            if text is not None:
                some.append(Shown(one, text, []))
        pairs = _near_identical(units, groups, some)
        for shown in some:
            name = shown.found.fact.name
            same = [group for group in groups if (group.found.fact.name, name) in pairs]
            if same:
                same[0].similar.append(shown.filter)
            else:
                groups.append(shown)
        if len(groups) >= most:
            break
    return groups[:most]


def _near_identical(
    units: Traces, before: Sequence[Shown], some: Sequence[Shown]
) -> set[tuple[Name, Name]]:
    """Pairs of facts, by name, that match nearly the same units."""
    least: dict[tuple[Name, Name], tuple[int, int]] = {}
    # Of near-identical facts the smaller has at least phi squared of the larger's units.
    share = ranking.NEAR_IDENTICAL_PHI**2
    everything = sorted(
        (shown.found.fact.among, place, shown.found.fact.name)
        for place, shown in enumerate([*before, *some])
    )
    for number, (count, place, name) in enumerate(everything):
        for other_count, other_place, other in islice(everything, number + 1, None):
            if count < share * other_count:
                break
            if max(place, other_place) < len(before):
                continue  # both lead a group of their own
            wanted = ranking.least_joint_of_near_identical(count, other_count, units.total)
            if wanted <= count:
                pair = (name, other) if place < other_place else (other, name)
                least[pair] = (count, other_count)
    return units.near_identical(least) if least else set()
