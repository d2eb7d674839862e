"""What the methods of both clients do, without doing any input or output.

An operation is a generator: it yields the statements to run, is sent their
rows, and returns the answer.  `Insights` and `AsyncInsights` drive the same
generators, so that they cannot differ.  A new stored function takes a
`sql.Function`, a row type, an operation here and a method in each client.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any, TypeVar

from insights_py import sql
from insights_py.errors import ArgumentError, FilterError
from insights_py.rows import (
    Correlation,
    Experiment,
    ExplainStep,
    Explanation,
    IndexStatus,
    Page,
    Refresh,
    Status,
    Trace,
    Wrong,
)

Answer = TypeVar("Answer")
Operation = Generator[sql.Query, Sequence[Sequence[Any]], Answer]

ExperimentIds = str | int | Iterable[str | int] | None
OrderBy = str | Iterable[str] | None


def ids(experiment_ids: ExperimentIds) -> list[str] | None:
    """Experiment ids as the functions take them; None is every experiment."""
    if experiment_ids is None:
        return None
    if isinstance(experiment_ids, (str, int)):
        return [_sendable(str(experiment_ids), "experiment id")]
    return [_sendable(str(one), "experiment id") for one in experiment_ids]


def _sendable(text: str, what: str) -> str:
    """``text``, if PostgreSQL can hold it; drivers differ in how they refuse it."""
    for position, character in enumerate(text):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            name = "a NUL character" if character == "\0" else "half of a surrogate pair"
            kind = FilterError if what == "filter" else ArgumentError
            raise kind(
                f"{name} at character {position + 1} of the {what}; no text in PostgreSQL has one",
                sqlstate="22023",
            )
    return text


def _filter(text: str | None) -> str | None:
    if text is not None and not isinstance(text, str):
        raise TypeError(f"a filter is text or None, not {type(text).__name__}")
    return None if text is None else _sendable(text, "filter")


def search(
    filter: str | None,
    experiment_ids: ExperimentIds,
    max_results: int,
    order_by: OrderBy,
    page_token: str | None,
) -> Operation[Page]:
    """One page of `insights_search`."""
    if isinstance(order_by, str):
        order_by = [order_by]
    rows = yield sql.SEARCH(
        exp_ids=ids(experiment_ids),
        filter=_filter(filter),
        max_results=max_results,
        order_by=None if order_by is None else [_sendable(one, "order") for one in order_by],
        page_token=None if page_token is None else _sendable(page_token, "page token"),
    )
    return Page(
        (Trace.from_row(row[:-1]) for row in rows),
        next_page_token=rows[-1][-1] if rows else None,
    )


def count(filter: str | None, experiment_ids: ExperimentIds) -> Operation[int]:
    """`insights_count`."""
    rows = yield sql.COUNT(exp_ids=ids(experiment_ids), filter=_filter(filter))
    return int(rows[0][0])


def correlate(
    filter1: str | None,
    filter2: str | None,
    base_filter: str | None,
    experiment_ids: ExperimentIds,
) -> Operation[Correlation]:
    """`insights_correlate`."""
    rows = yield sql.CORRELATE(
        exp_ids=ids(experiment_ids),
        f1=_filter(filter1),
        f2=_filter(filter2),
        base_filter=_filter(base_filter),
    )
    return Correlation(*rows[0])


def validate(filter: str | None) -> Operation[str]:
    """`insights_validate`."""
    rows = yield sql.VALIDATE(filter=_filter(filter))
    return str(rows[0][0])


def explain(filter: str | None, experiment_ids: ExperimentIds) -> Operation[Explanation]:
    """`insights_explain`."""
    rows = yield sql.EXPLAIN(exp_ids=ids(experiment_ids), filter=_filter(filter))
    return Explanation(ExplainStep(*row) for row in rows)


def experiments() -> Operation[list[Experiment]]:
    """MLflow's experiments, deleted ones included."""
    rows = yield sql.EXPERIMENTS()
    return [Experiment(*row) for row in rows]


def index_status() -> Operation[IndexStatus]:
    """`insights_status`."""
    rows = yield sql.INDEX_STATUS()
    return IndexStatus(*rows[0])


def refresh(max_traces: int) -> Operation[Refresh]:
    """`insights_refresh`."""
    rows = yield sql.REFRESH(max_traces=max_traces)
    return Refresh(*rows[0])


def verify(max_problems: int) -> Operation[list[Wrong]]:
    """`insights_verify`."""
    rows = yield sql.VERIFY(max_problems=max_problems)
    return [Wrong(*row) for row in rows]


def status(client: str, schema: str | None) -> Operation[Status]:
    """What is installed, from the catalogue; works where nothing is."""
    [(server, database, role, found, has_revision, has_mlflow)] = yield sql.CATALOGUE(
        names=[function.name for function in sql.FUNCTIONS], schema=schema
    )
    revision = mlflow_revision = experiments = traces = index = None
    if has_revision:
        rows = yield sql.REVISION()
        revision = rows[0][0] if rows else None
    if has_mlflow:
        [(mlflow_revision, experiments, traces)] = yield sql.MLFLOW()
    if sql.INDEX_STATUS.name in found:
        index = yield from index_status()
    return Status(
        server=server,
        database=database,
        role=role,
        client=client,
        mlflow_revision=mlflow_revision,
        revision=revision,
        functions=tuple(found),
        missing_functions=tuple(
            function.name for function in sql.FUNCTIONS if function.name not in found
        ),
        experiments=experiments,
        traces=traces,
        index=index,
    )
