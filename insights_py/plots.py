"""The charts of `insights_py.analysis`, drawn with matplotlib.

Only the ``plot`` methods import this module, for matplotlib is optional.  The
colours are those of Okabe and Ito, which people of any colour vision can tell
apart; what colour says, position, text or the kind of line says as well.

Filters and values are other people's text: none of it is read as mathematics
(``$``), and long ones are folded and cut.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard

from insights_py.display import number, percent, visible
from insights_py.wording import MEANING, Statistic, coefficient, unit_name

try:
    import matplotlib.pyplot as plt
    from matplotlib import dates, ticker
except ImportError as error:
    raise ImportError(
        "plot() needs matplotlib, which is not installed: pip install matplotlib"
    ) from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from insights_py.analysis import Bucket, Discovery, Facets, Matrix, TimeSeries

BLUE = "#0072B2"
ORANGE = "#E69F00"
VERMILLION = "#D55E00"
GREEN = "#009E73"
GREY = "#8A8A8A"
INK = "#333333"

#: Width of a figure, in inches.
_WIDTH = 9.0
#: Characters in a line of a label, and lines.
_LABEL = 46
_LINES = 3
#: Decades that are named on a logarithmic axis, at most.
_TICKS = 6
_HALF_A_DAY = timedelta(hours=12)
#: Up to so many buckets a series marks each of them.
_MARKED = 60


# ------------------------------------------------------------------------- texts


def _folded(text: str, width: int = _LABEL, lines: int = _LINES) -> str:
    """``text`` in a few lines, an ellipsis where it was cut."""
    return "\n".join(
        textwrap.wrap(
            visible(text),
            width,
            max_lines=lines,
            placeholder=" …",
            break_long_words=True,
            break_on_hyphens=False,
        )
    )


def _axes(ax: Axes | None, height: float, width: float = _WIDTH) -> Axes:
    """``ax``, or the axes of a new figure that has room for all labels."""
    if ax is not None:
        return ax
    _, made = plt.subplots(figsize=(width, height), layout="constrained")
    return made


def _label_rows(ax: Axes, labels: Sequence[str]) -> None:
    """A label for each row, the first row on top."""
    ax.set_yticks(range(len(labels)), labels, parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(labels) - 0.4, -0.6)


def _title(ax: Axes, text: str, width: int = 80) -> None:
    ax.set_title(_folded(text, width), loc="left", fontsize="medium", parse_math=False)


def _plain(ax: Axes, *sides: str) -> None:
    """Without the lines of the frame that say nothing."""
    ax.spines[list(sides)].set_visible(False)


def _nothing(ax: Axes, text: str) -> Axes:
    """Axes that say that there is nothing to draw."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", color=INK, transform=ax.transAxes)
    return ax


def _height(labels: Iterable[str], row: float = 0.3, line: float = 0.17) -> float:
    """Inches for rows with these labels and an axis below them."""
    return 1.3 + sum(row + line * label.count("\n") for label in labels)


# ------------------------------------------------------------ facts and a target


def odds_ratios(found: Discovery, ax: Axes | None) -> Axes:
    """A bar from 1 to each odds ratio, with its 95 % interval and the two shares."""
    labels = [_folded(row.filter) for row in found]
    ax = _axes(ax, _height(labels) + 0.3)
    # Narrow, for the names of the shares stand beside it.
    _title(ax, found.title, 55)
    if not labels:
        return _nothing(ax, found.nothing)
    ends = [1.0]
    for position, row in enumerate(found):
        ratio = row.odds_ratio
        if not _drawable(ratio):
            continue
        ends.append(ratio)
        # On a logarithmic axis a bar begins at 1: no association.
        colour = BLUE if ratio >= 1 else VERMILLION
        ax.barh(position, ratio - 1, left=1, height=0.62, color=colour, zorder=2)
        low, high = row.odds_ratio_low, row.odds_ratio_high
        if _drawable(low) and _drawable(high):
            ends += [low, high]
            ax.errorbar(
                ratio,
                position,
                xerr=[[ratio - low], [high - ratio]],
                color=INK,
                capsize=3,
                linewidth=1.2,
                zorder=3,
            )
    ax.set_xscale("log")
    ax.set_xlim(*_room(min(ends), max(ends)))
    ax.axvline(1, color=INK, linewidth=1, zorder=4)
    _label_rows(ax, labels)
    # Of many decades only some are named, lest their names run into one another.
    steps = _steps(min(ends), max(ends))
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=steps, numticks=_TICKS))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _tick(value)))
    ax.xaxis.set_minor_formatter(ticker.NullFormatter())
    ax.set_xlabel(
        "odds ratio, logarithmic, with its 95 % interval (1: no association)\n"
        f"sorted by the interval's {_sorting_end(found)}"
    )
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8, zorder=0)
    ax.set_axisbelow(True)
    _plain(ax, "top", "right", "left")
    _shares(ax, found)
    return ax


def _sorting_end(found: Discovery) -> str:
    """Which bound orders the rows, so that bars of odds ratios seem out of order."""
    above = {row.odds_ratio >= 1 for row in found if _drawable(row.odds_ratio)}
    return "end nearer to 1" if len(above) > 1 else "upper end" if False in above else "lower end"


def _drawable(ratio: float | None) -> TypeGuard[float]:
    return ratio is not None and math.isfinite(ratio) and ratio > 0


def _tick(ratio: float) -> str:
    """A ratio beside its tick, without zeros that say nothing."""
    return number(ratio) if ratio >= 0.01 else f"{ratio:g}"


def _room(low: float, high: float) -> tuple[float, float]:
    """Limits a little beyond both, on a logarithmic axis."""
    margin = max(high / low, 2.0) ** 0.06
    return low / margin, high * margin


def _steps(low: float, high: float) -> tuple[float, ...]:
    """Where ticks stand in a decade: the fewer decades, the more of them."""
    decades = math.log10(high / low)
    return (1.0,) if decades > 3 else (1.0, 3.0) if decades > 2 else (1.0, 2.0, 5.0)


def _shares(ax: Axes, found: Discovery) -> None:
    """The two shares of each fact, as text beside its bar."""
    beside: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "ha": "right",
        "fontsize": "small",
        "annotation_clip": False,
    }
    inside, outside = found.columns
    top = {**beside, "xycoords": ("axes fraction", "axes fraction"), "va": "bottom", "color": INK}
    ax.annotate(inside, (1, 1), xytext=(52, 2), **top)
    ax.annotate(outside, (1, 1), xytext=(104, 2), **top)
    for position, row in enumerate(found):
        line = {**beside, "va": "center", "color": INK}
        ax.annotate(percent(row.target_share), (1, position), xytext=(52, 0), **line)
        ax.annotate(percent(row.other_share), (1, position), xytext=(104, 0), **line)


# ------------------------------------------------------------- pairs of filters


def heat_map(matrix: Matrix, statistic: Statistic, ax: Axes | None) -> Axes:
    """A square of coloured cells with their numbers."""
    square = matrix.square(statistic)
    size = len(square)
    labels = [f"{_folded(text)}  {i}" for i, text in enumerate(matrix.labels, 1)]
    ax = _axes(ax, max(3.6, 1.6 + 0.52 * size), max(7.5, 5.2 + 0.62 * size))
    title = "How the filters go together"
    _title(ax, f"{title}, among {matrix.base_filter}" if matrix.base_filter else title, 55)
    if not size:
        return _nothing(ax, "No pair of filters.")
    ax.set_facecolor("#EEEEEE")
    # Orange and purple: the diverging map that all can tell apart.
    shown = ax.imshow(
        [[math.nan if value is None else value for value in line] for line in square],
        cmap="PuOr_r",
        vmin=-1,
        vmax=1,
        aspect="auto",
    )
    for i, line in enumerate(square):
        for j, value in enumerate(line):
            if i == j:
                text, colour = "", INK
            elif value is None:
                text, colour = "–", INK
            else:
                text, colour = coefficient(value), "white" if abs(value) > 0.6 else INK
            ax.text(j, i, text, ha="center", va="center", color=colour, fontsize="small")
    ax.set_xticks(range(size), [str(i) for i in range(1, size + 1)])
    ax.xaxis.tick_top()
    ax.tick_params(axis="both", length=0)
    ax.set_yticks(range(size), labels, parse_math=False)
    _plain(ax, "top", "right", "left", "bottom")
    # White lines between the cells.
    ax.set_xticks([i - 0.5 for i in range(1, size)], minor=True)
    ax.set_yticks([i - 0.5 for i in range(1, size)], minor=True)
    ax.grid(which="minor", color="white", linewidth=2)
    ax.tick_params(which="minor", length=0)
    bar = ax.figure.colorbar(shown, ax=ax, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_visible(False)
    name, _, meaning = MEANING[statistic].rpartition(": ")
    bar.ax.set_title(name, fontsize="small")
    bar.set_label(meaning, fontsize="small")
    return ax


# ------------------------------------------------------------- values of a field


def facets(found: Facets, ax: Axes | None) -> Axes:
    """A bar for each value, with its share."""
    labels = [_folded(row.label) for row in found]
    ax = _axes(ax, max(2.4, _height(labels)))
    units = f"{unit_name(found.unit)}s"
    _title(
        ax,
        f"{found.field} of the {units} that match {found.filter}"
        if found.filter
        else f"{found.field} of all {units}",
    )
    if not labels:
        return _nothing(ax, f"No {unit_name(found.unit)} matches.")
    none = [row.value is None and row.low is None and row.high is None for row in found]
    bars = ax.barh(
        range(len(labels)),
        [row.count for row in found],
        height=0.7,
        color=[GREY if one else BLUE for one in none],
    )
    ax.bar_label(
        bars,
        [f"{number(row.count)} ({percent(row.share)})" for row in found],
        padding=4,
        fontsize="small",
        color=INK,
    )
    _label_rows(ax, labels)
    ax.margins(x=0.16)
    ax.set_ylabel(_folded(found.field, 24, 2), parse_math=False)
    ax.set_xlabel(f"number of {units}")
    ax.xaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    ax.set_axisbelow(True)
    _plain(ax, "top", "right", "left")
    return ax


# ------------------------------------------------------------------ over the time


def series(found: TimeSeries, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Counts above, percentiles of the latency below."""
    upper: Axes
    lower: Axes | None
    if ax is None:
        figure, (upper, lower) = plt.subplots(
            2, 1, sharex=True, figsize=(_WIDTH, 5.6), layout="constrained", height_ratios=(3, 2)
        )
    elif isinstance(ax, Iterable):
        pair = list(ax)
        if len(pair) != 2:
            raise ValueError(f"ax= takes one axes or two, not {len(pair)}")
        upper, lower = pair
    else:
        upper, lower = ax, None
    figure = upper.get_figure(root=True)  # type: ignore[assignment]
    units = f"{unit_name(found.unit)}s"
    _title(upper, f"The {units} that match {found.filter}" if found.filter else f"All {units}")
    if not len(found):
        _nothing(upper, "No bucket: there is no trace.")
        if lower is not None:
            lower.set_axis_off()
        return figure
    _counts(upper, found, units)
    if lower is not None:
        _latency(lower, found)
    last = upper if lower is None else lower
    zone = found[0].time.tzinfo
    inches = last.get_window_extent().width / figure.dpi
    locator = dates.AutoDateLocator(tz=zone, minticks=3, maxticks=max(4, round(inches)))
    for one in (upper, last):
        one.xaxis.set_major_locator(locator)
        one.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=zone))
    if len(found) == 1:
        # Without a width of its own matplotlib shows years around it.
        last.set_xlim(found[0].time - _HALF_A_DAY, found[0].time + _HALF_A_DAY)  # type: ignore[arg-type]
    last.set_xlabel(f"time ({_folded(found.time_zone, 60, 1)})", parse_math=False)
    return figure


def _line(ax: Axes, rows: Sequence[Bucket], values: Sequence[float | None], **style: Any) -> None:
    """A line that is broken where there is nothing to tell."""
    marker = style.pop("marker")
    few = len(rows) <= _MARKED
    ax.plot(
        [row.time for row in rows],  # type: ignore[arg-type]
        [math.nan if value is None else value for value in values],
        marker=marker if few else None,
        markersize=4,
        linewidth=1.6 if few else 1.0,
        **style,
    )


def _counts(ax: Axes, found: TimeSeries, units: str) -> None:
    rows = list(found)
    matched = max(row.matched for row in rows)
    total = max(row.total for row in rows)
    # Many more would press the others flat.
    if matched < total <= 5 * matched:
        _line(
            ax,
            rows,
            [row.total for row in rows],
            color=GREY,
            linestyle=":",
            marker=".",
            label="all",
        )
    _line(ax, rows, [row.matched for row in rows], color=BLUE, marker="o", label="matching")
    if any(row.errors for row in rows):
        _line(
            ax,
            rows,
            [row.errors for row in rows],
            color=VERMILLION,
            linestyle="--",
            marker="s",
            label="errors of these",
        )
    during = f" in {_folded(found.bucket, 24, 1)}" if found.bucket else ""
    ax.set_ylabel(f"{units}{during}", parse_math=False)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _finish(ax)


def _latency(ax: Axes, found: TimeSeries) -> None:
    rows = list(found)
    known = [row.p99_ms for row in rows if row.p99_ms is not None]
    unit, factor = ("s", 1000.0) if known and max(known) >= 2000 else ("ms", 1.0)
    for name, values, style in (
        ("p50", [row.p50_ms for row in rows], {"color": GREEN, "marker": "o"}),
        ("p95", [row.p95_ms for row in rows], {"color": ORANGE, "marker": "s", "linestyle": "--"}),
        ("p99", [row.p99_ms for row in rows], {"color": INK, "marker": "^", "linestyle": "-."}),
    ):
        scaled = [None if value is None else value / factor for value in values]
        _line(ax, rows, scaled, label=name, **style)
    ax.set_ylabel(f"latency ({unit})")
    ax.set_ylim(bottom=0)
    _finish(ax)


def _finish(ax: Axes) -> None:
    ax.grid(color="#DDDDDD", linewidth=0.8)
    ax.set_axisbelow(True)
    _plain(ax, "top", "right")
    # Beside the lines, never over them.
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
