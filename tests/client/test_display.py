"""Reprs, as text, in colour and as HTML: golden, and with hostile content."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from insights_py import Correlation, ExplainStep, Explanation, Page, Status, Trace
from insights_py.display import Cell, Column, Grid, clock, duration, fit, number, visible

TRACE = Trace(
    trace_id="tr-67c6a1e7ce56d3d6fa748ab6d9af3fd7",
    experiment_id="1",
    timestamp_ms=1_767_606_420_000,
    execution_time_ms=2445,
    status="OK",
    trace_name="answer",
    session_id="session-4",
    request_preview="How do I reset my password?",
    response_preview="Certainly. Here is how.",
    tags={"release": "v1"},
    metadata={"mlflow.trace.user": "ada"},
    assessments=({"assessment_name": "helpful", "feedback": {"value": True}},),
)
FAILED = dataclasses.replace(
    TRACE,
    trace_id="tr-d9d4f495e875a2e075a1a4a6e1b9770f",
    status="ERROR",
    execution_time_ms=None,
    trace_name=None,
    response_preview=None,
)
CORRELATION = Correlation(
    filter1_count=1600,
    filter2_count=1100,
    joint_count=900,
    total_count=4800,
    npmi=0.5364123264806481,
    npmi_smoothed=0.5363,
    lift=2.4545,
    phi=0.56079,
    odds_ratio=19.285714285714285,
    odds_ratio_low=3.388164256779676,
    odds_ratio_high=float("inf"),
    p_value=2.6e-30,
    test="G2",
)
HOSTILE = dataclasses.replace(
    TRACE,
    trace_name="a\x1b[2Jb\x07\u202ec\nd\te",
    request_preview="<script>alert('x')</script> &amp; [bold red]not markup[/]",
    tags={"<b>": "</td><script>"},
)


def at(width: int, grid: Grid) -> str:
    """What a terminal of this width without colour shows."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, highlight=False).print(grid)
    return stream.getvalue()


def test_a_page_at_80_columns() -> None:
    assert Page([TRACE, FAILED], "token").grid().plain(80) == (
        "trace_id                             time (UTC)           status  name\n"
        "tr-67c6a1e7ce56d3d6fa748ab6d9af3fd7  2026-01-05 09:47:00  OK      answer\n"
        "tr-d9d4f495e875a2e075a1a4a6e1b9770f  2026-01-05 09:47:00  ERROR\n"
        "2 traces; more match"
    )


def test_a_page_at_120_columns() -> None:
    assert Page([TRACE, FAILED]).grid().plain(120) == (
        "trace_id                             time (UTC)           status  duration  name    "
        "request\n"
        "tr-67c6a1e7ce56d3d6fa748ab6d9af3fd7  2026-01-05 09:47:00  OK         2.4 s  answer  "
        "How do I reset my password?\n"
        "tr-d9d4f495e875a2e075a1a4a6e1b9770f  2026-01-05 09:47:00  ERROR                     "
        "How do I reset my password?\n"
        "2 traces"
    )


def test_a_page_at_full_width_leaves_nothing_out() -> None:
    text = Page([TRACE]).grid().plain()
    assert "How do I reset my password?  Certainly. Here is how." in text
    assert text.endswith("\n1 trace")


def test_an_empty_page() -> None:
    page = Page([])
    assert repr(page) == "No trace matches."
    assert page._repr_html_() == "<table><tbody></tbody></table><p>No trace matches.</p>"
    assert at(80, page.grid()) == "No trace matches.\n"


def test_a_correlation() -> None:
    assert CORRELATION.grid().plain(80) == (
        "filter 1          1,600  33.3 %\n"
        "filter 2          1,100  22.9 %\n"
        "both                900  18.8 %\n"
        "in all            4,800\n"
        "npmi             0.5364  -1 never together, 0 independent, 1 always\n"
        "npmi, smoothed   0.5363\n"
        "lift             2.4545  times as often together as by chance\n"
        "phi              0.5608\n"
        "odds ratio      19.2857  95 %: 3.3882 to ∞\n"
        "p               2.6e-30  chance of this much without an association (G2)"
    )


def test_a_correlation_that_is_undefined() -> None:
    nothing = dataclasses.replace(
        CORRELATION,
        filter1_count=0,
        joint_count=0,
        total_count=0,
        npmi=float("nan"),
        lift=None,
        phi=None,
        odds_ratio=None,
        odds_ratio_low=None,
        odds_ratio_high=None,
        p_value=None,
        test=None,
    )
    text = nothing.grid().plain(80)
    assert "npmi            undefined" in text
    assert "odds ratio              –\n" in text


def test_a_trace_field_by_field() -> None:
    assert TRACE.grid().plain(80) == (
        "trace                       tr-67c6a1e7ce56d3d6fa748ab6d9af3fd7\n"
        "experiment                  1\n"
        "time (UTC)                  2026-01-05 09:47:00\n"
        "duration                    2.4 s\n"
        "status                      OK\n"
        "name                        answer\n"
        "session                     session-4\n"
        "request                     How do I reset my password?\n"
        "response                    Certainly. Here is how.\n"
        "tag release                 v1\n"
        "metadata mlflow.trace.user  ada\n"
        "assessment helpful          true"
    )
    assert "still running" in repr(FAILED)


def test_long_texts_are_folded_not_cut() -> None:
    steps = Explanation(
        [
            ExplainStep("filter", "span.status = 'ERROR'"),
            ExplainStep("sql", "select count(*)\n  from public.trace_info t where exists (select)"),
        ]
    )
    assert steps.grid().plain(40) == (
        "step    detail\n"
        "filter  span.status = 'ERROR'\n"
        "sql     select count(*)\n"
        "          from public.trace_info t where\n"
        "          exists (select)"
    )
    assert repr(steps[0]) == "step    detail\nfilter  span.status = 'ERROR'"


def test_status() -> None:
    status = Status(
        server="15.20",
        database="mlflow",
        role="ada",
        client="0.1.0",
        mlflow_revision="dc11669786a5",
        revision=None,
        functions=(),
        missing_functions=("insights_count",),
        experiments=2,
        traces=48000,
    )
    text = status.grid().plain(80)
    assert "functions        not installed: run `insights install`" in text
    assert "traces           48,000" in text
    half = dataclasses.replace(status, functions=("insights_search",))
    assert "missing: insights_count" in repr(half)
    whole = dataclasses.replace(half, missing_functions=(), revision="0001")
    assert "1 installed" in repr(whole)


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 81, 100, 120, 200])
def test_no_line_is_ever_wider_than_the_terminal(width: int) -> None:
    wide = dataclasses.replace(TRACE, trace_name="名前" * 40, request_preview="x" * 999)
    for shown in (Page([wide, FAILED]), CORRELATION, wide, Page([])):
        for line in shown.grid().plain(width).splitlines():
            assert cell_len(line) <= width
        for line in at(width, shown.grid()).splitlines():
            assert cell_len(line) <= width
    assert len(Page([wide, FAILED]).grid().plain(width).splitlines()) == 4


def test_rich_and_plain_show_the_same() -> None:
    for shown in (Page([TRACE, FAILED]), CORRELATION, TRACE):
        assert at(100, shown.grid()).rstrip("\n") == shown.grid().plain(100)
        stream = io.StringIO()
        Console(file=stream, width=100, color_system=None).print(shown)
        assert stream.getvalue() == at(100, shown.grid())


def test_colours() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system="standard")
    console.print(Page([TRACE, FAILED]))
    assert "\x1b[31mERROR" in stream.getvalue()
    assert "\x1b[32mOK" in stream.getvalue()


def test_nothing_hostile_reaches_a_terminal() -> None:
    for width in (80, 200, None):
        text = Page([HOSTILE]).grid().plain(width) + HOSTILE.grid().plain(width)
        assert not set(text) & set("\x1b\x07\u202e\t")
    assert "a�[2Jb��c d e" in Page([HOSTILE]).grid().plain()
    stream = io.StringIO()
    Console(file=stream, width=200, color_system=None).print(Page([HOSTILE]))
    assert "[bold red]not markup[/]" in stream.getvalue()


def test_nothing_hostile_reaches_a_notebook() -> None:
    for html in (Page([HOSTILE])._repr_html_(), HOSTILE._repr_html_()):
        assert "<script" not in html
        assert "&lt;script&gt;" in html
        assert "&amp;amp;" in html


def test_html() -> None:
    grid = Grid((Column("n", right=True), Column("what")), (("1", Cell("a<b", "red")),), note="x&y")
    assert grid.html() == (
        '<table><thead><tr><th style="text-align:right">n</th><th style="text-align:left">what</th>'
        '</tr></thead><tbody><tr><td style="text-align:right;white-space:pre-wrap">1</td>'
        '<td style="text-align:left;white-space:pre-wrap">a&lt;b</td></tr></tbody></table>'
        "<p>x&amp;y</p>"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (99_949, "99.9 s"),
        (200_000, "3 m 20 s"),
        (7_200_000, "2 h 0 m"),
        (-5, "-5 ms"),
    ],
)
def test_durations(value: int | None, text: str) -> None:
    assert duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (1234567, "1,234,567"),
        (0.0, "0"),
        (0.5, "0.5"),
        (-1.0, "-1"),
        (1e-9, "1.0e-09"),
        (1234.56789, "1,234.5679"),
        (1e12, "1e+12"),
        (float("nan"), "undefined"),
        (float("-inf"), "-∞"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_times() -> None:
    assert clock(0) == "1970-01-01 00:00:00"
    assert clock(-1) == "1969-12-31 23:59:59"
    assert clock(10**18) == "1000000000000000000 ms"
    assert dataclasses.replace(TRACE, timestamp_ms=10**18).request_time is None


def test_texts() -> None:
    assert fit("abcdef", 4) == "abc…"
    assert fit("日本語", 5) == "日本…"
    assert fit("abcd", 4) == "abcd"
    assert visible("a\r\n\u2028b") == "a b"
    assert visible("family 👨\u200d👩") == "family 👨\u200d👩"
