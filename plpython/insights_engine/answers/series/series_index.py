"""The time buckets of a series from the index, and the cache of them.

The columns of a time bucket are cached by filter (cache.py), as the blocks of its traces never
change.  Only time buckets with pending traces are computed each time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, compress
from operator import itemgetter
from typing import Any, Callable, NamedTuple, Optional

from insights_engine.answers.series.series_rows import (
    FINEST,
    NOTHING,
    NULL,
    Columns,
    Row,
    TimeBucket,
    columns_of,
    nothing,
    sum_of,
    texts_of_percentiles,
    texts_of_totals,
)
from insights_engine.answers.series.timelines import OrderedSlices, Timeline, timelines
from insights_engine.base import plans
from insights_engine.exact import given
from insights_engine.exact.statement import Statement
from insights_engine.index import sessions
from insights_engine.index.cache import CACHE
from insights_engine.index.groups import Block, all_positions
from insights_engine.index.index_reader import (
    UNDECIDED_SHARE,
    Index,
    at_most,
    decided,
    open_index,
    prepare,
)
from insights_engine.language import tree
from insights_engine.sets import bitmaps

_FAILED = tree.TextCompare(tree.TraceText("status"), "=", "ERROR")
#: Matching traces of a time bucket in a block up to which numbers are taken one by one.
_FEW = 800


def of_index(
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
        return nothing(len(edges) - 1)
    index = open_index(plpy, statement, (node,), UNDECIDED_SHARE)
    if index is None:
        return None
    index.blocks = [
        block for block in index.blocks if block.last_ms >= edges[0] and block.first_ms < edges[-1]
    ]
    one = prepare(node)
    key = ("series", index.scope, one.text, unit, calendar) if one.lasting else None
    pending = _pending(index, statement.again(), node) if index.pending else ()
    collected = _Collected(index, edges, unit, key, [row["timestamp_ms"] for row in pending])
    # The cache leaves few blocks to look at, or none.
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


class KeptStretch(NamedTuple):
    """The cached columns of a stretch, see `_Stretch`."""

    #: Where the buckets begin, and the last one ends.
    edges: array[int]
    #: The blocks, and the positions of each, that the columns come from.
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


#: Overhead of the objects in memory.
_KEPT_BYTES = 1200


class KeptStretches(dict[int, KeptStretch]):
    """The cached stretches that begin with a block, by their start."""

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return sum(one.nbytes for one in self.values())


class _BlockSpan:
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
    """Successive time buckets with traces in the same blocks."""

    __slots__ = ("columns", "edges", "end", "first", "kept", "looked_at", "parts")

    def __init__(
        self, first: int, end: int, parts: Sequence[_BlockSpan], edges: array[int]
    ) -> None:
        self.first = first
        self.end = end
        self.parts = parts
        #: These two as in `KeptStretch`.
        self.edges = edges
        self.looked_at = tuple((part.block.block, part.universe) for part in parts)
        self.columns = None if parts else nothing(end - first)
        self.kept: Optional[KeptStretch] = None


class _Collected:
    """Time buckets to which the traces of blocks are added.

    Those of a stretch that one block alone has traces in are made from all of its traces
    at once; the others are filled by one block after the other.
    """

    def __init__(
        self, index: Index, edges: array[int], unit: str, key: Any, moments: Iterable[int]
    ) -> None:
        """``key`` of the cache, None: no caching; ``moments``: the times of pending traces."""
        self._index = index
        self._few = at_most(index.settings.added, _FEW)
        self._edges = edges
        self._unit = unit
        self._key = key
        self._sessions = sessions.Sessions(index)
        self._buckets: dict[int, TimeBucket] = {}
        last = len(edges) - 1
        parts = [
            _BlockSpan(
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
        known: Mapping[int, KeptStretches] = {} if key is None else CACHE.columns(key)
        for stretch in self._stretches:
            if stretch.parts:
                self._begin(stretch, known.get(stretch.parts[0].block.block, {}))
        #: The blocks that have to be added.
        self.lacking = [
            part for part in parts if part.whole or self._filled.find(1, part.first, part.end) >= 0
        ]

    def _divide(self, parts: Sequence[_BlockSpan]) -> Iterator[_Stretch]:
        """All buckets."""
        begin: dict[int, list[_BlockSpan]] = {}
        finish: dict[int, list[_BlockSpan]] = {}
        for part in parts:
            begin.setdefault(part.first, []).append(part)
            finish.setdefault(part.end, []).append(part)
        now: dict[int, _BlockSpan] = {}
        ends = sorted({0, len(self._edges) - 1, *begin, *finish})
        for first, end in zip(ends, ends[1:]):
            for part in finish.get(first, ()):
                del now[part.block.block]
            for part in begin.get(first, ()):
                now[part.block.block] = part
            yield _Stretch(first, end, tuple(now.values()), self._edges[first : end + 1])

    def _begin(self, stretch: _Stretch, known: Mapping[int, KeptStretch]) -> None:
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
        """Mark the time buckets of a stretch to be filled by one block after the other."""
        self._filled[stretch.first : stretch.end] = b"\1" * (stretch.end - stretch.first)

    def _bucket(self, number: int) -> TimeBucket:
        found = self._buckets.get(number)
        if found is None:
            found = self._buckets[number] = TimeBucket()
        return found

    def add(self, part: _BlockSpan, timeline: Timeline, matching: int, failed: int) -> None:
        """Add the traces of a block: those that match, and those that failed."""
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
        """Cache the columns, before pending traces are added."""
        found: dict[int, KeptStretches] = {}
        fresh = set()
        for stretch in self._stretches:
            if stretch.columns is None:
                numbers = range(stretch.first, stretch.end)
                stretch.columns = columns_of([self._row(number) for number in numbers])
            if stretch.parts:
                block = stretch.parts[0].block.block
                if stretch.kept is None:
                    stretch.kept = KeptStretch(stretch.edges, stretch.looked_at, stretch.columns)
                    fresh.add(block)
                found.setdefault(block, KeptStretches())[stretch.edges[0]] = stretch.kept
        if fresh and self._key is not None:
            # In place of what was kept of other stretches, which are no more.
            CACHE.keep(self._key, {block: found[block] for block in fresh})

    def _row(self, number: int) -> Row:
        bucket = self._buckets.get(number)
        return NOTHING if bucket is None else bucket.row(self._unit)

    def columns(self) -> Columns:
        """The columns of all time buckets."""
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

    def _in_order(
        self, part: _BlockSpan, timeline: Timeline, matching: int, failed: int
    ) -> _InOrder:
        numbers: Sequence[int] = ()
        if self._unit != sessions.TRACE:
            (by_position,) = self._sessions.numbers([part.block], [part.universe])
            numbers = timeline.in_order(by_position)
        sets = [timeline.ordered(bits) for bits in (part.universe, matching, matching & failed)]
        return _InOrder(timeline, sets, numbers)

    # ---------------------------------------------------- buckets of a single block

    def _single(self, traces: _InOrder, edges: Sequence[int]) -> Columns:
        """The columns of time buckets with traces in one block only."""
        timeline = traces.timeline
        places = timeline.ends_before(edges)
        runs = list(zip(places, places[1:]))
        used = len(timeline)
        matched = counts_of(traces.matching, runs, used)
        # Without those before the first of the buckets, and after the last.
        few = traces.matching & ((1 << places[-1]) - (1 << places[0]))
        many = [number for number, count in enumerate(matched) if count > self._few]
        counts = matched[:] if many else matched
        for number in many:
            start, end = runs[number]
            few &= ~((1 << end) - (1 << start))
            counts[number] = 0
        latencies, tokens, costs = _by_run(timeline, few, runs, counts)
        columns = [
            list(map(str, matched)),
            list(map(str, counts_of(traces.universe, runs, used))),
            list(map(str, counts_of(traces.failed, runs, used))),
            *texts_of_percentiles(latencies),
            [str(sum(numbers)) if numbers else NULL for numbers in tokens],
            texts_of_totals(costs),
        ]
        for number in many:
            bucket = TimeBucket()
            self._add_run(bucket, traces, *runs[number])
            for texts, text in zip(columns, bucket.row(self._unit)):
                texts[number] = text
        if self._unit != sessions.TRACE:
            for number, (start, end) in enumerate(runs):
                bucket = TimeBucket()
                sets = traces.part(start, end)
                self._add_sessions(bucket, traces.sessions[start:end], *sets)
                for texts, text in zip(columns, bucket.counts(self._unit)):
                    texts[number] = text
        return tuple(map(",".join, columns))

    # ---------------------------------------------------- buckets of several blocks

    def _add_buckets(self, traces: _InOrder, first: int, last: int) -> None:
        """Add the traces in some buckets, from a first one to before another."""
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

    def _add_run(self, bucket: TimeBucket, traces: _InOrder, start: int, end: int) -> None:
        """Add the traces at some places in time, which a bucket has of a block."""
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
        if bitmaps.count(matching) <= self._few:
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
            bucket.spent = (cost << ((exponent or 0) - FINEST)) + (bucket.spent or 0)

    def _add_few(
        self, bucket: TimeBucket, timeline: Timeline, start: int, end: int, matching: int
    ) -> None:
        """Add the numbers of a few traces one by one, which is quicker than by slices."""
        first, last, shift = start >> 3, (end + 7) >> 3, start & 7
        execution, tokens, costs = timeline.numbers
        ways: Sequence[tuple[OrderedSlices, array[Any], Callable[[Any], None]]] = (
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
        self, bucket: TimeBucket, numbers: Sequence[int], universe: int, matching: int, failed: int
    ) -> None:
        sets = (universe, matching, failed)
        if self._unit == sessions.SESSION_ALL:
            sets = (universe, universe & ~matching, universe & ~failed)
        for known, bits in zip(bucket.sessions, sets):
            known.update(bitmaps.chosen(numbers, bits))
            known.discard(0)

    def _add_odd(self, block: Block, odd: int) -> None:
        """Add costs that are no finite numbers to buckets that are being filled."""
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
        """Add a pending trace."""
        number = self._number(row["timestamp_ms"])
        if number is None:
            return
        bucket = self._bucket(number)
        (matching,) = row["matches"]
        matches = int(matching)
        failed = int(matching and row["failed"])
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


def counts_of(bits: int, runs: Sequence[tuple[int, int]], used: int) -> list[int]:
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
            counts = counts_of(having, runs, used)
        yield _cut(chosen(numbers), counts)


def _chooser(bits: int, used: int) -> Callable[[array[Any]], Sequence[Any]]:
    """A function that picks the members of a set from a column."""
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
    """Numbers cut into runs of these sizes."""
    ends = list(accumulate(counts))
    return [numbers[start:end] for start, end in zip([0, *ends], ends)]


def _pending(index: Index, statement: Statement, node: tree.Node) -> Sequence[Any]:
    """The pending traces in scope."""
    columns = (
        *("t.timestamp_ms", "t.execution_time_ms", "t.total_tokens", "t.total_cost"),
        *("t.session_id", "t.status = 'ERROR' as failed"),
    )
    sql = given.select(statement, index.pending, (node,), columns)
    return statement.run(index.plpy, sql)
