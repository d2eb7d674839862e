"""Traces by time: how many, how many match, and what those that match were like.

Latencies are told by percentiles as PostgreSQL's ``percentile_cont`` has them: between
the two nearest by rank, in a straight line.  Costs are summed without rounding between
them, from the index; without it PostgreSQL sums the decimals that they print as, which
differs by less than one part in a billion of what is summed.

With sessions as the unit, a bucket counts the sessions that have some trace in it: a
session matches in a bucket if some of its traces there do, or all of them.  Latencies,
tokens and costs are always those of the traces that match.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Callable, Optional

from insights_engine import bitmaps, buckets, plans, sessions, tree
from insights_engine.errors import InsightsError
from insights_engine.groups import Block
from insights_engine.index_reader import Index, decided, open_index, prepare
from insights_engine.statement import Statement
from insights_engine.timelines import Part, Sliced, Timeline, timelines

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

    def row(self, start_ms: int, unit: str) -> dict[str, Any]:
        """The row of a bucket that begins then."""
        if unit != sessions.TRACE:
            self.total, self.matched, self.errors = map(len, self.sessions)
            if unit == sessions.SESSION_ALL:
                self.matched, self.errors = self.total - self.matched, self.total - self.errors
        cost = None
        if self.spent is not None or self.costs:
            cost = total_of(self.costs, self.spent or 0)
        numbers = self.latencies.percentiles(_PERCENTILES)
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


def percentiles(ranked: Sequence[int], fractions: Sequence[float]) -> list[Optional[float]]:
    """Percentiles of ascending integers as ``percentile_cont`` has them; None of no numbers."""
    found: list[Optional[float]] = []
    for fraction in fractions if ranked else ():
        rank = fraction * (len(ranked) - 1)
        below, above = math.floor(rank), math.ceil(rank)
        low, high = float(ranked[below]), float(ranked[above])
        found.append(low if below == above else low + (rank - below) * (high - low))
    return found or [None] * len(fractions)


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
    index = open_index(plpy, statement, (node,))
    if index is None:
        return None
    index.blocks = [
        block for block in index.blocks if block.last_ms >= edges[0] and block.first_ms < edges[-1]
    ]
    filters = (prepare(node), prepare(_FAILED))
    collected = _Collected(index, edges, unit)
    ways = zip(index.blocks, timelines(index, index.blocks), decided(index, filters))
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
        size = (block.used + 7) >> 3
        sets = [timeline.ordered(bits) for bits in (universe, matching, matching & failed)]
        stored = [bits.to_bytes(size, "little") for bits in sets]
        numbers: Sequence[int] = ()
        if self._unit != sessions.TRACE:
            (by_position,) = self._sessions.numbers([block], [universe])
            numbers = timeline.in_order(by_position)
        edges = self._edges
        number = max(bisect_right(edges, timeline.time_ms(0)) - 1, 0)
        start = timeline.end_before(edges[number], 0)
        while start < len(timeline) and number + 1 < len(edges):
            began = timeline.time_ms(start)
            if began >= edges[number + 1]:
                number = bisect_right(edges, began) - 1
                if number + 1 >= len(edges):
                    break
            end = timeline.end_before(edges[number + 1], start)
            self._add_run(self._bucket(number), timeline, stored, numbers, start, end)
            start = end
            number += 1
        odd = timeline.odd & matching
        if odd:
            self._add_odd(block, odd)

    def _add_run(
        self,
        bucket: Bucket,
        timeline: Timeline,
        stored: Sequence[bytes],
        numbers: Sequence[int],
        start: int,
        end: int,
    ) -> None:
        """Adds the traces at some places in time, which a bucket has of a block."""
        first, last = start >> 3, (end + 7) >> 3
        mask = ((1 << (end - start)) - 1) << (start & 7)
        universe, matching, failed = (
            int.from_bytes(bits[first:last], "little") & mask for bits in stored
        )
        bucket.total += bitmaps.count(universe)
        if self._unit != sessions.TRACE:
            shift = start & 7
            self._add_sessions(
                bucket, numbers[start:end], universe >> shift, matching >> shift, failed >> shift
            )
        if not matching:
            return
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
