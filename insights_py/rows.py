"""What the functions answer: frozen rows that draw themselves.

Each row type prints as a table in a terminal (`__repr__`, and in colour for
rich), in a notebook (`_repr_html_`), and turns into plain dictionaries
(``as_dict``) and pandas data frames (``to_pandas``).
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from insights_py.display import (
    Cell,
    Column,
    Grid,
    clock,
    duration,
    moment,
    number,
    size,
    terminal_width,
)

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Correlation",
    "Experiment",
    "ExplainStep",
    "Explanation",
    "IndexStatus",
    "Page",
    "Refresh",
    "Status",
    "Trace",
    "Wrong",
]

Item = TypeVar("Item", bound="Row")


class Drawn(ABC):
    """Draws ``self.grid()`` wherever it is shown."""

    @abstractmethod
    def grid(self) -> Grid:
        """The table that shows this."""

    def __repr__(self) -> str:
        return self.grid().plain(terminal_width())

    def __rich__(self) -> Grid:
        return self.grid()

    def _repr_html_(self) -> str:
        return self.grid().html()


class Row(Drawn):
    """A frozen dataclass with one field a column."""

    @classmethod
    def columns(cls) -> list[str]:
        """The names of what `as_dict` gives, in the order of the stored function."""
        return [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Any]:
        """The columns by name."""
        return {name: getattr(self, name) for name in self.columns()}

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with this one row."""
        return _frame([self], type(self))


def _frame(rows: Sequence[Row], kind: type[Row]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "to_pandas() needs pandas, which is not installed: pip install pandas"
        ) from error
    return pandas.DataFrame([row.as_dict() for row in rows], columns=kind.columns())


class Rows(Drawn, Sequence[Item]):
    """Rows of one type, in the order in which the database gave them."""

    #: The type of the rows.
    kind: type[Item]

    def __init__(self, rows: Iterable[Item]) -> None:
        self._rows = tuple(rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a column for each field, also when there is no row."""
        return _frame(self._rows, self.kind)


STATUS_STYLES = {"OK": "green", "ERROR": "red", "IN_PROGRESS": "yellow"}


@dataclass(frozen=True, repr=False)
class Trace(Row):
    """A trace that was found.

    ``timestamp_ms`` is when it began, in milliseconds since 1970 (UTC);
    ``execution_time_ms`` is None while it runs.  ``tags`` and ``metadata`` map
    text to text; ``assessments`` are dictionaries as MLflow's REST API has them.
    """

    trace_id: str
    experiment_id: str
    timestamp_ms: int
    execution_time_ms: int | None
    status: str
    trace_name: str | None
    session_id: str | None
    request_preview: str | None
    response_preview: str | None
    tags: Mapping[str, str]
    metadata: Mapping[str, str]
    assessments: Sequence[Mapping[str, Any]]

    def __hash__(self) -> int:
        return hash(self.trace_id)

    @property
    def request_time(self) -> datetime | None:
        """`timestamp_ms` as a time in UTC; None beyond the year 9999."""
        return moment(self.timestamp_ms)

    @classmethod
    def columns(cls) -> list[str]:
        """The fields and `request_time`, which stands where the stored function has it."""
        found = super().columns()
        found.insert(found.index("timestamp_ms"), "request_time")
        return found

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Trace:
        """From the columns of `sql.SEARCH`, without the page token."""
        return cls(*row[:9], *(_decoded(value) for value in row[9:]))

    def grid(self) -> Grid:
        """Field by field."""
        rows: list[tuple[Cell | str, ...]] = [
            ("trace", Cell(self.trace_id, "bold")),
            ("experiment", self.experiment_id),
            ("time (UTC)", clock(self.timestamp_ms)),
            ("duration", duration(self.execution_time_ms) or "still running"),
            ("status", Cell(self.status, STATUS_STYLES.get(self.status, ""))),
        ]
        for title, value in (
            ("name", self.trace_name),
            ("session", self.session_id),
            ("request", self.request_preview),
            ("response", self.response_preview),
        ):
            if value is not None:
                rows.append((title, value))
        rows += [(f"tag {key}", str(value)) for key, value in self.tags.items()]
        rows += [(f"metadata {key}", str(value)) for key, value in self.metadata.items()]
        for assessment in self.assessments:
            name = assessment.get("name") or assessment.get("assessment_name") or ""
            rows.append((f"assessment {name}", _assessed(assessment)))
        return Grid(
            (Column("field", least=20, style="dim"), Column("value", least=20, wraps=True)),
            tuple(rows),
            headed=False,
        )


def _assessed(assessment: Mapping[str, Any]) -> str:
    """The value of an assessment, or all of it where it has another form."""
    for value in (assessment, assessment.get("feedback"), assessment.get("expectation")):
        if isinstance(value, Mapping) and "value" in value:
            inner = value["value"]
            return inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)
    return json.dumps(assessment, ensure_ascii=False)


def _decoded(value: Any) -> Any:
    """A jsonb value: most drivers decode it, some hand over its text.

    The three columns hold objects and arrays, so text is never the value.
    """
    return json.loads(value) if isinstance(value, (str, bytes)) else value


class Page(Rows[Trace]):
    """A page of traces.

    ``next_page_token`` fetches the next page; None on the last one.
    """

    kind = Trace

    def __init__(self, rows: Iterable[Trace], next_page_token: str | None = None) -> None:
        super().__init__(rows)
        self.next_page_token = next_page_token

    def grid(self) -> Grid:
        """A line for each trace."""
        if not self._rows:
            return Grid((), (), note="No trace matches.", headed=False)
        traces = f"{len(self):,} trace{'' if len(self) == 1 else 's'}"
        more = "; more match" if self.next_page_token else ""
        return Grid(
            (
                Column("trace_id", least=35, style="cyan"),
                Column("time (UTC)"),
                Column("status", rank=1),
                Column("duration", right=True, rank=4),
                Column("name", least=11, rank=2),
                Column("request", least=16, rank=5),
                Column("response", least=24, rank=6),
            ),
            tuple(
                (
                    trace.trace_id,
                    clock(trace.timestamp_ms),
                    Cell(trace.status, STATUS_STYLES.get(trace.status, "")),
                    duration(trace.execution_time_ms),
                    trace.trace_name or "",
                    trace.request_preview or "",
                    trace.response_preview or "",
                )
                for trace in self._rows
            ),
            note=traces + more,
        )


@dataclass(frozen=True, repr=False)
class Correlation(Row):
    """How two filters go together over the traces that the base filter leaves.

    Counts are of traces, or of sessions.  ``npmi`` and ``npmi_smoothed`` are MLflow's, from -1
    (never together) over 0 (independent) to 1 (only together), NaN where
    undefined; ``lift`` is the joint count over the count expected by chance;
    ``phi`` is the correlation coefficient of the two; ``odds_ratio`` comes with
    its 95 % bounds, after adding 0.5 to each of the four counts behind it;
    ``p_value`` is the probability of an association at least this strong by
    chance alone, by the ``test``: ``Fisher`` (exact) where some expected count is
    below 100, ``G2`` (likelihood ratio) otherwise.  None where a filter matches
    nothing (``lift``), or nothing or everything (the others).
    """

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

    def grid(self) -> Grid:
        """Count by count and statistic by statistic."""
        bounds = ""
        if self.odds_ratio_low is not None and self.odds_ratio_high is not None:
            bounds = f"95 %: {number(self.odds_ratio_low)} to {number(self.odds_ratio_high)}"
        rows = [
            ("filter 1", number(self.filter1_count), _share(self.filter1_count, self.total_count)),
            ("filter 2", number(self.filter2_count), _share(self.filter2_count, self.total_count)),
            ("both", number(self.joint_count), _share(self.joint_count, self.total_count)),
            ("in all", number(self.total_count), ""),
            ("npmi", number(self.npmi), "-1 never together, 0 independent, 1 always"),
            ("npmi, smoothed", number(self.npmi_smoothed), ""),
            ("lift", number(self.lift), "times as often together as by chance"),
            ("phi", number(self.phi), ""),
            ("odds ratio", number(self.odds_ratio), bounds),
            (
                "p",
                "–" if self.p_value is None else f"{self.p_value:.2g}",
                "chance of this much without an association"
                + ("" if self.test is None else f" ({self.test})"),
            ),
        ]
        return Grid(
            (Column("", style="dim"), Column("", right=True), Column("", least=10, rank=1)),
            tuple(
                (label, Cell(value, "bold"), Cell(remark, "dim")) for label, value, remark in rows
            ),
            headed=False,
        )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


@dataclass(frozen=True, repr=False)
class ExplainStep(Row):
    """One step of how a filter is answered."""

    step: str
    detail: str

    def grid(self) -> Grid:
        """One line."""
        return Explanation([self]).grid()


class Explanation(Rows[ExplainStep]):
    """How a filter is answered, step by step."""

    kind = ExplainStep

    def grid(self) -> Grid:
        """A line for each step."""
        return Grid(
            (Column("step", style="bold"), Column("detail", least=20, wraps=True)),
            tuple((row.step, row.detail) for row in self._rows),
        )


@dataclass(frozen=True, repr=False)
class Experiment(Row):
    """An experiment of MLflow's."""

    experiment_id: str
    name: str
    workspace: str
    lifecycle_stage: str

    def grid(self) -> Grid:
        """One line."""
        return Grid(
            (Column("id", right=True), Column("name", least=10), Column("stage", rank=1)),
            ((self.experiment_id, self.name, self.lifecycle_stage),),
        )


@dataclass(frozen=True, repr=False)
class IndexStatus(Row):
    """How far the index is, and how large.

    ``pending`` traces have changed since they were indexed, the first of them
    ``lag_seconds`` ago; they are answered from MLflow's tables.  The index is
    used once it is ``built``, and not while changes are ``missed`` or triggers or
    tables are not as they were: ``usable`` says so.  ``unwatched`` is what lets changes
    go unnoticed, such as a missing trigger.  ``terms`` and ``postings`` are estimates
    where there are many.  ``index_share`` is ``index_bytes`` over ``mlflow_bytes``, the
    size of MLflow's trace tables.  A role that may not read the index sees the sizes, and
    None for the rest.
    """

    built: bool | None
    usable: bool | None
    unwatched: str | None
    pending: int | None
    lag_seconds: float | None
    missed: int | None
    traces: int | None
    blocks: int | None
    terms: int | None
    postings: int | None
    index_bytes: int
    mlflow_bytes: int | None
    index_share: float | None

    def state(self) -> Cell:
        """One line for people; what to do, where there is something to do."""
        if self.built is None:
            return Cell("for members of its group of readers only (insights doctor)", "yellow")
        if not self.built:
            text = f"not built yet ({number(self.traces)} traces so far): run `insights index`"
            return Cell(text, "yellow")
        if self.unwatched:
            return Cell(f"not used, {self.unwatched}: run `insights install`", "red")
        if self.missed or not self.usable:
            what = "changes were missed" if self.missed else "triggers or tables have changed"
            return Cell(f"not used, {what}: `insights worker` catches up", "yellow")
        share = "" if self.index_share is None else f", {100 * self.index_share:.1f} % of MLflow's"
        text = f"{number(self.traces)} indexed, {size(self.index_bytes)}{share}"
        if not self.pending:
            return Cell(f"{text}; nothing pending", "green")
        return Cell(
            f"{text}; {number(self.pending)} pending for up to {number(self.lag_seconds, 1)} s",
            "green" if (self.lag_seconds or 0) < 60 else "yellow",
        )

    def grid(self) -> Grid:
        """Field by field."""
        return Grid(
            (Column("", style="dim"), Column("", least=20, wraps=True)),
            (
                ("index", self.state()),
                ("traces", number(self.traces)),
                ("pending", number(self.pending)),
                ("lag", "" if self.lag_seconds is None else f"{number(self.lag_seconds, 1)} s"),
                ("missed", number(self.missed)),
                ("blocks", number(self.blocks)),
                ("terms", number(self.terms)),
                ("postings", number(self.postings)),
                ("index size", size(self.index_bytes)),
                ("MLflow's tables", size(self.mlflow_bytes)),
            ),
            headed=False,
        )


@dataclass(frozen=True, repr=False)
class Refresh(Row):
    """What one call of `insights_refresh` did, in traces and blocks.

    ``pending`` is how many changes are left; ``busy``: another session is at it,
    and nothing was done.
    """

    indexed: int
    removed: int
    merged: int
    pending: int
    busy: bool

    def grid(self) -> Grid:
        """One line."""
        return Grid(
            (
                Column("indexed", right=True),
                Column("removed", right=True),
                Column("merged", right=True),
                Column("pending", right=True),
                Column("busy"),
            ),
            (
                (
                    number(self.indexed),
                    number(self.removed),
                    number(self.merged),
                    number(self.pending),
                    "yes" if self.busy else "no",
                ),
            ),
        )


@dataclass(frozen=True, repr=False)
class Wrong(Row):
    """What the index says otherwise than MLflow's tables; None: not about one trace."""

    trace_id: str | None
    problem: str

    def grid(self) -> Grid:
        """One line."""
        return Grid(
            (Column("trace_id", least=35, style="cyan"), Column("problem", least=20, wraps=True)),
            ((self.trace_id or "", self.problem),),
        )


@dataclass(frozen=True, repr=False)
class Status(Row):
    """What is installed in a database.

    ``revision`` is the installed revision, None if there is none;
    ``missing_functions`` are the functions that this client calls and the
    database lacks; ``mlflow_revision``, ``experiments`` and ``traces`` are None
    where MLflow's tables are missing, or the role may not read the one in
    question, which is among ``unreadable`` then; ``index`` is None where there
    is none.
    """

    server: str
    database: str
    role: str
    client: str
    mlflow_revision: str | None
    revision: str | None
    functions: tuple[str, ...]
    missing_functions: tuple[str, ...]
    experiments: int | None
    traces: int | None
    index: IndexStatus | None = None
    unreadable: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields by name; the index's in a dictionary of their own."""
        index = None if self.index is None else self.index.as_dict()
        return {**super().as_dict(), "index": index}

    @property
    def installed(self) -> bool:
        """Whether every function that this client calls is there."""
        return not self.missing_functions

    def _kept_from(self, table: str) -> Cell | None:
        """What to show instead of what a table would say."""
        if table not in self.unreadable:
            return None
        return Cell(f"unknown: role {self.role} may not read {table}", "yellow")

    def grid(self) -> Grid:
        """Field by field."""
        if self.installed:
            functions = Cell(f"{len(self.functions)} installed", "green")
        elif self.functions:
            functions = Cell("missing: " + ", ".join(self.missing_functions), "red")
        else:
            functions = Cell("not installed: run `insights install`", "red")
        rows: tuple[tuple[Cell | str, ...], ...] = (
            ("database", self.database),
            ("server", f"PostgreSQL {self.server}"),
            ("role", self.role),
            ("client", f"insights {self.client}"),
            (
                "MLflow schema",
                self.mlflow_revision
                or self._kept_from("alembic_version")
                or Cell("not found", "red"),
            ),
            ("insights schema", self.revision or Cell("none", "yellow")),
            ("functions", functions),
            ("experiments", self._kept_from("experiments") or number(self.experiments)),
            ("traces", self._kept_from("trace_info") or number(self.traces)),
            (
                "index",
                self.index.state() if self.index else "none: MLflow's tables give the answers",
            ),
        )
        return Grid((Column("", style="dim"), Column("", least=20, wraps=True)), rows, headed=False)
