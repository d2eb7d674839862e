"""What a discovery counts: traces, or the sessions that they belong to.

A session matches a filter if some of its traces does (unit ``session``), or if all
of them do (``session_all``), among the traces of the base.  Traces without a session
belong to none, and a session may have traces in several experiments.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, Optional

from insights_engine import bitmaps, plans, ranking, tree
from insights_engine.cache import CACHE
from insights_engine.candidates import Name
from insights_engine.cells import Cuts, Histogram, bytes_of
from insights_engine.population import READ_AT_ONCE, Indexed, Part, Population, Unindexed

#: How many units have their smallest, and their largest, number in each cell.
Histograms = tuple[Histogram, Histogram]

#: With more positions than these, and than a session may keep the items of, facts are
#: sought in a sample, ...
MOST_POSITIONS = 400_000
BYTES_OF_A_POSITION = 220
#: ... of about so many.
SAMPLED_POSITIONS = 250_000

#: Parts whose sets of some facts are in memory at once.
_PARTS_AT_ONCE = 64

#: Pairs of sessions and facts that are looked at together.
_AT_ONCE = 1_000_000


class CellCounts:
    """In which cells of a field the numbers of base and target lie."""

    __slots__ = ("base", "several", "target")

    def __init__(self) -> None:
        self.base: Histograms = ({}, {})
        self.target: Histograms = ({}, {})
        #: Whether some unit has several numbers.
        self.several = False


class Traces:
    """Counts traces."""

    def __init__(
        self,
        population: Population,
        parts: Optional[Sequence[Part]] = None,
        sampled: bool = False,
    ) -> None:
        """``parts``: other ones than the population's, as a sample of it."""
        self._population = population
        #: Whether these are a sample of the units that are meant.
        self.sampled = sampled
        self.parts = population.parts if parts is None else parts
        #: Units of the base, and of the target.
        self.total = sum(bitmaps.count(part.base) for part in self.parts)
        self.target = sum(bitmaps.count(part.target) for part in self.parts)

    def items(self, least: int) -> tuple[list[int], list[int]]:
        """Of each item: how many units of the base have it, and how many of the target.

        Items of fewer than ``least`` units may be given as having none.  Of those that
        are no facts it is only told, by a 1, that some trace has them, in the base or not.
        """
        counts: list[int] = []
        joints: list[int] = []
        for part in self.parts:
            columns = part.columns()
            for totals in (counts, joints):
                totals += [0] * (len(self._population.items) - len(totals))
            columns.add_base_counts(counts, part.base)
            columns.add_counts(joints, part.target)
            for item in columns.doubts:
                counts[item] = 1
        return counts, joints

    def opaque(self, items: Iterable[int]) -> dict[int, tuple[int, int]]:
        """How many units of the base, and of the target, items that are no facts may concern."""
        found = dict.fromkeys(items, (0, 0))
        for part in self.parts:
            for item, bits in part.sets(found).items():
                base, target = found[item]
                found[item] = (
                    base + bitmaps.count(bits & part.base),
                    target + bitmaps.count(bits & part.target),
                )
        return found

    def matching(self, node: tree.Node) -> tuple[int, int]:
        """How many units of the base, and of the target, match a filter."""
        return self._measured(self._population.matching(node, self.parts), self.parts)

    def _measured(self, sets: Sequence[int], parts: Sequence[Part]) -> tuple[int, int]:
        """How many units of the base, and of the target, a set for each part comes to."""
        among = joint = 0
        for part, bits in zip(parts, sets):
            among += bitmaps.count(bits & part.base)
            joint += bitmaps.count(bits & part.target)
        return among, joint

    def near_identical(
        self, pairs: Mapping[tuple[Name, Name], tuple[int, int]]
    ) -> set[tuple[Name, Name]]:
        """Those pairs of facts, of these counts, that match nearly the same units."""
        met = dict.fromkeys(pairs, 0)
        names = {name for pair in pairs for name in pair}
        for part in self.parts:
            sets = self._population.sets(part, names)
            for pair in pairs:
                both = sets.get(pair[0], 0) & sets.get(pair[1], 0)
                if both:
                    met[pair] += bitmaps.count(both)
        return self._near_identical(pairs, met)

    def _near_identical(
        self,
        pairs: Mapping[tuple[Name, Name], tuple[int, int]],
        met: Mapping[tuple[Name, Name], int],
    ) -> set[tuple[Name, Name]]:
        return {
            pair
            for pair, sizes in pairs.items()
            if ranking.near_identical(*sizes, met[pair], self.total)
        }

    def both(self, pairs: Sequence[tuple[Name, Name]]) -> Iterator[tuple[int, int]]:
        """How many units have a trace with both of two facts: of the base, of the target."""
        among = [0] * len(pairs)
        joint = [0] * len(pairs)
        names = {name for pair in pairs for name in pair}
        for part in self.parts:
            sets = self._population.sets(part, names)
            inside = {name: bits & part.target for name, bits in sets.items()}
            for number, (one, other) in enumerate(pairs):
                if one in sets and other in sets:
                    among[number] += bitmaps.count(sets[one] & sets[other])
                    joint[number] += bitmaps.count(inside[one] & inside[other])
        yield from zip(among, joint)

    def screen(self) -> Traces:
        """These units, or a sample of them where looking at all would take too long.

        Then facts are sought in the sample, and counted in all where they stand out.
        """
        blocks = [part for part in self.parts if isinstance(part, Indexed)]
        positions = sum(part.used for part in blocks)
        if positions <= max(MOST_POSITIONS, CACHE.limit // BYTES_OF_A_POSITION):
            return self
        # Evenly over time; the same ones each time, which the session then keeps.
        blocks.sort(key=lambda part: (part.block.last_ms, part.block.block))
        step = max(1, -(-positions // SAMPLED_POSITIONS))
        some: list[Part] = [*blocks[step // 2 :: step]]
        if 0 < sum(bitmaps.count(part.target) for part in blocks) <= READ_AT_ONCE:
            # All cases with some controls: odds ratios are the same as in all traces.
            some = [*self._population.targets(), *map(Part.without_target, some)]
        some += [part for part in self.parts if isinstance(part, Unindexed)]
        return Traces(self._population, some, sampled=True)

    def counted(self, names: Iterable[Name]) -> dict[Name, tuple[int, int]]:
        """How many units of the base, and of the target, have some facts; and members of pairs.

        Exactly, whatever the index leaves uncertain.
        """
        single = {one for name in names for one in (name[1:] if name[0] == "a" else (name,))}
        pairs = [name for name in names if name[0] == "a"]
        counts = dict.fromkeys([*single, *pairs], (0, 0))
        for start in range(0, len(self.parts), _PARTS_AT_ONCE):
            parts = self.parts[start : start + _PARTS_AT_ONCE]
            facts = self._population.facts(parts, single)
            for pair in pairs:
                facts[pair] = [one & other for one, other in zip(facts[pair[1]], facts[pair[2]])]
            for name, sets in facts.items():
                before, more = counts[name], self._measured(sets, parts)
                counts[name] = before[0] + more[0], before[1] + more[1]
        return counts

    def cells(self, cuts: Mapping[Name, Cuts]) -> dict[Name, CellCounts]:
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
    """Counts sessions: those of which some trace matches, or all do."""

    def __init__(self, population: Population, plpy: Any, schema: str, every: bool) -> None:
        super().__init__(population)
        self._every = every
        self._numbers = list(_numbered(plpy, schema, self.parts))
        #: How many traces of the base each session has.
        self._sizes: Counter[int] = Counter()
        for part, numbers in zip(self.parts, self._numbers):
            self._sizes.update(compress(numbers, bitmaps.flags(part.base, part.used)))
        del self._sizes[0]
        self._targets = self._sessions([part.target for part in self.parts])
        self.total = len(self._sizes)
        self.target = len(self._targets)

    def _sessions(self, sets: Sequence[int]) -> set[int]:
        """The sessions that match, of which traces do."""
        counts: Counter[int] = Counter()
        for part, numbers, bits in zip(self.parts, self._numbers, sets):
            counts.update(_chosen(numbers, bits & part.base, part.used))
        del counts[0]
        return self._matching(counts)

    def _matching(self, counts: Mapping[int, int]) -> set[int]:
        if not self._every:
            return set(counts)
        return {number for number, count in counts.items() if count == self._sizes[number]}

    def items(self, least: int) -> tuple[list[int], list[int]]:
        counts, _ = super().items(least)
        joints = [0] * len(counts)
        facts = self._population.items.is_fact
        wanted = [item for item, count in enumerate(counts) if count >= least and facts(item)]
        for some in _batches(wanted, counts):
            found: dict[int, Counter[int]] = {item: Counter() for item in some}
            for part, numbers in zip(self.parts, self._numbers):
                for item, bits in part.columns().sets(some).items():
                    found[item].update(_chosen(numbers, bits & part.base, part.used))
            for item, sessions in found.items():
                del sessions[0]
                matching = self._matching(sessions)
                counts[item] = len(matching)
                joints[item] = len(matching & self._targets)
        for item in set(range(len(counts))).difference(wanted):
            if facts(item):
                counts[item] = 0
        return counts, joints

    def opaque(self, items: Iterable[int]) -> dict[int, tuple[int, int]]:
        # Whether the traces concerned are those of the target's sessions is left open.
        found = super().opaque(items)
        return {item: (2 * base, base) for item, (base, _) in found.items()}

    def _measured(self, sets: Sequence[int], parts: Sequence[Part]) -> tuple[int, int]:
        sessions = self._sessions(sets)
        return len(sessions), len(sessions & self._targets)

    def near_identical(
        self, pairs: Mapping[tuple[Name, Name], tuple[int, int]]
    ) -> set[tuple[Name, Name]]:
        counts: dict[Name, Counter[int]] = {name: Counter() for pair in pairs for name in pair}
        for part, numbers in zip(self.parts, self._numbers):
            for name, bits in self._population.sets(part, counts).items():
                counts[name].update(_chosen(numbers, bits, part.used))
        matching = {}
        for name, sessions in counts.items():
            del sessions[0]
            matching[name] = self._matching(sessions)
        met = {pair: len(matching[pair[0]] & matching[pair[1]]) for pair in pairs}
        return self._near_identical(pairs, met)

    def both(self, pairs: Sequence[tuple[Name, Name]]) -> Iterator[tuple[int, int]]:
        for one, other in pairs:
            sets = []
            for part in self.parts:
                found = self._population.sets(part, (one, other))
                sets.append(found.get(one, 0) & found.get(other, 0))
            yield self._measured(sets, self.parts)

    def screen(self) -> Traces:
        return self  # some traces of many sessions would tell nothing

    def cells(self, cuts: Mapping[Name, Cuts]) -> dict[Name, CellCounts]:
        found: dict[Name, CellCounts] = {}
        for name in cuts:
            low, high = self._extremes(name, cuts)
            counts = found[name] = CellCounts()
            counts.several = True
            for number, cells in enumerate((low, high)):
                counts.base[number].update(Counter(cells.values()))
                counts.target[number].update(
                    Counter([cell for session, cell in cells.items() if session in self._targets])
                )
        return found

    def _extremes(self, name: Name, cuts: Mapping[Name, Cuts]) -> tuple[dict[int, int], ...]:
        """Of each session the cell that decides about ``<``, and about ``>=``.

        If some trace is enough that is the one of the smallest, and of the largest,
        number; if every trace has to, the one of the trace that comes last to it.
        """
        extremes: tuple[dict[int, int], dict[int, int]] = ({}, {})
        traces: Counter[int] = Counter()
        choices = (max, min) if self._every else (min, max)
        for part, numbers in zip(self.parts, self._numbers):
            cells = part.cells({name: cuts[name]})[name]
            lows = bytes_of(cells.low, part.used)
            highs = lows if cells.high is cells.low else bytes_of(cells.high, part.used)
            selectors = bitmaps.flags(part.base, part.used)
            for session, low, high in compress(zip(numbers, lows, highs), selectors):
                if not session or not low:
                    continue
                traces[session] += 1
                for known, choose, cell in zip(extremes, choices, (low, high)):
                    known[session] = choose(known[session], cell) if session in known else cell
        if self._every:
            # A trace without a number fails every comparison.
            for known in extremes:
                for session in [one for one in known if traces[one] < self._sizes[one]]:
                    del known[session]
        return extremes


def _numbered(plpy: Any, schema: str, parts: Sequence[Part]) -> Iterator[array[int]]:
    """For each part the number of the session at each position; 0: none."""
    known: dict[str, int] = {}
    for part in parts:
        numbers = array("I", bytes(4 * part.used))
        if isinstance(part, Indexed):
            rows = plans.run(
                plpy,
                "select pg_catalog.array_agg(i.position) as positions,"
                " pg_catalog.array_agg(t.session_id) as sessions from insights.trace i"
                f" join {schema}.trace_info t on t.request_id = i.trace_id"
                " where i.block = $1 and t.session_id is not null",
                ("int",),
                (part.block.block,),
            )
        else:
            rows = plans.run(
                plpy,
                "select pg_catalog.array_agg(u.n - 1) as positions,"
                " pg_catalog.array_agg(t.session_id) as sessions"
                " from pg_catalog.unnest($1) with ordinality as u (trace_id, n)"
                f" join {schema}.trace_info t on t.request_id = u.trace_id"
                " where t.session_id is not null",
                ("text[]",),
                (list(part.trace_ids()),),
            )
        for position, session in zip(rows[0]["positions"] or (), rows[0]["sessions"] or ()):
            numbers[position] = known.setdefault(session, len(known) + 1)
        yield numbers


def _chosen(numbers: array[int], bits: int, used: int) -> Iterable[int]:
    if 8 * bitmaps.count(bits) < used:
        return [numbers[position] for position in bitmaps.positions(bits)]
    return compress(numbers, bitmaps.flags(bits, used))


def _batches(items: Sequence[int], counts: Sequence[int]) -> Iterator[list[int]]:
    some: list[int] = []
    size = 0
    for item in items:
        some.append(item)
        size += counts[item]
        if size > _AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some
