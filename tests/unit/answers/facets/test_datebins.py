"""Intervals of time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from insights_engine.answers.facets import datebins
from insights_engine.language import times


def ms(text: str) -> int:
    found = times.time_in_ms(text)
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize(
    ("low", "high", "most", "edges"),
    [
        (
            "2026-11-01T00:10",
            "2026-11-01T09:59",
            4,
            "2026-11-01 2026-11-01T03:00Z 2026-11-01T06:00Z 2026-11-01T09:00Z 2026-11-01T12:00Z",
        ),
        # A week begins on a Monday.
        ("2026-03-01", "2026-03-10", 3, "2026-02-23 2026-03-02 2026-03-09 2026-03-16"),
        ("2026-01-31", "2026-03-01", 3, "2026-01-01 2026-02-01 2026-03-01 2026-04-01"),
        ("2024-11-30", "2025-08-01", 4, "2024-10-01 2025-01-01 2025-04-01 2025-07-01 2025-10-01"),
        ("2019-06-01", "2026-06-01", 5, "2018-01-01 2020-01-01 2022-01-01 2024-01-01 2026-01-01"
         " 2028-01-01"),
        ("2026-01-01T00:00:00.001Z", "2026-01-01T00:00:00.003Z", 3, "2026-01-01T00:00:00.001Z"
         " 2026-01-01T00:00:00.002Z 2026-01-01T00:00:00.003Z 2026-01-01T00:00:00.004Z"),
        ("2026-01-01", "2026-01-01", 1, "2026-01-01 2026-01-01T00:00:00.001Z"),
        ("1969-12-31T23:50", "1970-01-01T00:10", 2, "1969-12-31T23:45Z 1970-01-01"
         " 1970-01-01T00:15Z"),
        ("1999-12-31", "2000-01-01", 1, "1999-12-27 2000-01-03"),
    ],
)  # fmt: skip
def test_edges_are_those_of_the_calendar(low: str, high: str, most: int, edges: str) -> None:
    found = datebins.edges(ms(low), ms(high), most)
    assert [times.text_of(int(edge or 0)) for edge in found] == edges.split()


@given(
    st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**14), 10**14),
    st.integers(0, 10**13) | st.integers(0, 2**63),
    st.integers(1, 40),
)
@example(-(2**63), 2**64 - 1, 1)
@example(2**63 - 1, 0, 1)
@example(253402300799999, 0, 1)
@example(253402300799999 - 32 * 86_400_000, 32 * 86_400_000, 1)
def test_edges_hold_every_time(low: int, length: int, most: int) -> None:
    high = min(low + length, 2**63 - 1)
    edges = datebins.edges(low, high, most)
    known = [edge for edge in edges if edge is not None]
    assert known == sorted(set(known))
    assert all(isinstance(edge, int) and -(2**63) <= edge < 2**63 for edge in known)
    assert None not in edges[1:-1]
    assert edges[0] is None or edges[0] <= low
    assert edges[-1] is None or edges[-1] > high
    assert len(edges) - 1 <= max(most, 2)


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**14), 10**15))
def test_a_time_is_written_as_it_is_read(milliseconds: int) -> None:
    text = times.text_of(milliseconds)
    if text is None:
        bounds = (datetime(1, 1, 1, tzinfo=timezone.utc), datetime.max.replace(tzinfo=timezone.utc))
        epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
        first, last = ((bound - epoch) // timedelta(milliseconds=1) for bound in bounds)
        assert not first <= milliseconds <= last
    else:
        assert times.time_in_ms(text) == milliseconds
