"""Page tokens: exact, bound to their search, and safe to read from anybody."""

from __future__ import annotations

import base64
import json
import math
import re
import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from insights_engine.answers.search import paging
from insights_engine.answers.search.ordering import SortColumn, parse_order
from insights_engine.answers.search.paging import Position
from insights_engine.exact.rawsql import Params
from insights_engine.language.errors import InsightsError

SEARCH = paging.fingerprint([1, 2], "status = 'OK'", ["timestamp_ms DESC", "trace_id ASC"])
TIME = SortColumn("t.timestamp_ms", "bigint", nullable=False, descending=True)
NAME = SortColumn("t.name", "text", nullable=True, descending=False)
COST = SortColumn("t.cost", "double precision", nullable=True, descending=True)
END = SortColumn("t.end", "numeric", nullable=False, descending=False)

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
BIGINT = st.integers(-(2**63), 2**63 - 1)


def token_of(body: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode()


@given(BIGINT, st.none() | TEXT, st.none() | st.floats(allow_nan=False), BIGINT, BIGINT)
@settings(max_examples=100)
def test_values_come_back_exactly(
    time: int, name: str | None, cost: float | None, end: int, now: int
) -> None:
    columns = [TIME, NAME, COST, END]
    position = Position((time, name, cost, str(end)), now)
    token = paging.encode(position, SEARCH)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    again = paging.decode(token, SEARCH, columns) if abs(now) < 2**63 else position
    assert again == position
    again_cost = again.values[2] or 1.0
    assert isinstance(again_cost, (int, float))
    assert math.copysign(1, again_cost) == math.copysign(1, cost or 1.0) or not cost


def test_nan_and_infinities_come_back() -> None:
    for value in (math.nan, math.inf, -math.inf):
        token = paging.encode(Position((value,), 0), SEARCH)
        (again,) = paging.decode(token, SEARCH, [COST]).values
        assert isinstance(again, float)
        assert repr(again) == repr(value)


def test_the_fingerprint_separates_searches() -> None:
    searches = {
        paging.fingerprint(experiments, filter, order)
        for experiments in (None, [], [1], [1, 2])
        for filter in ("", "status = 'OK'")
        for order in (["timestamp_ms DESC"], ["timestamp_ms ASC"])
    }
    assert len(searches) == 16


def refused(token: str, columns: Sequence[SortColumn] = (TIME,)) -> str:
    with pytest.raises(InsightsError) as error:
        paging.decode(token, SEARCH, columns)
    assert error.value.sqlstate == "22023"
    assert error.value.hint is not None
    assert "\n" not in error.value.message
    return error.value.message


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("%%%", "Invalid page token, decoded value=b''"),
        ("ü", "Invalid page token, could not base64-decode"),
        ("a", "Invalid page token, could not base64-decode"),
        ("YWJj", "Invalid page token, decoded value=b'abc'"),
        ("AAECAwQ", "Invalid page token, could not base64-decode"),
        ("!!!", "Invalid page token, decoded value=b''"),
        (token_of({"offset": "a"}), "Invalid page token, not stringable a"),
        (token_of({"offset": "20"}), "Invalid page token, parsed value={'offset': '20'}"),
        ("AAECAwQ=", "Invalid page token, decoded value=b'\\x00\\x01\\x02\\x03\\x04'"),
        (base64.b64encode(b"[" * 100_000).decode(), "Invalid page token, decoded value="),
        (base64.b64encode(b"1" * 5_000).decode(), "Invalid page token, decoded value="),
        (token_of({"offset": 20}), "Invalid page token, parsed value={'offset': 20}"),
        (token_of(None), "Invalid page token, parsed value=None"),
        (token_of([1, 2, 3, 4]), "Invalid page token, parsed value=[1, 2, 3, 4]"),
        (token_of([SEARCH, True, [], ""]), "Invalid page token, parsed value="),
        (token_of([SEARCH, 2**70, [], ""]), "Invalid page token, parsed value="),
        (token_of([SEARCH, 0, [1], "0" * 16]), "it has been changed or cut off"),
        (token_of([SEARCH, 0, [1], None]), "it has been changed or cut off"),
        ("A" * (paging.MAX_TOKEN + 1), "Invalid page token, it is longer than"),
    ],
)
def test_what_is_no_token_of_ours_is_refused(token: str, message: str) -> None:
    assert message in refused(token)


def test_a_cut_token_is_refused() -> None:
    token = paging.encode(Position((5,), 0), SEARCH)
    for length in range(len(token)):
        if length:
            refused(token[:length])


@given(st.data())
@settings(max_examples=100)
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    token = paging.encode(Position((1_700_000_000_000,), 5), SEARCH)
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCXYZabcxyz0189-_"))
    changed = token[:place] + letter + token[place + 1 :]
    padded = [text + "=" * (-len(text) % 4) for text in (changed, token)]
    if base64.urlsafe_b64decode(padded[0]) != base64.urlsafe_b64decode(padded[1]):
        refused(changed)


def test_a_token_of_another_search_is_refused() -> None:
    other = paging.fingerprint([3], "", [])
    token = paging.encode(Position((5,), 0), other)
    assert "it belongs to another search" in refused(token)


@pytest.mark.parametrize(
    ("value", "column"),
    [
        (None, TIME),
        ("5", TIME),
        (True, TIME),
        (1.5, TIME),
        (2**63, TIME),
        (5, NAME),
        ("a\0b", NAME),
        ("\ud800", NAME),
        (["x"], NAME),
        ({"float": "1; drop table"}, COST),
        ({"float": "NaN", "x": 1}, COST),
        ("1.5", COST),
        (5, COST),
        (5, END),
        ("5; select 1", END),
        ("9" * 100, END),
        (None, END),
    ],
)
def test_a_well_made_token_with_impossible_values_is_refused(
    value: Any, column: SortColumn
) -> None:
    body = [SEARCH, 0, [value]]
    assert "it has been changed" in refused(token_of([*body, paging._checksum(body)]), [column])


def test_a_well_made_token_with_too_many_values_is_refused() -> None:
    body = [SEARCH, 0, [1, 2]]
    assert "it has been changed" in refused(token_of([*body, paging._checksum(body)]))


ROW = st.tuples(
    st.none() | st.integers(0, 2), st.none() | st.sampled_from("abc"), st.integers(0, 2)
)


@given(st.lists(ROW, min_size=1, max_size=12), st.tuples(*[st.booleans()] * 3), st.integers(0, 11))
@settings(max_examples=150)
def test_the_condition_selects_exactly_what_sorts_behind(
    rows: list[tuple[int | None, str | None, int]],
    descending: tuple[bool, bool, bool],
    place: int,
) -> None:
    """On SQLite, which knows the same comparisons and NULLS LAST."""
    columns = [
        SortColumn("a", "bigint", True, descending[0]),
        SortColumn("b", "text", True, descending[1]),
        SortColumn("c", "bigint", False, descending[2]),
        SortColumn("n", "bigint", False, False),
    ]
    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (a, b, c, n)")
    connection.executemany(
        "insert into t values (?, ?, ?, ?)", [(*row, n) for n, row in enumerate(rows)]
    )
    order = ", ".join(str(column) for column in columns)
    everything = connection.execute(f"select a, b, c, n from t order by {order}").fetchall()
    place %= len(everything)
    params = Params()
    condition = paging.after(columns, everything[place], params)
    condition = re.sub(r"\$(\d+)", r"?\1", condition)
    found = connection.execute(
        f"select a, b, c, n from t where {condition} order by {order}", params.values
    ).fetchall()
    assert found == everything[place + 1 :]


def test_values_are_parameters_and_never_sql() -> None:
    params = Params()
    hostile = "x'; drop table trace_info; --"
    condition = paging.after([NAME, TIME], (hostile, 5), params)
    assert "drop" not in condition
    assert params.values == [hostile, 5]


def test_a_leading_column_without_nulls_gets_a_bound_for_the_index() -> None:
    columns = [TIME, SortColumn("t.request_id", "text", False, False)]
    assert paging.after(columns, (7, "x"), Params()).startswith("(t.timestamp_ms <= $")


def test_the_tie_breakers_are_appended_once() -> None:
    assert [str(c) for c in parse_order(None)] == ["timestamp_ms DESC", "trace_id ASC"]
    assert [str(c) for c in parse_order(["request_id desc"])] == [
        "trace_id DESC",
        "timestamp_ms DESC",
    ]
    assert [str(c) for c in parse_order(["timestamp", "name"])] == [
        "timestamp_ms ASC",
        "name ASC",
        "trace_id ASC",
    ]
