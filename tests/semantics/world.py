"""A whole small MLflow as plain data, and a loader that writes it into PostgreSQL.

The loader stores what MLflow 3.17 stores: promoted columns instead of tag and
metadata rows for the trace name, the session, token usage and cost; assessment
values as JSON text with the aggregate columns beside it; spans with their whole
JSON content.  It writes with plain COPY, so that content which MLflow's own
client would never send (but older versions, other clients or a restored backup
may have left behind) can be stored as well.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg

SESSION_KEY = "mlflow.trace.session"
SESSION_METADATA = json.dumps({SESSION_KEY: "s"})
"""Assessment metadata that makes an assessment count for the whole session."""

TOKEN_COLUMNS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
)
COST_COLUMNS = ("input_cost", "output_cost", "total_cost")


@dataclass(frozen=True)
class Experiment:
    """An experiment; traces of deleted ones are found like any other's."""

    experiment_id: int
    deleted: bool = False


@dataclass(frozen=True)
class Span:
    """A row of ``spans``; ``content`` is the stored text, whatever it is.

    ``experiment_id`` None stands for the experiment of the trace.
    """

    span_id: str
    content: str
    name: str | None = "span"
    type: str | None = "UNKNOWN"
    status: str = "OK"
    start_ns: int = 0
    end_ns: int | None = 0
    experiment_id: int | None = None


@dataclass(frozen=True)
class Assessment:
    """A row of ``assessments``; ``value`` is the stored JSON text.

    ``kind`` is ``feedback``, ``expectation`` or ``issue`` (whose ``name`` is
    the id of the issue).  ``metadata`` is the stored JSON text or None.
    """

    kind: str
    name: str
    value: str
    valid: bool = True
    metadata: str | None = None


@dataclass(frozen=True)
class Trace:
    """A trace with all its rows; ``runs`` and ``prompts`` are entity links."""

    trace_id: str
    experiment_id: int
    timestamp_ms: int
    execution_time_ms: int | None = None
    status: str = "OK"
    client_request_id: str | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    name: str | None = None
    session_id: str | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str | None] = field(default_factory=dict)
    metadata: dict[str, str | None] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    assessments: tuple[Assessment, ...] = ()
    runs: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """Everything that a filter can see."""

    experiments: tuple[Experiment, ...]
    traces: tuple[Trace, ...]

    def trace(self, trace_id: str) -> Trace:
        """The trace of that id; KeyError if there is none."""
        for trace in self.traces:
            if trace.trace_id == trace_id:
                return trace
        raise KeyError(trace_id)


def attributes(**values: Any) -> str:
    """Span content as MLflow's client stores it: each value is JSON in a string."""
    return content({key: json.dumps(value, ensure_ascii=False) for key, value in values.items()})


def content(stored_attributes: Any, **rest: Any) -> str:
    """Span content around ``stored_attributes``, which are put in as they are."""
    body = {
        "trace_id": "dHJhY2U=",
        "span_id": "c3Bhbg==",
        "parent_span_id": None,
        "name": "span",
        "status": {"message": "", "code": "STATUS_CODE_OK"},
        "events": [],
        **rest,
        "attributes": stored_attributes,
    }
    return storable(body)


def storable(body: Any) -> str:
    """JSON of ``body``; escaped only where PostgreSQL could not hold the plain text."""
    text = json.dumps(body, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(body)
    return text


def aggregate(value: str) -> tuple[float | None, bool]:
    """The columns (aggregate_value, is_numeric_value) that MLflow stores for ``value``."""
    try:
        decoded = json.loads(value)
    except (ValueError, RecursionError):
        return None, False
    if isinstance(decoded, bool):
        return float(decoded), False
    if isinstance(decoded, (int, float)):
        try:
            number = float(decoded)
        except OverflowError:
            return None, False
        return (number, True) if math.isfinite(number) else (None, False)
    if isinstance(decoded, str) and decoded.strip().lower() in ("yes", "no"):
        return (1.0 if decoded.strip().lower() == "yes" else 0.0), False
    return None, False


_TABLES = (
    "assessments",
    "spans",
    "trace_tags",
    "trace_request_metadata",
    "trace_info",
    "entity_associations",
    "experiments",
)


def load(connection: psycopg.Connection[Any], world: World, schema: str = "public") -> None:
    """Replace everything in MLflow's trace tables by ``world`` and commit.

    Rows are deleted, not truncated: for a few dozen rows that is ten times
    faster, and it is what MLflow itself does.
    """
    with connection.transaction(), connection.cursor() as cursor:
        for table in _TABLES:
            cursor.execute(f'delete from "{schema}".{table}')
        for table, (columns, rows) in _rows(world).items():
            with cursor.copy(f'copy "{schema}".{table} ({", ".join(columns)}) from stdin') as copy:
                for row in rows:
                    copy.write_row(row)


def replace_traces(
    connection: psycopg.Connection[Any], traces: Iterable[Trace], schema: str = "public"
) -> None:
    """Write traces with all their rows in place of whatever had their ids, and commit."""
    traces = tuple(traces)
    delete_traces(connection, [trace.trace_id for trace in traces], schema)
    with connection.transaction(), connection.cursor() as cursor:
        for table, (columns, rows) in _rows(World((), traces), next(_numbers)).items():
            with cursor.copy(f'copy "{schema}".{table} ({", ".join(columns)}) from stdin') as copy:
                for row in rows:
                    copy.write_row(row)


def delete_traces(
    connection: psycopg.Connection[Any], trace_ids: list[str], schema: str = "public"
) -> None:
    """Delete traces; the rows that hang on them go with them."""
    connection.execute(
        f'delete from "{schema}".entity_associations where source_id = any(%s)', (trace_ids,)
    )
    connection.execute(
        f'delete from "{schema}".trace_info where request_id = any(%s)', (trace_ids,)
    )


#: Where the next numbering of traces begins, to tell their rows from all others.
_numbers = itertools.count(1_000_000, 1_000_000)


def _rows(
    world: World, first: int = 0
) -> dict[str, tuple[tuple[str, ...], Iterable[tuple[Any, ...]]]]:
    traces = world.traces
    return {
        "experiments": (
            ("experiment_id", "name", "lifecycle_stage"),
            (
                (e.experiment_id, f"experiment {e.experiment_id}", _lifecycle(e))
                for e in world.experiments
            ),
        ),
        "trace_info": (
            (
                "request_id",
                "experiment_id",
                "timestamp_ms",
                "execution_time_ms",
                "status",
                "client_request_id",
                "request_preview",
                "response_preview",
                "trace_name",
                "session_id",
                *TOKEN_COLUMNS,
                *COST_COLUMNS,
            ),
            (
                (
                    t.trace_id,
                    t.experiment_id,
                    t.timestamp_ms,
                    t.execution_time_ms,
                    t.status,
                    t.client_request_id,
                    t.request_preview,
                    t.response_preview,
                    t.name,
                    t.session_id,
                    *(t.tokens.get(c) for c in TOKEN_COLUMNS),
                    *(t.cost.get(c) for c in COST_COLUMNS),
                )
                for t in traces
            ),
        ),
        "trace_tags": (
            ("key", "value", "request_id"),
            ((k, v, t.trace_id) for t in traces for k, v in t.tags.items()),
        ),
        "trace_request_metadata": (
            ("key", "value", "request_id"),
            ((k, v, t.trace_id) for t in traces for k, v in t.metadata.items()),
        ),
        "spans": (
            (
                "trace_id",
                "experiment_id",
                "span_id",
                "name",
                "type",
                "status",
                "start_time_unix_nano",
                "end_time_unix_nano",
                "content",
            ),
            (
                (
                    t.trace_id,
                    t.experiment_id if s.experiment_id is None else s.experiment_id,
                    s.span_id,
                    s.name,
                    s.type,
                    s.status,
                    s.start_ns,
                    s.end_ns,
                    s.content,
                )
                for t in traces
                for s in t.spans
            ),
        ),
        "assessments": (
            (
                "assessment_id",
                "trace_id",
                "name",
                "assessment_type",
                "value",
                "created_timestamp",
                "last_updated_timestamp",
                "source_type",
                "source_id",
                "valid",
                "assessment_metadata",
                "experiment_id",
                "trace_timestamp_ms",
                "aggregate_value",
                "is_numeric_value",
            ),
            (
                (
                    f"a-{i}-{j}",
                    t.trace_id,
                    a.name,
                    a.kind,
                    a.value,
                    t.timestamp_ms + j,
                    t.timestamp_ms + j,
                    "HUMAN",
                    "tester",
                    a.valid,
                    a.metadata,
                    t.experiment_id,
                    t.timestamp_ms,
                    *aggregate(a.value),
                )
                for i, t in enumerate(traces, first)
                for j, a in enumerate(t.assessments)
            ),
        ),
        "entity_associations": (
            (
                "association_id",
                "source_type",
                "source_id",
                "destination_type",
                "destination_id",
                "created_time",
            ),
            (
                (f"{kind}-{i}-{j}", "trace", t.trace_id, kind, target, 0)
                for i, t in enumerate(traces, first)
                for kind, targets in (("run", t.runs), ("prompt_version", t.prompts))
                for j, target in enumerate(targets)
            ),
        ),
    }


def _lifecycle(experiment: Experiment) -> str:
    return "deleted" if experiment.deleted else "active"
