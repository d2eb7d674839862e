"""Counting: one filter, or two filters and how they meet."""

from __future__ import annotations

from typing import Any

from insights_engine import statistics, tree
from insights_engine.statement import Statement


def count_sql(statement: Statement, node: tree.Node) -> str:
    """The statement that counts the traces matching ``node``."""
    return f"select count(*) as n\nfrom {statement.traces}\nwhere {statement.where(node)}"


def count(plpy: Any, statement: Statement, node: tree.Node) -> int:
    """How many traces match."""
    if statement.experiments == []:
        return 0
    return int(statement.run(plpy, count_sql(statement, node))[0]["n"])


def correlate_sql(
    statement: Statement, base: tree.Node, filter1: tree.Node, filter2: tree.Node
) -> str:
    """The statement that counts all four at once, in one snapshot.

    ``filter1`` and ``filter2`` include the base.  Each is a set of its own, so
    that its subqueries become joins; as mere flags of one scan they would have
    to be hashed or probed trace by trace.
    """
    sets = [
        f"f{number} as materialized (\n"
        f"select t.request_id\nfrom {statement.traces}\nwhere {statement.where(node)}\n)"
        for number, node in ((1, filter1), (2, filter2))
    ]
    return (
        f"with {sets[0]},\n{sets[1]}\n"
        "select\n"
        "    (select count(*) from f1) as filter1,\n"
        "    (select count(*) from f2) as filter2,\n"
        "    (select count(*) from f1 join f2 using (request_id)) as joint,\n"
        f"    ({count_sql(statement, base)}) as total"
    )


def correlate(
    plpy: Any, statement: Statement, base: tree.Node, filter1: tree.Node, filter2: tree.Node
) -> dict[str, Any]:
    """The counts of two filters and the statistics that follow from them."""
    counts = statistics.Counts(0, 0, 0, 0)
    if statement.experiments != []:
        sql = correlate_sql(statement, base, filter1, filter2)
        counts = statistics.Counts(**statement.run(plpy, sql)[0])
    found = statistics.associate(counts)
    return {
        "filter1_count": counts.filter1,
        "filter2_count": counts.filter2,
        "joint_count": counts.joint,
        "total_count": counts.total,
        "npmi": found.npmi,
        "npmi_smoothed": found.npmi_smoothed,
        "lift": found.lift,
        "phi": found.phi,
        "odds_ratio": found.odds_ratio,
        "odds_ratio_low": found.odds_ratio_low,
        "odds_ratio_high": found.odds_ratio_high,
        "p_value": found.p_value,
    }
