"""The traces that a discovery is about, in parts: their items, base and target.

A part is a block of the index, or some traces that the index does not answer for:
those that changed since, or all where there is no index to be used.  The sets of
base and target are exact in all parts; what is not known of a trace's facts is an
item of its own (see `candidates`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Optional

from insights_engine.answers.discovery.unindexed import Unindexed
from insights_engine.base import plans
from insights_engine.base.interrupts import Watched
from insights_engine.columns import cells, stored_cells
from insights_engine.columns.candidates import MARK_OF_SESSIONS, Items, SampledCuts, uncertain_by
from insights_engine.columns.cells import Cuts
from insights_engine.columns.names import (
    Beyond,
    Both,
    Experiment,
    Fact,
    NumberField,
    Single,
    node_of,
    singles,
)
from insights_engine.columns.parts import FIELDS_AT_ONCE, AtHand, Indexed, Part
from insights_engine.exact import given
from insights_engine.exact.statement import Statement
from insights_engine.facts.rows import Placed
from insights_engine.facts.terms import Role
from insights_engine.index import large_blocks
from insights_engine.index.cache import CACHE
from insights_engine.index.groups import Block, all_positions
from insights_engine.index.index_reader import Index, Prepared, decided, open_index, prepare
from insights_engine.language import tree
from insights_engine.sets import bitmaps

#: Traces outside the index that are read at a time, ...
READ_AT_ONCE = 4_000
#: ... and the bytes of their facts that are kept for a second look.
KEPT_BYTES = 64 * 2**20

#: Cuts come from all numbers up to `cells.FEW_TRACES` traces among these positions, else a sample.
FEW_POSITIONS = 2 * bitmaps.POSITIONS

#: Positions up to which a session keeps which traces match a single fact.
KEPT_POSITIONS = 1_000_000

#: Discoveries test facts about assessments, whatever the filters ask.
_ASSESSED = tree.IsNull(tree.Assessment("assessment", "any"), negated=True)


def _passing(node: tree.Node) -> Prepared:
    """A filter of which a session keeps nothing."""
    found = Prepared(node)
    found.leaves = [leaf._replace(lasting=False) for leaf in found.leaves]
    found.lasting = False
    return found


class Population:
    """The parts; ``base`` and ``target`` are filters, and ``target`` implies ``base``."""

    def __init__(self, plpy: Any, statement: Statement, base: tree.Node, target: tree.Node) -> None:
        self.plpy = plpy
        self._statement = statement
        self._base = base
        self._target = target
        self._left = KEPT_BYTES
        self._at_hand: AtHand = {}
        #: The index, if it is of use.
        self.index: Optional[Index] = None
        self._known: Optional[Items] = None
        self._blocks: Sequence[Block] = ()
        self.items = Items()
        #: The parts of the index come first.
        self.parts: list[Part] = Watched(plpy)
        if statement.experiments == []:
            return
        # Without it the facts of all traces would be read, not only of those pending.
        index = open_index(plpy, statement, (base, target, _ASSESSED), share=1)
        if index is None:
            self._add_everything()
        else:
            known = CACHE.items(Items)
            known.read(plpy)
            for block in index.blocks:
                known.number(Experiment(block.experiment_id))
            self.index, self._known, self._blocks = index, known, index.blocks
            # From here on it stays as it is: the numbers of what else is found follow.
            self.items = Items(known)
            away = index.pending + self._add_blocks(index, known)
            self._add_given(away)

    def sets(self, part: Part, names: Iterable[Fact]) -> dict[Fact, int]:
        """By fact the traces of a part's base that have it; facts of none are left out."""
        numbers: dict[NumberField, list[Beyond]] = {}
        items: dict[int, Single] = {}
        names = set(names)
        pairs = [name for name in names if isinstance(name, Both)]
        for one in {one for name in names for one in singles(name)}:
            if isinstance(one, Beyond):
                numbers.setdefault(one.field, []).append(one)
            else:
                item = self.items.known(one)
                if item is not None:
                    items[item] = one
        found: dict[Fact, int] = {items[item]: bits for item, bits in part.sets(items).items()}
        if numbers:
            for field, cells in part.cells(self.cuts(list(numbers))).items():
                for name in numbers[field]:
                    found[name] = cells.members(name.op, name.cut)
            self._at_hand.clear()
        for pair in pairs:
            found[pair] = found.get(pair.one, 0) & found.get(pair.other, 0)
        return {name: bits & part.base for name, bits in found.items() if name in names}

    def facts(self, parts: Sequence[Part], names: Collection[Single]) -> dict[Fact, list[int]]:
        """For each fact and part the traces of the part's base that have the fact.

        Exactly: exact SQL decides what the index leaves uncertain.
        """
        items = {name: self.items.known(name) for name in names if not isinstance(name, Beyond)}
        doubts = {name: set(map(self.items.known, uncertain_by(name))) for name in names}
        everything = set(items.values()).union(*doubts.values())
        looked_at = [item for item in everything if item is not None]
        fields: dict[NumberField, list[Beyond]] = {}
        for name in names:
            if isinstance(name, Beyond):
                fields.setdefault(name.field, []).append(name)
        cuts = self.cuts(list(fields))
        found: dict[Fact, list[int]] = {name: [] for name in names}
        asked: dict[Single, list[int]] = {name: [] for name in names}
        there: set[Optional[int]] = set()
        for number, part in enumerate(parts):
            sets = {item: bits & part.base for item, bits in part.sets(looked_at).items()}
            there.update(item for item, bits in sets.items() if bits)
            for name, item in items.items():
                found[name].append(0 if item is None else sets.get(item, 0))
            cells = part.known_cells(cuts) if cuts else {}
            for field, of_field in fields.items():
                for fact in of_field:
                    if field in cells:
                        bits = cells[field].members(fact.op, fact.cut) & part.base
                        found[fact].append(bits)
                    else:
                        found[fact].append(0)
                        asked[fact].append(number)
        for name, some in doubts.items():
            if not there.isdisjoint(some):
                asked[name] = list(range(len(parts)))
        for name, numbers in asked.items():
            if numbers:
                matching = self.matching(node_of(name), [parts[number] for number in numbers])
                for number, bits in zip(numbers, matching):
                    found[name][number] = bits & parts[number].base
        return found

    def targets(self) -> list[Part]:
        """The indexed traces of the target, as parts whose facts are read trace by trace."""
        traces: list[Placed] = []
        for part in self.parts:
            if isinstance(part, Indexed) and self.index is not None:
                ids = self.index.ids((part.block,), (part.target,))
                traces += [Placed(0, one, part.block.experiment_id) for one in ids]
        found: list[Part] = []
        for start in range(0, len(traces), READ_AT_ONCE):
            some = [
                trace._replace(position=position)
                for position, trace in enumerate(traces[start : start + READ_AT_ONCE])
            ]
            everything = all_positions(len(some))
            one = Unindexed(self.plpy, self._statement, self.items, some, everything)
            one.keep = True
            found.append(one)
        return found

    def having(self, name: Single, parts: Sequence[Part]) -> list[int]:
        """For each part the traces that have a fact, however uncertain the index is."""
        doubts = [item for item in map(self.items.known, uncertain_by(name)) if item is not None]
        found: dict[int, int] = {}
        asked: list[Part] = []
        for number, part in enumerate(parts):
            if isinstance(part, Unindexed) and part.knows(doubts):
                found[number] = self.sets(part, (name,)).get(name, 0)
            else:
                asked.append(part)
        rest = iter(self.matching(node_of(name), asked))
        return [found[number] if number in found else next(rest) for number in range(len(parts))]

    def matching(self, node: tree.Node, parts: Sequence[Part]) -> list[int]:
        """For each part the traces that match a filter."""
        sets: dict[int, int] = {}
        blocks = [part.block for part in parts if isinstance(part, Indexed)]
        if self.index is not None and blocks:
            index = self.index.of_blocks(blocks)
            # For many traces the cache has better uses.
            few = sum(block.used for block in blocks) <= KEPT_POSITIONS
            matching = self._sets(index, node, lasting=few)
            sets = {block.block: members for block, (members,) in zip(blocks, matching)}
        found = []
        for part in parts:
            if isinstance(part, Indexed):
                found.append(sets[part.block.block])
                continue
            trace_ids = [trace_id for trace_id in part.trace_ids() if trace_id is not None]
            known = given.matching(self.plpy, self._statement, node, trace_ids)
            places = [place for place, one in enumerate(trace_ids) if one in known]
            found.append(bitmaps.of_positions(places))
        return found

    # ------------------------------------------------------------------ numbers

    def number_fields(self) -> list[NumberField]:
        """The fields with numbers; known once the item sets of all parts were read."""
        found = set(self._known.slices) if self._known is not None else set()
        for part in self.parts:
            if isinstance(part, Unindexed):
                found |= part.number_fields
        return sorted(found)

    def some_number_fields(self, names: Sequence[NumberField]) -> Iterator[Sequence[NumberField]]:
        """The fields, a few at a time; their slices stay in memory until the next few."""
        for start in range(0, len(names), FIELDS_AT_ONCE):
            yield names[start : start + FIELDS_AT_ONCE]
            self._at_hand.clear()

    def cuts(self, names: Sequence[NumberField]) -> dict[NumberField, Cuts]:
        """Where to cut the fields, whatever the target is.

        Of few traces all numbers in the base say so, wherever the traces are.  Of many
        the constants come from the largest blocks, which change seldom; so do they, and
        they are stored with the index.  Fields that have numbers since then only are cut
        by those of the newest blocks, or of traces that are not indexed yet.
        """
        unindexed = [part for part in self.parts if isinstance(part, Unindexed)]
        if (
            sum(bitmaps.count(part.base) for part in self.parts) <= cells.FEW_TRACES
            and sum(part.used for part in self.parts) <= FEW_POSITIONS
        ):
            return self._cuts_of(names, self.parts)
        if self._known is None or not self._blocks:
            return self._chosen(names, unindexed[: large_blocks.SAMPLED])
        known = self._known
        sample = large_blocks.sample_of(self._blocks)
        everywhere = tuple([(block.block, all_positions(block.used)) for block in sample])
        if any(name not in known.cuts or known.cuts[name].sample != everywhere for name in names):
            stored = stored_cells.cuts_of(self.plpy, [block.block for block in sample])
            known.cuts.update(
                {name: SampledCuts(everywhere, cuts) for name, cuts in stored.items()}
            )
        found = self._cuts_of(names, self._whole(sample))
        rest = sorted(
            [block for block in self._blocks if block not in sample],
            key=lambda block: (-block.last_ms, -block.block),
        )[: large_blocks.SAMPLED]
        for parts in (self._whole(rest), unindexed[: large_blocks.SAMPLED]):
            lacking = [name for name in names if not found[name].values]
            if lacking and parts:
                found.update(self._cuts_of(lacking, parts, later=True))
        return found

    def _whole(self, blocks: Sequence[Block]) -> list[Part]:
        assert self._known is not None
        return [
            Indexed(self.plpy, self._known, block, all_positions(block.used), 0, self._at_hand)
            for block in blocks
        ]

    def _cuts_of(
        self, names: Sequence[NumberField], parts: Sequence[Part], later: bool = False
    ) -> dict[NumberField, Cuts]:
        """Cuts chosen from the numbers of some parts; the known ones where these are the same.

        ``later``: of fields without numbers in the parts that are asked first.
        """
        blocks = [(part.block.block, part.base) for part in parts if isinstance(part, Indexed)]
        if self._known is None or len(blocks) < len(parts):
            return self._chosen(names, parts)
        sample, known = tuple(blocks), self._known.later_cuts if later else self._known.cuts
        lacking = [name for name in names if name not in known or known[name].sample != sample]
        for name, cuts in self._chosen(lacking, parts).items():
            known[name] = SampledCuts(sample, cuts)
        return {name: known[name].cuts for name in names}

    def _chosen(
        self, names: Sequence[NumberField], parts: Sequence[Part]
    ) -> dict[NumberField, Cuts]:
        samples: dict[NumberField, list[int]] = {name: [] for name in names}
        for part in parts if names else ():
            for name, numbers in part.sample(names).items():
                samples[name] += numbers
        return {name: cells.choose_cuts(name, sample) for name, sample in samples.items()}

    # ---------------------------------------------------------------- the index

    def _add_blocks(self, index: Index, known: Items) -> list[str]:
        """Add the blocks; return the ids of their traces that need a look one by one."""
        sets = self._sets(index, self._base, self._target)
        marked = self._marked(index)
        away: list[str] = []
        for block, (base, target) in zip(index.blocks, sets):
            target &= base
            unsure = marked.get(block.block, 0) & base
            if unsure:
                base &= ~unsure
                target &= ~unsure
                away += index.ids((block,), (unsure,))
            if base:
                self.parts.append(Indexed(self.plpy, known, block, base, target, self._at_hand))
        return away

    def _sets(
        self, index: Index, *nodes: tree.Node, lasting: bool = True
    ) -> Iterable[Sequence[int]]:
        """For each block the positions that match each filter."""
        prepared = [prepare(node) if lasting else _passing(node) for node in nodes]
        found = list(decided(index, prepared))
        if not index.overcharged:
            return found
        # The index leaves too much open, so exact SQL answers for all traces.
        index.overcharged = False
        raw = [self._raw_sets(index, node) for node in nodes]
        return [[one.get(block.block, 0) for one in raw] for block in index.blocks]

    def _raw_sets(self, index: Index, node: tree.Node) -> dict[int, int]:
        if node == tree.EVERYTHING:
            return {block.block: index.universe(block) for block in index.blocks}
        statement = self._statement.again()
        rows = statement.run(
            self.plpy,
            "select i.block, pg_catalog.array_agg(i.position) as positions"
            f" from (select t.request_id from {statement.traces}"
            f" where {statement.where(node)} offset 0) t"
            " join insights.trace i on i.trace_id = t.request_id group by i.block",
        )
        used = {block.block: block for block in index.blocks}
        return {
            row["block"]: bitmaps.of_positions(sorted(row["positions"]))
            & index.universe(used[row["block"]])
            for row in rows
            if row["block"] in used
        }

    def _marked(self, index: Index) -> dict[int, int]:
        """For each block the traces whose session has assessments in another experiment."""
        rows = plans.run(
            self.plpy,
            "select p.block, p.members from insights.term v"
            " join insights.posting p on p.term = v.term"
            f" where v.kind = $1 and v.key = $2 and v.role = '{Role.UNKNOWN}' and v.slot = $3"
            " and p.block = any($4)",
            ("text", "text", "smallint", "int[]"),
            (
                *(MARK_OF_SESSIONS.kind, MARK_OF_SESSIONS.key, MARK_OF_SESSIONS.slot),
                [block.block for block in index.blocks],
            ),
        )
        return {row["block"]: bitmaps.decode(row["members"]) for row in rows}

    # ------------------------------------------------------------- other traces

    def _add_given(self, ids: Sequence[str]) -> None:
        """Add the given traces that are in the base."""
        if not ids:
            return
        statement = self._statement.again()
        columns = ("t.request_id", "t.experiment_id")
        sql = given.select(statement, ids, (self._target,), columns, self._base)
        rows = statement.run(self.plpy, f"{sql} order by t.request_id")
        for start in range(0, len(rows), READ_AT_ONCE):
            self._add_unindexed(rows[start : start + READ_AT_ONCE])

    def _add_everything(self) -> None:
        """Add all traces in the base."""
        statement = self._statement.again()
        flag = statement.condition(self._target, "set")
        sql = (
            f"select t.request_id, t.experiment_id, array[{flag}] as matches"
            f" from {statement.traces} where {statement.where(self._base)}"
        )
        plan = self.plpy.prepare(sql, statement.params.types)
        cursor = self.plpy.cursor(plan, statement.params.values)
        while True:
            rows = cursor.fetch(READ_AT_ONCE)
            self._add_unindexed(rows)
            if len(rows) < READ_AT_ONCE:
                cursor.close()
                return

    def _add_unindexed(self, rows: Sequence[dict[str, Any]]) -> None:
        traces = [
            Placed(position, row["request_id"], row["experiment_id"])
            for position, row in enumerate(rows)
        ]
        wanted = [position for position, row in enumerate(rows) if row["matches"][0]]
        if traces:
            part = Unindexed(
                self.plpy, self._statement, self.items, traces, bitmaps.of_positions(wanted)
            )
            # Cache until KEPT_BYTES are used; the others are read again if needed.
            part.keep = self._left > 0
            self._left -= len(traces) * _BYTES_OF_A_TRACE
            self.parts.append(part)


#: Estimate for a trace with 40 facts.
_BYTES_OF_A_TRACE = 400
