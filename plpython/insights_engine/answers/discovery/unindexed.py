"""Traces that the index does not answer for, as a part of a discovery.

Their facts are collected as a refresh would, in memory: nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Optional

from insights_engine.base import interrupts
from insights_engine.columns import cells
from insights_engine.columns.candidates import (
    Items,
    Signature,
    Term,
    items_of,
    number_field_of,
)
from insights_engine.columns.cells import Cells, Cuts, Extremes
from insights_engine.columns.item_sets import ItemSets
from insights_engine.columns.names import STORED, Experiment, NumberField
from insights_engine.columns.parts import Part
from insights_engine.exact.rawsql import SESSION_MARK
from insights_engine.exact.statement import Statement
from insights_engine.facts.facts import Facts, Number, Series
from insights_engine.facts.rows import Placed, Reader
from insights_engine.facts.terms import Role
from insights_engine.index.groups import all_positions
from insights_engine.index.large_blocks import SAMPLED
from insights_engine.sets import bitmaps


class Unindexed(Part):
    """Traces whose facts are collected on demand."""

    def __init__(
        self, plpy: Any, statement: Statement, items: Items, traces: Sequence[Placed], target: int
    ) -> None:
        super().__init__(len(traces), all_positions(len(traces)), target)
        self._plpy = plpy
        self._statement = statement
        self._items = items
        self._traces = traces
        self._item_sets: Optional[ItemSets] = None
        self._numbers: dict[NumberField, Extremes] = {}
        #: The fields with numbers, once facts have been collected.
        self.number_fields: set[NumberField] = set()
        #: Whether collected facts are cached.
        self.keep = False

    def item_sets(self) -> ItemSets:
        if self._item_sets is not None:
            return self._item_sets
        return self._collect()[0]

    def knows(self, doubts: Iterable[int]) -> bool:
        """Whether cached facts decide a fact that these items make uncertain."""
        return self._item_sets is not None and self._item_sets.doubts.isdisjoint(doubts)

    def sample(self, names: Sequence[NumberField]) -> dict[NumberField, Sequence[int]]:
        most = cells.SAMPLE // SAMPLED
        return {name: cells.sampled(one, most) for name, one in self._some(names).items()}

    def cells(self, cuts: Mapping[NumberField, Cuts]) -> dict[NumberField, Cells]:
        numbers = self._some(cuts)
        return {
            name: cells.cells_of(numbers.get(name, NO_NUMBERS), chosen)
            for name, chosen in cuts.items()
        }

    def _some(self, names: Iterable[NumberField]) -> dict[NumberField, Extremes]:
        numbers = self._numbers if self._item_sets is not None else self._collect()[1]
        return {name: numbers[name] for name in names if name in numbers}

    def _collect(self) -> tuple[ItemSets, dict[NumberField, Extremes]]:
        vocabulary = _Vocabulary()
        facts = Facts(vocabulary)
        _Reader(self._plpy, self._statement).collect(facts, self._traces)
        found = self._of(facts, vocabulary)
        numbers: dict[NumberField, list[Extremes]] = {}
        for (kind, key, signature), one in interrupts.each(self._plpy, facts.series.items()):
            name = number_field_of(kind, key, signature, vocabulary.signatures)
            if name is not None and len(one.positions) > 1:
                numbers.setdefault(name, []).append(_numbers(one))
        united = {name: cells.united(several) for name, several in numbers.items()}
        self.number_fields.update(united)
        if self.keep:
            self._item_sets, self._numbers = found, united
        return found, united

    def _of(self, facts: Facts, vocabulary: _Vocabulary) -> ItemSets:
        of_term: dict[int, tuple[int, ...]] = {}
        stored: list[tuple[int, bytes]] = []
        doubts: dict[int, list[bytes]] = {}
        for term, positions in interrupts.each(self._plpy, _terms(facts)):
            members = bitmaps.encode(positions, self.used)
            found = []
            for name in items_of(term, vocabulary.signatures):
                item = self._items.number(name)
                if isinstance(name, STORED):
                    found.append(item)
                else:
                    doubts.setdefault(item, []).append(members)
            if found:
                of_term[len(stored)] = tuple(found)
                stored.append((len(stored), members))
        by_experiment: dict[int, list[int]] = {}
        for trace in self._traces:
            by_experiment.setdefault(trace.experiment_id, []).append(trace.position)
        for experiment_id, positions in by_experiment.items():
            of_term[len(stored)] = (self._items.number(Experiment(experiment_id)),)
            stored.append((len(stored), bitmaps.encode(positions, self.used)))
        return ItemSets(stored, of_term, doubts, self.used, partial(interrupts.look, self._plpy))

    def trace_ids(self) -> Sequence[Optional[str]]:
        return [trace.trace_id for trace in self._traces]


def _terms(facts: Facts) -> Iterator[tuple[Term, Sequence[int]]]:
    """Collected facts, but for numbers, as terms with their positions."""
    for (kind, key, signature, role, slot), positions in facts.plain.items():
        if len(positions) > 1:
            yield Term(0, kind, key, signature, role, slot, ""), positions[1:]
    for texts in facts.texts.values():
        for (signature, text, _), positions in texts.candidates.items():
            yield Term(0, texts.kind, texts.key, signature, Role.VALUE, 0, text), positions[1:]


def _numbers(collected: Series) -> Extremes:
    """The numbers of one key and signature."""

    def place(number: Number) -> int:
        if collected.whole:
            return bitmaps.ordered(bitmaps.pattern_of_integer(int(number)))
        return bitmaps.ordered(bitmaps.pattern_of_double(number))

    positions = collected.positions[1:]
    low = [place(number) for number in collected.low[1:]]
    if not collected.high:
        return Extremes(positions, low, low)
    high = [
        place(collected.high[position]) if position in collected.high else least
        for position, least in zip(positions, low)
    ]
    return Extremes(positions, low, high)


NO_NUMBERS = Extremes((), (), ())


class _Vocabulary:
    """An empty vocabulary that numbers signatures."""

    def __init__(self) -> None:
        self.signatures: dict[int, Signature] = {}
        self._numbers: dict[tuple[Optional[str], Optional[str], str], int] = {}

    def signature(self, type: Optional[str], name: Optional[str], status: str) -> int:
        """The number of a signature."""
        number = self._numbers.setdefault((type, name, status), len(self._numbers) + 1)
        self.signatures[number] = Signature(type, name, status, None)
        return number

    def attribute_keys(self) -> Iterable[str]:
        """None are known."""
        return ()

    def full_keys(self) -> set[tuple[str, str]]:
        """None are full."""
        return set()

    def values(self, kind: str, key: str) -> frozenset[tuple[int, str]]:
        """None are known."""
        return frozenset()


class _Reader(Reader):
    """A reader that takes assessments lent within sessions from MLflow's tables alone.

    ``insights.carrier`` knows indexed traces only, and not every role may read it.
    """

    def __init__(self, plpy: Any, statement: Statement) -> None:
        super().__init__(plpy, statement.schema)
        self._statement = statement

    def _are_lent(self) -> bool:
        return True

    def _lent_assessments(self, traces: Sequence[Placed]) -> dict[int, list[dict[str, Any]]]:
        statement = self._statement.again()
        schema = statement.schema
        ids = statement.params.add([trace.trace_id for trace in traces], "text[]")
        scope = statement.scope().replace("t.experiment_id", "c.experiment_id")
        rows = statement.run(
            self._plpy,
            "with sessions as materialized ("
            "  select u.n, t.request_id, t.session_id"
            f"  from pg_catalog.unnest({ids}) with ordinality as u (trace_id, n)"
            f"  join {schema}.trace_info t on t.request_id = u.trace_id"
            "  where t.session_id is not null),"
            " carriers as materialized ("
            f"  select c.request_id, c.session_id from {schema}.trace_info c"
            f"  where {scope} and c.session_id in (select s.session_id from sessions s)"
            f"  and exists (select from {schema}.assessments a where a.trace_id = c.request_id"
            f"  and pg_catalog.strpos(a.assessment_metadata, '{SESSION_MARK}') > 0))"
            " select s.n, a.assessment_type as kind, a.name, a.value, a.valid,"
            " a.is_numeric_value as numeric, a.aggregate_value as number, false as elsewhere"
            " from sessions s join carriers c on c.session_id = s.session_id"
            " and c.request_id <> s.request_id"
            f" join {schema}.assessments a on a.trace_id = c.request_id"
            " where a.valid and a.assessment_type in ('feedback', 'expectation')"
            f" and pg_catalog.strpos(a.assessment_metadata, '{SESSION_MARK}') > 0",
        )
        found: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            found.setdefault(row["n"] - 1, []).append(row)
        return found
