"""Facts, pairs, facets and series: the methods, and how their answers look as text."""

from __future__ import annotations

import dataclasses
import io
import re
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from rich.cells import cell_len
from rich.console import Console

from insights_py import (
    ArgumentError,
    Comparison,
    Correlation,
    Discovery,
    Facet,
    Facets,
    FilterError,
    Insights,
    Matrix,
    TimeSeries,
    operations,
)
from insights_py.display import bar, percent, probability, significant
from tests.client.samples import BUCKET, FACT, FACTS, NAMES, NUMBERS, PAIRS

ERRORS = "span.status = 'ERROR'"
GPT4 = "span.attributes.model = 'gpt-4'"
V1 = "tags.release = 'v1'"
V2 = "tags.release = 'v2'"


@pytest.fixture(scope="module")
def insights(world_dsn: str) -> Any:
    with Insights(world_dsn) as client:
        yield client


# ------------------------------------------------------------------- the methods


def test_each_fact_is_a_filter_with_the_counts_of_its_row(insights: Insights) -> None:
    found = insights.discover(ERRORS, fdr=1, min_support=1, direction="both")
    assert (found.target, found.base_filter, found.fdr, found.unit) == (ERRORS, None, 1, "trace")
    assert GPT4 in {insights.validate(fact.filter) for fact in found}
    for fact in found:
        other = insights.correlate(ERRORS, fact.filter)
        assert (fact.target_count, fact.fact_count) == (other.filter1_count, other.filter2_count)
        assert (fact.joint_count, fact.total_count) == (other.joint_count, other.total_count)
        assert fact.target_share == pytest.approx(fact.joint_count / 11)
        assert fact.other_share == pytest.approx((fact.fact_count - fact.joint_count) / 37)


def test_a_comparison_is_a_discovery_within_both(insights: Insights) -> None:
    found = insights.compare(V2, V1, fdr=1, min_support=1)
    assert isinstance(found, Comparison)
    assert (found.target, found.baseline) == (V2, V1)
    for fact in found:
        other = insights.correlate(V2, fact.filter, f"({V2}) OR ({V1})")
        assert (fact.fact_count, fact.joint_count) == (other.filter2_count, other.joint_count)
        assert (fact.target_count, fact.total_count) == (12, 48)


@pytest.mark.parametrize("kinds", ["tag", ["tag"], ("tag",), iter(["tag"])])
def test_kinds(insights: Insights, kinds: Any) -> None:
    found = insights.discover(V2, kinds=kinds, restatements=True)
    assert {fact.kind for fact in found} == {"tag"}
    assert all(fact.restates for fact in found if fact.filter == V2)


def test_a_matrix_is_the_correlation_of_each_pair(insights: Insights) -> None:
    found = insights.matrix([GPT4, ERRORS, V2], "execution_time_ms > 1000")
    assert found.filters == (GPT4, ERRORS, V2)
    assert [(pair.filter1_number, pair.filter2_number) for pair in found] == [
        (1, 2),
        (1, 3),
        (2, 3),
    ]
    for pair in found:
        expected = insights.correlate(pair.filter1, pair.filter2, "execution_time_ms > 1000")
        assert pair.correlation == expected
    with pytest.raises(TypeError, match="several, in a list"):
        insights.matrix(ERRORS)


def test_each_facet_is_a_filter_with_the_count_of_its_row(insights: Insights) -> None:
    for field in ("tags.release", "execution_time_ms"):
        found = insights.facets(ERRORS, field)
        assert (found.filter, found.field) == (ERRORS, field)
        for facet in found:
            assert insights.count(f"({ERRORS}) AND ({facet.filter})") == facet.count
            assert facet.share == pytest.approx(facet.count / 11)
        assert sum(facet.count for facet in found) == 11


def test_a_series(insights: Insights) -> None:
    found = insights.timeseries(ERRORS, "15 minutes")
    assert isinstance(found, TimeSeries)
    assert [bucket.time for bucket in found] == [
        datetime(2026, 1, 5, 9, minute, tzinfo=timezone.utc) for minute in (0, 15, 30, 45)
    ]
    assert [bucket.matched for bucket in found] == [4, 3, 4, 0]
    assert [bucket.total for bucket in found] == [15, 15, 15, 3]
    assert found[3].p50_ms is None
    assert insights.timeseries(ERRORS, timedelta(minutes=15))[:] == found[:]
    assert len(insights.timeseries()) == 1


def test_times_are_in_the_zone_of_the_series(world_dsn: str) -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    # Not in that of the session.
    with Insights(world_dsn + "?options=-ctimezone%3DAmerica/New_York") as insights:
        found = insights.timeseries(ERRORS, "1 day", time_zone="Asia/Tokyo")
        assert [bucket.time for bucket in found] == [datetime(2026, 1, 5, tzinfo=tokyo)]
        assert found[0].time.isoformat() == "2026-01-05T00:00:00+09:00"
        assert found.time_zone == "Asia/Tokyo"
        for start in (
            "2026-01-05T18:30",
            datetime(2026, 1, 5, 18, 30),
            datetime(2026, 1, 5, 9, 30, tzinfo=timezone.utc),
            "2026-01-05T09:30Z",
            "2026-01-05T10:30+01:00",
        ):
            spans = insights.timeseries("", "15 minutes", start_time=start, time_zone="Asia/Tokyo")
            assert spans[0].time == datetime(2026, 1, 5, 18, 30, tzinfo=tokyo)


def test_a_zone_that_only_postgresql_knows(insights: Insights) -> None:
    found = insights.timeseries("", "1 hour", time_zone="XYZ-3")
    assert found.time_zone == "UTC"
    assert found[0].time.isoformat() == "2026-01-05T09:00:00+00:00"
    with pytest.raises(ArgumentError, match="Python does not know XYZ-3"):
        insights.timeseries("", start_time="2026-01-05", time_zone="XYZ-3")


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (timedelta(days=1), "1 days 0.000000 seconds"),
        (timedelta(milliseconds=250), "0 days 0.250000 seconds"),
    ],
)
def test_a_timedelta_is_an_interval(insights: Insights, width: timedelta, text: str) -> None:
    found = insights.timeseries(
        "", width, end_time="2026-01-05T09:00:01", start_time="2026-01-05T09"
    )
    assert found.bucket == text


def test_sessions(insights: Insights) -> None:
    assert insights.count(unit="session") == 5
    assert insights.count(V2, unit="session") == 5
    assert insights.count(V2, unit="session_all") == 0
    found = insights.correlate(ERRORS, V2, unit="session")
    assert (found.filter1_count, found.filter2_count, found.total_count) == (5, 5, 5)
    assert insights.matrix([ERRORS, V2], unit="session")[0].joint_count == 5
    assert insights.facets("", "tags.release", unit="session")[0].count == 5
    with pytest.raises(ArgumentError):
        insights.count(unit="week")


def test_counts_of_traces_ask_for_nothing_that_older_functions_lack() -> None:
    assert "unit" not in next(operations.count("", None, "trace")).text
    assert "unit" not in next(operations.correlate("", "", None, None, "trace")).text
    assert "unit => " in next(operations.count("", None, "session")).text


@pytest.mark.parametrize(
    "call",
    [
        lambda i, bad: i.discover(bad),
        lambda i, bad: i.discover("", bad),
        lambda i, bad: i.compare(bad, ""),
        lambda i, bad: i.matrix(["", bad]),
        lambda i, bad: i.facets(bad, "tags.release"),
        lambda i, bad: i.timeseries(bad),
    ],
)
def test_bad_filters(insights: Insights, call: Any) -> None:
    with pytest.raises(FilterError):
        call(insights, "span.stats = 'ERROR'")
    with pytest.raises(TypeError, match="a filter is text or None, not int"):
        call(insights, 5)
    with pytest.raises(FilterError, match="NUL character"):
        call(insights, "a\0")


def test_what_no_postgresql_can_hold(insights: Insights) -> None:
    for options in ({"unit": "\0"}, {"kinds": ["\0"]}, {"direction": "\0"}):
        with pytest.raises(ArgumentError, match="NUL character"):
            insights.discover(ERRORS, **options)


def test_pandas(insights: Insights) -> None:
    frame = insights.timeseries(ERRORS, "15 minutes").to_pandas()
    assert frame["matched"].tolist() == [4, 3, 4, 0]
    assert str(frame["time"].dt.tz) == "UTC"
    assert insights.matrix([GPT4, ERRORS]).to_pandas()["joint_count"].tolist() == [9]
    assert insights.facets("", "tags.release").to_pandas()["value"].tolist() == ["v1", "v2"]
    frame = insights.discover(ERRORS).to_pandas()
    assert GPT4 in frame["filter"].tolist()
    nothing = insights.discover(ERRORS, min_support=1000).to_pandas()
    assert len(nothing) == 0
    assert list(nothing.columns) == list(frame.columns)


# ------------------------------------------------------------------ how they look


def at(width: int, shown: Any) -> str:
    """What a terminal of this width without colour shows."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, highlight=False).print(shown)
    return stream.getvalue()


def test_a_discovery_at_80_columns() -> None:
    assert Discovery(FACTS, ERRORS).grid().plain(80) == (
        "filter                                 target          other          odds ratio\n"
        "span.attributes['error_type'] =        50.6 %  ████▌   0.1 %  ▏            1,918\n"
        "'timeout'\n"
        "  ≈ span.attributes['retries'] = '3'\n"
        "  ≈ tags.alert = 'timeout'\n"
        "  ≈ and 1 more\n"
        "any(span.type = 'TOOL' AND span.name    7.5 %  ▋       0.1 %  ▏             75.7\n"
        "= 'query_database' AND span.status =\n"
        "'ERROR')\n"
        "execution_time_ms >= 10240             33.2 %  ██▉     9.6 %  ▉             4.70\n"
        "tags.release = 'v1'                    41.5 %  ███▋   68.1 %  ██████       0.332\n"
        "4 facts shown of 1,835 tested, q ≤ 0.05; target: 12,044 of 200,000 traces (6.0 %)"
    )


def test_a_comparison_of_sessions_at_120_columns() -> None:
    assert Comparison(FACTS[2:], V2, V1, unit="session").grid().plain(120) == (
        "filter                      selection        baseline          odds ratio            95 %"
        "        q   both  with fact\n"
        "execution_time_ms >= 10240     33.2 %  ██▉      9.6 %  ▉             4.70    4.51 to 4.89"
        "  3.2e-11  4,000     22,000\n"
        "tags.release = 'v1'            41.5 %  ███▋    68.1 %  ██████       0.332  0.320 to 0.345"
        "  3.2e-11  5,000    133,000\n"
        "2 facts shown of 1,835 tested, q ≤ 0.05; 12,044 against 187,956 sessions"
    )


def test_a_fact_field_by_field() -> None:
    assert FACT.grid().plain(80) == (
        "filter         span.attributes['error_type'] = 'timeout'\n"
        "in the target  50.6 % (6,100 of 12,044)\n"
        "elsewhere      0.1 % (100 of 187,956)\n"
        "odds ratio     1,918 (95 %: 1,572 to 2,340)\n"
        "lift           16.3379\n"
        "npmi           0.4\n"
        "phi            0.3\n"
        "p              1e-12 (G2)\n"
        "q              3.2e-11 (1,835 facts tested)\n"
        "similar        span.attributes['retries'] = '3'\n"
        "               tags.alert = 'timeout'\n"
        "               tags.x = '1'"
    )
    assert "only says the target again" in repr(dataclasses.replace(FACT, restates=True))
    assert len({FACT, FACT}) == 1


def test_a_matrix() -> None:
    assert Matrix(PAIRS).grid().plain(80) == (
        "   filter                                             traces      1      2     3\n"
        "1  span.status = 'ERROR'                               1,000      ·  -0.73  0.25\n"
        "2  span.attributes['model'] = 'llama-3-70b'            2,000  -0.73      ·     –\n"
        "3  tags.environment = 'production' AND                 3,000   0.25      –     ·\n"
        "   count(span.type = 'LLM') > 3\n"
        "npmi: -1 never together, 0 independent, 1 always; 200,000 traces"
    )
    # The last filter goes as a column, not as a row: its pairs are in the others' columns.
    narrow = Matrix(PAIRS).grid("phi").plain(50)
    assert narrow.splitlines()[0] == "   filter                     traces      1      2"
    assert "\n3  tags.environment =          3,000   0.12      –\n" in narrow
    with pytest.raises(ValueError, match="one of npmi, npmi_smoothed, phi, not 'lift'"):
        Matrix(PAIRS).square("lift")  # type: ignore[arg-type]


def test_what_a_matrix_cannot_show_as_it_is() -> None:
    none = dataclasses.replace(PAIRS[0], filter1="", npmi=-0.001)
    assert Matrix([none]).filters[0] == ""
    assert "1  (all traces)  " in Matrix([none]).grid().plain(80)
    assert "(all sessions)" in repr(Matrix([none], unit="session"))
    assert "  0.00\n" in Matrix([none]).grid().plain(80)


def test_a_pair() -> None:
    text = PAIRS[0].grid().plain(80)
    assert text.startswith(
        "filter 1                 span.status = 'ERROR'\n"
        "filter 2                 span.attributes['model'] = 'llama-3-70b'\n"
        "filter 1          1,000  0.5 %\n"
    )
    assert isinstance(PAIRS[0].correlation, Correlation)


def test_facets_of_text() -> None:
    assert Facets(NAMES, "", "trace_name").grid().plain(80) == (
        "trace_name  traces   share                filter\n"
        "answer       1,200  60.0 %  ████████████  trace_name = 'answer'\n"
        "''               1  <0.1 %  ▏             trace_name = ''\n"
        "(none)         799  40.0 %  ████████      trace_name IS NULL"
    )
    # A filter stands there whole or not at all.
    assert "trace_name IS NULL" not in Facets(NAMES, "", "trace_name").grid().plain(60)
    assert repr(NAMES[0]).splitlines()[1].startswith("answer")


def test_facets_of_numbers() -> None:
    assert Facets(NUMBERS, "", "x", "session").grid().plain(80) == (
        "            x  sessions   share                filter\n"
        "   0 to 1,000     1,200  60.0 %  ████████████  x >= 0 AND x < 1000\n"
        "1,000 or more         1  <0.1 %  ▏             x >= 1000\n"
        "less than 0.5         4   0.2 %  ▏             x < 0.5\n"
        "       (none)       796  39.8 %  ████████      x IS NULL"
    )


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (1_767_603_600_000.0, 1_767_604_200_000.0, "1,767,603,600,000 to 1,767,604,200,000"),
        (0.0, 2e6, "0 to 2,000,000"),
        (0.1, 0.25, "0.1 to 0.25"),
        (-1e-7, 1e300, "-1e-07 to 1e+300"),
        (float("-inf"), 0.0, "-inf to 0"),
    ],
)
def test_the_bounds_of_intervals(low: float, high: float, text: str) -> None:
    assert dataclasses.replace(NUMBERS[0], low=low, high=high).label == text


def test_a_series_at_80_and_at_120_columns() -> None:
    empty = dataclasses.replace(
        BUCKET,
        time=BUCKET.time + timedelta(hours=1),
        matched=0,
        rate=0.0,
        errors=0,
        error_rate=None,
        p50_ms=None,
        p95_ms=None,
        p99_ms=None,
        tokens=None,
        cost=None,
    )
    assert TimeSeries([BUCKET, empty]).grid().plain(80) == (
        "time (UTC)        matched                total    rate  error rate    p95\n"
        "2026-01-05 09:00      160  ████████████    699  22.9 %      22.5 %  2.9 s\n"
        "2026-01-05 10:00        0                  699   0.0 %"
    )
    assert TimeSeries([BUCKET, empty]).grid().plain(120) == (
        "time (UTC)        matched                total    rate  errors  error rate     p50    p95"
        "    p99   tokens  cost\n"
        "2026-01-05 09:00      160  ████████████    699  22.9 %      36      22.5 %  701 ms  2.9 s"
        "  7.9 s  192,000  1.97\n"
        "2026-01-05 10:00        0                  699   0.0 %"
    )
    assert "2026-01-05 09:00      160" in repr(BUCKET)


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        (timedelta(days=1), "2026-01-05"),
        (timedelta(minutes=15), "2026-01-05 00:15"),
        (timedelta(seconds=30), "2026-01-05 00:00:30"),
    ],
)
def test_times_have_as_much_as_tells_them_apart(step: timedelta, shown: str) -> None:
    midnight = BUCKET.time.replace(hour=0)
    rows = [dataclasses.replace(BUCKET, time=midnight + i * step) for i in range(2)]
    text = TimeSeries(rows).grid().plain(120)
    assert re.search(rf"^{shown if step.days == 0 else '2026-01-06'}  ", text, re.MULTILINE)


def test_the_name_of_a_zone_leaves_room_for_the_columns() -> None:
    shown = TimeSeries([BUCKET], time_zone="America/Argentina/Buenos_Aires").grid().plain(80)
    assert re.match(r"time \(America/\S*… +matched +total +rate +error rate +p95", shown)
    row = dataclasses.replace(BUCKET, time=BUCKET.time.replace(microsecond=0))
    assert f"{row.time:%Y-%m-%d}" in shown


@pytest.mark.parametrize(
    ("facet", "label"),
    [
        (Facet("2", 2.0, 2.0, "span_count = 2", 5, 1.0), "2"),
        (
            Facet("2026-11-01 to 2026-11-02", 1793491200000.0, 1793577600000.0, "", 5, 1.0),
            "2026-11-01 to 2026-11-02",
        ),
        (Facet("2026-11-01T12:00Z", 1793534400000.0, 1793534400000.0, "", 5, 1.0),
         "2026-11-01T12:00Z"),
        (Facet("1000 to 2000", 1000.0, 2000.0, "", 5, 1.0), "1,000 to 2,000"),
    ],
)  # fmt: skip
def test_the_label_of_a_facet(facet: Facet, label: str) -> None:
    assert facet.label == label


def test_nothing_found() -> None:
    assert (
        repr(Discovery([], ERRORS, fdr=0.01))
        == "No fact is associated with it at q ≤ 0.01, or nothing matches it."
    )
    assert repr(Discovery([], ERRORS, sizes=(0, 0))) == "No trace at all."
    assert repr(Matrix([])) == "No pair of filters."
    assert repr(Facets([])) == "No trace matches."
    assert repr(Facets([], unit="session_all")) == "No session matches."
    assert repr(TimeSeries([])) == "No bucket: there is no trace."


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 81, 100, 120, 200])
def test_no_line_is_ever_wider_than_the_terminal(width: int) -> None:
    wide = dataclasses.replace(FACT, filter="名前" * 40, similar=("x" * 99,))
    for shown in (
        Discovery([*FACTS, wide]),
        Comparison([*FACTS, wide]),
        Matrix(PAIRS),
        Facets([*NAMES, *NUMBERS, dataclasses.replace(NAMES[0], value="名前" * 40)]),
        TimeSeries([BUCKET] * 3, time_zone="America/Argentina/Buenos_Aires"),
        FACT,
        PAIRS[0],
    ):
        grid = dataclasses.replace(shown.grid(), note="")
        for line in [*grid.plain(width).splitlines(), *at(width, shown).splitlines()]:
            assert cell_len(line) <= width


def test_rich_and_plain_show_the_same() -> None:
    for shown in (Discovery(FACTS), Matrix(PAIRS), Facets(NAMES), TimeSeries([BUCKET]), FACT):
        assert at(100, shown).rstrip("\n") == shown.grid().plain(100)


def test_colours() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True, color_system="standard")
    console.print(Discovery(FACTS))
    console.print(Matrix(PAIRS))
    assert "\x1b[36m████▌\x1b[0m" in stream.getvalue()
    assert "\x1b[33m▏\x1b[0m" in stream.getvalue()
    assert "\x1b[1;35m-0.73\x1b[0m" in stream.getvalue()
    assert "\x1b[36m0.25\x1b[0m" in stream.getvalue()


def test_html() -> None:
    html = Discovery(FACTS, ERRORS)._repr_html_()
    assert "span.attributes[&#x27;error_type&#x27;] = &#x27;timeout&#x27;\n  ≈ span" in html
    assert "████▌" in html
    assert "q ≤ 0.05" in html
    for shown in (Matrix(PAIRS), Facets(NAMES), TimeSeries([BUCKET])):
        assert shown._repr_html_().startswith("<table><thead>")


def test_nothing_hostile_reaches_a_terminal_or_a_notebook() -> None:
    text = "a\x1b[2J\u202e<script>"
    hostile = (
        Discovery([dataclasses.replace(FACT, filter=text, similar=(text,), test=text)], text),
        Matrix([dataclasses.replace(PAIRS[0], filter1=text)]),
        Facets([dataclasses.replace(NAMES[0], value=text, filter=text)], text, text),
        TimeSeries([BUCKET], text, text, text),
    )
    for shown in hostile:
        assert not set(shown.grid().plain()) & set("\x1b\u202e")
        assert "\x1b" not in at(200, shown)
        assert "<script" not in shown._repr_html_()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (2.0, "2.00"),
        (0.33249, "0.332"),
        (99.96, "100"),
        (1917.6, "1,918"),
        (5.5e-4, "0.000550"),
        (1.234e7, "1.23e+07"),
        (float("inf"), "∞"),
        (float("nan"), "undefined"),
    ],
)
def test_significant_numbers(value: float | None, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (1e-9, "<0.1 %"),
        (0.0005, "0.1 %"),
        (float("nan"), "–"),
    ],
)
def test_percentages(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "<1e-300"), (3.21e-11, "3.2e-11"), (0.05, "0.05"), (1.0, "1")],
)
def test_probabilities(value: float | None, text: str) -> None:
    assert probability(value) == text


@pytest.mark.parametrize(
    ("value", "most", "text"),
    [
        (1.0, 1.0, "████"),
        (0.5, 1.0, "██"),
        (0.55, 1.0, "██▎"),
        (1e-9, 1.0, "▏"),
        (2.0, 1.0, "████"),
        (0.0, 1.0, ""),
        (0.0, 0.0, ""),
        (None, 1.0, ""),
        (float("nan"), 1.0, ""),
    ],
)
def test_bars(value: float | None, most: float, text: str) -> None:
    assert bar(value, most, 4) == text
