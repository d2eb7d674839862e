"""Turns collected facts into terms and postings."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Optional

from insights_engine.base import interrupts, plans
from insights_engine.facts.facts import (
    LONGEST_VALUE,
    TRACE_VALUES,
    VALUES,
    Fact,
    Facts,
    Positions,
    Series,
    most_values,
)
from insights_engine.facts.terms import Role, name_bucket_of
from insights_engine.sets import bitmaps

#: Signatures with a row of their own; then, rows for hash buckets of names.
SIGNATURES = 4_000
_ROWS = 2 * SIGNATURES
# A list of positions of a rare value: no longer than this, with the one that is none.
RARE = 4
# Terms looked up at once.
_AT_ONCE = 20_000

#: (kind, key, signature, role, slot, value)
Term = tuple[str, str, int, str, int, str]


class Extent(NamedTuple):
    """A block's share of a batch: positions ``start`` to ``start + used - 1``."""

    block: int
    start: int
    used: int


class Stored:
    """The vocabulary in the database; ``growing``: new signatures are added."""

    def __init__(self, plpy: Any, growing: bool) -> None:
        self._plpy = plpy
        self._growing = growing
        self._signatures: dict[tuple[Optional[str], Optional[str], str], int] = {}
        self._buckets: dict[tuple[Optional[str], str, int], int] = {}
        for row in plans.run(
            plpy, "select s.signature, s.type, s.name, s.status, s.bucket from insights.signature s"
        ):
            if row["bucket"] is None:
                self._signatures[row["type"], row["name"], row["status"]] = row["signature"]
            else:
                self._buckets[row["type"], row["status"], row["bucket"]] = row["signature"]
        self._keys: Optional[list[str]] = None

    def signature(self, type: Optional[str], name: Optional[str], status: str) -> int:
        """The number of a signature; -1: it is not known, and the vocabulary is not growing."""
        known = self._signatures.get((type, name, status))
        if known is not None:
            return known
        if len(self._signatures) < SIGNATURES and len(name or "") <= LONGEST_VALUE:
            known = self._add(type, name, status, None)
            self._signatures[type, name, status] = known
            return known
        bucket = name_bucket_of(name or "")
        known = self._buckets.get((type, status, bucket))
        if known is None and len(self._signatures) + len(self._buckets) >= _ROWS:
            # Types and statuses are as many: only "some span" is left.
            bucket = name_bucket_of(repr((type, name, status)))
            type, status = None, ""
            known = self._buckets.get((type, status, bucket))
        if known is None:
            known = self._buckets[type, status, bucket] = self._add(type, None, status, bucket)
        return known

    def _add(
        self, type: Optional[str], name: Optional[str], status: str, bucket: Optional[int]
    ) -> int:
        if not self._growing:
            return -1
        rows = plans.run(
            self._plpy,
            "insert into insights.signature (type, name, status, bucket) values ($1, $2, $3, $4)"
            " returning signature",
            ("text", "text", "text", "int"),
            (type, name, status, bucket),
        )
        return int(rows[0]["signature"])

    def attribute_keys(self) -> Iterable[str]:
        """The keys of attributes that are indexed."""
        if self._keys is None:
            rows = plans.run(
                self._plpy, "select v.key from insights.vocabulary v where v.kind = 'attribute'"
            )
            self._keys = [row["key"] for row in rows]
        return self._keys

    def full_keys(self) -> set[tuple[str, str]]:
        """The (kind, key) of which no more texts get a term."""
        rows = plans.run(
            self._plpy,
            'select v.kind, v.key from insights.vocabulary v where v."values" >='
            f" case v.kind when 'attribute' then {VALUES} else {TRACE_VALUES} end",
        )
        return {(row["kind"], row["key"]) for row in rows}

    def values(self, kind: str, key: str) -> frozenset[tuple[int, str]]:
        """The (signature, text) of a key that have a term of their own."""
        rows = plans.run(
            self._plpy,
            "select t.signature, t.value from insights.term t"
            f" where t.kind = $1 and t.key = $2 and t.role = '{Role.VALUE}'",
            ("text", "text"),
            (kind, key),
        )
        return frozenset((row["signature"], row["value"]) for row in rows)


class Settled:
    """Facts whose texts have been told apart: those with a term, and those in buckets."""

    def __init__(self, plpy: Any, facts: Facts, growing: bool) -> None:
        self._plpy = plpy
        self._facts = facts
        #: Of each term its positions, in the batch, ascending.
        self.positions: dict[Term, Sequence[int]] = {
            (*fact, ""): positions[1:]
            for fact, positions in facts.plain.items()
            if len(positions) > 1
        }
        #: What is known of the terms' numbers.
        self.numbers: dict[Term, int] = {}
        #: Values by key, where it differs from what the database has.
        self.vocabulary: dict[tuple[str, str], int] = {}
        self._settle_texts(growing)

    def _settle_texts(self, growing: bool) -> None:
        of_value: dict[Term, list[tuple[Positions, bool]]] = {}
        for texts in self._facts.texts.values():
            candidates = interrupts.each(self._plpy, texts.candidates.items())
            for (signature, text, printed), positions in candidates:
                term = (texts.kind, texts.key, signature, Role.VALUE, 0, text)
                of_value.setdefault(term, []).append((positions, printed))
        self.numbers = look_up(self._plpy, list(of_value))
        unknown: dict[tuple[str, str], list[Term]] = {}
        for term in of_value:
            if term not in self.numbers:
                unknown.setdefault((term[0], term[1]), []).append(term)
        counts = self._value_counts()
        # Facts that several texts share get their positions from all of them.
        shared: dict[Fact, set[int]] = {}
        overflowed = set()
        for (kind, key), texts in interrupts.each(self._plpy, self._facts.texts.items()):
            known = counts.get((kind, key), 0)
            wanted = unknown.get((kind, key), [])
            room = max(0, most_values(kind) - known) if growing else 0
            if len(wanted) > room or texts.full:
                # The most frequent ones first; those that are as good as unique would
                # make the vocabulary long, and are found in their buckets.
                wanted.sort(key=lambda term: -sum(len(p) for p, _ in of_value[term]))
                room = min(room, len(wanted))
                while room and sum(len(p) for p, _ in of_value[wanted[room - 1]]) <= RARE:
                    room -= 1
                overflowed.add((kind, key))
                for term in wanted[room:]:
                    for positions, printed in of_value.pop(term):
                        fact = texts.shared_fact(term[2], term[5], printed)
                        if fact not in shared:
                            shared[fact] = set(self.positions.get((*fact, ""), ()))
                        shared[fact].update(positions[1:])
                del wanted[room:]
            total = known + len(wanted)
            if texts.full or (kind, key) in overflowed:
                total = max(total, most_values(kind))
            if total != known or (kind, key) not in counts:
                self.vocabulary[kind, key] = total
        for key in self._facts.keys:
            if ("attribute", key) not in counts:
                self.vocabulary.setdefault(("attribute", key), 0)
        for term, lists in interrupts.each(self._plpy, of_value.items()):
            if len(lists) == 1:
                self.positions[term] = lists[0][0][1:]
            else:
                self.positions[term] = sorted({p for one, _ in lists for p in one[1:]})
        for fact, members in shared.items():
            self.positions[(*fact, "")] = sorted(members)

    def _value_counts(self) -> dict[tuple[str, str], int]:
        keys = self._facts.texts.keys() | {("attribute", key) for key in self._facts.keys}
        rows = plans.run(
            self._plpy,
            'select w.kind, w.key, v."values" from'
            " rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) as w (kind, key)"
            ' cross join lateral (select v."values" from insights.vocabulary v'
            " where v.kind = w.kind and v.key = w.key offset 0) v",
            ("text[]", "text[]"),
            ([kind for kind, _ in keys], [key for _, key in keys]),
        )
        return {(row["kind"], row["key"]): row["values"] for row in rows}

    def members(self, extents: Sequence[Extent]) -> Iterator[tuple[int, Term, bytes]]:
        """(number in ``extents``, term, what is stored) of every posting."""
        for term, positions in interrupts.each(self._plpy, self.positions.items()):
            for number, within in split(positions, extents):
                yield number, term, bitmaps.encode(within, extents[number].used)
        of_numbers = interrupts.each(self._plpy, self._facts.series.items())
        for (kind, key, signature), series in of_numbers:
            for number, (begin, end) in ranges(series.positions, extents):
                for role, slot, members in sliced(series, begin, end, extents[number]):
                    yield number, (kind, key, signature, role, slot, ""), members


def ranges(
    positions: Positions, extents: Sequence[Extent]
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Of each extent that has some of the positions, from the second on: where these are."""
    if len(extents) == 1:
        if len(positions) > 1:
            yield 0, (1, len(positions))
        return
    begin = 1
    while begin < len(positions):
        number = _extent_of(positions[begin], extents)
        extent = extents[number]
        end = bisect_left(positions, extent.start + extent.used, begin)
        yield number, (begin, end)
        begin = end


def split(
    positions: Sequence[int], extents: Sequence[Extent]
) -> Iterator[tuple[int, Sequence[int]]]:
    """The positions of each extent that has some, counted from its start."""
    if len(extents) == 1 and not extents[0].start:
        yield 0, positions
        return
    begin = 0
    while begin < len(positions):
        number = _extent_of(positions[begin], extents)
        extent = extents[number]
        end = bisect_left(positions, extent.start + extent.used, begin)
        yield number, [position - extent.start for position in positions[begin:end]]
        begin = end


def _extent_of(position: int, extents: Sequence[Extent]) -> int:
    low, high = 0, len(extents) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if extents[middle].start <= position:
            low = middle
        else:
            high = middle - 1
    return low


def sliced(
    series: Series, begin: int, end: int, extent: Extent
) -> Iterator[tuple[str, int, bytes]]:
    """(role, slot, what is stored) of the numbers of some traces."""
    positions: Sequence[int] = series.positions[begin:end]
    low = series.low[begin:end]
    patterns = _patterns(low, series.whole)
    spread: Sequence[int] = ()
    spread_at: list[int] = []
    if series.high:
        # Those were noted in the order of positions, too.
        if len(series.high) <= len(positions):
            inside = range(extent.start, extent.start + extent.used)
            spread_at = [position for position in series.high if position in inside]
        else:
            spread_at = [position for position in positions if position in series.high]
        largest = _patterns([series.high[position] for position in spread_at], series.whole)
        places = [bisect_left(positions, position) for position in spread_at]
        spread = array("Q", [high ^ patterns[place] for high, place in zip(largest, places)])
    if extent.start:
        positions = [position - extent.start for position in positions]
        spread_at = [position - extent.start for position in spread_at]
    yield Role.LOW, bitmaps.HAS_NUMBER, bitmaps.encode(positions, extent.used)
    for slot, members in bitmaps.sliced(patterns, positions, extent.used):
        yield Role.LOW, slot, members
    if spread:
        yield Role.SPREAD, bitmaps.HAS_NUMBER, bitmaps.encode(spread_at, extent.used)
        for slot, members in bitmaps.sliced(spread, spread_at, extent.used):
            yield Role.SPREAD, slot, members


_SIGN = 1 << (bitmaps.WIDTH - 1)


def _patterns(numbers: Sequence[Any], whole: bool) -> array[int]:
    """`bitmaps.pattern_of_integer` or `bitmaps.pattern_of_double` of all of them."""
    if whole:
        return array("Q", array("q", numbers).tobytes())
    patterns = array("Q", struct.pack(f"={len(numbers)}d", *numbers))
    if patterns and max(patterns) >= _SIGN:
        return array("Q", map(bitmaps.pattern_of_double, numbers))
    return patterns


# ------------------------------------------------------------------- the tables

_TERM_TYPES = ("text[]", "text[]", "int[]", "text[]", "smallint[]", "text[]")
_GIVEN = (
    "rows from ("
    + ", ".join(f"pg_catalog.unnest(${number})" for number in range(1, 7))
    + ") with ordinality as w (kind, key, signature, role, slot, value, n)"
)


def look_up(plpy: Any, terms: Sequence[Term]) -> dict[Term, int]:
    """The numbers of those terms that there are."""
    found: dict[Term, int] = {}
    for start in range(0, len(terms), _AT_ONCE):
        some = terms[start : start + _AT_ONCE]
        (row,) = plans.run(
            plpy,
            "select pg_catalog.array_agg(w.n) as places, pg_catalog.array_agg(t.term) as terms"
            f" from {_GIVEN} cross join lateral (select t.term from insights.term t"
            " where t.kind = w.kind and t.key = w.key"
            ' and t.role = w.role::"char" and t.value = w.value and t.signature = w.signature'
            " and t.slot = w.slot offset 0) t",
            _TERM_TYPES,
            [list(column) for column in zip(*some)],
        )
        for place, number in zip(row["places"] or (), row["terms"] or ()):
            found[some[place - 1]] = number
    return found


def intern(plpy: Any, terms: Sequence[Term]) -> dict[Term, int]:
    """The numbers of all the terms; new ones are added."""
    found = look_up(plpy, terms)
    new = [term for term in terms if term not in found]
    for start in range(0, len(new), _AT_ONCE):
        plans.run(
            plpy,
            "insert into insights.term (kind, key, signature, role, slot, value)"
            ' select w.kind, w.key, w.signature, w.role::"char", w.slot, w.value'
            f" from {_GIVEN}",
            _TERM_TYPES,
            [list(column) for column in zip(*new[start : start + _AT_ONCE])],
        )
    if new:
        found.update(look_up(plpy, new))
    return found


def write(plpy: Any, facts: Facts, extents: Sequence[Extent]) -> None:
    """Stores the facts of a batch as postings of its blocks."""
    settled = Settled(plpy, facts, growing=True)
    postings = list(settled.members(extents))
    numbers = settled.numbers
    numbers.update(
        intern(plpy, list({term: None for _, term, _ in postings if term not in numbers}))
    )
    insert(
        plpy,
        sorted(
            (extents[extent].block, numbers[term], members) for extent, term, members in postings
        ),
    )
    if settled.vocabulary:
        plans.run(
            plpy,
            'insert into insights.vocabulary (kind, key, "values")'
            " select * from"
            " rows from (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) as w"
            ' on conflict (kind, key) do update set "values" = excluded."values"',
            ("text[]", "text[]", "int[]"),
            (
                [kind for kind, _ in settled.vocabulary],
                [key for _, key in settled.vocabulary],
                list(settled.vocabulary.values()),
            ),
        )


def insert(plpy: Any, rows: Iterable[tuple[int, int, bytes]]) -> None:
    """Adds postings: (block, term, members)."""
    rest = iter(rows)
    while some := list(islice(rest, _AT_ONCE)):
        plans.run(
            plpy,
            "insert into insights.posting (block, term, members) select * from"
            " rows from (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) as p",
            ("int[]", "int[]", "bytea[]"),
            [list(column) for column in zip(*some)],
        )
