"""Traces by time: how many, how many match, and what those that match were like.

Latencies are told by percentiles as PostgreSQL's ``percentile_cont`` has them: between
the two nearest by rank, in a straight line.  Costs are summed without rounding between,
from the index; PostgreSQL sums the decimals that its tables show.

With sessions as the unit, a bucket counts the sessions that have some trace in it: a
session matches in a bucket if some of its traces there do, or all of them.  Latencies,
tokens and costs are always those of the traces that match.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import compress
from typing import Any, Optional

from insights_engine import bitmaps, buckets, indexed, plans, sessions, tree
from insights_engine.bounds import Block
from insights_engine.errors import InsightsError
from insights_engine.indexed import Index
from insights_engine.statement import Statement
from insights_engine.timelines import Timeline, timelines

_PERCENTILES = (0.5, 0.95, 0.99)
_FAILED = tree.TextCompare(tree.TraceText("status"), "=", "ERROR")
#: From so many latencies on, equal ones are counted before they are sorted.
_MANY = 2000

# What is known of a trace, bit by bit: it is there, it matches, it matches and failed.
_THERE, _MATCHES, _FAILS = 1, 3, 7
#: Of such a byte whether the trace matches, as 0 or 1.
_MATCHING = bytes(byte >> 1 & 1 for byte in range(256))


class Bucket:
    """What is known of the traces of a bucket."""

    __slots__ = ("costs", "errors", "latencies", "matched", "sessions", "tokens", "total")

    def __init__(self) -> None:
        self.total = self.matched = self.errors = 0
        self.latencies: list[int] = []
        self.tokens: Optional[int] = None
        self.costs: list[float] = []
        #: By number: those with a trace, with one that matches, with one that matches
        #: and failed; or with ``session_all`` with one that does not.
        self.sessions: tuple[set[int], set[int], set[int]] = (set(), set(), set())

    def add_tokens(self, tokens: int) -> None:
        """Adds the tokens of one or more traces."""
        self.tokens = tokens + (self.tokens or 0)

    def row(self, start_ms: int, unit: str) -> dict[str, Any]:
        """The row of a bucket that begins then."""
        if unit != sessions.TRACE:
            self.total, self.matched, self.errors = map(len, self.sessions)
            if unit == sessions.SESSION_ALL:
                self.matched, self.errors = self.total - self.matched, self.total - self.errors
        numbers = percentiles(self.latencies, _PERCENTILES)
        cost = total_of(self.costs) if self.costs else None
        return _row(start_ms, self.matched, self.total, self.errors, numbers, self.tokens, cost)


def _row(
    start_ms: int,
    matched: int,
    total: int,
    errors: int,
    latencies: Sequence[Optional[float]],
    tokens: Optional[int],
    cost: Optional[float],
) -> dict[str, Any]:
    if tokens is not None and not -(2**63) <= tokens < 2**63:
        raise InsightsError("The sum of the tokens is out of range for bigint.", "22003")
    return {
        "start_ms": start_ms,
        "matched": matched,
        "total": total,
        "rate": matched / total if total else None,
        "errors": errors,
        "error_rate": errors / matched if matched else None,
        "p50_ms": latencies[0],
        "p95_ms": latencies[1],
        "p99_ms": latencies[2],
        "tokens": tokens,
        "cost": cost,
    }


def percentiles(numbers: Sequence[int], fractions: Sequence[float]) -> list[Optional[float]]:
    """Percentiles as ``percentile_cont`` has them; None of no numbers."""
    if not numbers:
        return [None] * len(fractions)
    last = len(numbers) - 1
    if last < _MANY:
        ranked: Sequence[int] = sorted(numbers)
        ends: Sequence[int] = ()
    else:
        counts = Counter(numbers)
        ranked = sorted(counts)
        ends, passed = [], 0
        for number in ranked:
            passed += counts[number]
            ends.append(passed)
    found: list[Optional[float]] = []
    for fraction in fractions:
        rank = fraction * last
        below, above = math.floor(rank), math.ceil(rank)
        if ends:
            low = float(ranked[bisect_right(ends, below)])
            high = float(ranked[bisect_right(ends, above)])
        else:
            low, high = float(ranked[below]), float(ranked[above])
        found.append(low if below == above else low + (rank - below) * (high - low))
    return found


def total_of(numbers: Sequence[float]) -> float:
    """The sum of doubles, rounded once."""
    try:
        return math.fsum(numbers)
    except ValueError:  # both infinities
        return math.nan
    except OverflowError:
        try:
            return float(sum(map(Fraction, numbers)))
        except OverflowError:
            return math.inf if sum(map(Fraction, numbers)) > 0 else -math.inf


def series(
    plpy: Any,
    statement: Statement,
    node: tree.Node,
    width: buckets.Width,
    time_zone: Optional[str],
    first_ms: Optional[int],
    end_ms: Optional[int],
    unit: str,
) -> Iterator[dict[str, Any]]:
    """A row for each bucket from ``first_ms`` to before ``end_ms``, None: as far as traces go."""
    if first_ms is not None and end_ms is not None and end_ms <= first_ms:
        raise InsightsError("start_time must be before end_time.")
    if first_ms is None or end_ms is None:
        extent = _extent(plpy, statement)
        if extent is None:
            buckets.edges(plpy, width, time_zone, 0, 1)  # for its errors
            return
        first_ms = extent[0] if first_ms is None else first_ms
        end_ms = extent[1] + 1 if end_ms is None else end_ms
        if end_ms <= first_ms:
            return
    edges = buckets.edges(plpy, width, time_zone, first_ms, end_ms)
    within = [max(edges[0], first_ms), *edges[1:-1], min(edges[-1], end_ms)]
    found = _of_index(plpy, statement, node, within, unit)
    if found is None:
        yield from _of_tables(plpy, statement, node, edges, within, unit)
        return
    nothing = Bucket()
    for number, start_ms in enumerate(edges[:-1]):
        yield found.get(number, nothing).row(start_ms, unit)


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
    plpy: Any, statement: Statement, node: tree.Node, edges: Sequence[int], unit: str
) -> Optional[dict[int, Bucket]]:
    """The buckets with traces by number, if the index is of use; bucket n ends at edge n + 1."""
    if statement.experiments == []:
        return {}
    index = indexed.open_index(plpy, statement, (node,))
    if index is None:
        return None
    index.blocks = [
        block for block in index.blocks if block.last_ms >= edges[0] and block.first_ms < edges[-1]
    ]
    filters = (indexed.prepare(node), indexed.prepare(_FAILED))
    collected = _Collected(index, edges, unit)
    ways = zip(index.blocks, timelines(index, index.blocks), indexed.decided(index, filters))
    for block, timeline, (matching, failed) in ways:
        collected.add(block, timeline, matching, failed)
    if index.overcharged:
        return None
    if index.pending:
        collected.add_pending(statement.again(), node)
    return collected.buckets


class _Collected:
    """Buckets that fill with the traces of blocks."""

    def __init__(self, index: Index, edges: Sequence[int], unit: str) -> None:
        self._index = index
        self._edges = edges
        self._unit = unit
        self._sessions = sessions.Sessions(index)
        self.buckets: dict[int, Bucket] = {}

    def _bucket(self, number: int) -> Bucket:
        found = self.buckets.get(number)
        if found is None:
            found = self.buckets[number] = Bucket()
        return found

    def add(self, block: Block, timeline: Timeline, matching: int, failed: int) -> None:
        """Adds the traces of a block: those that match, and those that failed."""
        universe = self._index.universe(block)
        codes = _in_order(timeline, block.used, (universe, matching, matching & failed))
        chosen = codes.translate(_MATCHING)
        latencies, tokens, costs = (
            _both(chosen, there) if matching else b"" for there in timeline.there
        )
        times = timeline.times
        numbers: Sequence[int] = ()
        if self._unit != sessions.TRACE:
            (by_position,) = self._sessions.numbers([block], [universe])
            numbers = [by_position[place] for place in timeline.order]
        edges = self._edges
        number = max(bisect_right(edges, times[0]) - 1, 0)
        start = bisect_left(times, edges[number])
        while start < len(times) and number + 1 < len(edges):
            end = bisect_left(times, edges[number + 1], start)
            if end > start:
                bucket = self._bucket(number)
                part = codes[start:end]
                self._count(bucket, part, numbers[start:end])
                if matching:
                    places = slice(start, end)
                    execution, spent, cost = timeline.numbers
                    bucket.latencies += compress(execution[places], latencies[places])
                    if 1 in tokens[places]:
                        bucket.add_tokens(sum(compress(spent[places], tokens[places])))
                    bucket.costs += compress(cost[places], costs[places])
            start = end
            number += 1
        odd = timeline.odd & matching
        if odd:
            self._add_odd(block, odd)

    def _count(self, bucket: Bucket, part: bytes, numbers: Sequence[int]) -> None:
        failed = part.count(_FAILS)
        bucket.matched += part.count(_MATCHES) + failed
        bucket.total += len(part) - part.count(0)
        bucket.errors += failed
        if self._unit == sessions.TRACE:
            return
        for known, mask in zip(bucket.sessions, self._masks()):
            known.update(compress(numbers, part.translate(mask)))
            known.discard(0)

    def _masks(self) -> Sequence[bytes]:
        return _MASKS_ALL if self._unit == sessions.SESSION_ALL else _MASKS

    def _add_odd(self, block: Block, odd: int) -> None:
        """Adds costs that are no finite numbers."""
        index = self._index
        for row in plans.run(
            index.plpy,
            f"select t.timestamp_ms, t.total_cost from {index.schema}.trace_info t"
            " where t.request_id = any($1)",
            ("text[]",),
            (index.ids([block], [odd]),),
        ):
            number = self._number(row["timestamp_ms"])
            if number is not None:
                self._bucket(number).costs.append(row["total_cost"])

    def _number(self, time_ms: int) -> Optional[int]:
        if not self._edges[0] <= time_ms < self._edges[-1]:
            return None
        return bisect_right(self._edges, time_ms) - 1

    def add_pending(self, statement: Statement, node: tree.Node) -> None:
        """Adds the traces that have to be asked about one by one."""
        condition = statement.condition(node, "probe")
        given = statement.params.add(self._index.pending, "text[]")
        for row in statement.run(
            self._index.plpy,
            "select t.timestamp_ms, t.execution_time_ms, t.total_tokens, t.total_cost,"
            f" t.session_id, t.status = 'ERROR' as failed, {condition} as matches"
            f" from {statement.traces} where t.request_id = any({given}) and {statement.scope()}",
        ):
            number = self._number(row["timestamp_ms"])
            if number is None:
                continue
            bucket = self._bucket(number)
            code = _THERE if not row["matches"] else _FAILS if row["failed"] else _MATCHES
            session_id = row["session_id"]
            session = 0
            if self._unit != sessions.TRACE and session_id is not None:
                session = self._sessions.number(session_id)
            self._count(bucket, bytes((code,)), (session,))
            if row["matches"]:
                if row["execution_time_ms"] is not None:
                    bucket.latencies.append(row["execution_time_ms"])
                if row["total_tokens"] is not None:
                    bucket.add_tokens(row["total_tokens"])
                if row["total_cost"] is not None:
                    bucket.costs.append(row["total_cost"])


# Which traces' sessions are collected, for Bucket.sessions.
_MASKS = tuple(
    bytes(int(code in codes) for code in range(256))
    for codes in ((_THERE, _MATCHES, _FAILS), (_MATCHES, _FAILS), (_FAILS,))
)
_MASKS_ALL = tuple(
    bytes(int(code in codes) for code in range(256))
    for codes in ((_THERE, _MATCHES, _FAILS), (_THERE,), (_THERE, _MATCHES))
)


def _in_order(timeline: Timeline, used: int, sets: Sequence[int]) -> bytes:
    """A byte for each trace in the order of time: bit n for the n-th set."""
    codes = 0
    for bit, members in enumerate(sets):
        codes |= int.from_bytes(bitmaps.flags(members, used), "little") << bit
    return bytes(map(codes.to_bytes(used, "little").__getitem__, timeline.order))


def _both(first: bytes, second: bytes) -> bytes:
    both = int.from_bytes(first, "little") & int.from_bytes(second, "little")
    return both.to_bytes(len(first), "little")


# ----------------------------------------------------------- from MLflow's tables


def _of_tables(
    plpy: Any,
    statement: Statement,
    node: tree.Node,
    edges: Sequence[int],
    within: Sequence[int],
    unit: str,
) -> Iterator[dict[str, Any]]:
    """The rows, by one statement over MLflow's tables."""
    add = statement.params.add
    matching = (
        f"select t.request_id from {statement.traces}\nwhere {statement.where(node)}"
        f" and t.timestamp_ms >= {add(within[0], 'bigint')}"
        f" and t.timestamp_ms < {add(within[-1], 'bigint')}"
    )
    matches = "m.request_id is not null"
    failed = f"{matches} and t.status = 'ERROR'"
    if unit == sessions.TRACE:
        counts = [
            "count(*)",
            f"count(*) filter (where {matches})",
            f"count(*) filter (where {failed})",
        ]
    else:
        of = "count(distinct t.session_id)"
        counts = [of]
        for condition in (matches, failed):
            if unit == sessions.SESSION_ALL:
                counts.append(f"{of} - {of} filter (where ({condition}) is not true)")
            else:
                counts.append(f"{of} filter (where {condition})")
    fractions = ", ".join(map(repr, _PERCENTILES))
    of_matching = f"filter (where {matches})"
    columns = [
        f"pg_catalog.width_bucket(t.timestamp_ms, {add(list(within), 'bigint[]')})",
        *counts,
        f"percentile_cont(array[{fractions}]) within group"
        f" (order by t.execution_time_ms::float8) {of_matching}",
        f"sum(t.total_tokens) {of_matching}",
        # As decimals, whose sum depends on no order of the rows.
        f"sum(t.total_cost::text::numeric) {of_matching}",
    ]
    texts = ", ".join(f"({column})::text" for column in columns)
    rows = statement.run_in_parallel(
        plpy,
        f"with m as materialized (\n{matching}\n)\nselect array[{texts}]\n"
        f"from {statement.traces} left join m on m.request_id = t.request_id\n"
        f"where {statement.scope()} and t.timestamp_ms >= {add(within[0], 'bigint')}"
        f" and t.timestamp_ms < {add(within[-1], 'bigint')}\n"
        f"group by {columns[0]}",
    )
    found = {int(row[0] or 0) - 1: row[1:] for row in rows}
    for number, start_ms in enumerate(edges[:-1]):
        total, matched, errors, latencies, tokens, cost = found.get(
            number, ["0", "0", "0", None, None, None]
        )
        yield _row(
            start_ms,
            int(matched or 0),
            int(total or 0),
            int(errors or 0),
            _doubles(latencies),
            None if tokens is None else int(tokens),
            None if cost is None else float(cost),
        )


def _doubles(array: Optional[str]) -> Sequence[Optional[float]]:
    """The numbers of an array's text."""
    if array is None:
        return (None,) * len(_PERCENTILES)
    return [float(number) for number in array.strip("{}").split(",")]
