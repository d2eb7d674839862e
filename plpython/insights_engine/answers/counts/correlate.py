"""Counts of one filter, and the correlation of two."""

from __future__ import annotations

from typing import Any

from insights_engine.exact.statement import Statement
from insights_engine.index import indexed, sessions
from insights_engine.language import tree
from insights_engine.stats import statistics


def count_sql(statement: Statement, node: tree.Node) -> str:
    """The query that counts the traces matching ``node``."""
    return f"select count(*)\nfrom {statement.traces}\nwhere {statement.where(node)}"


def count(plpy: Any, statement: Statement, node: tree.Node, unit: str = sessions.TRACE) -> int:
    """How many traces, or sessions, match."""
    if statement.experiments == []:
        return 0
    if unit != sessions.TRACE:
        return sessions.count(plpy, statement, node, unit)
    counts = indexed.counts(plpy, statement, [node])
    if counts is not None:
        return counts[0]
    return _numbers(plpy, statement, [count_sql(statement, node)])[0]


def _numbers(plpy: Any, statement: Statement, queries: list[str], prefix: str = "") -> list[int]:
    """The results of some counting queries, in one statement and snapshot."""
    columns = ",\n".join(f"({query})::text" for query in queries)
    rows = statement.run_in_parallel(plpy, f"{prefix}select array[\n{columns}\n]")
    return [int(number or 0) for number in rows[0]]


def correlate(
    plpy: Any,
    statement: Statement,
    base: tree.Node,
    filter1: tree.Node,
    filter2: tree.Node,
    unit: str = sessions.TRACE,
) -> dict[str, Any]:
    """The counts of two filters and the statistics that follow from them.

    ``filter1`` and ``filter2`` include the base.
    """
    if unit == sessions.TRACE:
        return associated(*_four_counts(plpy, statement, base, filter1, filter2))
    table = sessions.pair_counts(plpy, statement, (base, filter1, filter2), unit)
    return associated(table[1][1], table[2][2], table[1][2], table[0][0])


def associated(filter1: int, filter2: int, joint: int, total: int) -> dict[str, Any]:
    """The columns of a correlation with these counts."""
    counts = statistics.Counts(filter1, filter2, joint, total)
    found = statistics.associate(counts)
    return {
        "filter1_count": counts.filter1,
        "filter2_count": counts.filter2,
        "joint_count": counts.joint,
        "total_count": counts.total,
        **vars(found),
    }


def _four_counts(
    plpy: Any, statement: Statement, base: tree.Node, filter1: tree.Node, filter2: tree.Node
) -> list[int]:
    """The number of traces that match the first filter, the second, both, and the base.

    From MLflow's tables each filter is a set of its own, so that its subqueries
    become joins; as mere flags of one scan they would have to be hashed or
    probed trace by trace.
    """
    if statement.experiments == []:
        return [0, 0, 0, 0]
    found = indexed.counts(plpy, statement, [filter1, filter2, base], joint=(0, 1))
    if found is not None:
        return [found[0], found[1], found[3], found[2]]
    sets = ",\n".join(
        f"{name} as materialized (\n"
        f"select t.request_id\nfrom {statement.traces}\nwhere {statement.where(node)}\n)"
        for name, node in (("f1", filter1), ("f2", filter2))
    )
    queries = [
        "select count(*) from f1",
        "select count(*) from f2",
        # Not a join: estimates may be far off, and nested loops then never end.
        "select count(*) from (select * from f1 intersect select * from f2) both_match",
        count_sql(statement, base),
    ]
    return _numbers(plpy, statement, queries, f"with {sets}\n")
