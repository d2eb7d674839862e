"""What the analysing functions answer: facts, pairs of filters, values, spans of time.

As in `insights_py.rows` each row is a frozen dataclass with a field for each
column.  The lists of them also keep what they were asked for, to draw
themselves with it: as a table, and with ``plot`` as a chart, which needs
matplotlib.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING

from insights_py.display import (
    Cell,
    Column,
    Grid,
    bar,
    duration,
    number,
    percent,
    probability,
    significant,
)
from insights_py.rows import Correlation, Row, Rows
from insights_py.wording import MEANING, STATISTICS, Statistic, coefficient, unit_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Bucket",
    "Comparison",
    "Discovery",
    "Facet",
    "Facets",
    "Fact",
    "Matrix",
    "Pair",
    "Statistic",
    "TimeSeries",
]

#: The widths of the bars in tables, in characters.
_SHARE_BAR = 6
_COUNT_BAR = 12
#: How many of the filters that say nearly the same are named in a table.
_SIMILAR_SHOWN = 2


def _counted(count: int, unit: str) -> str:
    """``1 trace``, ``2,000 sessions``."""
    return f"{number(count)} {unit_name(unit)}{'' if count == 1 else 's'}"


# ------------------------------------------------------------ facts and a target


@dataclass(frozen=True, repr=False)
class Fact(Row):
    """A fact, and how it is associated with a target.

    ``filter`` matches what has the fact, and is ready to go on with.  Counts
    are of traces or sessions: in the target, with the fact, with both, and in
    all.  ``target_share`` is how much of the target has the fact,
    ``other_share`` how much of the rest, from 0 to 1; ``difference`` is the
    first minus the second.  In a comparison the target is the selection and the
    rest is the baseline.

    ``lift``, ``npmi``, ``phi`` and ``odds_ratio`` with its 95 % bounds are those
    of `Correlation`.  ``p_value`` comes from the test that ``test`` names;
    ``q_value`` is the false discovery rate (Benjamini-Hochberg) over all facts
    that were ``tested``, which were sought among ``screened_count`` traces: all, or
    a sample of very many.  ``restates``: the fact only says the target again.
    ``similar`` are the filters of facts that nearly the same traces have.
    """

    filter: str
    kind: str
    key: str | None
    value: str | None
    target_count: int
    fact_count: int
    joint_count: int
    total_count: int
    target_share: float | None
    other_share: float | None
    difference: float | None
    lift: float | None
    npmi: float | None
    phi: float | None
    odds_ratio: float | None
    odds_ratio_low: float | None
    odds_ratio_high: float | None
    p_value: float | None
    q_value: float | None
    test: str
    restates: bool
    similar: Sequence[str]
    tested: int
    screened_count: int

    def __hash__(self) -> int:
        return hash(self.filter)

    def grid(self) -> Grid:
        """Field by field."""
        others = self.total_count - self.target_count
        rows: list[tuple[Cell | str, ...]] = [
            ("filter", Cell(self.filter, "bold")),
            ("in the target", _part(self.joint_count, self.target_count, self.target_share)),
            ("elsewhere", _part(self.fact_count - self.joint_count, others, self.other_share)),
            ("odds ratio", f"{significant(self.odds_ratio)} (95 %: {_bounds(self)})"),
            ("lift", number(self.lift)),
            ("npmi", number(self.npmi)),
            ("phi", number(self.phi)),
            ("p", f"{probability(self.p_value)} ({self.test})"),
            ("q", f"{probability(self.q_value)} ({number(self.tested)} facts tested)"),
        ]
        if self.restates:
            rows.append(("restates", "only says the target again"))
        if self.similar:
            rows.append(("similar", "\n".join(self.similar)))
        return Grid(
            (Column("", style="dim"), Column("", least=20, wraps=True)), tuple(rows), headed=False
        )


def _part(part: int, whole: int, share: float | None) -> str:
    return f"{percent(share)} ({number(part)} of {number(whole)})"


def _bounds(fact: Fact) -> str:
    return f"{significant(fact.odds_ratio_low)} to {significant(fact.odds_ratio_high)}"


class Discovery(Rows[Fact]):
    """Facts associated with ``target``, strongest first, among what ``base_filter`` leaves."""

    kind = Fact
    #: What the two shares are called.
    columns: tuple[str, str] = ("target", "other")
    #: How the sentence begins that says that there are no facts.
    no_fact = "No fact is associated with it"

    def __init__(
        self,
        rows: Iterable[Fact],
        target: str | None = "",
        base_filter: str | None = None,
        fdr: float = 0.05,
        unit: str = "trace",
        sizes: tuple[int, int] | None = None,
    ) -> None:
        """``sizes``: of how many the target is, and how many others there are, if known."""
        super().__init__(rows)
        self.sizes = sizes
        self.target = target
        self.base_filter = base_filter
        self.fdr = fdr
        self.unit = unit

    @property
    def title(self) -> str:
        """What was asked, in a line."""
        base = f", among {self.base_filter}" if self.base_filter else ""
        return f"Facts associated with {self.target or 'everything'}{base}"

    @property
    def nothing(self) -> str:
        """What is said in place of facts where there are none, as far as `sizes` tell why."""
        none = f"{self.no_fact} at q ≤ {self.fdr:g}"
        if self.sizes is None:
            return f"{none}, or nothing matches it."
        inside, outside = self.sizes
        one = unit_name(self.unit)
        if not inside + outside:
            return f"No {one} matches the base filter." if self.base_filter else f"No {one} at all."
        if not inside:
            return f"None of {_counted(outside, self.unit)} matches the {self.columns[0]}."
        if not outside:
            return self._without_others(inside)
        return f"{none}; {self._scope(inside, inside + outside)}."

    def _without_others(self, count: int) -> str:
        one = unit_name(self.unit)
        return f"Every {one} matches the target, all {number(count)}: there are no others."

    def grid(self) -> Grid:
        """A line for each fact, with bars for its share inside and outside the target."""
        if not self._rows:
            return Grid((), (), note=self.nothing, headed=False)
        most = max(max(row.target_share or 0, row.other_share or 0) for row in self._rows)
        inside, outside = self.columns
        first = self._rows[0]
        facts = (
            f"{len(self):,} fact{'' if len(self) == 1 else 's'} shown"
            f" of {number(first.tested)} tested"
        )
        if first.screened_count < first.total_count:
            facts += f", sought in a sample of {number(first.screened_count)}"
        return Grid(
            (
                Column("filter", least=34, wraps=True),
                Column(inside, right=True, style="cyan"),
                Column("", style="cyan", rank=1),
                Column(outside, right=True, style="yellow"),
                Column("", style="yellow", rank=1),
                Column("odds ratio", right=True, rank=2, style="bold"),
                Column("95 %", right=True, rank=4),
                Column("q", right=True, rank=3),
                Column("both", right=True, rank=5, style="dim"),
                Column("with fact", right=True, rank=6, style="dim"),
                Column("test", rank=7, style="dim"),
            ),
            tuple(
                (
                    row.filter + _similar(row),
                    percent(row.target_share),
                    bar(row.target_share, most, _SHARE_BAR),
                    percent(row.other_share),
                    bar(row.other_share, most, _SHARE_BAR),
                    significant(row.odds_ratio),
                    _bounds(row),
                    probability(row.q_value),
                    number(row.joint_count),
                    number(row.fact_count),
                    row.test,
                )
                for row in self._rows
            ),
            note=f"{facts}, q ≤ {self.fdr:g}; {self._scope(first.target_count, first.total_count)}",
        )

    def _scope(self, inside: int, total: int) -> str:
        share = percent(inside / total if total else None)
        return f"target: {number(inside)} of {_counted(total, self.unit)} ({share})"

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Odds ratios as bars with their 95 % intervals, on a logarithmic axis.

        Draws on ``ax``, or on a figure of its own, and returns the axes.
        """
        from insights_py import plots

        return plots.odds_ratios(self, ax)


class Comparison(Discovery):
    """What sets the selection ``target`` apart from ``baseline``, strongest first."""

    columns = ("selection", "baseline")
    no_fact = "No fact sets them apart"

    def __init__(
        self,
        rows: Iterable[Fact],
        selection: str | None = "",
        baseline: str | None = "",
        fdr: float = 0.05,
        unit: str = "trace",
        sizes: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(rows, selection, None, fdr, unit, sizes)
        self.baseline = baseline

    @property
    def title(self) -> str:
        """What was asked, in a line."""
        return f"{self.target or 'everything'}, against {self.baseline or 'everything'}"

    def _scope(self, inside: int, total: int) -> str:
        return f"{number(inside)} against {_counted(total - inside, self.unit)}"

    def _without_others(self, count: int) -> str:
        one = unit_name(self.unit)
        return f"No {one} matches the baseline alone; the selection has {number(count)}."


def _similar(fact: Fact) -> str:
    """The similar facts, each on a line of its own below the filter."""
    lines = [f"\n  ≈ {one}" for one in fact.similar[:_SIMILAR_SHOWN]]
    more = len(fact.similar) - _SIMILAR_SHOWN
    return "".join(lines) + (f"\n  ≈ and {more:,} more" if more > 0 else "")


# ------------------------------------------------------------- pairs of filters


@dataclass(frozen=True, repr=False)
class Pair(Row):
    """How two of several filters go together.

    The filters are numbered from 1 in the order in which they were given; the
    rest is as in `Correlation`.
    """

    filter1_number: int
    filter2_number: int
    filter1: str
    filter2: str
    filter1_count: int
    filter2_count: int
    joint_count: int
    total_count: int
    npmi: float
    npmi_smoothed: float
    lift: float | None
    phi: float | None
    odds_ratio: float | None
    odds_ratio_low: float | None
    odds_ratio_high: float | None
    p_value: float | None
    test: str | None

    @property
    def correlation(self) -> Correlation:
        """The pair without the filters, as `Insights.correlate` gives it."""
        return Correlation(**{f.name: getattr(self, f.name) for f in fields(Correlation)})

    def grid(self) -> Grid:
        """Count by count and statistic by statistic."""
        return Grid(
            (Column("", style="dim"), Column("", right=True), Column("", least=20, wraps=True)),
            (
                ("filter 1", "", Cell(self.filter1, "bold")),
                ("filter 2", "", Cell(self.filter2, "bold")),
                *self.correlation.grid().rows,
            ),
            headed=False,
        )


class Matrix(Rows[Pair]):
    """How several filters go together, pair by pair."""

    kind = Pair

    def __init__(
        self, rows: Iterable[Pair], base_filter: str | None = None, unit: str = "trace"
    ) -> None:
        super().__init__(rows)
        self.base_filter = base_filter
        self.unit = unit

    @property
    def filters(self) -> tuple[str, ...]:
        """The filters in the order of their numbers."""
        texts = {row.filter1_number: row.filter1 for row in self._rows}
        texts |= {row.filter2_number: row.filter2 for row in self._rows}
        return tuple(texts[one] for one in sorted(texts))

    @property
    def labels(self) -> tuple[str, ...]:
        """The filters for people: the empty one has a name too."""
        return tuple(text or f"(all {unit_name(self.unit)}s)" for text in self.filters)

    def square(self, statistic: Statistic = "npmi") -> list[list[float | None]]:
        """A row and a column for each filter; None on the diagonal and where undefined.

        Raises ValueError for a statistic other than npmi, npmi_smoothed and phi.
        """
        if statistic not in STATISTICS:
            raise ValueError(f"statistic is one of {', '.join(STATISTICS)}, not {statistic!r}")
        size = len(self.filters)
        cells: list[list[float | None]] = [[None] * size for _ in range(size)]
        for row in self._rows:
            value: float | None = getattr(row, statistic)
            if value is not None and value == value:
                i, j = row.filter1_number - 1, row.filter2_number - 1
                cells[i][j] = cells[j][i] = value
        return cells

    def grid(self, statistic: Statistic = "npmi") -> Grid:
        """A square of one statistic: npmi, npmi_smoothed or phi."""
        if not self._rows:
            return Grid((), (), note="No pair of filters.", headed=False)
        counts = {row.filter1_number: row.filter1_count for row in self._rows}
        counts |= {row.filter2_number: row.filter2_count for row in self._rows}
        numbers = sorted(counts)
        return Grid(
            (
                Column("", right=True, style="dim"),
                Column("filter", least=22, wraps=True),
                Column(f"{unit_name(self.unit)}s", right=True, rank=1, style="dim"),
                # The last go first: what they say stands in the other half as well.
                *(Column(str(one), right=True, rank=one + 1) for one in numbers),
            ),
            tuple(
                (
                    str(number_),
                    text,
                    number(counts[number_]),
                    *(
                        Cell("·", "dim") if i == j else _coefficient(value)
                        for j, value in enumerate(line)
                    ),
                )
                for i, (number_, text, line) in enumerate(
                    zip(numbers, self.labels, self.square(statistic), strict=True)
                )
            ),
            note=f"{MEANING[statistic]}; {_counted(self._rows[0].total_count, self.unit)}",
        )

    def plot(self, *, statistic: Statistic = "npmi", ax: Axes | None = None) -> Axes:
        """A heat map of ``statistic``: npmi, npmi_smoothed or phi.

        Draws on ``ax``, or on a figure of its own, and returns the axes.
        """
        from insights_py import plots

        return plots.heat_map(self, statistic, ax)


def _coefficient(value: float | None) -> Cell:
    if value is None:
        return Cell("–", "dim")
    style = "bold " if abs(value) >= 0.3 else ""
    if round(value, 2) != 0:
        style += "cyan" if value > 0 else "magenta"
    return Cell(coefficient(value), style.strip())


# ------------------------------------------------------------- values of a field


@dataclass(frozen=True, repr=False)
class Facet(Row):
    """A value of a field, or an interval ``low <= x < high`` of its numbers.

    ``count`` is how many of what matches has it, ``share`` the same from 0 to 1;
    ``filter`` matches what has it.  ``value`` is None for what has none.
    """

    value: str | None
    low: float | None
    high: float | None
    filter: str
    count: int
    share: float | None

    @property
    def label(self) -> str:
        """The value or the interval, for people."""
        if self.value is not None and _DATE.match(self.value):
            # Of times the numbers are milliseconds.
            return self.value
        if self.low is not None and self.low == self.high:
            return _limit(self.low)
        if self.low is not None and self.high is not None:
            return f"{_limit(self.low)} to {_limit(self.high)}"
        if self.low is not None:
            return f"{_limit(self.low)} or more"
        if self.high is not None:
            return f"less than {_limit(self.high)}"
        if self.value is None:
            return "(none)"
        return self.value or "''"

    def grid(self) -> Grid:
        """One line."""
        return Facets([self]).grid()


_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def _limit(value: float) -> str:
    """A bound of an interval, with all its digits: they are what tells intervals apart."""
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 2**53 else f"{value:,.15g}"


class Facets(Rows[Facet]):
    """The values of ``field`` among what ``filter`` matches, with their counts."""

    kind = Facet

    def __init__(
        self,
        rows: Iterable[Facet],
        filter: str | None = "",
        field: str = "value",
        unit: str = "trace",
    ) -> None:
        super().__init__(rows)
        self.filter = filter
        self.field = field
        self.unit = unit

    def grid(self) -> Grid:
        """A line with a bar for each value."""
        if not self._rows:
            return Grid((), (), note=f"No {unit_name(self.unit)} matches.", headed=False)
        most = max(row.share or 0 for row in self._rows)
        intervals = any(row.low is not None or row.high is not None for row in self._rows)
        return Grid(
            (
                Column(self.field, right=intervals, least=16),
                Column(f"{unit_name(self.unit)}s", right=True),
                Column("share", right=True, style="cyan"),
                Column("", style="cyan"),
                # Whole, or not at all.
                Column("filter", rank=1, style="dim"),
            ),
            tuple(
                (
                    Cell(row.label, "dim" if row.value is None and row.low is None else ""),
                    number(row.count),
                    percent(row.share),
                    bar(row.share, most, _COUNT_BAR),
                    row.filter,
                )
                for row in self._rows
            ),
        )

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """A bar for each value.

        Draws on ``ax``, or on a figure of its own, and returns the axes.
        """
        from insights_py import plots

        return plots.facets(self, ax)


# ------------------------------------------------------------------ over the time


@dataclass(frozen=True, repr=False)
class Bucket(Row):
    """A span of time that begins at ``time``.

    Of ``total`` traces ``matched`` match the filter; ``rate`` is their share,
    from 0 to 1.  The rest is about those that match: how many are ``errors``,
    the share of these, percentiles of the latency in milliseconds, the tokens
    and the cost of all together.  None where there is nothing to tell.
    """

    time: datetime
    matched: int
    total: int
    rate: float | None
    errors: int
    error_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    tokens: int | None
    cost: float | None

    def grid(self) -> Grid:
        """One line."""
        return TimeSeries([self], time_zone=str(self.time.tzinfo or "UTC")).grid()


class TimeSeries(Rows[Bucket]):
    """What matches ``filter``, bucket by bucket; times are in ``time_zone``."""

    kind = Bucket

    def __init__(
        self,
        rows: Iterable[Bucket],
        filter: str | None = "",
        bucket: str = "",
        time_zone: str = "UTC",
        unit: str = "trace",
    ) -> None:
        super().__init__(rows)
        self.filter = filter
        self.bucket = bucket
        self.time_zone = time_zone
        self.unit = unit

    def grid(self) -> Grid:
        """A line with a bar for each bucket."""
        if not self._rows:
            return Grid((), (), note="No bucket: there is no trace.", headed=False)
        most = max(row.matched for row in self._rows)
        form = _clock_format([row.time for row in self._rows])
        times = [row.time.strftime(form) for row in self._rows]
        return Grid(
            (
                # The name of the zone may be cut, the times never.
                Column(f"time ({self.time_zone})", least=max(map(len, times))),
                Column("matched", right=True, style="bold"),
                Column("", style="cyan"),
                Column("total", right=True, rank=4, style="dim"),
                Column("rate", right=True, rank=3),
                Column("errors", right=True, rank=5, style="red"),
                Column("error rate", right=True, rank=2),
                Column("p50", right=True, rank=6),
                Column("p95", right=True, rank=1),
                Column("p99", right=True, rank=7),
                Column("tokens", right=True, rank=8, style="dim"),
                Column("cost", right=True, rank=9, style="dim"),
            ),
            tuple(
                (
                    time,
                    number(row.matched),
                    bar(row.matched, most, _COUNT_BAR),
                    number(row.total),
                    _or_empty(row.rate),
                    number(row.errors) if row.errors else "",
                    _or_empty(row.error_rate),
                    duration(row.p50_ms),
                    duration(row.p95_ms),
                    duration(row.p99_ms),
                    number(row.tokens) if row.tokens else "",
                    significant(row.cost) if row.cost else "",
                )
                for time, row in zip(times, self._rows, strict=True)
            ),
        )

    def plot(self, *, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Counts above, percentiles of the latency below.

        ``ax`` are the axes for the two, or those for the counts alone; without
        them a figure of its own is made.  Returns the figure.
        """
        from insights_py import plots

        return plots.series(self, ax)


def _or_empty(share: float | None) -> str:
    return "" if share is None else percent(share)


def _clock_format(times: Sequence[datetime]) -> str:
    """As little of date and time as tells the buckets apart."""
    if all((t.hour, t.minute, t.second, t.microsecond) == (0, 0, 0, 0) for t in times):
        return "%Y-%m-%d"
    if all((t.second, t.microsecond) == (0, 0) for t in times):
        return "%Y-%m-%d %H:%M"
    return "%Y-%m-%d %H:%M:%S"
