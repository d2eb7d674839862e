"""insights_correlation_matrix: each row is insights_correlate's; and its refusals."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.semantics.world import Span, Trace
from tests.sql.conftest import Loader, checked

FILTERS = ["tags.a = '0'", "tags.b = '0'", "span.status = 'ERROR'", "status = 'none'"]


def matrix(connection: psycopg.Connection[Any], *arguments: Any) -> list[dict[str, Any]]:
    places = ", ".join(["%s"] * len(arguments))
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            f"select * from insights_correlation_matrix({places})".encode(), arguments
        ).fetchall()


@pytest.fixture
def forty(put: Loader) -> None:
    put(
        *(
            Trace(
                f"t{n:02}",
                1 + n % 2,
                n,
                session_id=None if n % 5 == 0 else f"s{n % 7}",
                tags={"a": str(n % 2), "b": str(n % 5)},
                spans=(Span("1", "{}", status="ERROR" if n % 4 else "OK"),),
            )
            for n in range(40)
        )
    )


@pytest.mark.usefixtures("forty")
@pytest.mark.parametrize("unit", ["trace", "session", "session_all"])
@pytest.mark.parametrize("base", [None, "span.status = 'ERROR'", "tags.b IN ('0', '1')"])
def test_rows_are_those_of_insights_correlate(
    module_conn: psycopg.Connection[Any], base: str | None, unit: str
) -> None:
    rows = matrix(module_conn, [1, 2], FILTERS, base, unit)
    pairs = [(row["filter1_number"], row["filter2_number"]) for row in rows]
    assert pairs == [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    for row in rows:
        first, second = (row.pop(f"filter{n}_number") for n in (1, 2))
        texts = [row.pop("filter1"), row.pop("filter2")]
        assert texts == [FILTERS[first - 1], FILTERS[second - 1]]
        with module_conn.cursor(row_factory=dict_row) as cursor:
            alone = cursor.execute(
                "select * from insights_correlate('1,2', %s, %s, %s, %s)", (*texts, base, unit)
            ).fetchone()
        # NaN is not equal to itself.
        assert repr(row) == repr(alone)


@pytest.mark.usefixtures("forty")
def test_experiments_in_every_form_and_as_many_filters_as_allowed(
    module_conn: psycopg.Connection[Any],
) -> None:
    expected = [row["joint_count"] for row in matrix(module_conn, [1], FILTERS)]
    for exp_ids in (["1"], "1", "{1}"):
        assert [row["joint_count"] for row in matrix(module_conn, exp_ids, FILTERS)] == expected
    assert {row["total_count"] for row in matrix(module_conn, "{}", FILTERS)} == {0}
    assert {row["total_count"] for row in matrix(module_conn, None, FILTERS)} == {40}
    rows = matrix(module_conn, None, [f"timestamp_ms < {n}" for n in range(50)])
    assert len(rows) == 1225
    assert all(row["joint_count"] == min(40, row["filter1_number"] - 1) for row in rows)
    assert [row["filter1"] for row in matrix(module_conn, None, [None, ""])] == [None]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([], "A matrix takes 2 to 50 filters, not 0."),
        (["status = 'OK'"], "A matrix takes 2 to 50 filters, not 1."),
        ([""] * 51, "A matrix takes 2 to 50 filters, not 51."),
        (None, "The filters must be an array of texts, of one dimension."),
        ([["", ""], ["", ""]], "The filters must be an array of texts, of one dimension."),
    ],
)
def test_too_few_and_too_many_are_refused(
    module_conn: psycopg.Connection[Any], filters: Any, message: str
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        module_conn.execute("select insights_correlation_matrix('1', %s::text[])", (filters,))
    assert checked(caught.value).message_primary == message


def test_errors_name_the_filter(module_conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        matrix(module_conn, "1", ["status = 'OK'", "stats = 'OK'", "also bad"])
    diag = checked(caught.value)
    assert (diag.message_primary or "").startswith("filter 2: Invalid attribute key 'stats'")
    assert (diag.message_detail or "").lstrip("\n") == "stats = 'OK'\n^^^^^"
    with pytest.raises(psycopg.Error) as caught:
        matrix(module_conn, "1", ["", "name RLIKE '('"])
    assert (checked(caught.value).message_primary or "").startswith("filter 2: invalid regular")
    with pytest.raises(psycopg.Error) as caught:
        matrix(module_conn, "1", ["", ""], "stats = 'OK'")
    assert (checked(caught.value).message_primary or "").startswith("Invalid attribute key")


def test_a_bad_unit_is_refused(module_conn: psycopg.Connection[Any]) -> None:
    for call in (
        "insights_count('1', '', 'sessions')",
        "insights_correlate('1', '', '', null, 'sessions')",
        "insights_correlation_matrix('1', array['', ''], null, 'sessions')",
        "insights_facets('1', '', 'status', 20, 'sessions')",
        "insights_timeseries('1', '', unit => 'sessions')",
    ):
        with pytest.raises(psycopg.Error) as caught:
            module_conn.execute(f"select {call}".encode())
        assert checked(caught.value).message_primary == "Invalid unit 'sessions'."


def test_sessions_span_experiments_and_leave_out_traces_without_one(
    put: Loader, module_conn: psycopg.Connection[Any]
) -> None:
    put(
        Trace("a", 1, 1, session_id="s", status="ERROR"),
        Trace("b", 2, 2, session_id="s"),
        Trace("c", 2, 3, session_id="t", status="ERROR"),
        Trace("d", 2, 4, status="ERROR"),
    )
    for exp_ids, unit, expected in [
        ("1,2", "session", 2),
        ("1,2", "session_all", 1),
        ("1", "session_all", 1),
        ("2", "session", 1),
        ("1,2", "trace", 3),
        (None, "session", 2),
        ("{}", "session", 0),
    ]:
        row = module_conn.execute(
            "select insights_count(%s, 'status = ''ERROR''', %s)", (exp_ids, unit)
        ).fetchone()
        assert row == (expected,), (exp_ids, unit)
