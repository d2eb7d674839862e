"""Makes up for changes that were not noted, without building the index anew.

What was missed has been written by transactions that had not ended when everything was last
known to be in order: ``insights.state.horizon`` is the oldest that may have run then.  The
rows that they left are known by their xmin, and what they deleted by the number of rows
that a trace had when it was indexed.  All such traces are noted, as their triggers should
have done.

Two steps, each in a transaction of the writer of the index.  The first moves
``insights.missed`` on to a number that is trusted from now on, and notes which
transactions are to be waited for; the index stays unused (``awaited``).  The second comes
when they all have ended, so that their rows are seen.
"""

from __future__ import annotations

from typing import Any, Callable

from insights_engine.base import plans
from insights_engine.language.errors import InsightsError

#: Numbers of transactions start anew after four thousand million; half of them are the past.
_MOST_TRANSACTIONS = 2**31 - 2**20


def trust_anew(plpy: Any) -> None:
    """Has what is missed from now on told from what was missed before.

    ``awaited`` says when everything before can be seen.
    """
    (row,) = plans.run(plpy, "select insights.unwatched() as trigger")
    if row["trigger"] is not None:
        raise InsightsError(
            f"Changes of traces go unnoticed: {row['trigger']}",
            "55000",
            hint="insights install makes the triggers anew; a table must have no children.",
        )
    # To exactly this number: a crash leaves the sequence where setval has put it, and
    # a standby shows it so.
    (moved,) = plans.run(
        plpy,
        "select pg_catalog.setval('insights.missed', greatest(m.last_value, s.trusted) + 1) as now"
        " from insights.state s, insights.missed m",
    )
    plans.run(
        plpy,
        "update insights.state set trusted = $1, fingerprint = insights.fingerprint(),"
        " identity = insights.identity()",
        ("bigint",),
        (moved["now"],),
    )
    # Each statement here is a subtransaction, whose number is given when it first writes: so
    # this one's is higher than those of all that missed something before.  A row shows
    # the lower half of it.
    plans.run(
        plpy,
        "update insights.state set awaited = (n.own + ((xmin::text::bigint - n.own) & $1) + 1)"
        "::text::xid8 from (select pg_catalog.pg_current_xact_id()::text::bigint as own) n",
        ("bigint",),
        (2**32 - 1,),
    )


def awaited_have_ended(plpy: Any) -> bool:
    """Whether the transactions have ended that `trust_anew` left to be waited for."""
    (row,) = plans.run(
        plpy,
        "select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) >= s.awaited as ended"
        " from insights.state s",
    )
    return row["ended"] is not False


def catch_up(plpy: Any, schema: str, mark_to_be_built: Callable[[Any], None]) -> bool:
    """Notes what was missed, if anything was; whether there is nothing to wait for.

    An index of another database, which a dump has brought here, is marked as to be built anew.
    """
    state = _state(plpy)
    if not state["built"] or (state["intact"] and state["awaited"] is None):
        return True
    if state["another"]:
        mark_to_be_built(plpy)
        return True
    if state["awaited"] is None or not state["intact"]:
        trust_anew(plpy)
        return False
    if not awaited_have_ended(plpy):
        return False
    _note_changes(plpy, schema)
    plans.run(plpy, "update insights.state set horizon = awaited, awaited = null")
    return True


def _state(plpy: Any) -> dict[str, Any]:
    (row,) = plans.run(
        plpy,
        "select s.built, s.awaited::text as awaited,"
        " s.trusted >= m.last_value and s.fingerprint = insights.fingerprint() as intact,"
        " s.identity <> insights.identity()"
        " or pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint"
        " - s.horizon::text::bigint not between 0 and $1 as another"
        " from insights.state s, insights.missed m",
        ("bigint",),
        (_MOST_TRANSACTIONS,),
    )
    return dict(row)


def _note_changes(plpy: Any, schema: str) -> None:
    """Notes the traces that have rows since the horizon, other numbers of rows, or are gone."""
    recent = "pg_catalog.age({}.xmin) <= pg_catalog.age(s.horizon::xid)"
    changed = " union all ".join(
        f"select r.{key} from {schema}.{table} r, insights.state s where {recent.format('r')}{more}"
        for table, key, more in (
            ("trace_info", "request_id", ""),
            ("trace_tags", "request_id", ""),
            ("trace_request_metadata", "request_id", ""),
            ("spans", "trace_id", ""),
            ("assessments", "trace_id", ""),
            ("entity_associations", "source_id", " and r.source_type = 'trace'"),
        )
    )
    # The rows that Reader counts (rows.py).
    counted = " union all ".join(
        (
            f"select r.request_id as trace_id from {schema}.trace_tags r",
            f"select r.request_id from {schema}.trace_request_metadata r",
            f"select r.trace_id from {schema}.spans r"
            f" join {schema}.trace_info t on t.request_id = r.trace_id"
            " and t.experiment_id = r.experiment_id",
            f"select r.trace_id from {schema}.assessments r"
            " where r.assessment_type in ('feedback', 'expectation', 'issue')",
            f"select r.source_id from {schema}.entity_associations r where r.source_type = 'trace'"
            " and r.destination_type in ('run', 'prompt_version')",
        )
    )
    # Whole tables are read, which indexes only make slower.
    plpy.execute("select pg_catalog.set_config('enable_seqscan', 'on', true)")
    plpy.execute(
        "insert into insights.pending (trace_id)"
        f" select n.trace_id from ({changed}"
        " union all select coalesce(i.trace_id, t.request_id) from insights.trace i"
        f" full join {schema}.trace_info t on t.request_id = i.trace_id"
        " where i.trace_id is null or t.request_id is null"
        " union all select i.trace_id from insights.trace i left join ("
        f"select c.trace_id, count(*) as n from ({counted}) c group by c.trace_id) c"
        " on c.trace_id = i.trace_id where i.row_count <> coalesce(c.n, 0)"
        ") n (trace_id) group by n.trace_id on conflict do nothing"
    )
    plpy.execute("select pg_catalog.set_config('enable_seqscan', 'off', true)")
