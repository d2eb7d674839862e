"""insights_facets: what rows look like, and what is refused; the oracle checks the counts."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from insights_engine.answers.facets.histogram import edges

from tests.semantics.world import Assessment, Span, Trace, attributes
from tests.sql.conftest import Loader, checked

Rows = list[tuple[Any, ...]]


def facets(connection: psycopg.Connection[Any], *arguments: Any, columns: str = "*") -> Rows:
    places = ", ".join(["%s"] * len(arguments))
    return connection.execute(
        f"select {columns} from insights_facets({places})".encode(), arguments
    ).fetchall()


@pytest.fixture
def hundred(put: Loader, module_conn: psycopg.Connection[Any]) -> None:
    """Some of them indexed, the others pending."""
    put(
        *(
            Trace(
                f"t{n:02}",
                1 if n < 60 else 2,
                1_700_000_000_000 + n,
                execution_time_ms=None if n == 7 else n * n,
                status="ERROR" if n % 10 == 0 else "OK",
                session_id=f"s{n % 9}" if n % 3 else None,
                cost={"total_cost": n / 1000},
                tags={"tier": ("free", "pro", "team's")[n % 3], "round": str(n)},
                spans=(
                    Span("1", attributes(model=f"m{n % 4}"), "chat", "LLM", end_ns=n * 1_000_000),
                    Span("2", attributes(k=n / 4), "find", "TOOL" if n % 2 else "RETRIEVER"),
                ),
                assessments=(
                    Assessment("feedback", "score", json.dumps(n % 30 / 10)),
                    Assessment("feedback", "ok", json.dumps(n % 2 == 0)),
                ),
            )
            for n in range(100)
        )
    )
    module_conn.execute("select insights_refresh(80)")


@pytest.mark.usefixtures("hundred")
def test_values_by_frequency(module_conn: psycopg.Connection[Any]) -> None:
    assert facets(module_conn, "1", "", "tags.tier") == [
        ("free", None, None, "tags.tier = 'free'", 20, 20 / 60),
        ("pro", None, None, "tags.tier = 'pro'", 20, 20 / 60),
        ("team's", None, None, "tags.tier = 'team''s'", 20, 20 / 60),
    ]
    assert facets(module_conn, None, "status = 'ERROR'", "span.type") == [
        ("LLM", None, None, "any(span.type = 'LLM')", 10, 1.0),
        ("RETRIEVER", None, None, "any(span.type = 'RETRIEVER')", 10, 1.0),
    ]
    assert facets(module_conn, None, "", "session", 2) == [
        ("s1", None, None, "session_id = 's1'", 11, 0.11),
        ("s2", None, None, "session_id = 's2'", 11, 0.11),
        (None, None, None, "session_id IS NULL", 34, 0.34),
    ]
    model = facets(module_conn, None, "", "span.attributes['model']", 1)
    assert model == [("m0", None, None, "any(span.attributes.model = 'm0')", 25, 0.25)]


@pytest.mark.usefixtures("hundred")
def test_numbers_become_intervals(module_conn: psycopg.Connection[Any]) -> None:
    columns = "value, low, high, filter, count"
    assert facets(module_conn, None, "", "execution_time_ms", 5, columns=columns) == [
        (
            f"{low} to {low + 2000}",
            low,
            low + 2000,
            f"execution_time_ms >= {low} AND execution_time_ms < {low + 2000}",
            sum(low <= n * n < low + 2000 for n in range(100) if n != 7),
        )
        for low in range(0, 10_000, 2000)
    ] + [(None, None, None, "execution_time_ms IS NULL", 1)]
    found = facets(module_conn, None, "", "feedback.score", 3, columns="low, high, count")
    assert found == [(0.0, 1.0, 40), (1.0, 2.0, 30), (2.0, 3.0, 30)]
    found = facets(module_conn, None, "", "tags.round", 4, columns="low, high, count")
    assert found == [(n, n + 25.0, 25) for n in (0, 25, 50, 75)]
    found = facets(module_conn, None, "", "span.duration_ms", 2, columns="low, count, filter")
    assert found == [
        (0.0, 100, "any(span.duration_ms >= 0 AND span.duration_ms < 50)"),
        (50.0, 50, "any(span.duration_ms >= 50 AND span.duration_ms < 100)"),
    ]
    # Few numbers are values, the most frequent first.
    few = facets(module_conn, None, "timestamp_ms < 1700000000003", "total_cost")
    assert few == [
        ("0", 0.0, 0.0, "total_cost = 0", 1, 1 / 3),
        ("0.001", 0.001, 0.001, "total_cost = 0.001", 1, 1 / 3),
        ("0.002", 0.002, 0.002, "total_cost = 0.002", 1, 1 / 3),
    ]


def test_times_come_in_intervals_of_the_calendar(
    put: Loader, module_conn: psycopg.Connection[Any]
) -> None:
    """As ISO 8601 texts, with filters that count what the row counts."""
    hour, start = 3_600_000, 1_793_491_200_000  # 2026-11-01
    put(
        *(
            Trace(f"h{n}", 1, start + n * hour + 1, execution_time_ms=hour // 2, status="OK")
            for n in range(20)
        ),
        Trace("later", 2, start + 200 * hour, execution_time_ms=1, status="OK"),
    )
    module_conn.execute("select insights_refresh(10)")
    days = ["2026-11-01", "2026-11-01T06:00Z", "2026-11-01T12:00Z", "2026-11-01T18:00Z"]
    for field in ("timestamp_ms", "end_time_ms"):
        rows = facets(module_conn, "1", "", field, 4)
        assert [row[0] for row in rows] == [
            f"{days[0]} to {days[1]}",
            f"{days[1]} to {days[2]}",
            f"{days[2]} to {days[3]}",
            f"{days[3]} to 2026-11-02",
        ]
        assert [row[4] for row in rows] == [6, 6, 6, 2]
        assert rows[1][1:4] == (
            float(start + 6 * hour),
            float(start + 12 * hour),
            f"{field} >= '2026-11-01T06:00Z' AND {field} < '2026-11-01T12:00Z'",
        )
        for row in rows:
            counted = module_conn.execute("select insights_count('1', %s)", (row[3],)).fetchone()
            assert counted == (row[4],)
    weeks = facets(module_conn, None, "", "timestamp_ms", 3, columns="value, count")
    assert weeks == [("2026-10-26 to 2026-11-02", 20), ("2026-11-02 to 2026-11-09", 0),
                     ("2026-11-09 to 2026-11-16", 1)]  # fmt: skip
    few = facets(module_conn, "2", "", "timestamp_ms", columns="value, filter, count")
    assert few == [("2026-11-09T08:00Z", "timestamp_ms = '2026-11-09T08:00Z'", 1)]


@pytest.mark.usefixtures("hundred")
def test_sessions(module_conn: psycopg.Connection[Any]) -> None:
    found = facets(module_conn, None, "", "status", 20, "session", columns="value, count, share")
    assert found == [("ERROR", 6, 1.0), ("OK", 6, 1.0)]
    found = facets(module_conn, None, "", "status", 20, "session_all", columns="value, count")
    assert found == []
    found = facets(module_conn, None, "", "tags.tier", 20, "session_all", columns="value, count")
    assert found == [("pro", 3), ("team's", 3)]


@pytest.mark.usefixtures("hundred")
def test_experiments_in_every_form(module_conn: psycopg.Connection[Any]) -> None:
    for exp_ids, expected in [
        ([1], 54),
        (["1"], 54),
        ("1", 54),
        ("1,2", 90),
        (None, 90),
        ("{}", None),
        ([99], None),
    ]:
        rows = facets(module_conn, exp_ids, None, "status", 1, columns="count")
        assert rows == ([] if expected is None else [(expected,)]), exp_ids


@pytest.mark.usefixtures("hundred")
def test_a_read_only_transaction_and_a_role_that_sees_some(
    module_conn: psycopg.Connection[Any],
) -> None:
    with module_conn.transaction():
        module_conn.execute("set transaction read only")
        assert facets(module_conn, None, "", "status", columns="count") == [(90,), (10,)]
    with module_conn.transaction(force_rollback=True):
        # Row security hides the second experiment from a role, and the index with it.
        module_conn.execute("alter table trace_info enable row level security")
        module_conn.execute("create policy one on trace_info using (experiment_id = 1)")
        module_conn.execute("create role sees_one")
        module_conn.execute(
            "grant select on trace_info, spans, trace_tags, trace_request_metadata, assessments,"
            " entity_associations to sees_one"
        )
        module_conn.execute("set local role sees_one")
        assert facets(module_conn, None, "", "status", columns="count") == [(54,), (6,)]
        row = module_conn.execute(
            "select sum(matched), sum(total) from insights_timeseries(null::text[], '')"
        ).fetchone()
        assert row == (60, 60)
        row = module_conn.execute(
            "select total_count from insights_correlation_matrix(null::text[], array['', ''])"
        ).fetchone()
        assert row == (60,)


def test_a_value_that_is_too_long_to_ask_for_has_no_filter(
    put: Loader, module_conn: psycopg.Connection[Any]
) -> None:
    put(
        *(
            Trace(value[0], 1, 1, spans=(Span("s", attributes(k=value)),))
            for value in ("x" * 70_000, "y")
        )
    )
    for _ in range(2):
        found = facets(module_conn, "1", "", "span.attributes.k", columns="length(value), filter")
        assert found == [(70_000, None), (1, "any(span.attributes.k = 'y')")]
        module_conn.execute("select insights_refresh()")


@pytest.mark.parametrize(
    ("field", "message", "detail"),
    [
        ("span.statu", "Invalid span attribute 'statu'", "span.statu\n     ^^^^^"),
        ("tags.a = 1", "expected the name of one field", "tags.a = 1\n^^^^^^^^^^"),
        ("", "expected the name of one field", None),
        (None, "expected the name of one field", None),
    ],
)
def test_bad_fields_are_refused(
    module_conn: psycopg.Connection[Any], field: str | None, message: str, detail: str | None
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        facets(module_conn, "1", "", field)
    diag = checked(caught.value)
    assert message in (diag.message_primary or "")
    if detail is not None:
        assert (diag.message_detail or "").lstrip("\n") == detail


@pytest.mark.parametrize("most", [0, -1, 1001, None])
def test_bad_limits_are_refused(module_conn: psycopg.Connection[Any], most: int | None) -> None:
    with pytest.raises(psycopg.Error) as caught:
        facets(module_conn, "1", "", "status", most)
    assert "It must be at least 1 and at most 1000" in str(checked(caught.value).message_primary)


@pytest.mark.parametrize(
    ("low", "high", "most", "whole", "expected"),
    [
        (0, 99, 10, True, list(range(0, 101, 10))),
        (3, 4, 20, True, [3, 4, 5]),
        (0.3, 0.7, 4, False, [0.2, 0.4, 0.6, 0.8]),
        (-5, 5, 1, False, [-10, 0, 10]),
        (0.1, 0.3, 3, False, [0.1, 0.2, 0.3, 0.4]),
        (7, 7, 3, True, [7, 8]),
        (1e300, 1.5e308, 2, False, [0, 1e308, None]),
        (-(2**63), 2**63 - 1, 4, True, [None, -5 * 10**18, 0, 5 * 10**18, None]),
        (1e16, 1e16 + 4, 2, False, [1e16, 1e16 + 2, None]),
    ],
)
def test_edges_are_round(
    low: float, high: float, most: int, whole: bool, expected: list[float | None]
) -> None:
    assert list(edges(low, high, most, whole)) == expected


FIELDS = {
    "user": "(select value from trace_request_metadata m where m.request_id = t.request_id"
    " and key = 'mlflow.trace.user')",
    "session_id": "t.session_id",
}


@pytest.mark.parametrize("field", FIELDS)
def test_what_a_session_keeps_of_many_values_stays_right(
    put: Loader, module_conn: psycopg.Connection[Any], field: str
) -> None:
    """Everything, most and few of the traces are asked about, while they change."""
    put()

    def add(first: int, last: int) -> None:
        module_conn.execute(
            "insert into trace_info (request_id, experiment_id, timestamp_ms, execution_time_ms,"
            " status, session_id) select 'm' || n, 1, n, n, 'OK', 's' || n %% 83"
            " from generate_series(%s::int, %s::int) n",
            (first, last),
        )
        module_conn.execute(
            "insert into trace_request_metadata (request_id, key, value)"
            " select 'm' || n, 'mlflow.trace.user', 'u' || n %% 71"
            " from generate_series(%s::int, %s::int) n",
            (first, last),
        )

    def refresh() -> None:
        module_conn.execute("select insights_refresh(5000)")

    def check() -> None:
        for least in (0, 150, 900):
            found = module_conn.execute(
                "select value, count from insights_facets('1', %s, %s, 100)"
                " where value is not null",
                (f"execution_time_ms >= {least}", field),
            ).fetchall()
            expected = module_conn.execute(
                f"select {FIELDS[field]}, count(*) from trace_info t"
                " where execution_time_ms >= %s group by 1".encode(),
                (least,),
            ).fetchall()
            assert sorted(found) == sorted(expected), least

    add(0, 999)
    refresh()
    check()
    check()
    module_conn.execute("delete from trace_info where execution_time_ms % 10 = 3")
    module_conn.execute("update trace_info set session_id = 's1' where execution_time_ms % 10 = 4")
    module_conn.execute(
        "update trace_request_metadata set value = 'u1' where right(request_id, 1) = '4'"
    )
    check()
    refresh()
    check()
    add(1000, 1200)
    check()
    refresh()
    check()
    check()
