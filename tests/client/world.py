"""A small, fixed set of traces: what the client's tests and its documentation are about.

Two experiments: ``chat`` (id 1, 40 traces of a chat application) and
``agents`` (id 2, 8 traces).  Nothing is random.  gpt-4 fails more often than
gpt-4o-mini, and release v2 is slower than v1.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import psycopg

#: 2026-01-05 09:00:00 UTC, in milliseconds.
START = 1_767_603_600_000
MINUTE = 60_000

QUESTIONS = (
    "How do I reset my password?",
    "Which plan includes single sign-on?",
    "Summarise this contract, please",
    "Where is my order?",
)


def trace_id(number: int) -> str:
    """The id of a trace, of the length that MLflow's have."""
    return "tr-" + hashlib.md5(str(number).encode()).hexdigest()


def load(conn: psycopg.Connection[Any]) -> None:
    """Inserts the traces into an empty MLflow database."""
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(
            "insert into experiments (experiment_id, name, lifecycle_stage, workspace) "
            "values (1, 'chat', 'active', 'default'), (2, 'agents', 'active', 'default')"
        )
        for number in range(48):
            _trace(cursor, number)


def _trace(cursor: psycopg.Cursor[Any], number: int) -> None:
    chat = number < 40
    model = "gpt-4" if number % 3 == 0 else "gpt-4o-mini"
    failed = (model == "gpt-4" and number % 2 == 0) or number % 16 == 5
    release = "v2" if number % 4 == 1 else "v1"
    identity = trace_id(number)
    begin = START + number * MINUTE
    took = 800 + 35 * number + (4000 if release == "v2" else 0)
    cursor.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, execution_time_ms, "
        "status, request_preview, response_preview, trace_name, session_id, total_tokens) "
        "values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            identity,
            1 if chat else 2,
            begin,
            None if number == 39 else took,
            "IN_PROGRESS" if number == 39 else "ERROR" if failed else "OK",
            QUESTIONS[number % 4],
            None if failed or number == 39 else "Certainly. " + "Here is how. " * (number % 5),
            "answer" if chat else "plan trip",
            f"session-{number // 8}" if chat else None,
            120 + number,
        ),
    )
    cursor.executemany(
        "insert into trace_tags (request_id, key, value) values (%s, %s, %s)",
        [(identity, "release", release)],
    )
    cursor.executemany(
        "insert into trace_request_metadata (request_id, key, value) values (%s, %s, %s)",
        [(identity, "mlflow.trace.user", "ada" if number % 5 else "grace")],
    )
    if number % 4 == 0:
        cursor.execute(
            "insert into assessments (assessment_id, trace_id, name, assessment_type, value, "
            "created_timestamp, last_updated_timestamp, source_type, source_id, valid, "
            "experiment_id, trace_timestamp_ms, aggregate_value, is_numeric_value) "
            "values (%s, %s, 'helpful', 'feedback', %s, %s, %s, 'HUMAN', 'ada', true, "
            "%s, %s, %s, false)",
            (
                f"a-{number}",
                identity,
                json.dumps(not failed),
                begin,
                begin,
                1 if chat else 2,
                begin,
                float(not failed),
            ),
        )
    spans: list[tuple[str, str, str, dict[str, Any]]] = [
        ("answer" if chat else "plan trip", "CHAIN" if chat else "AGENT", "OK", {}),
        ("complete", "LLM", "ERROR" if failed else "OK", {"model": model, "temperature": 0.2}),
    ]
    if number % 2:
        spans.append(("lookup", "TOOL", "OK", {"service": "orders"}))
    for index, (name, kind, status, attributes) in enumerate(spans):
        content = {
            "name": name,
            "attributes": {key: json.dumps(value) for key, value in attributes.items()},
        }
        cursor.execute(
            "insert into spans (trace_id, experiment_id, span_id, parent_span_id, name, type, "
            "status, start_time_unix_nano, end_time_unix_nano, content) "
            "values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                identity,
                1 if chat else 2,
                f"s{index}",
                None if index == 0 else "s0",
                name,
                kind,
                status,
                begin * 1_000_000,
                (begin + took // (index + 1)) * 1_000_000,
                json.dumps(content),
            ),
        )
