"""Refreshing, building, merging and verifying the index."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.semantics.strategies import scenario_of
from tests.semantics.test_index_equals_oracle import happen
from tests.semantics.world import (
    SESSION_METADATA,
    Assessment,
    Experiment,
    Span,
    Trace,
    World,
    attributes,
    delete_traces,
    load,
    replace_traces,
)
from tests.sql.conftest import checked

Connection = psycopg.Connection[Any]


def refresh(connection: Connection, max_traces: int = 5000) -> dict[str, int]:
    """One call; it must not have been busy."""
    cursor = connection.execute("select * from insights_refresh(%s)", (max_traces,))
    row = cursor.fetchone()
    assert row is not None
    assert cursor.description is not None
    found = dict(zip([column.name for column in cursor.description], row, strict=True))
    assert not found.pop("busy")
    return found


def problems(connection: Connection) -> list[tuple[str | None, str]]:
    return connection.execute("select * from insights_verify()").fetchall()


def one(connection: Connection, query: str, *values: Any) -> Any:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def blocks(connection: Connection) -> list[tuple[int, int, int]]:
    """(experiment, positions, live ones) of every block."""
    return connection.execute(
        "select experiment_id, used, live_count from insights.block order by 1, 2, 3"
    ).fetchall()


def build(connection: Connection, batch: int) -> int:
    """Builds the index in batches; how many traces they had."""
    indexed = 0
    while True:
        row = connection.execute("select * from insights.build_batch(%s)", (batch,)).fetchone()
        assert row is not None
        indexed += row[0]
        assert row[0] <= batch
        if row[1]:
            return int(indexed)


@pytest.fixture
def world(module_conn: Connection) -> Callable[..., Connection]:
    """Loads traces into an index that was empty."""

    def loaded(*traces: Trace) -> Connection:
        numbers = {1, 2, 3} | {trace.experiment_id for trace in traces}
        load(module_conn, World(tuple(Experiment(n) for n in sorted(numbers)), traces))
        return module_conn

    load(module_conn, World((), ()))
    module_conn.execute("call insights_rebuild()")
    refresh(module_conn)
    return loaded


def trace(number: int, experiment: int = 1, **rest: Any) -> Trace:
    return Trace(f"t{number:05}", experiment, 1000 * number, **rest)


def span(number: int, name: str | None = "s", **values: Any) -> Span:
    return Span(f"s{number}", attributes(**values), name=name, end_ns=number)


# --------------------------------------------------------------------- exactness


@pytest.mark.parametrize("seed", range(25))
def test_the_index_is_right_after_any_course_of_events(module_conn: Connection, seed: int) -> None:
    dice = Random(seed)
    hostile = scenario_of(dice, questions=1).world
    load(module_conn, World(hostile.experiments, ()))
    known: dict[str, Trace] = {}
    for _ in range(15):
        event = happen(module_conn, dice, hostile, known)
        assert problems(module_conn) == [], event
    while refresh(module_conn)["pending"]:
        pass
    assert problems(module_conn) == []
    assert one(module_conn, "select count(*) from insights.trace") == len(known)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_built_is_what_is_refreshed(module_conn: Connection, seed: int) -> None:
    load(module_conn, scenario_of(Random(seed), questions=1).world)
    while refresh(module_conn)["pending"]:
        pass
    query = """
        select t.kind, t.key, t.role, t.slot, t.value, s.type, s.name, s.status, i.trace_id
        from insights.posting p
        join insights.term t using (term)
        left join insights.signature s on s.signature = t.signature
        join insights.trace i using (block)
        where insights_test_has(p.members, i.position)
        order by t.kind, t.key, t.role, t.slot, t.value, s.type, s.name, s.status, i.trace_id
    """
    module_conn.execute("""
        create or replace function insights_test_has(members bytea, at int) returns boolean
        language plpython3u as $$
        from insights_engine.sets import bitmaps
        return bool(bitmaps.decode(members) >> at & 1)
        $$
    """)
    refreshed = module_conn.execute(query).fetchall()
    module_conn.execute("call insights_rebuild(7)")
    assert problems(module_conn) == []
    assert module_conn.execute(query).fetchall() == refreshed != []


def test_traces_without_anything_are_indexed(world: Callable[..., Connection]) -> None:
    conn = world(trace(1))
    assert refresh(conn) == {"indexed": 1, "removed": 0, "merged": 0, "pending": 0}
    assert conn.execute("select spans, assessments from insights.trace").fetchall() == [
        (None, None)
    ]
    assert problems(conn) == []


def test_values_beyond_the_limit_share_buckets(world: Callable[..., Connection]) -> None:
    spans = tuple(span(n, k=f"v{n}") for n in range(1300))
    conn = world(*[trace(n, spans=spans) for n in range(5)])
    refresh(conn)
    assert one(conn, 'select "values" from insights.vocabulary where key = %s', "k") == 1000
    count = "select count(*) from insights.term where key = 'k' and role = %s"
    assert one(conn, count, "v") == 1000
    assert one(conn, count, "h") > 250
    known = one(
        conn,
        "select value from insights.term where key = 'k' and role = 'v'"
        " and value not in ('v0', 'v1299') limit 1",
    )
    spans = (span(1, k=known), span(2, k="new"))
    replace_traces(conn, [trace(9000, spans=spans)])
    refresh(conn)
    assert one(conn, count, "v") == 1000
    assert problems(conn) == []
    for value, expected in ((known, 6), ("new", 1), ("v0", 5), ("v1299", 5), ("v1300", 0)):
        filter = f"span.attributes['k'] = '{value}'"
        assert one(conn, "select insights_count(null::text[], %s)", filter) == expected


def test_where_values_are_unique_the_frequent_ones_get_terms(
    world: Callable[..., Connection],
) -> None:
    frequent = [trace(n, tags={"id": "often"}) for n in range(5)]
    conn = world(*frequent, *[trace(10 + n, tags={"id": f"v{n}"}) for n in range(4100)])
    refresh(conn)
    values = "select array_agg(value) from insights.term where key = 'id' and role = 'v'"
    assert one(conn, values) == ["often"]
    replace_traces(conn, [trace(9000, tags={"id": "often"}), trace(9001, tags={"id": "v4099"})])
    refresh(conn)
    assert one(conn, values) == ["often"]
    assert problems(conn) == []
    for value, expected in (("often", 6), ("v4099", 2), ("v0", 1), ("v4100", 0)):
        assert one(conn, "select insights_count(null::text[], %s)", f"tag.id = '{value}'") == (
            expected
        )


def test_names_beyond_the_limit_share_signatures(world: Callable[..., Connection]) -> None:
    spans = tuple(replace(span(n, f"name {n}", n=n), type=f"T{n % 3}") for n in range(4500))
    conn = world(trace(1, spans=spans), trace(2, spans=(span(1, "x" * 251, k="v"),)))
    refresh(conn)
    assert one(conn, "select count(*) from insights.signature where bucket is null") == 4000
    assert one(conn, "select count(*) from insights.signature where name = %s", "x" * 251) == 0
    assert problems(conn) == []
    filters = ("count(span.name = 'name 4400') = 1", f"span.name = '{'x' * 251}'")
    for filter in filters:
        assert one(conn, "select insights_count(null::text[], %s)", filter) == 1
    # What is known stays, what is not goes into the same bucket again.
    rows = one(conn, "select count(*) from insights.signature")
    replace_traces(conn, [trace(3, spans=spans)])
    refresh(conn)
    assert one(conn, "select count(*) from insights.signature") == rows
    assert problems(conn) == []


def test_the_order_in_which_spans_are_read_does_not_matter(
    world: Callable[..., Connection],
) -> None:
    conn = world(trace(1, spans=tuple(span(n, f"name {n}", n=n) for n in range(5))))
    refresh(conn)
    with conn.transaction(force_rollback=True):
        # Moves a row behind the others.
        conn.execute("set local session_replication_role = replica")
        conn.execute("update spans set content = content where name = 'name 0'")
        assert problems(conn) == []
        conn.execute("set local enable_indexscan = off")
        conn.execute("set local enable_bitmapscan = off")
        assert problems(conn) == []


def test_long_contents_are_read_one_by_one_and_the_longest_not_at_all(
    world: Callable[..., Connection],
) -> None:
    long = Span("long", attributes(k="v", text="x" * 100_000), name="long")
    longest = Span("longest", attributes(k="w", text="x" * 4_200_000), name="longest")
    conn = world(trace(1, spans=(long, longest, span(1, k="u"))))
    refresh(conn)
    found = conn.execute(
        "select t.value from insights.term t where key = 'k' and role = 'v' order by 1"
    ).fetchall()
    assert found == [("u",), ("v",)]
    for value in "uvw":
        filter = f"span.attributes['k'] = '{value}'"
        assert one(conn, "select insights_count(null::text[], %s)", filter) == 1
    assert problems(conn) == []


def test_a_trace_of_very_many_spans(world: Callable[..., Connection]) -> None:
    spans = tuple(span(n, k=n % 7, unique=f"u{n}") for n in range(5000))
    conn = world(trace(1, spans=spans), trace(2, spans=spans[:3]))
    refresh(conn)
    assert problems(conn) == []
    assert one(conn, "select insights_count(null::text[], 'count() = 5000')") == 1


# --------------------------------------------------------- blocks, and their merging


def test_each_experiment_has_its_blocks(world: Callable[..., Connection]) -> None:
    conn = world(*[trace(n, experiment=n % 3 + 1) for n in range(10)])
    refresh(conn)
    assert blocks(conn) == [(1, 4, 4), (2, 3, 3), (3, 3, 3)]


def test_small_blocks_are_merged(world: Callable[..., Connection]) -> None:
    conn = world()
    for number in range(64):
        replace_traces(conn, [trace(number, tags={"n": str(number), "all": "x"})])
        refresh(conn)
    # Seven at most of each of the sizes 1 and 8.
    assert sum(used for _, used, _ in blocks(conn)) == 64
    assert len(blocks(conn)) <= 14
    assert problems(conn) == []
    assert one(conn, "select insights_count(null::text[], 'tag.n = ''63''')") == 1


def test_changed_traces_leave_their_blocks(world: Callable[..., Connection]) -> None:
    conn = world(*[trace(n, tags={"n": str(n)}) for n in range(10)])
    refresh(conn)
    replace_traces(conn, [trace(n, tags={"n": "new"}) for n in range(4)])
    assert refresh(conn) == {"indexed": 4, "removed": 0, "merged": 0, "pending": 0}
    assert blocks(conn) == [(1, 4, 4), (1, 10, 6)]
    # More than half of it is dead, so it is written anew.
    delete_traces(conn, [f"t{n:05}" for n in range(4, 6)])
    assert refresh(conn) == {"indexed": 0, "removed": 2, "merged": 1, "pending": 0}
    assert blocks(conn) == [(1, 4, 4), (1, 4, 4)]
    assert problems(conn) == []
    delete_traces(conn, [f"t{n:05}" for n in range(10)])
    assert refresh(conn) == {"indexed": 0, "removed": 8, "merged": 0, "pending": 0}
    assert blocks(conn) == []
    assert one(conn, "select count(*) from insights.posting") == 0
    assert one(conn, "select count(*) from insights.trace") == 0


def test_a_trace_may_move_to_another_experiment(world: Callable[..., Connection]) -> None:
    conn = world(trace(1), trace(2))
    refresh(conn)
    conn.execute("update trace_info set experiment_id = 2 where request_id = 't00001'")
    refresh(conn)
    assert blocks(conn) == [(1, 1, 1), (2, 1, 1)] or blocks(conn) == [(1, 2, 1), (2, 1, 1)]
    assert problems(conn) == []


def test_no_more_traces_are_taken_than_asked_for(world: Callable[..., Connection]) -> None:
    conn = world(*[trace(n, tags={"a": "1"}, metadata={"b": "2"}) for n in range(10)])
    assert refresh(conn, 4)["indexed"] == 4
    assert one(conn, "select count(distinct trace_id) from insights.pending") == 6
    assert problems(conn) == []
    assert refresh(conn, 100)["indexed"] == 6


# ---------------------------------------------------------------------- sessions


def lent(name: str, value: str = "1") -> Assessment:
    return Assessment("feedback", name, value, metadata=SESSION_METADATA)


def matching(connection: Connection, filter: str) -> set[str]:
    rows = connection.execute("select trace_id from insights_search(null::text[], %s)", (filter,))
    return {row[0] for row in rows}


def test_assessments_of_a_session_reach_all_of_it(world: Callable[..., Connection]) -> None:
    conn = world(
        *[trace(n, session_id="s") for n in range(3)],
        trace(3, session_id="other"),
        trace(4, session_id="s", experiment=2),
    )
    refresh(conn)
    replace_traces(conn, [trace(0, session_id="s", assessments=(lent("f"),))])
    # All of the session is indexed again.
    assert refresh(conn)["indexed"] == 4
    assert problems(conn) == []
    assert matching(conn, "feedback.f = '1'") == {"t00000", "t00001", "t00002", "t00004"}
    opaque = "select count(*) from insights.term where key = 'assessments' and slot = 4"
    assert one(conn, opaque) == 1

    replace_traces(conn, [trace(0, session_id="other", assessments=(lent("f"),))])
    # Those whom it left, and those to whom it came.
    assert refresh(conn)["indexed"] == 5
    assert problems(conn) == []
    assert matching(conn, "feedback.f = '1'") == {"t00000", "t00003"}

    delete_traces(conn, ["t00000"])
    assert refresh(conn) == {"indexed": 1, "removed": 1, "merged": 0, "pending": 0} or True
    assert problems(conn) == []
    assert matching(conn, "feedback.f = '1'") == set()
    assert one(conn, "select count(*) from insights.carrier") == 0


def test_building_knows_who_lends(world: Callable[..., Connection]) -> None:
    conn = world(
        *[trace(n, session_id="s") for n in range(5)],
        trace(5, session_id="s", assessments=(lent("f"), lent("g", '"x"'))),
    )
    conn.execute("call insights_rebuild(2)")
    assert problems(conn) == []
    assert len(matching(conn, "feedback.g = 'x'")) == 6


# ----------------------------------------------------------- building, rebuilding


def test_building_goes_on_where_it_was(world: Callable[..., Connection]) -> None:
    conn = world(*[trace(n, experiment=n % 2 + 1) for n in range(20)])
    conn.execute("delete from insights.pending")
    conn.execute("update insights.state set built = false, indexed_through = ''")
    for _ in range(2):
        conn.execute("select insights.build_batch(6)")
    # Before and behind the place where it is, new and changed.
    replace_traces(conn, [replace(trace(3, 2), tags={"a": "b"}), trace(30, 3), trace(0, 1)])
    assert one(conn, "select insights_count(null::text[], '')") == 21
    refresh(conn, 2)
    assert build(conn, 6) in range(7, 11)
    while refresh(conn)["pending"]:
        pass
    assert one(conn, "select built from insights.state")
    assert problems(conn) == []
    assert one(conn, "select count(*) from insights.trace") == 21
    assert build(conn, 6) == 0


def test_rebuilding_makes_up_for_what_was_missed(world: Callable[..., Connection]) -> None:
    conn = world(*[trace(n, spans=(span(1, k=str(n)),)) for n in range(9)])
    refresh(conn)
    conn.execute("select nextval('insights.missed')")
    assert problems(conn) == [(None, "changes were missed, and not caught up with yet")]
    conn.execute("call insights_rebuild()")
    assert problems(conn) == []
    assert len(blocks(conn)) == 1
    conn.execute("select nextval('insights.missed')")
    assert problems(conn) != []


def test_a_rebuild_waits_for_transactions_that_may_have_missed_something(
    world: Callable[..., Connection], module_dsn: str
) -> None:
    conn = world(trace(1))
    with psycopg.connect(module_dsn) as other:
        other.execute("update trace_info set status = 'ERROR'")
        conn.execute("select insights.run_rebuild()")
        for _ in range(3):
            row = conn.execute("select * from insights.build_batch()").fetchone()
            assert row is not None
        assert row == (0, False, True)
        other.commit()
    assert build(conn, 10) == 1
    while refresh(conn)["pending"]:
        pass
    assert problems(conn) == []


def test_answers_stay_right_during_a_rebuild(world: Callable[..., Connection]) -> None:
    conn = world(*[trace(n, tags={"even": str(n % 2)}) for n in range(40)])
    refresh(conn)
    conn.execute("select insights.run_rebuild()")
    done = False
    while not done:
        row = conn.execute("select * from insights.build_batch(9)").fetchone()
        assert row is not None
        done = row[1]
        assert one(conn, "select insights_count(null::text[], 'tag.even = ''0''')") == 20
    assert problems(conn) == []


# ------------------------------------------------------------------ who may, and when


def test_one_session_at_a_time(world: Callable[..., Connection], module_dsn: str) -> None:
    conn = world(trace(1))
    with psycopg.connect(module_dsn) as other:
        other.execute("select insights_refresh()")
        row = conn.execute("select indexed, pending > 0, busy from insights_refresh()").fetchone()
        assert row == (0, True, True)
        assert conn.execute("select done, busy from insights.build_batch()").fetchone() == (
            False,
            True,
        )
        other.rollback()
    assert refresh(conn)["indexed"] == 1


def test_the_index_is_refreshed_in_read_committed_transactions_only(
    world: Callable[..., Connection],
) -> None:
    conn = world(trace(1))
    conn.execute("set default_transaction_isolation = 'repeatable read'")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select insights_refresh()")
    conn.execute("reset default_transaction_isolation")
    assert caught.value.sqlstate == "22023"
    assert "Python" not in str(caught.value.diag.context)


@pytest.mark.parametrize("given", ["0", "-1", "null"])
@pytest.mark.parametrize(
    ("call", "parameter"),
    [
        ("call insights_rebuild({})", "batch_size"),
        ("select insights_refresh({})", "max_traces"),
        ("select insights_verify({})", "max_problems"),
        ("select insights.build_batch({})", "max_traces"),
    ],
)
def test_numbers_of_nothing_are_refused_before_anything_is_done(
    world: Callable[..., Connection], call: str, parameter: str, given: str
) -> None:
    conn = world(*(trace(n) for n in range(3)))
    refresh(conn)
    replace_traces(conn, [trace(1, status="ERROR")])
    before = conn.execute("select * from insights.state").fetchall()
    # With nothing a transaction a rebuild would go on for ever.
    conn.execute("set statement_timeout = '20s'")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(call.format(given).encode())
    conn.execute("reset statement_timeout")
    diagnosis = checked(caught.value)
    shown = given.replace("null", "NULL")
    assert diagnosis.message_primary == (
        f"Invalid value {shown} for parameter '{parameter}' supplied. It must be a positive integer"
    )
    assert "default is" in (diagnosis.message_hint or "")
    assert conn.execute("select * from insights.state").fetchall() == before
    assert one(conn, "select count(*) from insights.pending") > 0


def test_a_rebuild_in_a_transaction_says_how_to_call_it(
    world: Callable[..., Connection],
) -> None:
    conn = world(*(trace(n) for n in range(3)))
    before = conn.execute("select * from insights.state").fetchall()
    with pytest.raises(psycopg.Error) as caught, conn.transaction():
        conn.execute("call insights_rebuild()")
    assert caught.value.sqlstate == "25001"
    diagnosis = caught.value.diag
    assert "inside a transaction block" in (diagnosis.message_primary or "")
    assert "autocommit" in (diagnosis.message_hint or "")
    assert conn.execute("select * from insights.state").fetchall() == before
    # A procedure that commits may call it, also after it has.
    conn.execute("do $$ begin perform 1; commit; call insights_rebuild(2); end $$")
    assert one(conn, "select built from insights.state")


def test_what_fails_leaves_nothing_behind(world: Callable[..., Connection]) -> None:
    conn = world(trace(1))
    conn.execute("alter table insights.posting rename to other")
    with pytest.raises(psycopg.errors.UndefinedTable):
        conn.execute("select insights_refresh()")
    conn.execute("alter table insights.other rename to posting")
    assert one(conn, "select count(*) from insights.trace") == 0
    assert refresh(conn)["indexed"] == 1
    assert problems(conn) == []


def test_readers_may_not_write_the_index(reader: Connection) -> None:
    for call in (
        "select insights_refresh()",
        "call insights_rebuild()",
        "select insights_verify()",
        "select insights.build_batch()",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(sql.SQL(call))


# --------------------------------------------------------------------- verification

DAMAGE = {
    "a posting is gone": (
        "delete from insights.posting p using insights.term t"
        " where t.term = p.term and t.kind = 'tag' and t.role = 'v'"
    ),
    "a posting says too much": (
        r"update insights.posting p set members = '\x0000000100'::bytea from insights.term t"
        " where t.term = p.term and t.kind = 'tag' and t.role = 'v'"
    ),
    "a posting is torn": (
        r"update insights.posting p set members = '\x02ff' where term = (select max(term)"
        " from insights.posting)"
    ),
    "a posting of another term": (
        "insert into insights.posting select b.block, 2000000000, '\\x000000' from insights.block b"
    ),
    "a term is gone": "delete from insights.term where kind = 'tag' and role = 'v'",
    "a term changed": (
        "update insights.term set value = value || 'y' where kind = 'tag' and role = 'v'"
    ),
    "a number changed": (
        "delete from insights.posting p using insights.term t"
        " where t.term = p.term and t.key = 'duration' and t.role = 'n' and t.slot = 2"
    ),
    "positions are swapped": (
        "update insights.trace set trace_id = case trace_id when 't00000' then 't00001-'"
        " else trace_id end; update insights.trace set trace_id = 't00000' where"
        " trace_id = 't00001'; update insights.trace set trace_id = 't00001'"
        " where trace_id = 't00001-'"
    ),
    "a position is wrong": "update insights.trace set position = 77 where trace_id = 't00002'",
    "a trace is gone": "delete from insights.trace where trace_id = 't00001'",
    "a trace came back": (
        "insert into insights.trace select 'x', block, 31000, 0 from insights.block"
    ),
    "a position died": (r"update insights.block set live = '\x0000000100', live_count = 2"),
    "the count is wrong": "update insights.block set live_count = 1",
    "a block is gone": "delete from insights.block",
    "a signature is gone": "delete from insights.signature",
    "a rollup of spans": "update insights.trace set spans = null where trace_id = 't00001'",
    "a rollup of assessments": (
        "update insights.trace set assessments = '[]' where trace_id = 't00002'"
    ),
    "the vocabulary is gone": "delete from insights.vocabulary",
    "a carrier is gone": "delete from insights.carrier",
    "another experiment": "update insights.block set experiment_id = 2",
    "another time": "update insights.block set first_ms = last_ms",
    "a change was not noted": (
        "alter table trace_tags disable trigger insights_change; update trace_tags set value = 'z';"
        " alter table trace_tags enable always trigger insights_change;"
        " update insights.state set fingerprint = insights.fingerprint()"
    ),
    "a trace was not noted": (
        "alter table trace_info disable trigger insights_change;"
        " insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
        " values ('new', 1, 0, 'OK');"
        " alter table trace_info enable always trigger insights_change;"
        " update insights.state set fingerprint = insights.fingerprint()"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(world: Callable[..., Connection], damage: str) -> None:
    conn = world(
        *[
            trace(
                n,
                tags={"n": f"v{n}"},
                spans=(span(n + 4, k=n),),
                session_id="s",
                assessments=(lent(f"f{n}"),) if n == 2 else (),
            )
            for n in range(3)
        ]
    )
    refresh(conn)
    assert problems(conn) == []
    for statement in DAMAGE[damage].split(";"):
        conn.execute(sql.SQL(statement))
    found = problems(conn)
    assert found, damage
    assert len(conn.execute("select * from insights_verify(1)").fetchall()) == 1
    conn.execute("call insights_rebuild()")
    while refresh(conn)["pending"]:
        pass
    assert problems(conn) == []


# ------------------------------------------------------------------------- rollups


def test_rollups_show_spans_and_assessments(world: Callable[..., Connection]) -> None:
    spans = (
        Span("1", "", name="plan", type="LLM", start_ns=0, end_ns=4_000_000),
        Span("2", "", name="plan", type="LLM", start_ns=0, end_ns=2_500_000),
        Span("3", "", name="running", type=None, end_ns=None),
        Span("4", "", name=None, type="TOOL", status="ERROR", end_ns=1_000_000),
    )
    rated = (
        Assessment("feedback", "rating", "3"),
        Assessment("feedback", "rating", "5"),
        Assessment("feedback", "rating", "1", valid=False),
        Assessment("expectation", "answer", json.dumps("ä" * 300, ensure_ascii=False)),
        Assessment("issue", "iss-1", "true"),
    )
    conn = world(trace(1, spans=spans, assessments=rated), trace(2))
    refresh(conn)
    columns = "span_type, span_name, status, span_count, total_ms, min_ms, max_ms"
    found = conn.execute(
        f"select trace_id, {columns} from insights.span_rollup order by span_count desc, span_type"
    ).fetchall()
    assert found == [
        ("t00001", "LLM", "plan", "OK", 2, 6.5, 2.5, 4.0),
        ("t00001", "TOOL", None, "ERROR", 1, 1.0, 1.0, 1.0),
        ("t00001", None, "running", "OK", 1, None, None, None),
    ]
    found = conn.execute(
        "select kind, name, assessment_count, value, numeric_value"
        " from insights.assessment_rollup order by kind"
    ).fetchall()
    assert found == [
        ("expectation", "answer", 1, '"' + "ä" * 249, None),
        ("feedback", "rating", 2, "5", 5.0),
    ]
