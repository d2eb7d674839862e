"""The traces of a discovery by position, one part at a time.

A part is a block of the index, or some traces that the index does not answer for
(see `unindexed`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from itertools import chain
from typing import Any, Optional

from insights_engine.base import interrupts, plans
from insights_engine.columns import cells, stored_cells
from insights_engine.columns.candidates import Items
from insights_engine.columns.cells import Cells, Cuts, StoredSlices
from insights_engine.columns.item_sets import ItemSets, united
from insights_engine.columns.names import Experiment, NumberField
from insights_engine.facts.terms import LARGE_BLOCK
from insights_engine.index.cache import CACHE
from insights_engine.index.groups import Block, all_positions
from insights_engine.sets import bitmaps

#: Fields whose slices are in memory at once.
FIELDS_AT_ONCE = 8

#: Overhead of a cached sample in memory.
_BYTES_OF_A_COLUMN = 250


class Part(ABC):
    """Some traces by position, with the sets of base and target."""

    def __init__(self, used: int, base: int, target: int) -> None:
        self.used = used
        self.base = base
        self.target = target

    def without_target(self) -> Part:
        """The part without the traces of the target."""
        found = copy(self)
        found.base &= ~self.target
        found.target = 0
        return found

    @abstractmethod
    def item_sets(self) -> ItemSets:
        """The items that the traces have."""

    def sets(self, items: Iterable[int]) -> dict[int, int]:
        """By item the traces that have it; items without traces are left out."""
        return self.item_sets().sets(items)

    @abstractmethod
    def cells(self, cuts: Mapping[NumberField, Cuts]) -> dict[NumberField, Cells]:
        """The cells that their numbers lie in."""

    def known_cells(self, cuts: Mapping[NumberField, Cuts]) -> dict[NumberField, Cells]:
        """The cells of the fields for which they are cheap."""
        return self.cells(cuts)

    @abstractmethod
    def sample(self, names: Sequence[NumberField]) -> dict[NumberField, Sequence[int]]:
        """Some of the numbers in the base, for `cells.choose_cuts`; all of few traces."""

    @abstractmethod
    def trace_ids(self) -> Sequence[Optional[str]]:
        """The trace at each position, where there is one in the base."""


#: Slices by block and field that the next step needs again.
AtHand = dict[int, dict[NumberField, Sequence[StoredSlices]]]


class Indexed(Part):
    """A block."""

    def __init__(
        self,
        plpy: Any,
        items: Items,
        block: Block,
        base: int,
        target: int,
        at_hand: AtHand,
    ) -> None:
        super().__init__(block.used, base, target)
        self._plpy = plpy
        self._items = items
        self._at_hand = at_hand
        self.block = block

    def item_sets(self) -> ItemSets:
        known = CACHE.column(self.block.block, "items")
        if isinstance(known, ItemSets):
            return known
        found = self._read()
        CACHE.keep_column(self.block.block, "items", found, found.size)
        return found

    def sets(self, items: Iterable[int]) -> dict[int, int]:
        wanted = set(items)
        known = CACHE.column(self.block.block, "items")
        if isinstance(known, ItemSets):
            doubts = wanted.intersection(known.doubts)
            found = known.sets(wanted - doubts)
            return {**found, **self._stored_sets(doubts)} if doubts else found
        return self._stored_sets(wanted)

    def _stored_sets(self, wanted: set[int]) -> dict[int, int]:
        of_term = self._items.terms_of(wanted)
        stored: dict[int, list[bytes]] = {}
        for term, members in self._postings(list(of_term)):
            for item in wanted.intersection(of_term[term]):
                stored.setdefault(item, []).append(members)
        found = {item: united(several, self.used) for item, several in stored.items()}
        experiment = self._items.number(Experiment(self.block.experiment_id))
        if experiment in wanted:
            found[experiment] = all_positions(self.used)
        return found

    def cells(self, cuts: Mapping[NumberField, Cuts]) -> dict[NumberField, Cells]:
        found = self.known_cells(cuts)
        rest = {name: chosen for name, chosen in cuts.items() if name not in found}
        if rest:
            found.update(self.worked_out(rest))
        for name, one in found.items():
            if CACHE.column(self.block.block, name) is not one:
                CACHE.keep_column(self.block.block, name, one, one.size)
        return found

    def known_cells(self, cuts: Mapping[NumberField, Cuts]) -> dict[NumberField, Cells]:
        """The cells that the session knows, or that are stored with the index."""
        found: dict[NumberField, Cells] = {}
        for name, chosen in cuts.items():
            known = CACHE.column(self.block.block, name)
            if isinstance(known, Cells) and known.cuts == chosen:
                found[name] = known
        lacking = {name: chosen for name, chosen in cuts.items() if name not in found}
        if lacking and self.used >= LARGE_BLOCK:
            found.update(stored_cells.read(self._plpy, self.block.block, lacking))
        return found

    def worked_out(self, cuts: Mapping[NumberField, Cuts]) -> dict[NumberField, Cells]:
        """The cells, computed from the bit-sliced numbers."""
        sliced = self._sliced(cuts)
        return {name: cells.cells_of_slices(sliced[name], chosen) for name, chosen in cuts.items()}

    def sample(self, names: Sequence[NumberField]) -> dict[NumberField, Sequence[int]]:
        found: dict[NumberField, Sequence[int]] = {}
        for name in names:
            known = CACHE.column(self.block.block, ("sample", name))
            if known is not None and known[0] == self.base:
                found[name] = known[1]
        few = bitmaps.count(self.base) <= cells.FEW_TRACES
        lacking = [name for name in names if name not in found]
        sliced = self._sliced(lacking)
        for name in lacking:
            some = [one.sample(self.used, self.base) for one in sliced[name]]
            numbers = found[name] = array("Q", chain.from_iterable(some))
            if few:
                size = 8 * len(numbers) + _BYTES_OF_A_COLUMN
                CACHE.keep_column(self.block.block, ("sample", name), (self.base, numbers), size)
        return found

    def _sliced(self, names: Iterable[NumberField]) -> Mapping[NumberField, Sequence[StoredSlices]]:
        own = self._at_hand.setdefault(self.block.block, {})
        lacking = [name for name in names if name not in own]
        wanted = {
            term: (name, signature, slot)
            for name in lacking
            for signature, slices in self._items.slices.get(name, {}).items()
            for slot, term in slices.items()
        }
        found: dict[NumberField, dict[int, dict[tuple[str, int], bytes]]] = {}
        for term, members in self._postings(list(wanted)) if wanted else ():
            name, signature, slot = wanted[term]
            found.setdefault(name, {}).setdefault(signature, {})[slot] = members
        for name in lacking:
            own[name] = [StoredSlices(slices) for slices in found.get(name, {}).values()]
        return own

    def _postings(self, terms: Sequence[int]) -> list[tuple[int, bytes]]:
        (row,) = plans.run(
            self._plpy,
            "select pg_catalog.array_agg(p.term) as terms,"
            " pg_catalog.array_agg(p.members) as members"
            " from insights.posting p where p.block = $1 and p.term = any($2)",
            ("int", "int[]"),
            (self.block.block, terms),
        )
        return list(zip(row["terms"] or (), row["members"] or ()))

    def _read(self) -> ItemSets:
        (row,) = plans.run(
            self._plpy,
            # For most terms their presence is enough, and an index-only scan gives it.
            "select pg_catalog.array_agg(p.term) as terms from insights.posting p"
            " where p.block = $1",
            ("int",),
            (self.block.block,),
        )
        terms = row["terms"] or ()
        facts_of, doubts_of = self._items.facts_of, self._items.doubts_of
        stored = self._postings([term for term in terms if term in facts_of])
        everywhere = bitmaps.encode_set(all_positions(self.used), self.used)
        experiment = self._items.number(Experiment(self.block.experiment_id))
        doubts = {item: () for term in terms if term in doubts_of for item in doubts_of[term]}
        return ItemSets(
            [(-1, everywhere), *stored],
            {**facts_of, -1: (experiment,)},
            doubts,
            self.used,
            partial(interrupts.look, self._plpy),
        )

    def trace_ids(self) -> Sequence[Optional[str]]:
        found: list[Optional[str]] = [None] * self.used
        for row in plans.run(
            self._plpy,
            "select t.position, t.trace_id from insights.trace t where t.block = $1",
            ("int",),
            (self.block.block,),
        ):
            found[row["position"]] = row["trace_id"]
        return found
