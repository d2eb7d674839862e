"""The rows that a facet may have: the values of a field, or intervals of its numbers.

Each comes with the filter for it.  From the index they are found without reading a
trace: its postings say how often each value occurs.  Only where it has not captured
every value of a trace are MLflow's tables asked about that trace.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import nsmallest
from typing import Any, NamedTuple, Optional, Union

from insights_engine.answers.facets import datebins, histogram
from insights_engine.answers.facets.vocabulary import (
    Vocabulary,
    distinct,
    extremes,
    value_column,
    vocabulary_of,
)
from insights_engine.exact import given, values
from insights_engine.exact.statement import Statement
from insights_engine.index import occurrences, sessions
from insights_engine.index.groups import Block, Group, Terms
from insights_engine.index.index_reader import Index
from insights_engine.language import fields, times, tree
from insights_engine.sets import bitmaps

#: Of more values than these, which of them a trace has is kept by trace.
_FEW_VALUES = 50

Number = Union[int, float]

_EXPERIMENT = tree.TraceText("experiment_id")
_SESSION = tree.TraceText("session_id")


class Facet(NamedTuple):
    """A value, or an interval of numbers, and the filter for it."""

    value: Optional[str]
    low: Optional[float]
    high: Optional[float]
    node: tree.Node
    #: What decides between values that are equally frequent.
    place: Any


class Question(NamedTuple):
    """What is asked for."""

    node: tree.Node
    field: tree.Field
    most: int
    unit: str


# --------------------------------------------------------------------- the filters


def _any_span(field: tree.Field, condition: tree.Node) -> tree.Node:
    return tree.AnySpan(condition) if fields.is_span_field(field) else condition


def conjunction(first: tree.Node, second: tree.Node) -> tree.Node:
    """Both, each with spans of its own."""
    items = [*tree.conjuncts(first), *tree.conjuncts(second)]
    return items[0] if len(items) == 1 else tree.And(tuple(items))


def present(field: tree.Field) -> tree.Node:
    return _any_span(field, tree.IsNull(field, negated=True))


def missing_of(field: tree.Field) -> Facet:
    node: tree.Node = tree.IsNull(field)
    if fields.is_span_field(field):
        node = tree.Not(present(field))
    return Facet(None, None, None, node, None)


def _some_number(field: tree.Field) -> tree.Node:
    """Whether some value is a number: every number satisfies one of these."""
    either = (tree.NumberCompare(field, "<", 0), tree.NumberCompare(field, ">=", 0))
    return _any_span(field, tree.Or(either))


def may_be_numeric(field: tree.Field) -> bool:
    """Whether a field without a type may turn out to hold numbers only; ids are texts."""
    return not isinstance(field, tree.TraceText) and fields.may_hold_numbers(field)


def of_text(field: tree.Field, text: str) -> Facet:
    node: tree.Node = tree.TextCompare(field, "=", text)
    unversioned = field == tree.TraceText("prompt") and text.count("/") != 1
    if unversioned or field == tree.SpanText("content"):
        # What the language, like MLflow, does not let `=` be asked about.
        pattern = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        node = tree.Match(field, "LIKE", pattern)
    return Facet(text, None, None, _any_span(field, node), text)


def of_number(field: tree.Field, number: Number) -> Facet:
    number = _plain(number)
    node = _any_span(field, tree.NumberCompare(field, "=", number))
    return Facet(_printed(number, field), _double(number), _double(number), node, number)


def _plain(number: Number) -> Number:
    """The number, as an integer where that is shorter."""
    if isinstance(number, float) and number.is_integer() and abs(number) < 10**15:
        return int(number)
    return number


def _printed(number: Number, field: tree.Field) -> str:
    if fields.is_time(field) and isinstance(number, int):
        return times.text_of(number) or str(number)
    return str(number) if isinstance(number, int) else repr(number)


def _double(number: Optional[Number]) -> Optional[float]:
    return None if number is None else float(number)


def intervals_of(field: tree.Field, edges: histogram.Edges) -> list[Facet]:
    found = []
    for low, high in zip(edges, edges[1:]):
        node = _any_span(field, _inside(field, low, high))
        name = "all" if low is None else f"from {_printed(low, field)}"
        if high is not None:
            name = (
                f"{_printed(low, field)} to {_printed(high, field)}"
                if low is not None
                else f"below {_printed(high, field)}"
            )
        found.append(Facet(name, _double(low), _double(high), node, None))
    return found


def _inside(field: tree.Field, low: Optional[Number], high: Optional[Number]) -> tree.Node:
    if low is None and high is None:
        either = (tree.NumberCompare(field, "<", 0), tree.NumberCompare(field, ">=", 0))
        return tree.Or(either)
    if low is None or high is None:
        if low is not None:
            return tree.NumberCompare(field, ">=", low)
        assert high is not None
        return tree.NumberCompare(field, "<", high)
    if isinstance(field, tree.Assessment):
        # Two comparisons might be satisfied by two assessments.
        return tree.Between(field, low, math.nextafter(high, -math.inf))
    return tree.And((tree.NumberCompare(field, ">=", low), tree.NumberCompare(field, "<", high)))


def edges_of(question: Question, numbers: Iterable[Number]) -> histogram.Edges:
    finite = [number for number in numbers if isinstance(number, int) or math.isfinite(number)]
    whole = fields.is_whole(question.field)
    low, high = min(finite), max(finite)
    if fields.is_time(question.field) and isinstance(low, int) and isinstance(high, int):
        return datebins.edges(low, high, question.most)
    return histogram.edges(low, high, question.most, whole)


# ------------------------------------------------------------------ from the index


class Found(NamedTuple):
    """What the rows are made of."""

    facets: Sequence[Facet]
    #: Whether they are to be ranked by count; intervals are not.
    ranked: bool
    #: How many units have each, as far as that is known.
    counts: dict[Facet, int]


def most_frequent(ranking: Counter[str], most: int) -> list[str]:
    """The most frequent values, of equally frequent ones the first by code points."""
    least = sorted(ranking.values(), reverse=True)[:most][-1:]
    candidates = (value for value, count in ranking.items() if count >= (least or [0])[0])
    return nsmallest(most, candidates, key=lambda value: (-ranking[value], value))


def _numbers_first(vocabulary: Optional[Vocabulary], most: int) -> bool:
    """Whether a field looks as if intervals were to come of it."""
    return vocabulary is not None and bool(vocabulary.series) and len(vocabulary.values) > 4 * most


class Candidates:
    """The values that the rows are made of, of the traces of an index that match."""

    def __init__(
        self, index: Index, statement: Statement, question: Question, matching: Sequence[int]
    ) -> None:
        self._index = index
        self._statement = statement
        self._question = question
        self._matching = matching

    def found(self) -> Optional[Found]:
        """What the rows are made of; None: MLflow's tables have to tell."""
        question = self._question
        field, most = question.field, question.most
        vocabulary = vocabulary_of(self._index, field)
        ranking: Optional[Counter[str]] = None
        if not fields.is_number(field) and not _numbers_first(vocabulary, most):
            ranking = self._ranking(vocabulary)
            if ranking is not None and len(ranking) <= most:
                return self._ranked(ranking)
        numeric = self._numeric()
        if numeric is None:
            return None
        if numeric:
            numbers = self._numbers(vocabulary)
            if numbers is None:
                return None
            few, known = numbers
            if not known:
                return Found((), True, {})
            if not few or ranking is not None:
                return self._intervals(known)
            if isinstance(field, tree.TraceNumber):
                return Found([of_number(field, number) for number in known], True, {})
            if isinstance(field, tree.SpanNumber):
                return None
        if ranking is None:
            ranking = self._ranking(vocabulary)
        if ranking is None:
            return None
        return self._intervals(known) if numeric and len(ranking) > most else self._ranked(ranking)

    def _numeric(self) -> Optional[bool]:
        """Whether every matching trace that has the field has a number there."""
        field, node = self._question.field, self._question.node
        if fields.is_number(field):
            return True
        if not may_be_numeric(field):
            return False
        counts = sessions.counts_of_index(
            self._index.plpy,
            self._statement,
            [conjunction(node, one) for one in (present(field), _some_number(field))],
            sessions.TRACE,
        )
        return None if counts is None else counts[0] == counts[1] > 0

    def _ranked(self, ranking: Counter[str]) -> Found:
        field = self._question.field
        best = most_frequent(ranking, self._question.most)
        facets = [of_text(field, text) for text in best]
        # What is stored in two forms of text is one value of an assessment, whose traces
        # were counted for each form.
        counted = not isinstance(field, tree.Assessment)
        counts = {facet: ranking[text] for facet, text in zip(facets, best)} if counted else {}
        return Found(facets, True, counts)

    def _intervals(self, numbers: Sequence[Number]) -> Found:
        field = self._question.field
        return Found(intervals_of(field, edges_of(self._question, numbers)), False, {})

    # ------------------------------------------------------------------ numbers

    def _numbers(self, vocabulary: Optional[Vocabulary]) -> Optional[tuple[bool, Sequence[Number]]]:
        """Whether there are few, and then all of them that are known, else the extreme ones.

        Of several numbers of a trace the smallest and the largest are known.
        """
        most = self._question.most
        asked = self._asked_about(vocabulary and vocabulary.unsure_numbers)
        if asked is None:
            return None
        others = {row["number"] for row in self._asked(asked) if row["number"] is not None}
        if fields.is_whole(self._question.field):
            others = {int(number) for number in others}
        known: set[Number] = {number for number in others if math.isfinite(number)}
        few = len(known) <= most
        ends: list[Number] = list(known)
        for group, within in self._groups():
            if vocabulary is None:
                break
            few = few and distinct(group, vocabulary, within, known, most)
            ends += extremes(group, vocabulary, within)
        return few, list(known) if few else [min(ends), max(ends)]

    def _groups(self) -> Iterator[tuple[Group, int]]:
        """The blocks, many at a time, and the traces of them that match."""
        place = 0
        for blocks in self._index.batches():
            group = Group(self._index.plpy, blocks)
            own = self._matching[place : place + len(blocks)]
            place += len(blocks)
            yield group, group.joined(own)

    # ------------------------------------------------------------------- values

    def _ranking(self, vocabulary: Optional[Vocabulary]) -> Optional[Counter[str]]:
        """How many units have each value."""
        field = self._question.field
        unsure = vocabulary and vocabulary.unsure
        if field in (_EXPERIMENT, _SESSION):
            unsure = ()
        asked = self._asked_about(unsure)
        if asked is None:
            return None
        score = Score(self._index, self._question.unit, field)
        if field == _EXPERIMENT:
            for group, within in self._groups():
                for number in {block.experiment_id for block in group.blocks}:
                    own = group.of_blocks(lambda block: block.experiment_id == number)  # noqa: B023
                    score.add(str(number), group, own & within)
        elif field == _SESSION:
            self._by_session(score)
        elif vocabulary is not None:
            if vocabulary.single and len(vocabulary.values) > _FEW_VALUES:
                self._by_column(vocabulary, asked, score)
            else:
                self._by_posting(vocabulary, asked, score)
        for row in self._asked(asked):
            if row["value"] is not None:
                score.add_trace(values.shown(field, row["value"]), row)
        return score.counts(self._statement)

    def _by_posting(self, vocabulary: Vocabulary, asked: dict[int, int], score: Score) -> None:
        """Scores the values of traces that are not asked about."""
        texts: dict[str, list[int]] = {}
        for stored, terms in vocabulary.values.items():
            texts.setdefault(values.shown(self._question.field, stored), []).extend(terms)
        for group, within in self._groups() if texts else ():
            group.fetch(term for terms in texts.values() for term in terms)
            sure = within & ~group.joined([asked.get(block.block, 0) for block in group.blocks])
            for text, terms in texts.items():
                score.add(text, group, group.union(tuple(terms)) & sure)

    def _by_column(self, vocabulary: Vocabulary, asked: dict[int, int], score: Score) -> None:
        """The same where a trace has one of many values."""
        text_of = {term: text for text, terms in vocabulary.values.items() for term in terms}
        terms = tuple(text_of)
        for block, bits in zip(self._index.blocks, self._matching):
            bits &= ~asked.get(block.block, 0)
            if bits:
                column = value_column(self._index, self._question.field, block, terms)
                score.add_column(text_of, block, column, bits)

    def _by_session(self, score: Score) -> None:
        """The same where the value is the session, which is known by number."""
        known = sessions.Sessions(self._index)
        traces = known.occurrences(self._matching)
        least = 1
        if self._question.unit == sessions.TRACE and len(traces) > self._question.most:
            # A session with fewer traces cannot be among the most frequent ones, even if
            # all pending traces are its.
            ranked = sorted(traces.values(), reverse=True)
            least = ranked[self._question.most] - len(self._index.pending)
        for number, count in traces.items():
            if count >= least:
                score.add_session(known.session_id(number), number, count)

    # ------------------------------------------------- what the index has not captured

    def _asked_about(self, unsure: Optional[Terms]) -> Optional[dict[int, int]]:
        """By block the matching traces whose values have to be read; None: too many.

        ``unsure``: those with one of these terms, None: all.
        """
        found: dict[int, int] = {}
        total = 0
        for group, within in self._groups() if unsure != () else ():
            if unsure is not None:
                group.fetch(unsure)
                within &= group.union(unsure)
            parts = group.divided(within)
            for block, bits in zip(group.blocks, parts):
                if bits:
                    found[block.block] = bits
                    total += bitmaps.count(bits)
            if total > self._index.most_undecided:
                return None
        return found

    def _asked(self, asked: dict[int, int]) -> list[dict[str, Any]]:
        """The values of these traces, and of pending ones that match."""
        index, question = self._index, self._question
        blocks = [block for block in index.blocks if block.block in asked]
        ids = index.ids(blocks, [asked[block.block] for block in blocks])
        found: list[dict[str, Any]] = []
        for chosen, node in ((ids, tree.EVERYTHING), (index.pending, question.node)):
            if not chosen:
                continue
            statement = self._statement.again()
            matches = given.condition(statement, chosen, node)
            traces = f"select t.* from {statement.traces} where {matches}"
            pairs = values.pairs(statement, question.field, traces)
            found += statement.run(index.plpy, f"select distinct v.* from (\n{pairs}\n) v")
        return found


class Score:
    """How many units have each of some values."""

    def __init__(self, index: Index, unit: str, field: tree.Field) -> None:
        self._index = index
        self._unit = unit
        self._field = field
        self._sessions = sessions.Sessions(index)
        self._numbers: dict[int, Sequence[int]] = {}
        self._counts: Counter[str] = Counter()
        self._by_session: dict[str, Counter[int]] = {}
        self._asked: set[tuple[str, str]] = set()

    def add(self, value: str, group: Group, having: int) -> None:
        """Adds the traces of a group that have a value."""
        if not having:
            return
        if self._unit == sessions.TRACE:
            self._counts[value] += bitmaps.count(having)
            return
        own = self._by_session.setdefault(value, Counter())
        for block, bits in zip(group.blocks, group.divided(having)):
            if bits:
                own.update(bitmaps.chosen(self._of_block(block), bits))

    def add_column(
        self, text_of: dict[int, str], block: Block, column: Sequence[int], bits: int
    ) -> None:
        """Adds traces of a block, which have at most one value each, by its number."""
        if self._unit == sessions.TRACE:
            universe = self._index.universe(block)
            key = ("values", fields.spell(self._field))
            for term, count in occurrences.of_some(key, block, universe, column, bits).items():
                if term and count:
                    self._counts[text_of[term]] += count
            return
        pairs = zip(bitmaps.chosen(column, bits), bitmaps.chosen(self._of_block(block), bits))
        for (term, session), count in Counter(pairs).items():
            if term:
                self._by_session.setdefault(text_of[term], Counter())[session] += count

    def add_session(self, session_id: str, number: int, count: int) -> None:
        """Adds as many traces of a session, whose id is the value."""
        if self._unit == sessions.TRACE:
            self._counts[session_id] += count
        else:
            self._by_session.setdefault(session_id, Counter())[number] += count

    def _of_block(self, block: Block) -> Sequence[int]:
        found = self._numbers.get(block.block)
        if found is None:
            (found,) = self._sessions.numbers([block], [self._index.universe(block)])
            self._numbers[block.block] = found
        return found

    def add_trace(self, value: str, row: dict[str, Any]) -> None:
        """Adds a trace that was asked about by itself, once."""
        if (value, row["request_id"]) in self._asked:
            return
        self._asked.add((value, row["request_id"]))
        if self._unit == sessions.TRACE:
            self._counts[value] += 1
        elif row["session_id"] is not None:
            own = self._by_session.setdefault(value, Counter())
            own[self._sessions.number(row["session_id"])] += 1

    def counts(self, statement: Statement) -> Counter[str]:
        """The number of units by value."""
        if self._unit == sessions.TRACE:
            return self._counts
        whole: Counter[int] = Counter()
        if self._unit == sessions.SESSION_ALL:
            for block in self._index.blocks:
                universe = self._index.universe(block)
                whole.update(bitmaps.chosen(self._of_block(block), universe))
            pending = self._index.pending
            for trace in sessions.given_traces(self._index.plpy, statement, (), pending):
                if trace.session_id is not None:
                    whole[self._sessions.number(trace.session_id)] += 1
        for value, own in self._by_session.items():
            own.pop(0, None)
            if self._unit == sessions.SESSION_ALL:
                self._counts[value] = sum(whole[number] == count for number, count in own.items())
            else:
                self._counts[value] = len(own)
        return self._counts
