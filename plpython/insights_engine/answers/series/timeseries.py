"""Traces by time: how many, how many match, and what those that match were like.

Costs are summed without rounding between them, from the index; without it PostgreSQL
sums the decimals that they print as, which differs by less than one part in a billion
of what is summed.

With sessions as the unit, a bucket counts the sessions that have some trace in it: a
session matches in a bucket if some of its traces there do, or all of them.  Latencies,
tokens and costs are always those of the traces that match.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from insights_engine.answers.series import time_buckets
from insights_engine.answers.series.series_index import of_index
from insights_engine.answers.series.series_rows import (
    COLUMNS,
    NOTHING,
    PERCENTILES,
    Columns,
    columns_of,
    nothing,
    texts_of,
)
from insights_engine.base import plans
from insights_engine.exact.statement import Statement
from insights_engine.index import sessions
from insights_engine.language import tree
from insights_engine.language.errors import InsightsError


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


def series(
    plpy: Any,
    statement: Statement,
    node: tree.Node,
    width: time_buckets.Width,
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
            time_buckets.edges(plpy, width, time_zone, 0, 1)  # for its errors
            return _answer((), nothing(0))
        first_ms = extent[0] if first_ms is None else first_ms
        end_ms = extent[1] + 1 if end_ms is None else end_ms
        if end_ms <= first_ms:
            return _answer((), nothing(0))
    edges = time_buckets.edges(plpy, width, time_zone, first_ms, end_ms)
    within = [max(edges[0], first_ms), *edges[1:-1], min(edges[-1], end_ms)]
    columns = of_index(plpy, statement, node, array("q", within), unit, (width, time_zone))
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
    fractions = ", ".join(map(repr, PERCENTILES))
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
    found = [NOTHING] * (len(within) - 1)
    for number, total, matched, errors, latencies, tokens, cost in rows:
        found[int(number or 0) - 1] = (
            *(matched or "0", total or "0", errors or "0"),
            *texts_of(
                *_doubles(latencies),
                None if tokens is None else int(tokens),
                None if cost is None else float(cost),
            ),
        )
    return columns_of(found)


def _doubles(array: Optional[str]) -> Sequence[Optional[float]]:
    """The numbers of an array's text."""
    if array is None:
        return (None,) * len(PERCENTILES)
    return [float(number) for number in array.strip("{}").split(",")]
