"""Groups of near-identical facts, each shown under its strongest fact.

Facts are compared with those that lead a group, of which there are no more than are
wanted.  Most facts need no comparison: facts of the very same units are known by a digest
of these, and of two others the sizes tell that they cannot be near-identical.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Optional

from insights_engine.answers.discovery.findings import FactTest, Finding, ShownFact, written
from insights_engine.answers.discovery.units import Traces
from insights_engine.columns.names import Fact, SpanStatus, Value
from insights_engine.stats import ranking

#: Strongest facts that are grouped at a time, until there are enough groups.
LOOKED_AT_ONCE = 60
#: Filters of a group beside its leader's; the strongest are listed.
MOST_SIMILAR = 100
#: Facts that are compared with the leaders at a time, to bound the pairs in memory.
COMPARED_AT_ONCE = 100


def grouped(units: Traces, found: Sequence[Finding], apart: bool, most: int) -> list[ShownFact]:
    """The strongest facts, each with the near-identical ones that are weaker."""
    groups = _Groups(units, apart)
    at_once = max(LOOKED_AT_ONCE, most)
    for start in range(0, len(found), at_once):
        end = min(len(found), start + at_once)
        for first in range(start, end, COMPARED_AT_ONCE):
            groups.add(found[first : min(end, first + COMPARED_AT_ONCE)])
        if len(groups.leaders) >= most:
            break
    # A new leader of a group may be a little weaker than the one before.
    return sorted(groups.leaders, key=lambda shown: shown.found.order)[:most]


class _Groups:
    """Groups of near-identical facts, to which facts are added."""

    def __init__(self, units: Traces, apart: bool) -> None:
        self._units = units
        self._apart = apart
        #: The strongest fact of each, in this order.
        self.leaders: list[ShownFact] = []
        #: The number of the group by the digest of its units.
        self._of_units: dict[bytes, int] = {}
        #: For each group the fact that others are compared with.
        self._compared: list[FactTest] = []

    def add(self, some: Sequence[Finding]) -> None:
        """Add facts that are weaker than all before."""
        digests = self._digests(some)
        distinct: dict[bytes, Finding] = {}
        others: list[Finding] = []
        for one in some:
            digest = digests[one.fact.name]
            if digest is None:
                others.append(one)
            elif digest not in self._of_units:
                distinct.setdefault(digest, one)
        near = self._near_identical([*distinct.values(), *others])
        for one in self._units.each(some):
            digest = digests[one.fact.name]
            known = None if digest is None else self._of_units.get(digest)
            # The first of those with the same units was compared for all of them.
            compared = one if digest is None else distinct.get(digest, one)
            own = near.get(compared.fact.name, ())
            place = known
            if known is None and own:
                places = (n for n, fact in enumerate(self._compared) if fact.name in own)
                place = next(places, None)
            if place is None:
                text = written(one.fact.name, self._apart)
                if text is None:
                    continue
                place = len(self.leaders)
                self.leaders.append(ShownFact(one, text, []))
                self._compared.append(compared.fact)
            else:
                self._join(place, one)
            if digest is not None:
                self._of_units[digest] = place

    def _join(self, place: int, one: Finding) -> None:
        """Add a fact to a group."""
        group = self.leaders[place]
        leads = _says_where(one.fact.name, group.found.fact.name)
        if not leads and len(group.similar) >= MOST_SIMILAR:
            return
        text = written(one.fact.name, self._apart)
        if text is not None and leads:
            self.leaders[place] = ShownFact(
                one, text, [group.filter, *group.similar[: MOST_SIMILAR - 1]]
            )
        elif text is not None:
            group.similar.append(text)

    def _digests(self, some: Sequence[Finding]) -> dict[Fact, Optional[bytes]]:
        """A digest of the units of each fact; None where not all of them are at hand."""
        counts = {one.fact.name: one.fact.among for one in some}
        return {
            name: digest if count == counts[name] else None
            for name, (digest, count) in self._units.digests(list(counts)).items()
        }

    def _near_identical(self, some: Sequence[Finding]) -> dict[Fact, set[Fact]]:
        """The near-identical facts of each: those that lead a group, and others of these."""
        if not some:
            return {}
        total = self._units.total
        facts = [*self._compared, *(one.fact for one in some)]
        fresh = {one.fact.name for one in some}
        facts.sort(key=lambda fact: fact.among)
        sizes = [fact.among for fact in facts]
        # Of near-identical facts the smaller has at least phi squared of the larger's units.
        share = ranking.NEAR_IDENTICAL_PHI**2 - _ROUNDING
        least: dict[tuple[Fact, Fact], tuple[int, int]] = {}
        for fact in self._units.each(facts):
            if fact.name not in fresh:
                continue
            first = bisect_left(sizes, share * fact.among)
            last = bisect_right(sizes, fact.among / share)
            for other in facts[first:last]:
                if other is fact or (other.name, fact.name) in least:
                    continue
                small, large = sorted((fact.among, other.among))
                # What differs inside of the target, and what differs outside of it.
                inside = abs(fact.joint - other.joint)
                outside = abs(fact.among - fact.joint - other.among + other.joint)
                wanted = _least_joint(small, large, total)
                # Facts of the very same units have been found already.
                if (
                    wanted <= small
                    and wanted < large
                    and inside + outside <= small + large - 2 * wanted
                ):
                    least[fact.name, other.name] = (fact.among, other.among)
        found: dict[Fact, set[Fact]] = {}
        for one, other_name in self._units.near_identical(least) if least else ():
            found.setdefault(one, set()).add(other_name)
            found.setdefault(other_name, set()).add(one)
        return found


def _says_where(name: Fact, other: Fact) -> bool:
    """Whether one fact is a status of certain spans, and the other that status of any."""
    return isinstance(name, SpanStatus) and other == Value("span", "status", name.status)


#: Bound of the rounding error in quotients of sizes.
_ROUNDING = 1e-9

_least_joint = lru_cache(maxsize=10_000)(ranking.least_joint_of_near_identical)
