"""Filters that MLflow's own indexes narrow down to a few traces.

A trace's id, a session and the time a trace began have indexes.  Where a filter
requires one of them and few traces have it, looking at those few is quicker than
all that our index would need to be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from insights_engine.base import plans
from insights_engine.exact.statement import Statement
from insights_engine.language import tree

#: Traces that exact SQL may have to recheck one by one, spans included.
FEW = 100

TIME = tree.TraceNumber("timestamp_ms")
_ID = tree.TraceText("trace_id")
_SESSION = tree.TraceText("session_id")


def find(plpy: Any, statement: Statement, node: tree.Node) -> Optional[tuple[list[str], list[str]]]:
    """All traces that match, surely and perhaps; None if they may be many.

    ``statement`` has no parameters yet, and gets some.
    """
    experiments = statement.experiments
    items = tree.conjuncts(node)
    # MLflow's index on sessions begins with the experiment.
    fields = (_ID,) if experiments is None else (_ID, _SESSION)
    names = [item for item in items if _names(item, fields)]
    bounds = time_bounds(node)
    order = ""
    if not names:
        if not any(map(_lower, bounds)) or (experiments is not None and len(experiments) > 1):
            return None
        # Lest the planner hope to meet enough of them early in the table, where the
        # oldest are; this order has an index, in one experiment as in all.
        order = " order by t.timestamp_ms desc"
    narrow = names + bounds
    where = [statement.scope(), *(statement.condition(item, "probe") for item in narrow)]
    sql = (
        f"select t.request_id from {statement.traces} where {' and '.join(where)}{order}"
        f" limit {statement.params.add(FEW + 1, 'bigint')}"
    )
    rows = plans.run(plpy, sql, statement.params.types, statement.params.values)
    if len(rows) > FEW:
        return None
    ids = [row["request_id"] for row in rows]
    return (ids, []) if len(narrow) == len(items) else ([], ids)


def time_bounds(node: tree.Node) -> list[tree.Node]:
    """What a filter requires of the time a trace began."""
    return [
        item
        for item in tree.conjuncts(node)
        if isinstance(item, (tree.NumberCompare, tree.Between)) and item.field == TIME
    ]


def _lower(bound: tree.Node) -> bool:
    """Whether it excludes all that is older than some time, as newest first would not."""
    if isinstance(bound, tree.Between):
        return not bound.negated
    return isinstance(bound, tree.NumberCompare) and bound.op in (">", ">=", "=")


def _names(item: tree.Node, fields: Sequence[tree.TraceText]) -> bool:
    """Whether it requires one of some values of one of the fields."""
    if isinstance(item, tree.In):
        return not item.negated and item.field in fields
    return isinstance(item, tree.TextCompare) and item.op == "=" and item.field in fields
