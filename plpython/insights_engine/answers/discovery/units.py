"""What a discovery counts: traces, or the sessions that they belong to.

A session matches a filter if some of its traces does (unit ``session``), or if all
of them do (``session_all``), among the traces of the base.  Traces without a session
belong to none, and a session may have traces in several experiments.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Optional, TypeVar

from insights_engine.answers.discovery.population import READ_AT_ONCE, Population
from insights_engine.answers.discovery.session_space import Enlarged, Space
from insights_engine.answers.discovery.unindexed import Unindexed
from insights_engine.base import interrupts, plans
from insights_engine.base.interrupts import Watched
from insights_engine.columns.cells import Cuts, Histogram
from insights_engine.columns.names import Both, Fact, NumberField, Single, singles
from insights_engine.columns.parts import Indexed, Part
from insights_engine.index.cache import CACHE
from insights_engine.index.sessions import SessionNumbers
from insights_engine.index.sessions import Sessions as SessionsOfBlocks
from insights_engine.sets import bitmaps
from insights_engine.stats import ranking

#: How many units have their smallest, and their largest, number in each cell.
Histograms = tuple[Histogram, Histogram]

#: Positions beyond which facts are sought in a sample, unless the cache has room for the item
#: sets of more, ...
MOST_POSITIONS = 400_000
BYTES_OF_A_POSITION = 220
#: ... and positions of the sample.
SAMPLED_POSITIONS = 250_000

#: Parts that are counted together, to bound memory.
_PARTS_AT_ONCE = 64

#: Pairs of facts that are looked at together.
_PAIRS_AT_ONCE = 200

Item = TypeVar("Item")


class Counted(NamedTuple):
    """How many units have something: of the base, and of the target."""

    among: int
    joint: int


class CellCounts:
    """In which cells of a field the numbers of base and target lie."""

    __slots__ = ("base", "several", "target")

    def __init__(self) -> None:
        self.base: Histograms = ({}, {})
        self.target: Histograms = ({}, {})
        #: Whether some unit has several numbers.
        self.several = False


class Traces:
    """Counts of traces."""

    def __init__(
        self,
        population: Population,
        parts: Optional[Sequence[Part]] = None,
        sampled: bool = False,
    ) -> None:
        """``parts``: a sample of the population's parts, instead of all."""
        self._population = population
        #: Whether these are a sample.
        self.sampled = sampled
        self.parts = population.parts if parts is None else parts
        #: Units of the base, and of the target.
        self.total = sum(bitmaps.count(part.base) for part in self.parts)
        self.target = sum(bitmaps.count(part.target) for part in self.parts)

    def look(self) -> None:
        """Raise plpy.SPIError if the statement has been cancelled."""
        interrupts.look(self._population.plpy)

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with a look before every one: see `interrupts`."""
        return interrupts.each(self._population.plpy, items)

    def items(self, least: int) -> tuple[list[int], list[int]]:
        """By item how many units of the base have it, and how many of the target.

        Items of fewer than ``least`` units may count as 0.  An item that is no fact
        counts as 1 where any trace has it, in the base or not.
        """
        counts: list[int] = []
        joints: list[int] = []
        for part in self.parts:
            sets = part.item_sets()
            for totals in (counts, joints):
                totals += [0] * (len(self._population.items) - len(totals))
            sets.add_base_counts(counts, part.base)
            sets.add_counts(joints, part.target)
            for item in sets.doubts:
                counts[item] = 1
        return counts, joints

    def opaque(self, items: Iterable[int]) -> dict[int, Counted]:
        """How many units of the base, and of the target, items that are no facts may concern."""
        found = dict.fromkeys(items, Counted(0, 0))
        for part in self.parts:
            for item, bits in part.sets(found).items():
                before = found[item]
                found[item] = Counted(
                    before.among + bitmaps.count(bits & part.base),
                    before.joint + bitmaps.count(bits & part.target),
                )
        return found

    def having(self, name: Single) -> Counted:
        """How many units of the base, and of the target, have a fact."""
        return self._measured(self._population.having(name, self.parts), self.parts)

    def _measured(self, sets: Sequence[int], parts: Sequence[Part]) -> Counted:
        """How many units of the base, and of the target, the sets of the parts hold."""
        among = joint = 0
        for part, bits in zip(parts, sets):
            among += bitmaps.count(bits & part.base)
            joint += bitmaps.count(bits & part.target)
        return Counted(among, joint)

    def near_identical(
        self, pairs: Mapping[tuple[Fact, Fact], tuple[int, int]]
    ) -> set[tuple[Fact, Fact]]:
        """The pairs of facts that match nearly the same units, given the counts of each pair."""
        met = dict.fromkeys(pairs, 0)
        for sets in self._sets({name for pair in pairs for name in pair}):
            for pair in self.each(pairs):
                both = sets.get(pair[0], 0) & sets.get(pair[1], 0)
                if both:
                    met[pair] += bitmaps.count(both)
        return {
            pair
            for pair, sizes in pairs.items()
            if ranking.near_identical(*sizes, met[pair], self.total)
        }

    def digests(self, names: Iterable[Fact]) -> dict[Fact, tuple[bytes, int]]:
        """By fact a digest of the units that have it, and their number."""
        counts = dict.fromkeys(names, 0)
        digests = {name: hashlib.blake2b(digest_size=16) for name in counts}
        for number, sets in enumerate(self._sets(counts)):
            for name, bits in self.each(sets.items()):
                if bits:
                    counts[name] += bitmaps.count(bits)
                    digests[name].update(number.to_bytes(4, "little"))
                    digests[name].update(bits.to_bytes(bitmaps.POSITIONS // 8, "little"))
        return {name: (digests[name].digest(), count) for name, count in counts.items()}

    def _sets(self, names: Collection[Fact]) -> Iterator[Mapping[Fact, int]]:
        """For each part, by fact, the units of its base that have it; facts of none are absent."""
        for part in self.parts:
            yield self._population.sets(part, names)

    def both(self, pairs: Sequence[Sequence[Fact]]) -> Iterator[Counted]:
        """How many units have a trace with both of two facts: of the base, of the target."""
        among = [0] * len(pairs)
        joint = [0] * len(pairs)
        names = {name for pair in pairs for name in pair}
        for part in self.parts:
            sets = self._population.sets(part, names)
            inside = {name: bits & part.target for name, bits in sets.items()}
            for number, (one, other) in enumerate(self.each(pairs)):
                if one in sets and other in sets:
                    among[number] += bitmaps.count(sets[one] & sets[other])
                    joint[number] += bitmaps.count(inside[one] & inside[other])
        yield from map(Counted, among, joint)

    def screen(self) -> Traces:
        """These units, or a sample of them where looking at all would take too long.

        Then facts are sought in the sample, and counted in all where they stand out.
        """
        blocks = [part for part in self.parts if isinstance(part, Indexed)]
        positions = sum(part.used for part in blocks)
        if positions <= max(MOST_POSITIONS, CACHE.limit // BYTES_OF_A_POSITION):
            return self
        # Evenly over time, and the same blocks each time, so that the cache has them.
        blocks.sort(key=lambda part: (part.block.last_ms, part.block.block))
        step = max(1, -(-positions // SAMPLED_POSITIONS))
        some: list[Part] = [*blocks[step // 2 :: step]]
        if 0 < sum(bitmaps.count(part.target) for part in blocks) <= READ_AT_ONCE:
            # All cases with some controls: odds ratios are the same as in all traces.
            some = [*self._population.targets(), *map(Part.without_target, some)]
        some += [part for part in self.parts if isinstance(part, Unindexed)]
        return Traces(self._population, some, sampled=True)

    def counted(self, names: Iterable[Fact]) -> dict[Fact, Counted]:
        """How many units of the base, and of the target, have some facts; and members of pairs.

        Exactly, whatever the index leaves uncertain.
        """
        single = {one for name in names for one in singles(name)}
        pairs = [name for name in names if isinstance(name, Both)]
        counts: dict[Fact, Counted] = dict.fromkeys([*single, *pairs], Counted(0, 0))
        for start in range(0, len(self.parts), _PARTS_AT_ONCE):
            parts = self.parts[start : start + _PARTS_AT_ONCE]
            facts = self._population.facts(parts, single)
            for pair in pairs:
                members = zip(facts[pair.one], facts[pair.other])
                facts[pair] = [one & other for one, other in members]
            for name, sets in facts.items():
                before, more = counts[name], self._measured(sets, parts)
                counts[name] = Counted(before.among + more.among, before.joint + more.joint)
        return counts

    def cells(self, cuts: Mapping[NumberField, Cuts]) -> dict[NumberField, CellCounts]:
        """Where the numbers of some fields lie."""
        found = {name: CellCounts() for name in cuts}
        for part in self.parts:
            for name, cells in part.cells(cuts).items():
                counts = found[name]
                counts.several |= cells.high is not cells.low
                _add(counts.base, cells.base_counts(part.base))
                _add(counts.target, cells.counts(part.target))
        return found


def _add(totals: Histograms, more: Histograms) -> None:
    for total, histogram in zip(totals, more):
        for cell, count in histogram.items():
            total[cell] = total.get(cell, 0) + count


class Sessions(Traces):
    """Counts of sessions of which some trace matches, or all do."""

    def __init__(self, population: Population, plpy: Any, schema: str, every: bool) -> None:
        self._traces = Traces(population)
        self._space = _space(population, plpy, schema, every)
        #: The sessions of the target.
        self._target = self._space.set_of([part.target for part in population.parts])
        parts: list[Part] = Watched(plpy)
        parts += self._space.as_parts(self._target)
        super().__init__(population, parts)

    def opaque(self, items: Iterable[int]) -> dict[int, Counted]:
        # Whether the traces concerned are those of the target's sessions is left open.
        found = self._traces.opaque(items)
        return {item: Counted(2 * one.among, one.among) for item, one in found.items()}

    def having(self, name: Single) -> Counted:
        return self._counts(self._space.set_of(self._population.having(name, self._traces.parts)))

    def _counts(self, sessions: int) -> Counted:
        return Counted(bitmaps.count(sessions), bitmaps.count(sessions & self._target))

    def _sets(self, names: Collection[Fact]) -> Iterator[Mapping[Fact, int]]:
        single = [name for name in names if not isinstance(name, Both)]
        # One and the same trace has both facts of a pair.
        pairs = [name for name in names if isinstance(name, Both)]
        both: dict[Fact, int] = {}
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            some = pairs[start : start + _PAIRS_AT_ONCE]
            both.update(zip(some, self._both([singles(name) for name in some])))
        for number, part in enumerate(self.parts):
            sets = self._population.sets(part, single)
            for name, bits in both.items():
                sets[name] = self._space.part_of(bits, number)
            yield sets

    def both(self, pairs: Sequence[Sequence[Fact]]) -> Iterator[Counted]:
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            yield from map(self._counts, self._both(pairs[start : start + _PAIRS_AT_ONCE]))

    def _both(self, pairs: Sequence[Sequence[Fact]]) -> list[int]:
        """The sessions of traces with both of two facts."""
        names = {name for pair in pairs for name in pair}
        of_parts = []
        for part in self._traces.parts if pairs else ():
            sets = self._population.sets(part, names)
            of_parts.append([sets.get(one, 0) & sets.get(other, 0) for one, other in pairs])
            self.look()
        return self._space.sets_of(of_parts)

    def screen(self) -> Traces:
        return self  # some traces of many sessions would tell nothing


def _space(population: Population, plpy: Any, schema: str, every: bool) -> Space:
    """The sessions of a base; those of indexed traces are kept."""
    indexed: list[Indexed] = Watched(plpy)
    indexed += [part for part in population.parts if isinstance(part, Indexed)]
    others: list[Part] = Watched(plpy)
    others += [part for part in population.parts if not isinstance(part, Indexed)]
    look = partial(interrupts.look, plpy)
    numbers = SessionNumbers()
    lasting = _of_blocks(population, numbers.generation, indexed, every) if indexed else None
    columns = [_looked_up(plpy, schema, part, numbers) for part in others]
    if lasting is None:
        return Space(others, columns, every, look)
    return Enlarged(lasting, others, columns, every, look) if others else lasting


def _of_blocks(
    population: Population, generation: int, parts: Sequence[Indexed], every: bool
) -> Space:
    """The sessions of indexed traces, by numbers of a generation."""
    key = ("space", every, generation, tuple([(part.block.block, part.base) for part in parts]))
    for known in CACHE.columns(key).values():
        if isinstance(known, KeptSpace):
            return known.space
    assert population.index is not None
    numbers = SessionsOfBlocks(population.index).numbers(
        [part.block for part in parts], [part.base for part in parts]
    )
    space = Space(parts, numbers, every, partial(interrupts.look, population.plpy))
    space.as_parts(0)
    size = space.size_with(len(population.number_fields()))
    CACHE.keep(key, {parts[0].block.block: KeptSpace(space, size)})
    return space


class KeptSpace(NamedTuple):
    """The sessions of blocks, cached from one call to the next."""

    space: Space
    nbytes: int


def _looked_up(plpy: Any, schema: str, part: Part, numbers: SessionNumbers) -> Sequence[int]:
    """The number of the session at each position; 0: none."""
    (row,) = plans.run(
        plpy,
        "select pg_catalog.array_agg(u.n - 1) as positions,"
        " pg_catalog.array_agg(t.session_id) as sessions"
        " from pg_catalog.unnest($1) with ordinality as u (trace_id, n)"
        f" join {schema}.trace_info t on t.request_id = u.trace_id"
        " where t.session_id is not null",
        ("text[]",),
        (list(part.trace_ids()),),
    )
    column = array("i", bytes(4 * part.used))
    given = numbers.all_numbers(row["sessions"] or ())
    for position, number in zip(row["positions"] or (), given):
        column[position] = number
    return column
