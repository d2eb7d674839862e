"""The same traces as native columns: Parquet files for engines to load.

One row per trace, tags, metadata and assessments as columns of it, and one per
span, each attribute that is asked about as a column of its own type, the others
in a map.  Traces are numbered by time, and both files are ordered by that.  The
files are read from MLflow's tables once and kept for the next run.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

WORKERS = 2

_TEXT = pa.dictionary(pa.int32(), pa.string())
_PLAIN = pa.string()

TRACES = {
    "trace": pa.int32(),
    "timestamp_ms": pa.int64(),
    "execution_time_ms": pa.int64(),
    "status": _TEXT,
    "name": _TEXT,
    "session_id": _PLAIN,
    "client_request_id": _PLAIN,
    "input_tokens": pa.int64(),
    "output_tokens": pa.int64(),
    "total_tokens": pa.int64(),
    "input_cost": pa.float64(),
    "output_cost": pa.float64(),
    "total_cost": pa.float64(),
}
TAGS = (
    "application",
    "environment",
    "version",
    "customer_tier",
    "region",
    "language",
    "resource_alert",
)
METADATA = {
    "mlflow.trace.user": ("user_id", _PLAIN),
    "mlflow.source.type": ("source_type", _TEXT),
    "mlflow.source.name": ("source_name", _TEXT),
    "mlflow.source.git.commit": ("git_commit", _TEXT),
}
ASSESSMENTS = {
    "user_rating": pa.float64(),
    "quality": pa.float64(),
    "relevance": _TEXT,
    "helpful": pa.bool_(),
    "expected_answer": _PLAIN,
}
SPANS = {
    "trace": pa.int32(),
    "type": _TEXT,
    "name": _TEXT,
    "status": _TEXT,
    "duration_ns": pa.int64(),
}
ATTRIBUTES = {
    "model": _TEXT,
    "error_type": _TEXT,
    "service": _TEXT,
    "prompt_template": _TEXT,
    "index": _TEXT,
    "policy": _TEXT,
    "release": _TEXT,
    "error_message": _PLAIN,
    "order_id": _PLAIN,
    "temperature": pa.float64(),
    "similarity_threshold": pa.float64(),
    "max_tokens": pa.int32(),
    "documents_found": pa.int32(),
    "top_k": pa.int32(),
    "attempt": pa.int32(),
    "step": pa.int32(),
    "cache_hit": pa.bool_(),
}
# Found through `content`, as in MLflow's own filters, or columns already.
_LEFT_OUT = {
    "mlflow.spanInputs",
    "mlflow.spanOutputs",
    "mlflow.spanType",
    "mlflow.spanStartTimeNs",
    "mlflow.traceRequestId",
}

# An attribute may have a name that is a word of SQL.
_RENAMED = {"index": "index_name", "release": "release_name"}

_TRACES_SQL = """
select
    t.request_id,
    t.timestamp_ms,
    t.execution_time_ms,
    t.status,
    t.trace_name,
    t.session_id,
    t.client_request_id,
    t.input_tokens,
    t.output_tokens,
    t.total_tokens,
    t.input_cost,
    t.output_cost,
    t.total_cost,
    (select jsonb_object_agg(k.key, k.value)
        from public.trace_tags k where k.request_id = t.request_id and k.key = any(%(tags)s)),
    (select jsonb_object_agg(m.key, m.value)
        from public.trace_request_metadata m
        where m.request_id = t.request_id and m.key = any(%(metadata)s)),
    (select jsonb_object_agg(a.name, a.value::jsonb)
        from public.assessments a where a.trace_id = t.request_id and a.valid)
from public.trace_info t
order by t.timestamp_ms, t.request_id
"""


def column(attribute: str) -> str:
    """The column that holds an attribute."""
    return _RENAMED.get(attribute, attribute)


def _schema(fields: Iterable[tuple[str, pa.DataType]]) -> pa.Schema:
    return pa.schema(list(fields))


def trace_schema() -> pa.Schema:
    """The columns of ``traces.parquet``."""
    return _schema(
        [
            *TRACES.items(),
            *((tag, _TEXT) for tag in TAGS),
            *METADATA.values(),
            *ASSESSMENTS.items(),
        ]
    )


def span_schema() -> pa.Schema:
    """The columns of ``spans-*.parquet``."""
    return _schema(
        [
            *SPANS.items(),
            *((column(name), kind) for name, kind in ATTRIBUTES.items()),
            ("attributes", pa.map_(pa.string(), pa.string())),
            ("content", pa.string()),
        ]
    )


def directory(base: Path, marker: str) -> Path:
    """Where the files of this data are, whatever the database is called."""
    source = Path(__file__).read_bytes()
    return base / hashlib.sha256(source + marker.encode()).hexdigest()[:16]


def export(dsn: str, target: Path) -> None:
    """Writes the files unless they are there; a minute or two."""
    if target.is_dir():
        return
    making = target.with_name(target.name + ".part")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    numbers = _export_traces(dsn, making / "traces.parquet")
    ids = list(numbers)
    share = -(-len(ids) // WORKERS)
    jobs = [
        (
            dsn,
            str(making / f"spans-{n}.parquet"),
            n * share,
            dict.fromkeys(ids[n * share :][:share]),
        )
        for n in range(WORKERS)
    ]
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.starmap(_export_spans, jobs)
    making.rename(target)


def _export_traces(dsn: str, path: Path) -> dict[str, int]:
    schema = trace_schema()
    columns: list[list[Any]] = [[] for _ in schema]
    numbers: dict[str, int] = {}
    with psycopg.connect(dsn) as connection, connection.cursor("traces") as cursor:
        cursor.itersize = 10_000
        cursor.execute(_TRACES_SQL, {"tags": list(TAGS), "metadata": list(METADATA)})
        for trace_id, *plain, tags, metadata, assessments in cursor:
            tags, metadata, assessments = tags or {}, metadata or {}, assessments or {}
            values = [
                len(numbers),
                *plain,
                *(tags.get(tag) for tag in TAGS),
                *(metadata.get(key) for key in METADATA),
                *(assessments.get(name) for name in ASSESSMENTS),
            ]
            numbers[trace_id] = len(numbers)
            for column_values, value in zip(columns, values, strict=True):
                column_values.append(value)
    table = pa.table(
        [pa.array(values, kind.type) for values, kind in zip(columns, schema, strict=True)],
        schema=schema,
    )
    pq.write_table(table, path)
    return numbers


def _export_spans(dsn: str, path: str, first: int, ids: dict[str, None]) -> None:
    schema = span_schema()
    numbers = {trace_id: first + n for n, trace_id in enumerate(ids)}
    step = 5_000
    chosen = list(numbers)
    with psycopg.connect(dsn) as connection, pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(chosen), step):
            rows = connection.execute(
                "select trace_id, type, name, status, "
                "end_time_unix_nano - start_time_unix_nano, content "
                "from public.spans where trace_id = any(%s) "
                "order by start_time_unix_nano",
                [chosen[start : start + step]],
            ).fetchall()
            records = sorted(
                (_span(numbers[trace_id], *rest) for trace_id, *rest in rows),
                key=lambda record: record[0],
            )
            arrays = [
                pa.array(list(values), kind.type)
                for values, kind in zip(zip(*records, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.table(arrays, schema=schema))


def _span(
    trace: int, kind: str, name: str, status: str, duration_ns: int | None, content: str
) -> tuple[Any, ...]:
    attributes = json.loads(content)["attributes"]
    own = [json.loads(attributes[key]) if key in attributes else None for key in ATTRIBUTES]
    others = [
        (key, text)
        for key, text in attributes.items()
        if key not in ATTRIBUTES and key not in _LEFT_OUT
    ]
    return (trace, kind, name, status, duration_ns, *own, others, content)
