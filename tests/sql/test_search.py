"""insights_search: its rows, its pages, and what its arguments may be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import psycopg
import pytest

from tests.semantics.world import Assessment, Span, Trace, attributes
from tests.sql.conftest import Loader, Search, checked

START = 1_700_000_000_000


def some(count: int, **rest: Any) -> list[Trace]:
    """Traces t000, t001, … of experiment 1, a second apart."""
    return [Trace(f"t{n:03}", 1, START + n * 1000, **rest) for n in range(count)]


def newest_first(traces: list[Trace]) -> list[str]:
    return [trace.trace_id for trace in sorted(traces, key=lambda t: (-t.timestamp_ms, t.trace_id))]


# ------------------------------------------------------------------------ rows


def test_a_row_shows_the_trace_as_mlflow_does(put: Loader, search: Search) -> None:
    put(
        Trace(
            "tr-1",
            2,
            1_700_000_000_123,
            execution_time_ms=456,
            status="ERROR",
            request_preview="how?",
            response_preview="so",
            name="chat",
            session_id="s-1",
            tokens={"input_tokens": 1, "total_tokens": 3},
            cost={"input_cost": 1.0, "total_cost": 0.00001},
            tags={"env": "prod", "empty": "", "mlflow.traceName": "stale"},
            metadata={"mlflow.trace.user": "ann", "mlflow.trace.session": "stale"},
        )
    )
    (row,) = search.rows()
    assert row == {
        "trace_id": "tr-1",
        "experiment_id": "2",
        "request_time": datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=timezone.utc),
        "timestamp_ms": 1_700_000_000_123,
        "execution_time_ms": 456,
        "status": "ERROR",
        "trace_name": "chat",
        "session_id": "s-1",
        "request_preview": "how?",
        "response_preview": "so",
        "tags": {"env": "prod", "empty": "", "mlflow.traceName": "chat"},
        "metadata": {
            "mlflow.trace.user": "ann",
            "mlflow.trace.session": "s-1",
            "mlflow.trace.tokenUsage": json.dumps({"input_tokens": 1, "total_tokens": 3}),
            "mlflow.trace.cost": json.dumps({"input_cost": 1.0, "total_cost": 0.00001}),
        },
        "assessments": [],
        "next_page_token": None,
    }


def test_a_bare_trace_has_empty_collections(put: Loader, search: Search) -> None:
    put(Trace("tr-1", 1, 5))
    (row,) = search.rows()
    assert (row["tags"], row["metadata"], row["assessments"]) == ({}, {}, [])
    assert row["execution_time_ms"] is None
    assert row["trace_name"] is None


@pytest.mark.parametrize("timestamp", [-(2**63), -(10**15), 10**16, 2**63 - 1])
def test_a_number_that_is_no_time_shows_as_null(
    put: Loader, search: Search, timestamp: int
) -> None:
    put(Trace("tr-1", 1, timestamp))
    (row,) = search.rows()
    assert row["request_time"] is None
    assert row["timestamp_ms"] == timestamp


def test_assessments_are_decoded(put: Loader, search: Search) -> None:
    put(
        Trace(
            "tr-1",
            1,
            5,
            assessments=(
                Assessment("feedback", "good", "true", metadata='{"k": [1, "x"]}'),
                Assessment("expectation", "answer", '"42"', valid=False),
            ),
        )
    )
    ((good, answer),) = [row["assessments"] for row in search.rows()]
    assert good == {
        "assessment_id": "a-0-0",
        "name": "good",
        "type": "feedback",
        "value": True,
        "error": None,
        "rationale": None,
        "source": {"source_type": "HUMAN", "source_id": "tester"},
        "metadata": {"k": [1, "x"]},
        "valid": True,
        "overrides": None,
        "span_id": None,
        "run_id": None,
        "create_time_ms": 5,
        "last_update_time_ms": 5,
    }
    assert (answer["value"], answer["valid"]) == ("42", False)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ('"a\\u0000b"', "a\ufffdb"),
        ('"\\ud800"', "\ufffd"),
        ('"\\ud83d\\ude00"', "😀"),
        ("NaN", "NaN"),
        ('[Infinity, {"x": -Infinity}]', ["Infinity", {"x": "-Infinity"}]),
        ('{"\\u0000": 1}', {"\ufffd": 1}),
        ("not json", "not json"),
        ("", ""),
        ("1e400", "Infinity"),
        ("1" * 5000, "1" * 5000),
        ("[" * 5000 + "]" * 5000, "[" * 5000 + "]" * 5000),
        ('{"k": 1, "k": 2}', {"k": 2}),
        ("12345678901234567890", 12345678901234567890),
        ("null", None),
        ('"日本"', "日本"),
    ],
)
def test_hostile_values_of_assessments_are_shown_and_harm_nothing(
    put: Loader, search: Search, stored: str, shown: Any
) -> None:
    put(Trace("tr-1", 1, 5, assessments=(Assessment("feedback", "x", stored, metadata=stored),)))
    (row,) = search.rows()
    assert row["assessments"][0]["value"] == shown
    assert row["assessments"][0]["metadata"] == shown


def test_odd_tags_and_metadata_are_shown_as_they_are(put: Loader, search: Search) -> None:
    odd = {"a.b": "q\"'\\", "": "x", "日本": "é\u0001", "none": None, "'; drop": "%_"}
    put(
        Trace(
            "tr-1",
            1,
            5,
            tags=odd,
            metadata=odd,
            request_preview="\u0001\ud7ff",
            cost={"total_cost": math.nan, "input_cost": math.inf},
        )
    )
    (row,) = search.rows()
    assert row["tags"] == odd
    assert row["metadata"] == {
        **odd,
        "mlflow.trace.cost": '{"input_cost": Infinity, "total_cost": NaN}',
    }


# -------------------------------------------------------------------- arguments


def test_every_argument_has_a_default(put: Loader, module_conn: psycopg.Connection[Any]) -> None:
    put(*some(3))
    for call in (
        "insights_search('1')",
        "insights_search(array[1])",
        "insights_search(array['1'], '')",
        "insights_search(array['1'], null, 50)",
        "insights_search('{1,2}', page_token => '')",
        "insights_search(exp_ids => null, filter => 'status = ''OK''', order_by => '{}')",
        "insights_search(array[1, 1]::smallint[])",
    ):
        found = module_conn.execute(f"select trace_id from {call}").fetchall()
        assert found == [("t002",), ("t001",), ("t000",)], call


def test_experiments(put: Loader, search: Search) -> None:
    put(Trace("a", 1, 1), Trace("b", 2, 2), Trace("c", 3, 3))
    assert search.ids() == ["c", "b", "a"]
    assert search.ids(exp_ids=[]) == []
    assert search.ids(exp_ids=["2"]) == ["b"]
    assert search.ids(exp_ids=["2", "2", " 1 "]) == ["b", "a"]
    assert search.ids(exp_ids=["99", str(10**30), "-1"]) == []
    assert search.ids("status = 'OK'", exp_ids=[]) == []


@pytest.mark.parametrize(
    ("exp_ids", "message"),
    [
        (["abc"], "Invalid experiment ID 'abc'. Experiment ID must be a valid integer."),
        (["1", ""], "Invalid experiment ID ''. Experiment ID must be a valid integer."),
        (["1; drop"], "Invalid experiment ID '1; drop'. Experiment ID must be a valid integer."),
        (
            ["1.2"],
            "Locations must be a list of experiment IDs. Found invalid experiment IDs: 1.2.",
        ),
        (
            ["1", "1.2", "catalog.schema.table"],
            "Locations must be a list of experiment IDs. "
            "Found invalid experiment IDs: 1.2, catalog.schema.....",
        ),
        ([None], "Invalid experiment ID NULL. Experiment ID must be a valid integer."),
    ],
)
def test_bad_experiment_ids_are_refused_in_mlflows_words(
    search: Search, exp_ids: list[Any], message: str
) -> None:
    assert search.refusal(exp_ids=exp_ids).message_primary == message


def test_nested_arrays_are_refused(module_conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        module_conn.execute("select * from insights_search(array[['1'], ['2']])")
    assert "one dimension" in (checked(caught.value).message_primary or "")


@pytest.mark.parametrize(
    ("max_results", "message"),
    [
        (0, "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer"),
        (
            -5,
            "Invalid value -5 for parameter 'max_results' supplied. It must be a positive integer",
        ),
        (
            None,
            "Invalid value None for parameter 'max_results' supplied. "
            "It must be a positive integer",
        ),
        (
            50_001,
            "Invalid value 50001 for parameter 'max_results' supplied. It must be at most 50000",
        ),
    ],
)
def test_max_results_has_mlflows_bounds_and_words(
    search: Search, max_results: int | None, message: str
) -> None:
    assert search.refusal(max_results=max_results).message_primary == message


# ------------------------------------------------------------------------ pages


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 50])
def test_pages_partition_the_result(put: Loader, search: Search, size: int) -> None:
    traces = [Trace(f"t{n}", 1, START + n // 3) for n in range(15)]
    put(*traces)
    pages = search.pages(size)
    assert [one for page in pages for one in page] == newest_first(traces)
    # A token is given exactly when there is more: no empty page at the end.
    assert all(pages)


def test_a_search_without_matches_has_one_empty_page(put: Loader, search: Search) -> None:
    put(*some(3))
    assert search.pages(2, filter="status = 'ERROR'") == [[]]


def test_pages_stay_right_while_traces_come_and_go(
    put: Loader, search: Search, module_conn: psycopg.Connection[Any]
) -> None:
    traces = some(9)
    put(*traces)
    first = search.rows(max_results=3)
    for number in range(20):
        module_conn.execute(
            "insert into trace_info (request_id, experiment_id, timestamp_ms, status) "
            "values (%s, 1, %s, 'OK')",
            (f"new-{number}", START + 100_000 + number),
        )
    # The last row of the page itself may vanish: its place remains.
    module_conn.execute("delete from trace_info where request_id in ('t006', 't004')")
    second = search.rows(max_results=3, page_token=first[-1]["next_page_token"])
    third = search.rows(max_results=3, page_token=second[-1]["next_page_token"])
    found = [[row["trace_id"] for row in page] for page in (first, second, third)]
    assert found == [["t008", "t007", "t006"], ["t005", "t003", "t002"], ["t001", "t000"]]


def test_a_page_token_holds_the_time_that_the_search_began(
    put: Loader, search: Search, module_conn: psycopg.Connection[Any]
) -> None:
    now = module_conn.execute("select (extract(epoch from now()) * 1000)::bigint").fetchone()
    assert now is not None
    put(*[Trace(f"t{n}", 1, now[0] - 60_000 + n) for n in range(6)])
    recent = "timestamp_ms > now() - '59 seconds'"
    assert search.ids(recent) == []
    lately = "timestamp_ms > now() - '62 seconds'"
    first = search.rows(lately, max_results=4)
    assert len(first) == 4
    module_conn.execute("select pg_sleep(3)")
    assert search.ids(lately) == []
    rest = search.ids(lately, max_results=4, page_token=first[0]["next_page_token"])
    assert rest == ["t1", "t0"]


def test_a_token_of_another_search_is_refused(put: Loader, search: Search) -> None:
    put(*some(5))
    token = search.rows("status = 'OK'", max_results=2)[0]["next_page_token"]
    assert search.ids(" status  =  'OK' ", max_results=3, page_token=token) == [
        "t002",
        "t001",
        "t000",
    ]
    for other in (
        {"filter": "status != 'x'"},
        {"filter": "status = 'OK'", "exp_ids": ["1"]},
        {"filter": "status = 'OK'", "order_by": ["timestamp_ms"]},
    ):
        refusal = search.refusal(page_token=token, **other)
        assert refusal.message_primary == "Invalid page token, it belongs to another search"
        assert refusal.message_hint is not None


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("garbage!", "Invalid page token, could not base64-decode"),
        ("YWJj", "Invalid page token, decoded value=b'abc'"),
        ("eyJvZmZzZXQiOiAyMH0=", "Invalid page token, parsed value={'offset': 20}"),
        ("'; drop table trace_info", "Invalid page token, could not base64-decode"),
    ],
)
def test_hostile_tokens_are_refused(search: Search, token: str, message: str) -> None:
    assert search.refusal(page_token=token).message_primary == message


# --------------------------------------------------- the two ways to an answer


def test_frequent_and_rare_filters_give_the_same_pages(put: Loader, search: Search) -> None:
    # 3,000 traces: enough for one walk to give up and for another to go on.
    traces = [
        Trace(
            f"t{n:04}",
            1 + n % 2,
            START + n // 2,
            tags={
                "half": str(n % 2),
                "tenth": str(n % 10),
                "rare": str(n % 700),
                "old": "yes" if n < 100 else "no",
            },
            spans=(Span("s", attributes(n=n)),) if n % 100 == 0 else (),
        )
        for n in range(3000)
    ]
    put(*traces)
    cases: list[tuple[str, Callable[[int], bool]]] = [
        ("", lambda n: True),
        ("tags.half = '1'", lambda n: n % 2 == 1),
        ("tags.tenth = '3'", lambda n: n % 10 == 3),
        ("tags.rare = '5'", lambda n: n % 700 == 5),
        ("tags.old = 'yes'", lambda n: n < 100),
        ("tags.none = 'x'", lambda n: False),
        ("span.attributes.n >= 1000", lambda n: n % 100 == 0 and n >= 1000),
        (f"tags.old = 'yes' AND timestamp_ms < {START + 10}", lambda n: n < 20),
        (f"timestamp_ms BETWEEN {START + 5} AND {START + 7}", lambda n: 10 <= n < 16),
        ("tags.old = 'yes' OR tags.tenth = '3'", lambda n: n < 100 or n % 10 == 3),
    ]
    for filter, matches in cases:
        expected = newest_first([trace for n, trace in enumerate(traces) if matches(n)])
        for size in (101, 600):
            pages = search.pages(size, filter=filter)
            assert [one for page in pages for one in page] == expected, filter
            assert [len(page) for page in pages[:-1]] == [size] * (len(pages) - 1)
        oldest_first = search.pages(400, filter=filter, order_by=["timestamp", "trace_id desc"])
        assert [one for page in oldest_first for one in page] == expected[::-1], filter


def test_the_largest_page(
    put: Loader, search: Search, module_conn: psycopg.Connection[Any]
) -> None:
    put()
    module_conn.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status) "
        "select 't' || n, 1, n, 'OK' from generate_series(1, 50001) n"
    )
    rows = search.rows("status = 'OK'", max_results=50_000)
    assert len(rows) == 50_000
    assert search.ids("status = 'OK'", page_token=rows[0]["next_page_token"]) == ["t1"]


# ----------------------------------------------------- functions for the plugin


def test_search_page_pages_by_token_and_by_offset(
    put: Loader, module_conn: psycopg.Connection[Any]
) -> None:
    put(*some(7))

    def page(token: str | None, offset: int | None) -> tuple[list[str], str | None]:
        rows = module_conn.execute(
            "select trace_id, next_page_token"
            " from insights.search_page(array['1'], '', 3, null, %s, %s)",
            (token, offset),
        ).fetchall()
        return [row[0] for row in rows], rows[-1][1] if rows else None

    ids, token = page(None, None)
    assert ids == ["t006", "t005", "t004"]
    assert page(token, None)[0] == ["t003", "t002", "t001"]
    ids, token = page(None, 3)
    assert ids == ["t003", "t002", "t001"]
    assert page(token, None) == (["t000"], None)
    assert page(None, 6) == (["t000"], None)
    assert page(None, 7) == ([], None)
    with pytest.raises(psycopg.Error) as caught:
        page(None, -1)
    checked(caught.value)


def test_match_trace_ids_keeps_the_order_given(
    put: Loader, module_conn: psycopg.Connection[Any]
) -> None:
    put(Trace("a", 1, 1, status="OK"), Trace("b", 1, 2, status="ERROR"), Trace("c", 2, 3))

    def matching(filter: str, exp_ids: list[str] | None, trace_ids: list[str | None]) -> list[str]:
        rows = module_conn.execute(
            "select * from insights.match_trace_ids(%s::text[], %s, %s::text[])",
            (exp_ids, filter, trace_ids),
        )
        return [row[0] for row in rows]

    assert matching("status = 'OK'", None, ["c", "b", "a", "zz", None, "c"]) == ["c", "a"]
    assert matching("", ["1"], ["c", "b"]) == ["b"]
    assert matching("", [], ["c", "b"]) == []
    assert matching("", ["1"], []) == []
    with pytest.raises(psycopg.Error) as caught:
        matching("status =", ["1"], ["a"])
    checked(caught.value)


def test_pages_of_what_had_to_be_asked_everywhere(
    put: Loader, search: Search, module_conn: psycopg.Connection[Any]
) -> None:
    """Rare texts, which the index knows nothing of: asked once, then known."""
    put()
    module_conn.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
        " select 'm' || n, 1, n / 2, 'OK' from generate_series(1, 8000) n"
    )
    module_conn.execute(
        "insert into spans"
        " (trace_id, experiment_id, span_id, status, start_time_unix_nano, content)"
        " select 'm' || n, 1, 's', 'OK', 0, case when n % 900 < 2 then 'rare' else 'text' end"
        " from generate_series(1, 8000) n"
    )
    while module_conn.execute("select pending from insights_refresh()").fetchone() != (0,):
        pass
    expected = [
        row[0]
        for row in module_conn.execute(
            "select t.request_id from trace_info t join spans s on s.trace_id = t.request_id"
            " where s.content = 'rare' order by t.timestamp_ms desc, t.request_id"
        )
    ]
    assert len(expected) == 17
    rare = "span.content LIKE '%rare%'"
    for size in (1, 3, 5, 17, 100):
        pages = search.pages(size, filter=rare)
        assert [trace_id for page in pages for trace_id in page] == expected
    put_back = "update spans set content = 'text' where trace_id = %s"
    module_conn.execute(put_back, (expected[0],))
    module_conn.execute(
        "insert into spans"
        " (trace_id, experiment_id, span_id, status, start_time_unix_nano, content)"
        " values ('m4001', 1, 'more', 'OK', 0, 'rare')"
    )
    for _ in range(2):
        pages = search.pages(5, filter=rare)
        found = [trace_id for page in pages for trace_id in page]
        assert found == sorted({*expected[1:], "m4001"}, key=lambda i: (-(int(i[1:]) // 2), i))
        module_conn.execute("select insights_refresh()")
