"""MLflow's entities from the rows of ``insights.search_page``.

A trace's tags, metadata and assessments come with its row, as one JSON text;
MLflow reads them in three statements of its own.  What they mean is left to
MLflow's code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from mlflow.entities import Assessment, TraceInfo, TraceLocation, TraceState
from mlflow.store.tracking.dbmodels.models import SqlAssessments
from mlflow.store.tracking.utils.trace_analytics import (
    PROMOTED_TRACE_METADATA_KEYS,
    compatibility_metadata_from_columns,
)
from mlflow.tracing.constant import TraceTagKey


def build(rows: Iterable[Any]) -> list[TraceInfo]:
    """The traces of rows with the columns of ``trace_info`` and ``attached``.

    Equal to what MLflow's store builds, field by field.
    """
    return [_trace_info(row) for row in rows]


def _trace_info(row: Any) -> TraceInfo:
    tags, metadata, assessments = json.loads(row.attached)
    tags, metadata = tags or {}, metadata or {}
    # Where a column and a tag or an entry say the same, the column counts.
    tags.pop(TraceTagKey.TRACE_NAME, None)
    if row.trace_name is not None:
        tags[TraceTagKey.TRACE_NAME] = row.trace_name
    for key in PROMOTED_TRACE_METADATA_KEYS:
        metadata.pop(key, None)
    metadata.update(compatibility_metadata_from_columns(row))
    return TraceInfo(
        trace_id=row.request_id,
        trace_location=TraceLocation.from_experiment_id(str(row.experiment_id)),
        request_time=row.timestamp_ms,
        execution_duration=row.execution_time_ms,
        state=TraceState(row.status),
        tags=tags,
        trace_metadata=metadata,
        client_request_id=row.client_request_id,
        request_preview=row.request_preview,
        response_preview=row.response_preview,
        assessments=[_assessment(columns) for columns in assessments or ()],
    )


def _assessment(columns: dict[str, Any]) -> Assessment:
    """An assessment from the columns of its row."""
    # MLflow's method looks at attributes only, and an ORM object is dear to make.
    return SqlAssessments.to_mlflow_entity(SimpleNamespace(**columns))
