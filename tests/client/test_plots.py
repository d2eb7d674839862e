"""The charts: what is drawn, whose axes, and other people's text in them."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import matplotlib
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from insights_py import Bucket, Comparison, Discovery, Facets, Matrix, TimeSeries
from tests.client.samples import BUCKET, FACT, FACTS, NAMES, NUMBERS, PAIRS

matplotlib.use("Agg")

BUCKETS = tuple(
    dataclasses.replace(BUCKET, time=BUCKET.time + timedelta(hours=i), matched=100 + 10 * i)
    for i in range(6)
)
EMPTY = Bucket(BUCKET.time + timedelta(hours=6), 0, 0, None, 0, None, None, None, None, None, None)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def drawn(figure: Any) -> bytes:
    """The picture; drawing is when matplotlib reads texts and places them."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=50)
    return stream.getvalue()


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def labels(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_many_decades_have_few_names() -> None:
    """More would run into one another."""
    strong = dataclasses.replace(
        FACT, odds_ratio=2e6, odds_ratio_low=4e4, odds_ratio_high=1e8, target_share=1.0
    )
    ax = Discovery([strong, *FACTS]).plot()
    assert drawn(ax.figure)
    low, high = ax.get_xlim()
    named = [tick for tick in ax.get_xticks() if low <= tick <= high]
    assert 3 <= len(named) <= 6


def test_a_discovery() -> None:
    ax = Discovery(FACTS, "span.status = 'ERROR'").plot()
    assert drawn(ax.figure)
    assert ax.get_xscale() == "log"
    assert ax.get_title(loc="left") == "Facts associated with span.status = 'ERROR'"
    assert ax.get_xlabel().startswith("odds ratio, logarithmic, with its 95 % interval")
    assert ax.get_xlabel().endswith("sorted by the interval's end nearer to 1")
    assert labels(ax)[0] == "span.attributes['error_type'] = 'timeout'"
    assert labels(ax)[1].count("\n") == 1
    # Bars from 1 to the odds ratio, those below 1 in another colour.
    ends = [bar.get_x() + bar.get_width() for bar in ax.patches]  # type: ignore[attr-defined]
    assert ends == pytest.approx([fact.odds_ratio for fact in FACTS])
    assert all(bar.get_x() == 1 for bar in ax.patches)  # type: ignore[attr-defined]
    colours = [bar.get_facecolor() for bar in ax.patches]
    assert colours[0] == colours[1] == colours[2] != colours[3]
    assert [container.has_xerr for container in ax.containers[1::2]] == [True] * 4  # type: ignore[attr-defined]
    # The first on top.
    bottom, top = ax.get_ylim()
    assert bottom > top
    low, high = ax.get_xlim()
    assert low < min(fact.odds_ratio_low or 1 for fact in FACTS)
    assert high > max(fact.odds_ratio_high or 1 for fact in FACTS)
    assert texts(ax)[:4] == ["target", "other", "50.6 %", "0.1 %"]


def test_a_comparison() -> None:
    ax = Comparison(FACTS, "tags.release = 'v2'", "tags.release = 'v1'").plot()
    assert ax.get_title(loc="left") == "tags.release = 'v2', against tags.release = 'v1'"
    assert texts(ax)[:2] == ["selection", "baseline"]


def test_odds_ratios_that_cannot_be_drawn() -> None:
    without = dataclasses.replace(FACT, odds_ratio=None, odds_ratio_low=None, odds_ratio_high=None)
    endless = dataclasses.replace(FACT, odds_ratio_high=float("inf"))
    ax = Discovery([without, endless]).plot()
    assert drawn(ax.figure)
    assert len(ax.patches) == 1
    assert len(labels(ax)) == 2
    assert drawn(Discovery([without]).plot().figure)


@pytest.mark.parametrize(
    ("statistic", "name", "shown"), [("npmi", "npmi", "-0.73"), ("phi", "phi", "-0.37")]
)
def test_a_matrix(statistic: Any, name: str, shown: str) -> None:
    ax = Matrix(PAIRS, "tags.release = 'v2'").plot(statistic=statistic)
    figure = ax.figure
    assert drawn(figure)
    assert ax.get_title(loc="left") == "How the filters go together, among tags.release = 'v2'"
    assert labels(ax)[0] == "span.status = 'ERROR'  1"
    assert texts(ax)[1] == texts(ax)[3] == shown
    # Nothing on the diagonal, a dash where it is undefined.
    assert [texts(ax)[i] for i in (0, 4, 8, 5)] == ["", "", "", "–"]
    assert ax.images[0].get_clim() == (-1, 1)
    bar = next(one for one in figure.axes if one is not ax)
    assert bar.get_title() == name
    assert bar.get_ylabel().startswith("-1 ")


def test_facets() -> None:
    ax = Facets(NAMES, "span.status = 'ERROR'", "trace_name").plot()
    assert drawn(ax.figure)
    assert ax.get_title(loc="left") == "trace_name of the traces that match span.status = 'ERROR'"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("number of traces", "trace_name")
    assert labels(ax) == ["answer", "''", "(none)"]
    assert [bar.get_width() for bar in ax.patches] == [1200, 1, 799]  # type: ignore[attr-defined]
    assert texts(ax)[0] == "1,200 (60.0 %)"
    sessions = Facets(NUMBERS, "", "x", "session").plot()
    assert labels(sessions)[0] == "0 to 1,000"
    assert sessions.get_xlabel() == "number of sessions"


def test_a_series() -> None:
    figure = TimeSeries(
        [*BUCKETS, EMPTY, dataclasses.replace(BUCKETS[0], time=EMPTY.time + timedelta(hours=1))],
        "span.type = 'LLM'",
        "1 hour",
    ).plot()
    assert drawn(figure)
    upper, lower = figure.axes
    assert upper.get_title(loc="left") == "The traces that match span.type = 'LLM'"
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("traces in 1 hour", "latency (s)")
    assert lower.get_xlabel() == "time (UTC)"
    assert upper.get_ylim()[0] == lower.get_ylim()[0] == 0
    matching = next(line for line in upper.lines if line.get_label() == "matching")
    assert list(matching.get_ydata()) == [100, 110, 120, 130, 140, 150, 0, 100]  # type: ignore[arg-type]
    median = next(line for line in lower.lines if line.get_label() == "p50")
    # In seconds, and broken where there is nothing to tell.
    values = list(median.get_ydata())  # type: ignore[arg-type]
    assert values[0] == pytest.approx(0.7014)
    assert values[6] != values[6]
    # Lines differ in more than colour.
    assert len({(line.get_linestyle(), line.get_marker()) for line in lower.lines}) == 3


def test_the_lines_of_a_series() -> None:
    def names(row: Bucket) -> list[str]:
        upper = TimeSeries([row, dataclasses.replace(row, time=EMPTY.time)]).plot().axes[0]
        return [str(line.get_label()) for line in upper.lines]

    assert names(BUCKET) == ["all", "matching", "errors of these"]
    # All would press the others flat, or hide them.
    assert names(dataclasses.replace(BUCKET, total=10**6)) == ["matching", "errors of these"]
    assert names(dataclasses.replace(BUCKET, total=160)) == ["matching", "errors of these"]
    assert names(dataclasses.replace(BUCKET, errors=0)) == ["all", "matching"]
    fast = dataclasses.replace(BUCKET, p99_ms=900.0)
    assert TimeSeries([fast]).plot().axes[1].get_ylabel() == "latency (ms)"


def test_a_long_series_has_no_markers() -> None:
    rows = [dataclasses.replace(BUCKET, time=BUCKET.time + timedelta(hours=i)) for i in range(61)]
    for count, marked in ((60, True), (61, False)):
        lines = TimeSeries(rows[:count]).plot().axes[1].lines
        assert [line.get_marker() != "None" for line in lines] == [marked] * 3


def test_times_are_drawn_in_the_zone_of_the_series() -> None:
    zone = ZoneInfo("Asia/Tokyo")
    rows = [dataclasses.replace(row, time=row.time.astimezone(zone)) for row in BUCKETS]
    figure = TimeSeries(rows, time_zone="Asia/Tokyo").plot()
    drawn(figure)
    lower = figure.axes[1]
    assert lower.get_xlabel() == "time (Asia/Tokyo)"
    assert "18:00" in [label.get_text() for label in lower.get_xticklabels()]


def test_axes_of_the_callers() -> None:
    _, axes = plt.subplots(2, 2)
    for shown, ax in zip(
        (Discovery(FACTS), Comparison(FACTS), Facets(NAMES), Matrix(PAIRS)), axes.flat, strict=True
    ):
        assert shown.plot(ax=ax) is ax  # type: ignore[attr-defined]
    figure, pair = plt.subplots(2, 1)
    assert TimeSeries(BUCKETS).plot(ax=pair) is figure
    assert [ax.get_ylabel() for ax in pair] == ["traces", "latency (s)"]
    figure, alone = plt.subplots()
    assert TimeSeries(BUCKETS).plot(ax=alone) is figure
    assert (alone.get_ylabel(), alone.get_xlabel()) == ("traces", "time (UTC)")
    with pytest.raises(ValueError, match="one axes or two, not 3"):
        TimeSeries(BUCKETS).plot(ax=[alone] * 3)
    assert len(plt.get_fignums()) == 3


@pytest.mark.parametrize("kind", [Discovery, Comparison, Matrix, Facets, TimeSeries])
def test_nothing_to_draw(kind: Any) -> None:
    answer = kind([]).plot()
    figure = answer if isinstance(answer, Figure) else answer.figure
    assert drawn(figure)
    assert "".join(texts(figure.axes[0])).startswith("No ")


@pytest.mark.parametrize(
    "text",
    ["$x^2$ costs $5", "$\\frac{", "\\$ $", "a\x1b[2J\u202eb", "_x", "x" * 500, "a\nb", "%s {0}"],
)
def test_other_peoples_text_is_only_text(text: str) -> None:
    for shown in (
        Discovery([dataclasses.replace(FACT, filter=text)], text, text),
        Comparison([dataclasses.replace(FACT, filter=text)], text, text),
        Matrix([dataclasses.replace(PAIRS[0], filter1=text)], text),
        Facets([dataclasses.replace(NAMES[0], value=text)], text, text),
        TimeSeries(BUCKETS, text, text, text),
    ):
        answer = shown.plot()
        figure = answer if isinstance(answer, Figure) else answer.figure
        assert drawn(figure)
        for ax in figure.axes:
            written = [*labels(ax), ax.get_title(loc="left"), ax.get_ylabel(), ax.get_xlabel()]
            assert not any(set("\x1b\u202e") & set(one) for one in written)
            assert all(len(line) < 100 for one in written for line in one.splitlines())


def test_matplotlib_is_imported_for_a_plot_only() -> None:
    code = "import sys, insights_py, insights_py.cli; print('matplotlib' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


@pytest.mark.parametrize("kind", [Discovery, Comparison, Matrix, Facets, TimeSeries])
def test_without_matplotlib_the_message_says_what_to_do(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "insights_py.plots", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delattr("insights_py.plots", raising=False)
    with pytest.raises(ImportError, match=r"plot\(\) needs matplotlib.*pip install matplotlib"):
        kind([]).plot()
