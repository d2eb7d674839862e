"""insights_timeseries: where buckets begin, and what is refused; the oracle checks the rest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.semantics.world import Trace
from tests.sql.conftest import Loader, checked

NOON = datetime(2024, 3, 30, 12, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def series(connection: psycopg.Connection[Any], arguments: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(f"select * from insights_timeseries({arguments})".encode()).fetchall()


@pytest.fixture
def three(put: Loader) -> None:
    put(
        Trace("a", 1, ms(NOON), 100, "ERROR", tokens={"total_tokens": 5}, cost={"total_cost": 0.1}),
        Trace("b", 1, ms(NOON) + 1, 200, cost={"total_cost": 0.2}),
        Trace("c", 1, ms(NOON + timedelta(hours=2)), 300, "ERROR"),
    )


@pytest.mark.usefixtures("three")
def test_columns_and_gaps(module_conn: psycopg.Connection[Any]) -> None:
    first, gap, last = series(module_conn, "'1', ''")
    assert first == {
        "time": NOON,
        "matched": 2,
        "total": 2,
        "rate": 1.0,
        "errors": 1,
        "error_rate": 0.5,
        "p50_ms": 150.0,
        "p95_ms": 195.0,
        "p99_ms": 199.0,
        "tokens": 5,
        "cost": pytest.approx(0.3, rel=1e-15),
    }
    nothing = dict.fromkeys(first)
    nothing |= {"time": NOON + timedelta(hours=1), "matched": 0, "total": 0, "errors": 0}
    assert gap == nothing
    assert (last["time"], last["total"]) == (NOON + timedelta(hours=2), 1)
    (day,) = series(module_conn, "'1', 'status = ''ERROR''', '1 day', time_zone => 'Asia/Tokyo'")
    assert day["time"] == datetime(2024, 3, 29, 15, tzinfo=UTC)
    assert (day["matched"], day["total"], day["rate"]) == (2, 3, 2 / 3)


@pytest.mark.usefixtures("three")
def test_bounds_cut_off_and_fill_up(module_conn: psycopg.Connection[Any]) -> None:
    rows = series(
        module_conn,
        "'1', '', '1 hour', '2024-03-30 10:30+00', '2024-03-30 12:00:00.001+00'",
    )
    assert [(row["time"].hour, row["total"]) for row in rows] == [(10, 0), (11, 0), (12, 1)]
    rows = series(module_conn, "'1', '', '1 hour', start_time => '2024-03-30 12:00:00.0005+00'")
    assert [row["total"] for row in rows] == [1, 0, 1]
    rows = series(module_conn, "'1', '', '1 hour', '-infinity', 'infinity'")
    assert [row["total"] for row in rows] == [2, 0, 1]
    assert series(module_conn, "'1', '', '1 hour', start_time => '2030-01-01'") == []
    assert series(module_conn, "'99', ''") == []
    assert series(module_conn, "'{}', ''") == []
    rows = series(module_conn, "'{}', '', '1 day', '2024-01-01', '2024-01-03'")
    assert [row["total"] for row in rows] == [0, 0]


@pytest.mark.usefixtures("three")
def test_overloads(module_conn: psycopg.Connection[Any]) -> None:
    expected = series(module_conn, "'1', '', '2 hours'")
    assert len(expected) == 2
    for arguments in (
        "array['1'], '', '2 hours'",
        "array[1], '', '2 hours'",
        "array['1'], '', interval '2 hours'",
        "array[1], '', interval '2 hours'",
        "'1', '', interval '2 hours'",
        "null, '', '120m'",
        "'1', filter => null, bucket => '2h'",
    ):
        assert series(module_conn, arguments) == expected, arguments
    with module_conn.transaction():
        module_conn.execute("set local intervalstyle = 'iso_8601'")
        assert series(module_conn, "'1', '', interval '2 hours'") == expected


@pytest.mark.parametrize(
    ("bucket", "zone", "moment", "starts"),
    [
        # The clock goes forward at 2 o'clock: a day of 23 hours, a last bucket of 5.
        ("6 hours", "Europe/Berlin", "2024-03-31", [23, 29, 35, 41]),
        # It goes back at 3: a day of 25 hours, a last bucket of one.
        ("6 hours", "Europe/Berlin", "2024-10-27", [22, 28, 34, 40, 46]),
        ("7 hours", "UTC", "2024-01-01", [0, 7, 14, 21]),
        ("90 minutes", "Asia/Kathmandu", "2024-01-01", [18.25 + 1.5 * n for n in range(16)]),
    ],
)
def test_hours_are_counted_from_local_midnight(
    module_conn: psycopg.Connection[Any],
    bucket: str,
    zone: str,
    moment: str,
    starts: list[float],
) -> None:
    rows = module_conn.execute(
        'select "time" from insights_timeseries(array[1], %s, %s,'
        " %s::timestamp at time zone %s, (%s::date + 1)::timestamp at time zone %s, %s)",
        ("", bucket, moment, zone, moment, zone, zone),
    ).fetchall()
    day = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    if starts[0]:
        day -= timedelta(days=1)
    assert [row[0] for row in rows] == [day + timedelta(hours=hours) for hours in starts]


@pytest.mark.parametrize(
    ("bucket", "starts"),
    [
        ("1 month", ["2023-12-01", "2024-01-01", "2024-02-01", "2024-03-01"]),
        ("3 months", ["2023-10-01", "2024-01-01"]),
        ("1 year", ["2023-01-01", "2024-01-01"]),
        (
            "2 weeks",
            ["2023-12-18", "2024-01-01", "2024-01-15", "2024-01-29", "2024-02-12", "2024-02-26"],
        ),
    ],
)
def test_calendar(module_conn: psycopg.Connection[Any], bucket: str, starts: list[str]) -> None:
    rows = module_conn.execute(
        "select (\"time\" at time zone 'America/New_York')::date::text"
        " from insights_timeseries('1', '', %s, '2023-12-31 12:00+00', '2024-03-02 12:00+00',"
        " 'America/New_York')",
        (bucket,),
    ).fetchall()
    assert [row[0] for row in rows] == starts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'1', '', 'soon'", "Invalid bucket 'soon'."),
        ("'1', '', '0 hours'", "Invalid bucket '0 hours': it must be"),
        ("'1', '', '-1 hour'", "Invalid bucket '-1 hour': it must be"),
        ("'1', '', '1 month 1 day'", "Invalid bucket '1 month 1 day': it must be"),
        ("'1', '', '1.5 ms'", "Invalid bucket '1.5 ms': it must be"),
        ("'1', '', '25 hours'", "Invalid bucket '25 hours': above a day"),
        ("'1', '', null::text", "The bucket must not be NULL."),
        ("'1', '', time_zone => 'Mars/Olympus'", "Invalid time zone 'Mars/Olympus'."),
        ("'1', '', time_zone => null", "The time zone must not be NULL."),
        ("'1', '', '1 hour', '2024-01-02', '2024-01-01'", "start_time must be before end_time."),
        ("'1', '', '1 second', '2024-01-01', '2024-01-02'", "More than 10000 buckets."),
        ("'1', '', '1 day', '1990-01-01', '2024-01-02'", "More than 10000 buckets."),
        ("'1', 'stats = 1'", "Invalid attribute key 'stats'"),
    ],
)
def test_refusals(module_conn: psycopg.Connection[Any], arguments: str, message: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        series(module_conn, arguments)
    assert (checked(caught.value).message_primary or "").startswith(message)


def test_ten_thousand_buckets_are_allowed(module_conn: psycopg.Connection[Any]) -> None:
    rows = series(
        module_conn, "'1', '', '1 second', '2024-01-01 00:00+00', '2024-01-01 02:46:40+00'"
    )
    assert len(rows) == 10_000


def test_sums_that_are_out_of_range(put: Loader, module_conn: psycopg.Connection[Any]) -> None:
    most = 2**63 - 1
    put(
        Trace("a", 1, 1, tokens={"total_tokens": most}, cost={"total_cost": 1e308}),
        Trace("b", 1, 2, tokens={"total_tokens": 1}, cost={"total_cost": 1.7e308}),
    )
    for state in (True, False):
        module_conn.execute("update insights.state set built = %s", (state,))
        with pytest.raises(psycopg.Error) as caught:
            series(module_conn, "'1', ''")
        assert caught.value.sqlstate == "22003"
        (row,) = series(module_conn, "'1', 'timestamp_ms = 1'")
        assert (row["tokens"], row["cost"]) == (most, 1e308)
    module_conn.execute("update insights.state set built = true")


def test_many_traces_in_a_bucket(put: Loader, module_conn: psycopg.Connection[Any]) -> None:
    """Enough that sets of bits answer, in blocks in and out of the order of time."""
    put()
    module_conn.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, execution_time_ms,"
        " total_tokens, total_cost, status, session_id)"
        " select 't' || n, 1, 1700000000000 + n * 7919 % 10007 * 1000,"
        " case when n % 11 > 0 then n * 31 % 5003 - 100 end, case when n % 7 > 0 then n end,"
        " case when n % 5 > 0 then (case when n % 3 = 0 then 1e-9 else 0.37 end) * n"
        " when n % 35 = 0 then 'NaN' end,"
        " case when n % 10 = 0 then 'ERROR' else 'OK' end, 's' || n / 4"
        " from generate_series(1, 9000) n"
    )
    while module_conn.execute("select pending from insights_refresh(5000)").fetchone() != (0,):
        pass
    for filter in ("", "status = 'ERROR'", "execution_time_ms > 4000", "total_cost < 1e30"):
        for bucket in ("1 day", "30 minutes", "1 minute"):
            for unit in ("trace", "session", "session_all"):
                query = f"'1', $${filter}$$, '{bucket}', unit => '{unit}'"
                indexed = series(module_conn, query)
                module_conn.execute("update insights.state set built = false")
                plain = series(module_conn, query)
                module_conn.execute("update insights.state set built = true")
                costs = [row.pop("cost") for row in indexed], [row.pop("cost") for row in plain]
                assert indexed == plain, query
                for own, other in zip(*costs, strict=True):
                    if own is None or other is None:
                        assert own is other, query
                    else:
                        assert own == pytest.approx(other, rel=1e-12, nan_ok=True), query
