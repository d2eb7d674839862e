"""Traces by time: how many, how many match, and what those that match were like.

Latencies are told by percentiles as PostgreSQL's ``percentile_cont`` has them: between
the two nearest by rank, in a straight line.  Costs are summed without rounding between
them, from the index; without it PostgreSQL sums the decimals that they print as, which
differs by less than one part in a billion of what is summed.

What is told of a bucket is kept by filter (cache.py): the blocks that its traces are in never
change.  Only buckets with pending traces are put together anew each time.

The answer goes to PostgreSQL column by column, as the texts of arrays: making a row of
each bucket takes several times as long.

With sessions as the unit, a bucket counts the sessions that have some trace in it: a
session matches in a bucket if some of its traces there do, or all of them.  Latencies,
tokens and costs are always those of the traces that match.
"""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, compress
from operator import itemgetter
from typing import Any, Callable, NamedTuple, Optional

from insights_engine import bitmaps, buckets, plans, sessions, tree
from insights_engine.cache import CACHE
from insights_engine.errors import InsightsError
from insights_engine.groups import Block, all_positions
from insights_engine.index_reader import Index, decided, open_index, prepare
from insights_engine.statement import Statement
from insights_engine.timelines import Part, Sliced, Timeline, timelines

#: What is told of a bucket, beside when it begins.
COLUMNS = ("matched", "total", "errors", "p50_ms", "p95_ms", "p99_ms", "tokens", "cost")

_PERCENTILES = (0.5, 0.95, 0.99)
_FAILED = tree.TextCompare(tree.TraceText("status"), "=", "ERROR")
#: Up to so many matching traces of a bucket in a block are looked at one by one.
_FEW = 800
#: Costs are summed as multiples of two to the power of this, of which every double is one,
#: and those of the smallest doubles whose last bits are zero.
_FINEST = -1200


class Numbers:
    """Integers of some traces: parts of whole bytes of slices, and others one by one."""

    __slots__ = ("_parts", "_within", "others")

    def __init__(self) -> None:
        self._within: list[bytes] = []
        self._parts: list[dict[int, bytes]] = []
        self.others: list[int] = []

    def add(self, part: Part, within: bytes) -> None:
        """Adds those of a part that are ``within`` and have a number."""
        chosen = int.from_bytes(part.there, "little") & int.from_bytes(within, "little")
        if chosen:
            size = len(within)
            self._within.append(chosen.to_bytes(size, "little"))
            self._parts.append(part.slices)

    def percentiles(self, fractions: Sequence[float]) -> list[Optional[float]]:
        """Percentiles of all of them."""
        if not self._parts:
            return percentiles(sorted(self.others), fractions)
        if self.others:
            patterns = [bitmaps.pattern_of_integer(number) for number in self.others]
            size = (len(patterns) + 7) >> 3
            slices = bitmaps.transpose(patterns)
            part = {bit: bits.to_bytes(size, "little") for bit, bits in slices.items()}
            all_there = ((1 << len(patterns)) - 1).to_bytes(size, "little")
            self.add(Part(all_there, part), all_there)
            self.others = []
        return percentiles_of_slices(*self._joined(), fractions)

    def _joined(self) -> tuple[int, dict[int, int]]:
        """Which have a number, and the slices, as sets of places in all parts."""
        if len(self._parts) == 1:
            (part,) = self._parts
            slices = {bit: int.from_bytes(own, "little") for bit, own in part.items()}
            return int.from_bytes(self._within[0], "little"), slices
        found = {}
        for bit in set().union(*self._parts):
            rows = (
                part.get(bit) or bytes(len(within))
                for part, within in zip(self._parts, self._within)
            )
            found[bit] = int.from_bytes(b"".join(rows), "little")
        return int.from_bytes(b"".join(self._within), "little"), found


class Bucket:
    """What is known of the traces of a bucket."""

    __slots__ = (
        *("costs", "errors", "latencies", "matched"),
        *("sessions", "spent", "tokens", "total"),
    )

    def __init__(self) -> None:
        self.total = self.matched = self.errors = 0
        self.latencies = Numbers()
        self.tokens: Optional[int] = None
        #: The sum of costs, in multiples of a power of two; further costs by themselves.
        self.spent: Optional[int] = None
        self.costs: list[float] = []
        #: By number: those with a trace, with one that matches, with one that matches
        #: and failed; or with ``session_all`` with one that does not.
        self.sessions: tuple[set[int], set[int], set[int]] = (set(), set(), set())

    def add_tokens(self, tokens: Iterable[int]) -> None:
        """Adds the tokens of some traces."""
        self.tokens = sum(tokens) + (self.tokens or 0)

    def counts(self, unit: str) -> tuple[str, str, str]:
        """How many match, how many there are, and how many failed."""
        total, matched, errors = self.total, self.matched, self.errors
        if unit != sessions.TRACE:
            total, matched, errors = map(len, self.sessions)
            if unit == sessions.SESSION_ALL:
                matched, errors = total - matched, total - errors
        return str(matched), str(total), str(errors)

    def row(self, unit: str) -> Row:
        """What is told of it."""
        cost = None
        if self.spent is not None or self.costs:
            cost = total_of(self.costs, self.spent or 0)
        numbers = self.latencies.percentiles(_PERCENTILES)
        return (*self.counts(unit), *_texts(*numbers, self.tokens, cost))


#: The `COLUMNS` of a bucket, as PostgreSQL writes them in an array.
Row = tuple[str, ...]
_NULL = "NULL"
_NOTHING: Row = ("0",) * 3 + (_NULL,) * 5


def _texts(*numbers: Optional[float]) -> Iterator[str]:
    return (_NULL if number is None else repr(number) for number in numbers)


#: The columns of buckets in succession, each as one text.
Columns = tuple[str, ...]


def _columns(rows: Sequence[Row]) -> Columns:
    return tuple(map(",".join, zip(*rows)))


def _nothing(size: int) -> Columns:
    """The columns of so many buckets without traces."""
    return tuple(",".join([text] * size) for text in _NOTHING)


def _answer(starts: Iterable[int], columns: Columns) -> dict[str, str]:
    """The columns as texts of arrays, with when the buckets begin."""
    named = dict(zip(COLUMNS, columns))
    for tokens in _LONG.findall(named["tokens"]):
        if not -(2**63) <= int(tokens) < 2**63:
            raise InsightsError("The sum of the tokens is out of range for bigint.", "22003")
    named["start_ms"] = ",".join(map(str, starts))
    return {name: "{" + texts + "}" for name, texts in named.items()}


#: Integers that may be beyond 64 bits.
_LONG = re.compile("-?[0-9]{19,}")


def percentiles(ranked: Sequence[int], fractions: Sequence[float]) -> list[Optional[float]]:
    """Percentiles of ascending integers as ``percentile_cont`` has them; None of no numbers."""
    found: list[Optional[float]] = []
    for below, above, share in _ranks(len(ranked), tuple(fractions)):
        low = float(ranked[below])
        found.append(low + share * (float(ranked[above]) - low) if share else low)
    return found or [None] * len(fractions)


@lru_cache(maxsize=2000)
def _ranks(size: int, fractions: tuple[float, ...]) -> tuple[tuple[int, int, float], ...]:
    """Between which ranks percentiles of so many numbers are, and how far from the first."""
    if not size:
        return ()
    ranks = [fraction * (size - 1) for fraction in fractions]
    return tuple((math.floor(rank), math.ceil(rank), rank - math.floor(rank)) for rank in ranks)


def percentiles_of_slices(
    within: int, slices: Mapping[int, int], fractions: Sequence[float]
) -> list[Optional[float]]:
    """The same of sliced integers."""
    total = bitmaps.count(within)
    if not total:
        return [None] * len(fractions)
    # Negative ones have the highest bit, and are the smallest.
    top = bitmaps.WIDTH - 1
    ordered = [(bit, slices[bit]) for bit in sorted(slices, reverse=True)]
    if top in slices:
        ordered[0] = (top, within & ~slices[top])
    offset = 1 << top if top in slices else 0

    def ranked(rank: int) -> tuple[int, int]:
        """The number of a rank from 0, and the last rank that has it."""
        last, left, members, number = rank, rank, within, 0
        size = total
        for bit, having in ordered:
            upper = members & having
            above = bitmaps.count(upper)
            below = size - above
            if left < below:
                members ^= upper
                size = below
            else:
                left -= below
                members, size = upper, above
                number |= 1 << bit
        return number - offset, last - left + size - 1

    found: list[Optional[float]] = []
    for fraction in fractions:
        rank = fraction * (total - 1)
        below, above = math.floor(rank), math.ceil(rank)
        number, last = ranked(below)
        low = high = float(number)
        if above > last:
            high = float(ranked(above)[0])
        found.append(low if below == above else low + (rank - below) * (high - low))
    return found


def sum_of(within: int, slices: Mapping[int, bytes], sign: int) -> int:
    """The sum of sliced integers."""
    total = 0
    for bit, own in slices.items():
        found = bitmaps.count(int.from_bytes(own, "little") & within) << bit
        total += -found if bit == sign else found
    return total


def total_of(numbers: Sequence[float], further: int) -> float:
    """The sum of doubles and of a multiple of the finest one."""
    try:
        if not further:
            return math.fsum(numbers)
        return math.fsum((*numbers, float(Fraction(further, 1 << -_FINEST))))
    except ValueError:  # infinities of both signs
        return math.nan
    except OverflowError:  # on the way at least
        exact = sum(map(Fraction, numbers), Fraction(further, 1 << -_FINEST))
        try:
            return float(exact)
        except OverflowError:
            return math.inf if exact > 0 else -math.inf


def series(
    plpy: Any,
    statement: Statement,
    node: tree.Node,
    width: buckets.Width,
    time_zone: Optional[str],
    first_ms: Optional[int],
    end_ms: Optional[int],
    unit: str,
) -> dict[str, str]:
    """By column, and ``start_ms``, the text of an array with an element for each bucket.

    The buckets go from ``first_ms`` to before ``end_ms``, None: as far as traces go.
    """
    if first_ms is not None and end_ms is not None and end_ms <= first_ms:
        raise InsightsError("start_time must be before end_time.")
    if first_ms is None or end_ms is None:
        extent = _extent(plpy, statement)
        if extent is None:
            buckets.edges(plpy, width, time_zone, 0, 1)  # for its errors
            return _answer((), _nothing(0))
        first_ms = extent[0] if first_ms is None else first_ms
        end_ms = extent[1] + 1 if end_ms is None else end_ms
        if end_ms <= first_ms:
            return _answer((), _nothing(0))
    edges = buckets.edges(plpy, width, time_zone, first_ms, end_ms)
    within = [max(edges[0], first_ms), *edges[1:-1], min(edges[-1], end_ms)]
    columns = _of_index(plpy, statement, node, array("q", within), unit, (width, time_zone))
    if columns is None:
        columns = _of_tables(plpy, statement, node, within, unit)
    return _answer(edges[:-1], columns)


def _extent(plpy: Any, statement: Statement) -> Optional[tuple[int, int]]:
    """When the first and the last trace in scope began, ms; through the index on both."""
    statement = statement.again()
    traces = statement.traces
    if statement.experiments is None:
        ids = (
            f"with recursive e (id) as (select min(t.experiment_id) from {traces} union all"
            f" select (select min(t.experiment_id) from {traces} where t.experiment_id > e.id)"
            " from e where e.id is not null) "
        )
    else:
        given = statement.params.add(statement.experiments, "int[]")
        ids = f"with e (id) as (select pg_catalog.unnest({given})) "
    ends = ", ".join(
        f"(select {end}(t.timestamp_ms) from {traces} where t.experiment_id = e.id) as {end}_ms"
        for end in ("min", "max")
    )
    (row,) = plans.run(
        plpy,
        f"{ids}select min(x.min_ms) as first_ms, max(x.max_ms) as last_ms"
        f" from (select {ends} from e where e.id is not null) x",
        statement.params.types,
        statement.params.values,
    )
    return None if row["first_ms"] is None else (row["first_ms"], row["last_ms"])


# ------------------------------------------------------------------ from the index


def _of_index(
    plpy: Any,
    statement: Statement,
    node: tree.Node,
    edges: array[int],
    unit: str,
    calendar: Any,
) -> Optional[Columns]:
    """The columns, if the index is of use; bucket n ends at edge n + 1.

    ``calendar`` is what the edges come from.
    """
    if statement.experiments == []:
        return _nothing(len(edges) - 1)
    index = open_index(plpy, statement, (node,))
    if index is None:
        return None
    index.blocks = [
        block for block in index.blocks if block.last_ms >= edges[0] and block.first_ms < edges[-1]
    ]
    one = prepare(node)
    key = ("series", index.scope, one.text, unit, calendar) if one.lasting else None
    pending = _pending(index, statement.again(), node) if index.pending else ()
    collected = _Collected(index, edges, unit, key, [row["timestamp_ms"] for row in pending])
    # What is kept leaves little to ask about, or nothing.
    index.blocks = [part.block for part in collected.lacking]
    ways = zip(
        collected.lacking,
        timelines(index, index.blocks),
        decided(index, (one, prepare(_FAILED))),
    )
    for part, timeline, (matching, failed) in ways:
        collected.add(part, timeline, matching, failed)
    if index.overcharged:
        return None
    collected.keep()
    for row in pending:
        collected.add_pending(row)
    return collected.columns()


class Kept(NamedTuple):
    """What is told of the buckets of a stretch, see `_Stretch`."""

    #: Where the buckets begin, and the last one ends.
    edges: array[int]
    #: Of which blocks which positions were looked at.
    looked_at: tuple[tuple[int, int], ...]
    columns: Columns

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return (
            _KEPT_BYTES
            + self.edges.itemsize * len(self.edges)
            + sum(universe.bit_length() >> 3 for _, universe in self.looked_at)
            + sum(map(len, self.columns))
        )


#: What the parts take beside what is in them.
_KEPT_BYTES = 1200


class AllKept(dict[int, Kept]):
    """What is kept of the stretches of which a block is the first, by when they begin."""

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return sum(one.nbytes for one in self.values())


class _Part:
    """A block with the buckets that it has traces in: from ``first`` to before ``end``."""

    __slots__ = ("block", "end", "first", "universe", "whole")

    def __init__(self, block: Block, universe: int, first: int, end: int) -> None:
        self.block = block
        self.universe = universe
        self.first = first
        self.end = end
        #: Stretches that are looked at as a whole.
        self.whole: list[_Stretch] = []


class _Stretch:
    """Buckets in succession that the same blocks have traces in."""

    __slots__ = ("columns", "edges", "end", "first", "kept", "looked_at", "parts")

    def __init__(self, first: int, end: int, parts: Sequence[_Part], edges: array[int]) -> None:
        self.first = first
        self.end = end
        self.parts = parts
        #: These two as in `Kept`.
        self.edges = edges
        self.looked_at = tuple((part.block.block, part.universe) for part in parts)
        self.columns = None if parts else _nothing(end - first)
        self.kept: Optional[Kept] = None


class _Collected:
    """Buckets that fill with the traces of blocks.

    Those of a stretch that one block alone has traces in are made from all of its traces
    at once; the others are filled by one block after the other.
    """

    def __init__(
        self, index: Index, edges: array[int], unit: str, key: Any, moments: Iterable[int]
    ) -> None:
        """``key``: what is kept by, None: nothing is; ``moments`` of pending traces."""
        self._index = index
        self._edges = edges
        self._unit = unit
        self._key = key
        self._sessions = sessions.Sessions(index)
        self._buckets: dict[int, Bucket] = {}
        last = len(edges) - 1
        parts = [
            _Part(
                block,
                index.universe(block),
                max(bisect_right(edges, block.first_ms) - 1, 0),
                min(bisect_right(edges, block.last_ms), last),
            )
            for block in index.blocks
        ]
        self._stretches = list(self._divide(parts))
        #: By bucket 1 if it is filled by one block after the other.
        self._filled = bytearray(last)
        #: The buckets that pending traces are in.
        self._pending = {number for number in map(self._number, moments) if number is not None}
        for number in self._pending:
            self._filled[number] = 1
        known: Mapping[int, AllKept] = {} if key is None else CACHE.columns(key)
        for stretch in self._stretches:
            if stretch.parts:
                self._begin(stretch, known.get(stretch.parts[0].block.block, {}))
        #: The blocks that have to be added.
        self.lacking = [
            part for part in parts if part.whole or self._filled.find(1, part.first, part.end) >= 0
        ]

    def _divide(self, parts: Sequence[_Part]) -> Iterator[_Stretch]:
        """All buckets."""
        begin: dict[int, list[_Part]] = {}
        finish: dict[int, list[_Part]] = {}
        for part in parts:
            begin.setdefault(part.first, []).append(part)
            finish.setdefault(part.end, []).append(part)
        now: dict[int, _Part] = {}
        ends = sorted({0, len(self._edges) - 1, *begin, *finish})
        for first, end in zip(ends, ends[1:]):
            for part in finish.get(first, ()):
                del now[part.block.block]
            for part in begin.get(first, ()):
                now[part.block.block] = part
            yield _Stretch(first, end, tuple(now.values()), self._edges[first : end + 1])

    def _begin(self, stretch: _Stretch, known: Mapping[int, Kept]) -> None:
        kept = known.get(stretch.edges[0])
        if kept is not None and kept.edges == stretch.edges and kept.looked_at == stretch.looked_at:
            stretch.kept = kept
            stretch.columns = kept.columns
            return
        size = stretch.end - stretch.first
        part = stretch.parts[0]
        # To look at all traces of a block is worth it for much of it.
        if len(stretch.parts) == 1 and 2 * size >= part.end - part.first:
            part.whole.append(stretch)
        else:
            self._fill(stretch)

    def _fill(self, stretch: _Stretch) -> None:
        """Has the buckets of a stretch filled by one block after the other."""
        self._filled[stretch.first : stretch.end] = b"\1" * (stretch.end - stretch.first)

    def _bucket(self, number: int) -> Bucket:
        found = self._buckets.get(number)
        if found is None:
            found = self._buckets[number] = Bucket()
        return found

    def add(self, part: _Part, timeline: Timeline, matching: int, failed: int) -> None:
        """Adds the traces of a block: those that match, and those that failed."""
        odd = timeline.odd & matching
        if odd:
            for stretch in part.whole:
                self._fill(stretch)
            part.whole = []
        traces = self._in_order(part, timeline, matching, failed)
        for stretch in part.whole:
            stretch.columns = self._single(traces, stretch.edges)
        end = part.first
        while True:
            start = self._filled.find(1, end, part.end)
            if start < 0:
                break
            end = self._filled.find(0, start, part.end)
            end = part.end if end < 0 else end
            self._add_buckets(traces, start, end)
        if odd:
            self._add_odd(part.block, odd)

    def keep(self) -> None:
        """Keeps what has become known of buckets, before pending traces are added."""
        found: dict[int, AllKept] = {}
        fresh = set()
        for stretch in self._stretches:
            if stretch.columns is None:
                numbers = range(stretch.first, stretch.end)
                stretch.columns = _columns([self._row(number) for number in numbers])
            if stretch.parts:
                block = stretch.parts[0].block.block
                if stretch.kept is None:
                    stretch.kept = Kept(stretch.edges, stretch.looked_at, stretch.columns)
                    fresh.add(block)
                found.setdefault(block, AllKept())[stretch.edges[0]] = stretch.kept
        if fresh and self._key is not None:
            # In place of what was kept of other stretches, which are no more.
            CACHE.keep(self._key, {block: found[block] for block in fresh})

    def _row(self, number: int) -> Row:
        bucket = self._buckets.get(number)
        return _NOTHING if bucket is None else bucket.row(self._unit)

    def columns(self) -> Columns:
        """What is told of all buckets."""
        found = []
        for stretch in self._stretches:
            columns: Sequence[str] = stretch.columns or ()
            numbers = self._pending.intersection(range(stretch.first, stretch.end))
            if numbers:
                texts = [column.split(",") for column in columns]
                for number in numbers:
                    for column, text in zip(texts, self._row(number)):
                        column[number - stretch.first] = text
                columns = tuple(map(",".join, texts))
            found.append(columns)
        return tuple(map(",".join, zip(*found)))

    def _in_order(self, part: _Part, timeline: Timeline, matching: int, failed: int) -> _InOrder:
        numbers: Sequence[int] = ()
        if self._unit != sessions.TRACE:
            (by_position,) = self._sessions.numbers([part.block], [part.universe])
            numbers = timeline.in_order(by_position)
        sets = [timeline.ordered(bits) for bits in (part.universe, matching, matching & failed)]
        return _InOrder(timeline, sets, numbers)

    # ---------------------------------------------------- buckets of a single block

    def _single(self, traces: _InOrder, edges: Sequence[int]) -> Columns:
        """What is told of buckets that a block alone has traces in, column by column."""
        timeline = traces.timeline
        places = timeline.ends_before(edges)
        runs = list(zip(places, places[1:]))
        used = len(timeline)
        matched = _counts(traces.matching, runs, used)
        # Without those before the first of the buckets, and after the last.
        few = traces.matching & ((1 << places[-1]) - (1 << places[0]))
        many = [number for number, count in enumerate(matched) if count > _FEW]
        counts = matched[:] if many else matched
        for number in many:
            start, end = runs[number]
            few &= ~((1 << end) - (1 << start))
            counts[number] = 0
        latencies, tokens, costs = _by_run(timeline, few, runs, counts)
        columns = [
            list(map(str, matched)),
            list(map(str, _counts(traces.universe, runs, used))),
            list(map(str, _counts(traces.failed, runs, used))),
            *_texts_of_percentiles(latencies),
            [str(sum(numbers)) if numbers else _NULL for numbers in tokens],
            _texts_of_totals(costs),
        ]
        for number in many:
            bucket = Bucket()
            self._add_run(bucket, traces, *runs[number])
            for texts, text in zip(columns, bucket.row(self._unit)):
                texts[number] = text
        if self._unit != sessions.TRACE:
            for number, (start, end) in enumerate(runs):
                bucket = Bucket()
                sets = traces.part(start, end)
                self._add_sessions(bucket, traces.sessions[start:end], *sets)
                for texts, text in zip(columns, bucket.counts(self._unit)):
                    texts[number] = text
        return tuple(map(",".join, columns))

    # ---------------------------------------------------- buckets of several blocks

    def _add_buckets(self, traces: _InOrder, first: int, last: int) -> None:
        """Adds the traces in some buckets, from a first one to before another."""
        timeline, edges = traces.timeline, self._edges
        number = first
        start = timeline.end_before(edges[number], 0)
        while start < len(timeline) and number < last:
            began = timeline.time_ms(start)
            if began >= edges[number + 1]:
                number = bisect_right(edges, began) - 1
                if number >= last:
                    break
            end = timeline.end_before(edges[number + 1], start)
            self._add_run(self._bucket(number), traces, start, end)
            start = end
            number += 1

    def _add_run(self, bucket: Bucket, traces: _InOrder, start: int, end: int) -> None:
        """Adds the traces at some places in time, which a bucket has of a block."""
        timeline = traces.timeline
        first, last = start >> 3, (end + 7) >> 3
        universe, matching, failed = sets = traces.part(start, end)
        bucket.total += bitmaps.count(universe)
        if self._unit != sessions.TRACE:
            self._add_sessions(bucket, traces.sessions[start:end], *sets)
        if not matching:
            return
        # As a set of bits of whole bytes.
        matching <<= start & 7
        bucket.matched += bitmaps.count(matching)
        bucket.errors += bitmaps.count(failed)
        if bitmaps.count(matching) <= _FEW:
            self._add_few(bucket, timeline, start, end, matching)
            return
        within = matching.to_bytes(last - first, "little")
        bucket.latencies.add(timeline.execution.part(first, last), within)
        tokens = timeline.tokens.part(first, last)
        having = matching & int.from_bytes(tokens.there, "little")
        if having:
            spent = sum_of(having, tokens.slices, timeline.tokens.sign)
            bucket.tokens = spent + (bucket.tokens or 0)
        costs, exponent = timeline.costs.part(first, last), timeline.costs.exponent
        having = matching & int.from_bytes(costs.there, "little")
        if having and exponent is None:
            values = timeline.numbers[2]
            bucket.costs += (
                values[start + place] for place in bitmaps.positions(having >> (start & 7))
            )
        elif having:
            cost = sum_of(having, costs.slices, timeline.costs.sign)
            bucket.spent = (cost << ((exponent or 0) - _FINEST)) + (bucket.spent or 0)

    def _add_few(
        self, bucket: Bucket, timeline: Timeline, start: int, end: int, matching: int
    ) -> None:
        """Adds the numbers of a few traces, for which slices would be too much to look at."""
        first, last, shift = start >> 3, (end + 7) >> 3, start & 7
        execution, tokens, costs = timeline.numbers
        ways: Sequence[tuple[Sliced, array[Any], Callable[[Any], None]]] = (
            (timeline.execution, execution, bucket.latencies.others.extend),
            (timeline.tokens, tokens, bucket.add_tokens),
            (timeline.costs, costs, bucket.costs.extend),
        )
        every = (1 << (end - start)) - 1
        for sliced, numbers, add in ways:
            having = (matching & int.from_bytes(sliced.there[first:last], "little")) >> shift
            if having == every:
                add(numbers[start:end])
            elif having:
                add(bitmaps.chosen(numbers[start:end], having))

    def _add_sessions(
        self, bucket: Bucket, numbers: Sequence[int], universe: int, matching: int, failed: int
    ) -> None:
        sets = (universe, matching, failed)
        if self._unit == sessions.SESSION_ALL:
            sets = (universe, universe & ~matching, universe & ~failed)
        for known, bits in zip(bucket.sessions, sets):
            known.update(bitmaps.chosen(numbers, bits))
            known.discard(0)

    def _add_odd(self, block: Block, odd: int) -> None:
        """Adds costs that are no finite numbers to buckets that are being filled."""
        index = self._index
        for row in plans.run(
            index.plpy,
            f"select t.timestamp_ms, t.total_cost from {index.schema}.trace_info t"
            " where t.request_id = any($1)",
            ("text[]",),
            (index.ids([block], [odd]),),
        ):
            number = self._number(row["timestamp_ms"])
            if number is not None and self._filled[number]:
                self._bucket(number).costs.append(row["total_cost"])

    def _number(self, time_ms: int) -> Optional[int]:
        if not self._edges[0] <= time_ms < self._edges[-1]:
            return None
        return bisect_right(self._edges, time_ms) - 1

    def add_pending(self, row: Any) -> None:
        """Adds a trace that was asked about by itself."""
        number = self._number(row["timestamp_ms"])
        if number is None:
            return
        bucket = self._bucket(number)
        matches = int(row["matches"])
        failed = int(row["matches"] and row["failed"])
        if self._unit != sessions.TRACE and row["session_id"] is not None:
            session = self._sessions.number(row["session_id"])
            self._add_sessions(bucket, (session,), 1, matches, failed)
        bucket.total += 1
        bucket.matched += matches
        bucket.errors += failed
        if matches:
            if row["execution_time_ms"] is not None:
                bucket.latencies.others.append(row["execution_time_ms"])
            if row["total_tokens"] is not None:
                bucket.add_tokens((row["total_tokens"],))
            if row["total_cost"] is not None:
                bucket.costs.append(row["total_cost"])


class _InOrder:
    """Sets of the traces of a block, in the order of time."""

    __slots__ = ("failed", "matching", "sessions", "stored", "timeline", "universe")

    def __init__(self, timeline: Timeline, sets: Sequence[int], sessions: Sequence[int]) -> None:
        self.timeline = timeline
        #: All traces, those that match, and those that match and failed.
        self.universe, self.matching, self.failed = sets
        size = (len(timeline) + 7) >> 3
        self.stored = [bits.to_bytes(size, "little") for bits in sets]
        #: The numbers of their sessions, if sessions are counted.
        self.sessions = sessions

    def part(self, start: int, end: int) -> tuple[int, int, int]:
        """The three sets of the traces at some places, of which the first is 0."""
        first, last, shift = start >> 3, (end + 7) >> 3, start & 7
        mask = (1 << (end - start)) - 1
        universe, matching, failed = (
            int.from_bytes(bits[first:last], "little") >> shift & mask for bits in self.stored
        )
        return universe, matching, failed


def _counts(bits: int, runs: Sequence[tuple[int, int]], used: int) -> list[int]:
    """How many members of a set are in each run of places."""
    if not bits:
        return [0] * len(runs)
    if bits == all_positions(used):
        return [end - start for start, end in runs]
    stored = bits.to_bytes((used + 7) >> 3, "little")
    count = bitmaps.count
    return [
        count(
            int.from_bytes(stored[start >> 3 : (end + 7) >> 3], "little")
            & ((1 << (end - start)) - 1) << (start & 7)
        )
        for start, end in runs
    ]


def _by_run(
    timeline: Timeline, bits: int, runs: Sequence[tuple[int, int]], counts: Sequence[int]
) -> Iterator[list[Sequence[Any]]]:
    """Latencies, tokens and costs: for each run of places those of the members of a set.

    ``counts`` says how many members are in each.
    """
    used = len(timeline)
    # Most often those that have one number have all.
    before, chosen = bits, _chooser(bits, used)
    columns: tuple[array[Any], ...] = timeline.numbers
    for sliced, numbers in zip((timeline.execution, timeline.tokens, timeline.costs), columns):
        having = bits & int.from_bytes(sliced.there, "little")
        if having != before:
            before, chosen = having, _chooser(having, used)
            counts = _counts(having, runs, used)
        yield _cut(chosen(numbers), counts)


def _chooser(bits: int, used: int) -> Callable[[array[Any]], Sequence[Any]]:
    """What takes the members of a set out of columns."""
    if bits == all_positions(used):
        return list
    if 2 * bitmaps.count(bits) > used:
        flags = bitmaps.flags(bits, used)
        return lambda column: list(compress(column, flags))
    places = bitmaps.positions(bits)
    if len(places) < 2:
        # Of one place `itemgetter` would give no sequence.
        return lambda column: [column[place] for place in places]
    return itemgetter(*places)


def _cut(numbers: Sequence[Any], counts: Sequence[int]) -> list[Sequence[Any]]:
    """Numbers in parts of some sizes."""
    ends = list(accumulate(counts))
    return [numbers[start:end] for start, end in zip([0, *ends], ends)]


def _texts_of_percentiles(parts: Sequence[Sequence[int]]) -> list[list[str]]:
    """The columns of the percentiles of some numbers each."""
    found = []
    for numbers in parts:
        if numbers:
            ranked = sorted(numbers)
            found.append(
                [
                    # An integer is read as the double it is nearest to.
                    repr((low := float(ranked[below])) + share * (float(ranked[above]) - low))
                    if share
                    else str(ranked[below])
                    for below, above, share in _ranks(len(ranked), _PERCENTILES)
                ]
            )
        else:
            found.append([_NULL] * len(_PERCENTILES))
    return [list(texts) for texts in zip(*found)]


def _texts_of_totals(parts: Sequence[Sequence[float]]) -> list[str]:
    """The column of the sums of some numbers each."""
    try:
        return [repr(math.fsum(numbers)) if numbers else _NULL for numbers in parts]
    except (OverflowError, ValueError):
        return [repr(total_of(numbers, 0)) if numbers else _NULL for numbers in parts]


def _pending(index: Index, statement: Statement, node: tree.Node) -> Sequence[Any]:
    """The traces that have to be asked about one by one."""
    condition = statement.condition(node, "probe")
    given = statement.params.add(index.pending, "text[]")
    found: Sequence[Any] = statement.run(
        index.plpy,
        "select t.timestamp_ms, t.execution_time_ms, t.total_tokens, t.total_cost,"
        f" t.session_id, t.status = 'ERROR' as failed, {condition} as matches"
        f" from {statement.traces} where t.request_id = any({given}) and {statement.scope()}",
    )
    return found


# ----------------------------------------------------------- from MLflow's tables


def _of_tables(
    plpy: Any, statement: Statement, node: tree.Node, within: Sequence[int], unit: str
) -> Columns:
    """The rows, by one statement over MLflow's tables."""
    add = statement.params.add
    matching = (
        f"select t.request_id from {statement.traces}\nwhere {statement.where(node)}"
        f" and t.timestamp_ms >= {add(within[0], 'bigint')}"
        f" and t.timestamp_ms < {add(within[-1], 'bigint')}"
    )
    if unit == sessions.TRACE:
        counts = [
            "count(*)",
            "count(*) filter (where t.matches)",
            "count(*) filter (where t.matches and t.failed)",
        ]
    else:
        # Distinct ones are sorted, which no language's order is needed for.
        of = 'count(distinct t.session_id collate "C")'
        counts = [of]
        for condition in ("t.matches", "(t.matches and t.failed)"):
            if unit == sessions.SESSION_ALL:
                counts.append(f"{of} - {of} filter (where not {condition})")
            else:
                counts.append(f"{of} filter (where {condition})")
    fractions = ", ".join(map(repr, _PERCENTILES))
    columns = [
        "t.number",
        *counts,
        f"percentile_cont(array[{fractions}]) within group (order by t.latency)"
        " filter (where t.matches)",
        "sum(t.total_tokens) filter (where t.matches)",
        # As decimals, whose sum depends on no order of the rows.
        "sum(t.total_cost::text::numeric) filter (where t.matches)",
    ]
    texts = ", ".join(f"({column})::text" for column in columns)
    # The parameter stands in a subquery, lest its text be read anew for every trace.
    place = f"pg_catalog.width_bucket(t.timestamp_ms, (select {add(list(within), 'bigint[]')}))"
    rows = statement.run_in_parallel(
        plpy,
        f"with m as materialized (\n{matching}\n)\nselect array[{texts}]\nfrom (\n"
        f"select {place} as number, m.request_id is not null as matches,"
        " t.status = 'ERROR' as failed, t.execution_time_ms::float8 as latency,"
        " t.total_tokens, t.total_cost, t.session_id\n"
        f"from {statement.traces} left join m on m.request_id = t.request_id\n"
        f"where {statement.scope()} and t.timestamp_ms >= {add(within[0], 'bigint')}"
        f" and t.timestamp_ms < {add(within[-1], 'bigint')}\n) t\ngroup by t.number",
    )
    found = [_NOTHING] * (len(within) - 1)
    for number, total, matched, errors, latencies, tokens, cost in rows:
        found[int(number or 0) - 1] = (
            *(matched or "0", total or "0", errors or "0"),
            *_texts(
                *_doubles(latencies),
                None if tokens is None else int(tokens),
                None if cost is None else float(cost),
            ),
        )
    return _columns(found)


def _doubles(array: Optional[str]) -> Sequence[Optional[float]]:
    """The numbers of an array's text."""
    if array is None:
        return (None,) * len(_PERCENTILES)
    return [float(number) for number in array.strip("{}").split(",")]
