"""What sessions keep of the index never outlives its being right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from insights_py.install import install, uninstall
from tests.conftest import READER
from tests.semantics.world import Span, Trace, attributes, delete_traces, replace_traces
from tests.sql.plain import check_all, uses_index

Connection = psycopg.Connection[Any]

# Leaves a residue: two attributes of one span, where traces have several alike.
ONE_SPAN = "span.attributes.a = '1' AND span.attributes.b = '1'"


@pytest.fixture
def other(dsn: str) -> Iterator[Connection]:
    """Another session, which writes."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def forgetful(dsn: str) -> Iterator[Connection]:
    """A session that keeps nothing from one call to the next."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set insights.cache = '0'")
        yield connection


def count(connection: Connection, filter: str) -> int:
    row = connection.execute("select insights_count(null::text[], %s)", (filter,)).fetchone()
    assert row is not None
    return int(row[0])


def refresh(connection: Connection) -> None:
    while True:
        row = connection.execute("select pending, busy from insights_refresh()").fetchone()
        if row == (0, False):
            return


def trace(number: int, status: str = "OK", same: bool = True) -> Trace:
    """With two spans alike; ``same``: one of them has both attributes."""
    spans = (
        Span(f"{number}a", attributes(a="1", b="1" if same else "2"), name="s", end_ns=1),
        Span(f"{number}b", attributes(a="2", b="1"), name="s", end_ns=1),
    )
    return Trace(f"t{number:03}", 1, 1000 + number, status=status, spans=spans)


def put(connection: Connection, *traces: Trace) -> None:
    connection.execute(
        "insert into experiments (experiment_id, name, lifecycle_stage, workspace)"
        " values (1, 'one', 'active', 'default') on conflict do nothing"
    )
    replace_traces(connection, traces)


def test_changes_of_another_session_are_seen(conn: Connection, other: Connection) -> None:
    put(other, *(trace(number, same=number % 2 == 0) for number in range(20)))
    refresh(other)
    for _ in range(2):
        assert count(conn, ONE_SPAN) == 10
        assert count(conn, "status = 'ERROR'") == 0
    put(other, trace(3, "ERROR"), trace(4, "ERROR", same=False))
    for _ in range(2):  # pending
        assert count(conn, ONE_SPAN) == 10
        assert count(conn, "status = 'ERROR'") == 2
    delete_traces(other, ["t000", "t003"])
    for _ in range(2):
        assert count(conn, ONE_SPAN) == 8
        assert count(conn, "status = 'ERROR'") == 1
    refresh(other)
    for _ in range(2):
        assert count(conn, ONE_SPAN) == 8
        assert count(conn, "status = 'ERROR'") == 1
        assert count(conn, "") == 18


def test_merged_blocks_are_seen(conn: Connection, other: Connection) -> None:
    for number in range(80):
        put(other, trace(number, "ERROR" if number % 3 else "OK"))
        refresh(other)
        assert count(conn, "status = 'ERROR'") == sum(1 for n in range(number + 1) if n % 3)
        assert count(conn, ONE_SPAN) == number + 1
    (blocks,) = conn.execute("select count(*) from insights.block").fetchone() or (0,)
    assert blocks < 20


def test_a_refresh_that_is_rolled_back_leaves_nothing(conn: Connection) -> None:
    put(conn, trace(1))
    refresh(conn)
    assert count(conn, "status = 'ERROR'") == 0
    for status in ("ERROR", "OK", "ERROR"):
        with conn.transaction(force_rollback=True):
            put(conn, trace(2, status), trace(3, status))
            refresh(conn)
            assert count(conn, "status = 'ERROR'") == 2 * (status == "ERROR")
            assert count(conn, ONE_SPAN) == 3
        assert count(conn, "status = 'ERROR'") == 0
        assert count(conn, ONE_SPAN) == 1


def test_an_old_snapshot_keeps_its_answers(conn: Connection, other: Connection) -> None:
    put(other, trace(1), trace(2, "ERROR"))
    refresh(other)
    conn.execute("begin isolation level repeatable read")
    assert count(conn, "status = 'ERROR'") == 1
    put(other, trace(1, "ERROR"), trace(3, "ERROR"))
    refresh(other)
    assert count(other, "status = 'ERROR'") == 3
    for _ in range(2):
        assert count(conn, "status = 'ERROR'") == 1
        assert count(conn, ONE_SPAN) == 2
    conn.execute("commit")
    assert count(conn, "status = 'ERROR'") == 3
    assert count(conn, ONE_SPAN) == 3


def test_an_index_built_anew_is_another(conn: Connection, other: Connection) -> None:
    put(other, *(trace(number) for number in range(5)))
    refresh(other)
    assert count(conn, ONE_SPAN) == 5
    put(other, trace(0, same=False), trace(9, "ERROR"))
    other.execute("call insights_rebuild()")
    refresh(other)
    assert uses_index(conn)
    assert count(conn, ONE_SPAN) == 5
    assert count(conn, "status = 'ERROR'") == 1


def test_installing_anew_while_a_session_goes_on(conn: Connection, dsn: str) -> None:
    put(conn, trace(1), trace(2, "ERROR"))
    refresh(conn)
    assert count(conn, "status = 'ERROR'") == 1
    assert count(conn, ONE_SPAN) == 2
    # The new index numbers its blocks from 1 again, and holds other traces there.
    uninstall(dsn)
    install(dsn)
    put(conn, trace(1, "ERROR", same=False), trace(3, "ERROR"))
    conn.execute("call insights_rebuild()")
    refresh(conn)
    assert uses_index(conn)
    assert count(conn, "status = 'ERROR'") == 3
    assert count(conn, ONE_SPAN) == 2


def test_what_was_settled_is_kept_unless_forbidden(conn: Connection) -> None:
    put(conn, *(trace(number) for number in range(5)))
    refresh(conn)
    assert count(conn, ONE_SPAN) == 5
    # Behind the index's back, which is not allowed: so it shows what is not asked again.
    conn.execute("alter table spans disable trigger insights_change")
    conn.execute("update spans set content = replace(content, 'b', 'c') where trace_id = 't003'")
    conn.execute("alter table spans enable always trigger insights_change")
    conn.execute("update insights.state set fingerprint = insights.fingerprint()")
    assert count(conn, ONE_SPAN) == 5
    conn.execute("set insights.cache = '0'")
    assert count(conn, ONE_SPAN) == 4
    for setting in ("1kB", "nonsense", ""):
        conn.execute(f"set insights.cache = '{setting}'".encode())
        assert count(conn, ONE_SPAN) == 4


def test_now_is_never_kept(conn: Connection) -> None:
    (now_ms,) = conn.execute(
        "select (extract(epoch from clock_timestamp()) * 1000)::bigint"
    ).fetchone() or (0,)
    recent = Trace("recent", 1, now_ms - 1000, spans=trace(1).spans)
    put(conn, recent)
    refresh(conn)
    window = "timestamp > now() - '1500 ms'"
    deadline = "timestamp_ms < now() - '1500 ms'"
    assert count(conn, f"{window} OR {deadline}") == 1
    # Until it has left the window; the statement's own time says whether it has.
    while True:
        row = conn.execute(
            "select insights_count(null::text[], %s),"
            " floor(extract(epoch from statement_timestamp()) * 1000)::bigint - %s < 1500",
            (f"{window} AND {ONE_SPAN}", now_ms - 1000),
        ).fetchone()
        assert row is not None
        assert (row[0] == 1) == row[1]
        if not row[1]:
            break


def test_a_role_without_rights_learns_nothing(conn: Connection) -> None:
    put(conn, trace(1), trace(2, "ERROR"))
    refresh(conn)
    for _ in range(2):
        assert count(conn, "status = 'ERROR'") == 1
    conn.execute("alter table trace_info enable row level security")
    conn.execute(
        f"create policy own on trace_info for select to {READER} using (status = 'OK')".encode()
    )
    conn.execute(f"set role {READER}".encode())
    for _ in range(2):
        assert count(conn, "status = 'ERROR'") == 0
        assert count(conn, ONE_SPAN) == 1
    conn.execute("reset role")
    assert count(conn, "status = 'ERROR'") == 1


def test_all_answers_again_and_again(conn: Connection, other: Connection) -> None:
    """Every kind of question, in one session, while another writes."""
    for number in range(6):
        put(other, *(trace(10 * number + n, "ERROR" if n % 2 else "OK") for n in range(10)))
        if number % 2:
            refresh(other)
        conn.execute("begin isolation level repeatable read")
        check_all(conn)
        check_all(conn)
        conn.execute("commit")


def test_what_had_to_be_asked_everywhere_is_kept(conn: Connection, other: Connection) -> None:
    """Of texts the index knows nothing; above a number of traces all are asked at once."""
    put(other)
    other.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
        " select 'm' || n, 1, n, 'OK' from generate_series(1, 3000) n"
    )
    other.execute(
        "insert into spans"
        " (trace_id, experiment_id, span_id, status, start_time_unix_nano, content)"
        " select 'm' || n, 1, 's', 'OK', 0, case when n % 7 = 0 then 'rare' else 'text' end"
        " from generate_series(1, 3000) n"
    )
    refresh(other)
    text, expected = "span.content LIKE '%rare%'", 3000 // 7
    assert count(conn, text) == expected
    assert count(conn, f"NOT any({text})") == 3000 - expected
    put(other, Trace("t001", 1, 5000, spans=(Span("s", "rare"),)))
    delete_traces(other, ["m7"])
    for _ in range(2):
        assert count(conn, text) == expected
        assert count(conn, f"NOT any({text})") == 3000 - expected
    refresh(other)
    put(other, Trace("t002", 1, 5000, spans=(Span("s", "rare"),)))
    for _ in range(2):
        assert count(conn, text) == expected + 1
    conn.execute("set insights.cache = '0'")
    assert count(conn, text) == expected + 1
    # Behind the index's back: what was kept is not asked again.
    conn.execute("reset insights.cache")
    assert count(conn, text) == expected + 1
    conn.execute("alter table spans disable trigger insights_change")
    conn.execute("update spans set content = 'text' where trace_id = 'm14'")
    conn.execute("alter table spans enable always trigger insights_change")
    conn.execute("update insights.state set fingerprint = insights.fingerprint()")
    assert count(conn, text) == expected + 1
    conn.execute("set insights.cache = '0'")
    assert count(conn, text) == expected


SECONDS = ("1 second", None, None)
PART = ("1 second", "1970-01-01 00:00:04.5+00", "1970-01-01 00:00:21.25+00")
QUESTIONS = [
    ("", *SECONDS, "trace"),
    ("", "1 second", None, "1970-01-01 00:00:10.5+00", "trace"),
    ("", *PART, "trace"),
    ("", *PART, "session_all"),
    ("", "1 second", "1970-01-01 00:00:05+00", None, "session"),
    ("", "1 day", None, "1970-01-01 00:00:30+00", "trace"),
    ("total_tokens > 50", *SECONDS, "trace"),
    ("total_tokens > 50", *SECONDS, "session"),
    ("status = 'ERROR'", "7 seconds", None, None, "session_all"),
    ("tags.k = 'never'", *SECONDS, "trace"),
]


def series(connection: Connection, scope: list[str] | None, *question: Any) -> list[Any]:
    counted = connection.execute(
        "select insights_count(%s::text[], %s, %s)", (scope, question[0], question[-1])
    ).fetchall()
    rows = connection.execute(
        "select * from insights_timeseries(%s::text[], %s, %s, %s, %s, unit => %s)",
        (scope, *question),
    ).fetchall()
    return counted + rows


def check_series(connection: Connection, forgetful: Connection) -> None:
    """What is kept of buckets and sessions, at first and again, beside what is found anew."""
    for scope in (["1"], None):
        for question in QUESTIONS:
            kept = [series(connection, scope, *question) for _ in range(2)]
            anew = series(forgetful, scope, *question)
            assert kept == [anew, anew], (scope, question)
            connection.execute("update insights.state set built = false")
            plain = series(connection, scope, *question)
            connection.execute("update insights.state set built = true")
            assert len(plain) == len(anew)
            for own, other in zip(anew, plain, strict=True):
                assert own[:10] == other[:10], (scope, question)
                costs = [cost for cost in other[10:] if cost is not None]
                assert [cost for cost in own[10:] if cost is not None] == pytest.approx(
                    costs, 1e-12
                )


def measured(number: int, experiment_id: int, timestamp_ms: int, more: int = 0) -> Trace:
    return Trace(
        f"m{number:03}",
        experiment_id,
        timestamp_ms,
        None if number % 7 == 0 else number * 37 % 101 + more,
        "ERROR" if number % 5 == 0 else "OK",
        session_id=None if number % 6 == 0 else f"s{number * 13 % 40}",
        tokens={} if number % 11 == 0 else {"total_tokens": number + more},
        cost={} if number % 9 == 0 else {"total_cost": number / 10 + more},
    )


def test_buckets_that_are_kept_are_those_of_now(
    conn: Connection, other: Connection, forgetful: Connection
) -> None:
    put(other)
    other.execute(
        "insert into experiments (experiment_id, name, lifecycle_stage, workspace)"
        " values (2, 'two', 'active', 'default') on conflict do nothing"
    )
    # Blocks one after the other, and those of the other experiment beside them.
    for first in range(0, 240, 80):
        numbers = range(first, first + 80)
        replace_traces(other, [measured(n, 1 + (n % 8 == 0), 120 * n + n % 3) for n in numbers])
        refresh(other)
    check_series(conn, forgetful)
    # In the midst of them, away from them, to another time and to the other experiment.
    replace_traces(
        other,
        [
            measured(30, 1, 120 * 30, more=1000),
            measured(70, 1, 90_000),
            measured(150, 2, 120 * 150),
            measured(151, 1, 12),
            measured(500, 1, 120 * 40),
        ],
    )
    check_series(conn, forgetful)
    delete_traces(other, ["m031", "m100", "m101"])
    check_series(conn, forgetful)
    refresh(other)
    check_series(conn, forgetful)
    other.execute("update trace_info set total_cost = 'NaN' where request_id = 'm045'")
    other.execute("update trace_info set total_cost = 'infinity' where request_id = 'm200'")
    for _ in range(2):
        for question in QUESTIONS:
            assert repr(series(conn, ["1"], *question)) == repr(series(conn, ["1"], *question))
        refresh(other)
    other.execute("update trace_info set total_cost = 1 where request_id in ('m045', 'm200')")
    refresh(other)
    check_series(conn, forgetful)


def check_discoveries(connection: Connection, forgetful: Connection) -> None:
    """What is found with what the session keeps, at first and again, and without."""
    for unit in ("session", "session_all"):
        for filter in ("", "status = 'OK'"):
            counts = [
                one.execute("select insights_count('1', %s, %s)", (filter, unit)).fetchone()
                for one in (connection, connection, forgetful)
            ]
            assert counts == [counts[-1]] * 3, (filter, unit)
    for unit in ("trace", "session", "session_all"):
        query = (
            "select * from insights_discover(null::text[], 'status = ''OK''', fdr => 1,"
            f" direction => 'both', min_support => 1, max_results => 200, unit => '{unit}')"
        ).encode()
        kept = [connection.execute(query).fetchall() for _ in range(2)]
        anew = forgetful.execute(query).fetchall()
        assert anew
        assert kept == [anew, anew], unit


def test_discoveries_with_what_is_kept_are_those_of_now(
    conn: Connection, other: Connection, forgetful: Connection
) -> None:
    put(other)
    replace_traces(other, [measured(n, 1, 120 * n) for n in range(200)])
    refresh(other)
    check_discoveries(conn, forgetful)
    # Nothing of what was indexed changes by these, ...
    fresh = [replace(measured(n, 1, 120 * n), session_id=f"new{n}") for n in range(300, 320)]
    replace_traces(other, fresh)
    check_discoveries(conn, forgetful)
    # ... which become a block, and by these something does.
    refresh(other)
    check_discoveries(conn, forgetful)
    other.execute(
        "update trace_info set session_id = 's1' where request_id between 'm020' and 'm040'"
    )
    check_discoveries(conn, forgetful)
    refresh(other)
    check_discoveries(conn, forgetful)
    delete_traces(other, ["m005", "m011", "m310"])
    check_discoveries(conn, forgetful)
    refresh(other)
    check_discoveries(conn, forgetful)
