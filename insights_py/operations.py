"""What the methods of both clients do, without doing any input or output.

An operation is a generator: it yields the statements to run, is sent their
rows, and returns the answer.  `Insights` and `AsyncInsights` drive the same
generators, so that they cannot differ.  A new stored function takes a
`sql.Function`, a row type, an operation here and a method in each client.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from insights_py import sql
from insights_py.analysis import (
    Bucket,
    Comparison,
    Discovery,
    Facet,
    Facets,
    Fact,
    Matrix,
    Pair,
    TimeSeries,
)
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
Kinds = str | Iterable[str] | None
Moment = datetime | str | None


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


def count(filter: str | None, experiment_ids: ExperimentIds, unit: str) -> Operation[int]:
    """`insights_count`."""
    rows = yield sql.COUNT(exp_ids=ids(experiment_ids), filter=_filter(filter), **_unit(unit))
    return int(rows[0][0])


def _unit(unit: str) -> dict[str, str]:
    """The unit, unless it is the default: functions of an older revision have no other."""
    return {} if unit == "trace" else {"unit": _sendable(unit, "unit")}


def correlate(
    filter1: str | None,
    filter2: str | None,
    base_filter: str | None,
    experiment_ids: ExperimentIds,
    unit: str,
) -> Operation[Correlation]:
    """`insights_correlate`."""
    rows = yield sql.CORRELATE(
        exp_ids=ids(experiment_ids),
        f1=_filter(filter1),
        f2=_filter(filter2),
        base_filter=_filter(base_filter),
        **_unit(unit),
    )
    return Correlation(*rows[0])


def matrix(
    filters: Iterable[str],
    base_filter: str | None,
    experiment_ids: ExperimentIds,
    unit: str,
) -> Operation[Matrix]:
    """`insights_correlation_matrix`."""
    if isinstance(filters, str):
        raise TypeError("filters are several, in a list; this is one text")
    rows = yield sql.MATRIX(
        exp_ids=ids(experiment_ids),
        filters=[_filter(one) for one in filters],
        base_filter=_filter(base_filter),
        unit=_sendable(unit, "unit"),
    )
    return Matrix((Pair(*row) for row in rows), base_filter, unit)


def discover(
    target: str | None,
    base_filter: str | None,
    experiment_ids: ExperimentIds,
    **options: Any,
) -> Operation[Discovery]:
    """`insights_discover`; the options are those of `_discovery`."""
    rows = yield sql.DISCOVER(
        exp_ids=ids(experiment_ids),
        target=_filter(target),
        base_filter=_filter(base_filter),
        **_discovery(**options),
    )
    sizes = None
    if not rows:
        found = yield from correlate(target, "", base_filter, experiment_ids, options["unit"])
        sizes = found.joint_count, found.total_count - found.joint_count
    facts = (Fact(*row) for row in rows)
    return Discovery(facts, target, base_filter, options["fdr"], options["unit"], sizes)


def compare(
    selection: str | None,
    baseline: str | None,
    experiment_ids: ExperimentIds,
    **options: Any,
) -> Operation[Comparison]:
    """`insights_compare`; the options are those of `_discovery`."""
    rows = yield sql.COMPARE(
        exp_ids=ids(experiment_ids),
        selection=_filter(selection),
        baseline=_filter(baseline),
        **_discovery(**options),
    )
    sizes = None
    if not rows:
        found = yield from correlate(selection, baseline, None, experiment_ids, options["unit"])
        sizes = found.filter1_count, found.filter2_count - found.joint_count
    facts = (Fact(*row) for row in rows)
    return Comparison(facts, selection, baseline, options["fdr"], options["unit"], sizes)


def _discovery(
    *,
    kinds: Kinds,
    min_support: int,
    max_results: int,
    fdr: float,
    direction: str,
    pairs: bool,
    restatements: bool,
    unit: str,
) -> dict[str, Any]:
    """The options that discovery and comparison have in common, as the functions take them."""
    if isinstance(kinds, str):
        kinds = [kinds]
    return {
        "kinds": None if kinds is None else [_sendable(kind, "kind") for kind in kinds],
        "min_support": min_support,
        "max_results": max_results,
        "fdr": fdr,
        "direction": _sendable(direction, "direction"),
        "pairs": pairs,
        "restatements": restatements,
        "unit": _sendable(unit, "unit"),
    }


def facets(
    filter: str | None,
    field: str,
    experiment_ids: ExperimentIds,
    max_results: int,
    unit: str,
) -> Operation[Facets]:
    """`insights_facets`."""
    rows = yield sql.FACETS(
        exp_ids=ids(experiment_ids),
        filter=_filter(filter),
        field=_sendable(field, "field"),
        max_results=max_results,
        unit=_sendable(unit, "unit"),
    )
    return Facets((Facet(*row) for row in rows), filter, field, unit)


def timeseries(
    filter: str | None,
    bucket: str | timedelta,
    experiment_ids: ExperimentIds,
    start_time: Moment,
    end_time: Moment,
    time_zone: str,
    unit: str,
) -> Operation[TimeSeries]:
    """`insights_timeseries`, its times in the zone that was asked for."""
    width = _interval(bucket) if isinstance(bucket, timedelta) else bucket
    zone = _zone(time_zone)
    rows = yield sql.TIMESERIES(
        exp_ids=ids(experiment_ids),
        filter=_filter(filter),
        bucket=_sendable(width, "bucket"),
        start_time=_moment(start_time, zone, time_zone, "start time"),
        end_time=_moment(end_time, zone, time_zone, "end time"),
        time_zone=_sendable(time_zone, "time zone"),
        unit=_sendable(unit, "unit"),
    )
    # Drivers give times in the zone of the session or of their own.
    shown = timezone.utc if zone is None else zone
    return TimeSeries(
        (Bucket(row[0].astimezone(shown), *row[1:]) for row in rows),
        filter,
        width,
        "UTC" if zone is None else time_zone,
        unit,
    )


def _interval(width: timedelta) -> str:
    """As PostgreSQL reads it; days stay days, which are not always 24 hours long."""
    return f"{width.days} days {width.seconds}.{width.microseconds:06} seconds"


def _zone(name: str) -> tzinfo | None:
    """The zone of a name; None for one that Python lacks, though PostgreSQL may have it."""
    if name.upper() == "UTC":
        # Also where there is no database of zones, as on Windows.
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def _moment(given: Moment, zone: tzinfo | None, zone_name: str, what: str) -> datetime | None:
    """A moment of time; one without a zone is in that of the series."""
    if given is None:
        return None
    if isinstance(given, str):
        try:
            when = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", given.strip()))
        except ValueError:
            raise ArgumentError(
                f"the {what} is no date or time: {given}",
                hint="Write 2026-01-31, 2026-01-31T15:00 or 2026-01-31T15:00:00+01:00.",
            ) from None
    else:
        when = given
    if when.tzinfo is not None:
        return when
    if zone is None:
        raise ArgumentError(
            f"the {what} has no time zone, and Python does not know {zone_name}",
            hint="Write the offset too, as in 2026-01-31T15:00:00+01:00.",
        )
    return when.replace(tzinfo=zone)


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
    [row] = yield sql.CATALOGUE(
        names=[function.name for function in sql.FUNCTIONS],
        tables=list(sql.MLFLOW),
        schema=schema,
    )
    server, database, role, found, has_revision, guarded, present, readable = row
    revision = index = None
    if has_revision:
        rows = yield sql.REVISION()
        revision = rows[0][0] if rows else None
    says: dict[str, Any] = {}
    if guarded:
        yield sql.GUARD()
    if len(present) == len(sql.MLFLOW):
        for table in sorted(readable):
            rows = yield sql.MLFLOW[table]()
            says[table] = rows[0][0] if rows else None
    if sql.INDEX_STATUS.name in found:
        index = yield from index_status()
    return Status(
        server=server,
        database=database,
        role=role,
        client=client,
        mlflow_revision=says.get("alembic_version"),
        revision=revision,
        functions=tuple(found),
        missing_functions=tuple(
            function.name for function in sql.FUNCTIONS if function.name not in found
        ),
        experiments=says.get("experiments"),
        traces=says.get("trace_info"),
        index=index,
        unreadable=tuple(sorted(set(present) - set(readable))),
    )
