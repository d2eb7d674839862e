"""insights_correlate: the four counts, and the statistics that follow from them."""

from __future__ import annotations

import math
from typing import Any

import psycopg
import pytest
from insights_engine.stats import statistics
from mlflow.store.analytics.trace_correlation import calculate_npmi_from_counts
from psycopg.rows import dict_row

from tests.semantics.world import Span, Trace, attributes
from tests.sql.conftest import Loader, checked

START = 1_700_000_000_000


def correlate(
    connection: psycopg.Connection[Any],
    filter1: str | None,
    filter2: str | None,
    base: str | None = None,
    exp_ids: Any = "1",
) -> dict[str, Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "select * from insights_correlate(%s, %s, %s, %s)", (exp_ids, filter1, filter2, base)
        ).fetchone()
    assert row is not None
    return row


def counts(row: dict[str, Any]) -> tuple[int, int, int, int]:
    return row["filter1_count"], row["filter2_count"], row["joint_count"], row["total_count"]


@pytest.fixture
def hundred(put: Loader) -> None:
    """Tag a on every second trace, b on every fifth, span statuses and models besides."""
    put(
        *(
            Trace(
                f"t{n:03}",
                1 if n < 100 else 2,
                START + n,
                tags={"a": str(n % 2), "b": str(n % 5)},
                spans=(
                    Span("1", attributes(model=f"m{n % 3}"), status="ERROR" if n % 4 else "OK"),
                    Span("2", attributes(model="m9"), status="OK"),
                ),
            )
            for n in range(120)
        )
    )


@pytest.mark.usefixtures("hundred")
def test_counts_and_statistics(module_conn: psycopg.Connection[Any]) -> None:
    row = correlate(module_conn, "tags.a = '0'", "tags.b = '0'")
    assert list(row) == [
        "filter1_count",
        "filter2_count",
        "joint_count",
        "total_count",
        "npmi",
        "npmi_smoothed",
        "lift",
        "phi",
        "odds_ratio",
        "odds_ratio_low",
        "odds_ratio_high",
        "p_value",
        "test",
    ]
    assert counts(row) == (50, 20, 10, 100)
    expected = statistics.associate(statistics.Counts(50, 20, 10, 100))
    assert {key: value for key, value in row.items() if not key.endswith("count")} == vars(expected)
    mlflow = calculate_npmi_from_counts(10, 50, 20, 100)
    assert (row["npmi"], row["npmi_smoothed"]) == (mlflow.npmi, mlflow.npmi_smoothed)


@pytest.mark.usefixtures("hundred")
@pytest.mark.parametrize(
    ("filter1", "filter2", "base", "expected"),
    [
        ("", "", None, (100, 100, 100, 100)),
        (None, None, "", (100, 100, 100, 100)),
        ("tags.a = '0'", "tags.a = '1'", None, (50, 50, 0, 100)),
        ("tags.a = '0'", "tags.a = '0'", None, (50, 50, 50, 100)),
        ("tags.a = 'x'", "tags.b = '0'", None, (0, 20, 0, 100)),
        ("tags.a = '0'", "tags.b = '0'", "tags.b IN ('0', '1')", (20, 20, 10, 40)),
        ("tags.a = '0' OR tags.b = '1'", "tags.b = '0'", "tags.b = '1'", (20, 0, 0, 20)),
        ("tags.a = '0'", "tags.b = '0'", "tags.b = '0' OR tags.b = '1'", (20, 20, 10, 40)),
        ("tags.a = '0'", "", f"timestamp_ms < {START + 10}", (5, 10, 5, 10)),
        # Spans of base and filter are one span, as in stock MLflow's concatenation.
        ("span.status = 'OK'", "span.status = 'ERROR'", None, (100, 75, 75, 100)),
        (
            "span.status = 'OK'",
            "span.status = 'ERROR'",
            "span.attributes.model = 'm0'",
            (9, 25, 0, 34),
        ),
        (
            "any(span.status = 'OK')",
            "span.status = 'ERROR'",
            "span.attributes.model = 'm0'",
            (34, 25, 25, 34),
        ),
    ],
)
def test_counts(
    module_conn: psycopg.Connection[Any],
    filter1: str | None,
    filter2: str | None,
    base: str | None,
    expected: tuple[int, int, int, int],
) -> None:
    assert counts(correlate(module_conn, filter1, filter2, base)) == expected


@pytest.mark.usefixtures("hundred")
def test_counts_agree_with_insights_count(module_conn: psycopg.Connection[Any]) -> None:
    row = correlate(module_conn, "tags.a = '0'", "span.attributes.model = 'm1'", exp_ids=[1, 2])
    for key, filter in [
        ("filter1_count", "tags.a = '0'"),
        ("filter2_count", "span.attributes.model = 'm1'"),
        ("joint_count", "tags.a = '0' AND span.attributes.model = 'm1'"),
        ("total_count", ""),
    ]:
        found = module_conn.execute("select insights_count(array[1, 2], %s)", (filter,)).fetchone()
        assert found == (row[key],)


@pytest.mark.usefixtures("hundred")
def test_where_nothing_matches_npmi_is_nan_and_all_else_null(
    module_conn: psycopg.Connection[Any],
) -> None:
    for row in (
        correlate(module_conn, "tags.a = 'x'", "tags.b = '0'"),
        correlate(module_conn, "tags.a = '0'", "tags.b = '0'", exp_ids="{}"),
        correlate(module_conn, "tags.a = '0'", "tags.b = '0'", exp_ids="99"),
        correlate(module_conn, "tags.a = '0'", "tags.b = '0'", base="tags.a = 'x'"),
    ):
        assert math.isnan(row["npmi"])
        assert math.isnan(row["npmi_smoothed"])
        assert [row[key] for key in list(row)[6:]] == [None] * 7


@pytest.mark.parametrize("place", ["filter1", "filter2", "base"])
def test_the_caret_is_in_the_filter_that_is_wrong(
    module_conn: psycopg.Connection[Any], place: str
) -> None:
    filters = {"filter1": "status = 'OK'", "filter2": "status = 'OK'", "base": "status = 'OK'"}
    filters[place] = "tags.only_here = "
    with pytest.raises(psycopg.Error) as caught:
        correlate(module_conn, **filters)
    detail = (checked(caught.value).message_detail or "").lstrip("\n")
    assert detail.startswith("tags.only_here = \n")
    assert "^" in detail


def test_bad_ids_are_refused_in_the_words_of_mlflows_correlation(
    module_conn: psycopg.Connection[Any],
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        correlate(module_conn, "", "", exp_ids=["1.2"])
    assert checked(caught.value).message_primary == (
        "Invalid experiment ID '1.2'. Experiment ID must be a valid integer."
    )
