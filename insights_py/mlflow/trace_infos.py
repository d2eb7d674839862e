"""MLflow's entities from the rows of ``insights.search_page``.

A trace's tags, metadata and assessments come with its row, as one JSON text;
MLflow reads them in three statements of its own.  The entities are equal to those
that MLflow's store builds, field by field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from insights_py.mlflow.compat import (
    COST_COLUMN_BY_KEY,
    PROMOTED_TRACE_METADATA_KEYS,
    TOKEN_COLUMN_BY_KEY,
    Assessment,
    SqlAssessments,
    SqlTraceInfo,
    TraceInfo,
    TraceLocation,
    TraceMetadataKey,
    TraceState,
    TraceTagKey,
)

_TOKEN_KEYS, _COST_KEYS = tuple(TOKEN_COLUMN_BY_KEY), tuple(COST_COLUMN_BY_KEY)

COLUMNS = tuple(
    SqlTraceInfo.__table__.columns[name]
    for name in (
        "request_id",
        "experiment_id",
        "timestamp_ms",
        "execution_time_ms",
        "status",
        "trace_name",
        "session_id",
        "client_request_id",
        "request_preview",
        "response_preview",
        *TOKEN_COLUMN_BY_KEY.values(),
        *COST_COLUMN_BY_KEY.values(),
    )
)
"""The columns that `build` reads; `attached` follows."""

_TEXTS = len(COLUMNS) - len(_TOKEN_KEYS) - len(_COST_KEYS)
_TOKENS = slice(_TEXTS, _TEXTS + len(_TOKEN_KEYS))
_COSTS = slice(_TOKENS.stop, len(COLUMNS))

# The columns of an assessment as ``insights.search_page`` arranges them.
_ASSESSMENT = (
    "assessment_id",
    "trace_id",
    "name",
    "assessment_type",
    "value",
    "error",
    "created_timestamp",
    "last_updated_timestamp",
    "source_type",
    "source_id",
    "run_id",
    "span_id",
    "rationale",
    "overrides",
    "valid",
    "assessment_metadata",
)


def build(rows: Iterable[Sequence[Any]]) -> list[TraceInfo]:
    """The traces of rows that hold ``COLUMNS``, then ``attached``."""
    return [_trace_info(tuple(row)) for row in rows]


def _trace_info(row: tuple[Any, ...]) -> TraceInfo:
    (
        trace_id,
        experiment_id,
        timestamp_ms,
        execution_time_ms,
        status,
        trace_name,
        session_id,
        client_request_id,
        request_preview,
        response_preview,
    ) = row[:_TEXTS]
    tags, metadata, assessments = json.loads(row[len(COLUMNS)])
    tags, metadata = tags or {}, metadata or {}
    # Where a column and a tag or an entry say the same, the column counts.
    tags.pop(TraceTagKey.TRACE_NAME, None)
    if trace_name is not None:
        tags[TraceTagKey.TRACE_NAME] = trace_name
    for key in PROMOTED_TRACE_METADATA_KEYS:
        metadata.pop(key, None)
    if session_id is not None:
        metadata[TraceMetadataKey.TRACE_SESSION] = session_id
    if tokens := _present(_TOKEN_KEYS, row[_TOKENS]):
        metadata[TraceMetadataKey.TOKEN_USAGE] = json.dumps(tokens)
    if costs := _present(_COST_KEYS, row[_COSTS]):
        metadata[TraceMetadataKey.COST] = json.dumps(costs)
    return TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id(str(experiment_id)),
        request_time=timestamp_ms,
        execution_duration=execution_time_ms,
        state=TraceState(status),
        tags=tags,
        trace_metadata=metadata,
        client_request_id=client_request_id,
        request_preview=request_preview,
        response_preview=response_preview,
        assessments=[_assessment(values) for values in assessments or ()],
    )


def _present(keys: Sequence[str], numbers: Sequence[Any]) -> Mapping[str, Any]:
    return {key: number for key, number in zip(keys, numbers, strict=True) if number is not None}


def _assessment(values: Sequence[Any]) -> Assessment:
    # MLflow's method looks at attributes only, and an ORM object is dear to make.
    stored: Any = SimpleNamespace(**dict(zip(_ASSESSMENT, values, strict=True)))
    return SqlAssessments.to_mlflow_entity(stored)
