"""The cells and sessions that are stored of large blocks: copies of what sessions work out."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from tests.conftest import Databases
from tests.semantics.world import Experiment, World, delete_traces, load

Connection = psycopg.Connection[Any]

LARGE = 8000

# Of every kind of number: of the trace, of spans, several of a trace, negative, none at all.
TRACES = """
insert into trace_info (request_id, experiment_id, timestamp_ms, execution_time_ms, status,
                        total_tokens, total_cost, session_id)
select format('t%s-%s', e, lpad(n::text, 5, '0')), e, 1700000000000 + n * 61000,
       case when n % 13 > 0 then e * (n * 31 % 5003) - 100 end,
       case when n * 31 % 5003 > 4500 then 'ERROR' else 'OK' end,
       case when n % 3 = 0 then n % 500 end, case when n % 4 = 0 then n * 0.25 end,
       case when n % 17 > 0 then 's' || n * 7 % 900 end
from generate_series({first}, {last}) n, unnest(array{experiments}) e;
insert into assessments (assessment_id, trace_id, name, assessment_type, value, created_timestamp,
                         last_updated_timestamp, source_type, source_id, valid, is_numeric_value,
                         aggregate_value)
select t.request_id || '-' || k, t.request_id, 'score', 'feedback', (n * k % 97 / 10.0)::text,
       0, 0, 'HUMAN', 'me', true, true, n * k % 97 / 10.0
from trace_info t cross join lateral (select right(t.request_id, 5)::int) r (n),
     generate_series(1, 2) k
where n between {first} and {last} and n % 5 = 0 and n % (3 * k) > 0
and t.experiment_id = any(array{experiments});
insert into spans (trace_id, experiment_id, span_id, name, type, status, start_time_unix_nano,
                   end_time_unix_nano, content)
select t.request_id, t.experiment_id, 's', 'answer', 'LLM', 'OK', 0, n * 1000000::bigint,
       format('{{"attributes": {{"temperature": "%s", "retries": "%s"}}}}', n % 40 / 20.0, n % 3)
from trace_info t cross join lateral (select right(t.request_id, 5)::int) r (n)
where n between {first} and {last} and n % 2 = 0 and t.experiment_id = any(array{experiments})
"""
TARGETS = ("status = 'ERROR'", "execution_time_ms >= 1234", "feedback.score > 4", "status = 'OK'")
STORED = (
    "select distinct b.experiment_id, b.used, c.sample, b.block from insights.cells c"
    " join insights.block b using (block) order by 1, 2"
)


def add(connection: Connection, first: int, last: int, *experiments: int) -> None:
    statements = TRACES.format(first=first, last=last, experiments=list(experiments))
    for statement in statements.split(";"):
        connection.execute(statement.encode())


def refresh(connection: Connection) -> None:
    while connection.execute("select pending from insights_refresh(5000)").fetchone() != (0,):
        pass


def rebuild(connection: Connection) -> None:
    """Has everything indexed at once, with nothing left to be refreshed."""
    connection.execute("call insights_rebuild()")
    connection.execute("delete from insights.pending")


def problems(connection: Connection) -> list[tuple[str | None, str]]:
    return connection.execute("select * from insights_verify()").fetchall()


def stored(connection: Connection) -> list[tuple[int, int, int]]:
    """(experiment, positions, blocks of the sample) of each block that has cells."""
    return [(*row[:2], len(row[2])) for row in connection.execute(STORED.encode())]


def answers(
    dsn: str, experiments: list[int] | None, unit: str = "trace"
) -> list[list[dict[str, Any]]]:
    """Discoveries over all kinds of a session that knows nothing."""
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        return [
            connection.execute(
                "select * from insights_discover(%s::int[], %s, direction => 'both', pairs => %s,"
                " fdr => 1, min_support => 3, max_results => 60, unit => %s)",
                (experiments, target, pairs, unit),
            ).fetchall()
            for target in TARGETS
            for pairs in (False, True)
        ]


OF_SESSIONS = (
    "insights_facets('1', '', 'session_id', max_results => 50)",
    "insights_facets(null::text[], $$status = 'ERROR'$$, 'status', unit => 'session')",
    "insights_count(null::text[], 'execution_time_ms > 900', 'session_all')",
    "insights_correlate('1', $$status = 'ERROR'$$, 'total_tokens > 200', unit => 'session')",
    "insights_timeseries('1', $$status = 'ERROR'$$, '1 day', unit => 'session')",
)


def of_sessions(dsn: str) -> list[list[dict[str, Any]]]:
    """What is asked of sessions, by a session that knows nothing."""
    found = [rows for unit in ("session", "session_all") for rows in answers(dsn, None, unit)]
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        for query in OF_SESSIONS:
            found.append(connection.execute(f"select * from {query}".encode()).fetchall())
    return found


@pytest.fixture(scope="module")
def cells_dsn(databases: Databases) -> Iterator[str]:
    """Experiments with a large block, with one of numbers ten times as large, and a small one."""
    with databases.fresh("insights") as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            experiments = tuple(Experiment(number) for number in (1, 2, 3, 10))
            load(connection, World(experiments, ()))
            add(connection, 1, 8600, 1, 10)
            add(connection, 1, 400, 3)
            rebuild(connection)
        yield dsn


def test_cells_of_large_blocks_are_stored_when_the_index_is_built(cells_dsn: str) -> None:
    with psycopg.connect(cells_dsn, autocommit=True) as connection:
        assert stored(connection) == [(1, 8600, 1), (10, 8600, 1)]
        fields = connection.execute(
            "select distinct kind, key, span_name, high is null from insights.cells"
            " join insights.block b using (block) where b.experiment_id = 1"
        ).fetchall()
        assert {row[:3] for row in fields} >= {
            ("trace", "timestamp_ms", ""),
            ("trace", "execution_time_ms", ""),
            ("trace", "total_tokens", ""),
            ("span", "duration", "answer"),
            ("attribute", "temperature", ""),
            ("feedback", "score", ""),
        }
        assert {row[1] for row in fields if not row[3]} == {"score"}
        assert problems(connection) == []


@pytest.mark.parametrize("experiments", [[1], [10], [3], [1, 3], None])
def test_stored_cells_change_no_answer(cells_dsn: str, experiments: list[int] | None) -> None:
    """They are those of the largest experiment; traces of others are cut as its are."""
    with psycopg.connect(cells_dsn, autocommit=True) as connection:
        found = answers(cells_dsn, experiments)
        assert all(found)
        assert any(row["kind"] == "number" for rows in found for row in rows)
        connection.execute("create table kept as table insights.cells")
        connection.execute("delete from insights.cells")
        try:
            assert answers(cells_dsn, experiments) == found
        finally:
            connection.execute("insert into insights.cells table kept")
            connection.execute("drop table kept")


def test_stored_cells_are_what_is_read(cells_dsn: str) -> None:
    """Others would give other answers: so it is known that they are looked at."""
    found = answers(cells_dsn, [1])
    with psycopg.connect(cells_dsn, autocommit=True) as connection:
        connection.execute("create table kept as table insights.cells")
        connection.execute(
            "update insights.cells set low = array_fill(low[1], array[cardinality(low)])"
        )
        try:
            assert answers(cells_dsn, [1]) != found
            assert answers(cells_dsn, [3]) == answers(cells_dsn, [3])
        finally:
            connection.execute("delete from insights.cells")
            connection.execute("insert into insights.cells table kept")
            connection.execute("drop table kept")
        assert answers(cells_dsn, [1]) == found


def test_sessions_are_stored_as_the_tables_have_them(cells_dsn: str) -> None:
    with psycopg.connect(cells_dsn, autocommit=True) as connection:
        rows = connection.execute(
            "select b.experiment_id, s.ids, s.places, b.used from insights.sessions s"
            " join insights.block b using (block) order by 1"
        ).fetchall()
        assert [(row[0], row[3]) for row in rows] == [(1, 8600), (10, 8600)]
        for experiment, ids, places, used in rows:
            found = array("H", places)
            assert len(found) == used
            assert dict(
                connection.execute(
                    "select position, session_id from insights.trace i"
                    " join trace_info t on t.request_id = i.trace_id where t.experiment_id = %s",
                    (experiment,),
                ).fetchall()
            ) == {n: ids[place - 1] if place else None for n, place in enumerate(found)}


def test_stored_sessions_change_no_answer(cells_dsn: str) -> None:
    found = of_sessions(cells_dsn)
    # Some traces of some sessions are errors, and all of others are none.
    of_some, of_all = found[: 2 * len(TARGETS)], found[2 * len(TARGETS) : 4 * len(TARGETS)]
    assert of_some[0]
    assert of_all[-1]
    assert all(found[-len(OF_SESSIONS) :])
    with psycopg.connect(cells_dsn, autocommit=True) as connection:
        connection.execute("create table kept as table insights.sessions")
        connection.execute("delete from insights.sessions")
        try:
            assert of_sessions(cells_dsn) == found
            # Others would give other answers: so it is known that they are looked at.
            connection.execute(
                "insert into insights.sessions select block, array_fill('s'::text,"
                " array[cardinality(ids)]), places from kept"
            )
            assert of_sessions(cells_dsn) != found
        finally:
            connection.execute("delete from insights.sessions")
            connection.execute("insert into insights.sessions table kept")
            connection.execute("drop table kept")


DAMAGE = {
    "other planes": (
        "update insights.cells set low = array_fill(low[1], array[cardinality(low)])"
        " where key = 'execution_time_ms'",
        "block 1 has other cells than numbers of trace execution_time_ms",
    ),
    "no planes of the largest": (
        "update insights.cells set high = null where key = 'score'",
        "block 1 has other cells than numbers of feedback score",
    ),
    "cuts in another order": (
        "update insights.cells set cuts = replace(cuts, ', ', ',') where span_name > ''",
        "block 1 has other cells than numbers of span duration of answer",
    ),
    "no cuts": ("update insights.cells set cuts = '{'", "cells of block 1 cannot be read"),
    "torn planes": (
        r"update insights.cells set low = array['\x02ff'::bytea]",
        "cells of block 1 cannot be read",
    ),
    "another session": (
        "update insights.sessions set ids = array_prepend('s', ids)",
        "is stored with another session",
    ),
    "too few sessions": (
        "update insights.sessions set ids = ids[1:700]",
        "is stored with another session",
    ),
    "no block of cells": (
        "update insights.cells set block = 77",
        "cells of block 77, which is not there",
    ),
    "no block of sessions": (
        "update insights.sessions set block = 77",
        "sessions of block 77, which is not there",
    ),
}


@pytest.fixture(scope="module")
def damaged_dsn(databases: Databases) -> Iterator[str]:
    with databases.fresh("insights") as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            load(connection, World((Experiment(1),), ()))
            add(connection, 1, LARGE, 1)
            rebuild(connection)
        yield dsn


def test_a_session_that_changes(damaged_dsn: str) -> None:
    """A trace that is pending has another session than is stored of its position."""
    count = "select insights_count('1', $$session_id = 'new'$$, unit => 'session')"
    facets = "select count(*) from insights_facets('1', '', 'session_id', max_results => 1000)"
    with (
        psycopg.connect(damaged_dsn, autocommit=True) as connection,
        psycopg.connect(damaged_dsn) as writer,
    ):
        assert connection.execute(count).fetchone() == (0,)
        before = connection.execute(facets).fetchone()
        assert before is not None
        for _ in range(2):
            writer.execute("update trace_info set session_id = 'new' where timestamp_ms % 7 = 0")
            assert writer.execute(count).fetchone() == (1,)
            assert writer.execute(facets).fetchone() == (before[0] + 1,)
            writer.execute("select insights_refresh(20000)")
            assert writer.execute(facets).fetchone() == (before[0] + 1,)
            assert problems(writer) == []
            assert connection.execute(facets).fetchone() == before
            writer.rollback()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(damaged_dsn: str, damage: str) -> None:
    statement, problem = DAMAGE[damage]
    with psycopg.connect(damaged_dsn) as connection:
        connection.execute(statement.encode())
        found = {
            row[1].replace(f"block {block(connection)} ", "block 1 ")
            for row in problems(connection)
        }
        assert found == {problem}
        connection.rollback()


def block(connection: Connection) -> int:
    row = connection.execute("select max(block) from insights.block").fetchone()
    assert row is not None
    return int(row[0])


def test_they_follow_the_blocks(damaged_dsn: str) -> None:
    """A large block that is added makes another sample; one that is left takes its cells along."""
    with psycopg.connect(damaged_dsn, autocommit=True) as connection:
        assert stored(connection) == [(1, LARGE, 1)]
        add(connection, 10_000, 10_700, 1)
        refresh(connection)
        # Small blocks are worked out when they are asked about, and change no cuts.
        assert stored(connection) == [(1, LARGE, 1)]
        add(connection, 20_000, 20_000 + LARGE - 1, 1)
        connection.execute("select insights_refresh(20000)")
        assert stored(connection) == [(1, LARGE, 2)] * 2
        assert problems(connection) == []
        found = answers(damaged_dsn, [1])
        connection.execute("delete from insights.cells; delete from insights.sessions")
        assert answers(damaged_dsn, [1]) == found
        # What is lacking is made up for.
        connection.execute("select insights_refresh()")
        for table in ("cells", "sessions"):
            blocks = connection.execute(f"select distinct block from insights.{table}".encode())
            assert len(blocks.fetchall()) == 2
        assert answers(damaged_dsn, [1]) == found
        gone = [
            row[0]
            for row in connection.execute(
                "select trace_id from insights.trace where block ="
                " (select min(block) from insights.cells) and position > 2000"
            )
        ]
        delete_traces(connection, gone)
        refresh(connection)
        assert problems(connection) == []
        assert stored(connection) == [(1, LARGE, 1)]


@pytest.mark.parametrize("unit", ["trace", "session"])
def test_numbers_that_came_later_have_thresholds(damaged_dsn: str, unit: str) -> None:
    """The blocks from which cuts are chosen as a rule have none of them."""
    query = (
        "select filter, joint_count from insights_discover('1', $$status = 'LATE'$$,"
        f" kinds => '{{number}}', max_results => 100, unit => '{unit}')"
    )
    with psycopg.connect(damaged_dsn) as connection:
        add(connection, 30_000, 30_200, 1)
        late = "where right(request_id, 5)::int between 30000 and 30199"
        connection.execute(
            "update trace_info set session_id = request_id, status ="
            " case when right(request_id, 5) < '30100' then 'LATE' else 'EARLY' end"
            f" {late}".encode()
        )
        connection.execute(
            "insert into trace_tags (request_id, key, value) select request_id, 'late',"
            f" right(request_id, 5)::int % 100 + case status when 'LATE' then 300 else 0 end"
            f" from trace_info {late}".encode()
        )
        found = []
        for _ in range(2):
            rows: dict[str, int] = dict(connection.execute(query.encode()).fetchall())
            found.append({filter for filter in rows if "late" in filter})
            (first,) = found[-1]
            assert rows[first] == 100, first
            connection.execute("select insights_refresh(20000)")
        connection.rollback()
        assert found[0] == found[1]


def test_large_blocks_without_anything_to_cut(damaged_dsn: str) -> None:
    """That there is nothing is stored as well: otherwise it would be looked for without an end."""
    with psycopg.connect(damaged_dsn, autocommit=True) as connection:
        connection.execute("delete from trace_info; delete from insights.pending")
        connection.execute(
            "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
            " select 'same' || n, 1, 5, 'OK' from generate_series(1, %s) n",
            (LARGE,),
        )
        connection.execute("set statement_timeout = '60s'")
        rebuild(connection)
        assert stored(connection) == [(1, LARGE, 1)]
        cuts = connection.execute("select distinct cuts, low, high is null from insights.cells")
        assert cuts.fetchall() == [("[]", [], False)]
        assert problems(connection) == []
        found = connection.execute("select * from insights_discover('1', 'timestamp > 4')")
        assert found.fetchall() == []


def test_readers_of_traces_see_cells_and_others_do_not(cells_dsn: str) -> None:
    with psycopg.connect(cells_dsn) as connection:
        count = "select count(*) from insights.cells"
        connection.execute("create role sees_traces; create role sees_nothing")
        group = connection.execute("select reader_role from insights.installation").fetchone()
        assert group is not None
        connection.execute(sql.SQL("grant {} to sees_traces").format(sql.Identifier(group[0])))
        connection.execute("set role sees_traces")
        row = connection.execute(count).fetchone()
        assert row is not None
        assert row[0] > 0
        connection.execute("set role sees_nothing")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(count)
        connection.rollback()
