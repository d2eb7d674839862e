"""The entities of a page: what MLflow's own store builds from the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from mlflow.entities import (
    Assessment,
    AssessmentError,
    AssessmentSource,
    Expectation,
    Feedback,
    IssueReference,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.assessment import FeedbackValue
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from insights_py.mlflow.store import InsightsStore
from tests.mlflow.conftest import close, with_driver
from tests.mlflow.world import START_MS

# What JSON has to escape, what only looks like an escape, and what is not ASCII.
TEXTS = [
    "",
    "null",
    'say "no"',
    "back\\slash \\u0041 \\n",
    "line\nfeed\ttab\r\x01\x1f\x7f",
    "Größe 日本語 \U0001f600 \u2028",
    "{'a': [1]}",
    "</script>",
    "x" * 4000,
]


@pytest.fixture(params=["psycopg", "psycopg2"])
def stores(
    dsn: str, artifacts: str, request: pytest.FixtureRequest
) -> Iterator[tuple[SqlAlchemyStore, InsightsStore]]:
    uri = with_driver(dsn, request.param)
    opened = SqlAlchemyStore(uri, artifacts), InsightsStore(uri, artifacts)
    yield opened
    close(*opened)


def write(store: SqlAlchemyStore, number: int, **fields: Any) -> str:
    trace_id = f"tr-{number:032x}"
    store.start_trace(
        TraceInfo(
            trace_id=trace_id,
            trace_location=TraceLocation.from_experiment_id("0"),
            request_time=START_MS + number,
            state=TraceState.OK,
            **fields,
        )
    )
    return trace_id


def both(stores: tuple[SqlAlchemyStore, InsightsStore]) -> list[TraceInfo]:
    """The traces as the two stores give them: the same, with and without a filter."""
    stock, plugin = stores
    everything, _ = stock.search_traces(max_results=1000)
    for text in ("", "status = 'OK'", f"timestamp >= {START_MS}"):
        assert plugin.search_traces(filter_string=text, max_results=1000)[0] == everything
    return everything


def test_texts(stores: tuple[SqlAlchemyStore, InsightsStore]) -> None:
    """In keys and values of tags and metadata, and in the columns."""
    for number, text in enumerate(TEXTS):
        write(
            stores[0],
            number,
            tags={"text": text, text[:200] or "empty": "key", "mlflow.traceName": text},
            trace_metadata={"text": text, "mlflow.trace.session": text[:250]},
            request_preview=text[:1000],
            response_preview=text[:1000] or None,
            client_request_id=text[:50],
        )
    shown = both(stores)
    assert [trace.tags["text"] for trace in reversed(shown)] == TEXTS
    assert [trace.trace_metadata["text"] for trace in reversed(shown)] == TEXTS


def test_columns_count_more_than_rows(
    dsn: str, stores: tuple[SqlAlchemyStore, InsightsStore]
) -> None:
    """Names, sessions, usage and cost of traces that have them twice, once, or in rows only."""
    ids = [write(stores[0], number) for number in range(3)]
    numbers = [(2**63 - 1, 0, 1e-07, 1e22), (0, None, 0.1 + 0.2, None), (None,) * 4]
    with psycopg.connect(dsn) as connection:
        for trace_id, (tokens, cached, cost, total) in zip(ids, numbers, strict=True):
            named = trace_id if tokens is not None else None
            connection.execute(
                "update trace_info set trace_name = %s, session_id = %s, input_tokens = %s,"
                " cache_read_input_tokens = %s, output_cost = %s, total_cost = %s"
                " where request_id = %s",
                (named, named, tokens, cached, cost, total, trace_id),
            )
            connection.execute(
                "insert into trace_tags (request_id, key, value) values (%s, %s, %s), (%s, %s, %s)",
                (trace_id, "mlflow.traceName", "stale", trace_id, "nothing", None),
            )
            for key in ("session", "tokenUsage", "cost"):
                connection.execute(
                    "insert into trace_request_metadata (request_id, key, value)"
                    " values (%s, %s, 'stale')",
                    (trace_id, f"mlflow.trace.{key}"),
                )
    bare, some, all_ = both(stores)
    assert bare.trace_metadata.keys().isdisjoint({"mlflow.trace.session", "mlflow.trace.cost"})
    assert some.tags["mlflow.traceName"] == some.trace_id
    assert some.trace_metadata["mlflow.trace.cost"] == '{"output_cost": 0.30000000000000004}'
    assert str(2**63 - 1) in all_.trace_metadata["mlflow.trace.tokenUsage"]


def test_assessments(stores: tuple[SqlAlchemyStore, InsightsStore]) -> None:
    """Of every kind, overridden ones included."""
    stock = stores[0]
    trace_id = write(stock, 1)
    source = AssessmentSource("LLM_JUDGE", None)
    values: list[Any] = [True, 0, -1.5, 2**70, 1e300, math.nan, None, ""]
    values += [[1, "a", None], {"k": {"n": 1}}]
    for number, value in enumerate([*values, *TEXTS]):
        stock.create_assessment(
            Feedback(
                trace_id=trace_id,
                name=f"f{number}",
                value=value,
                source=source,
                rationale=value if isinstance(value, str) else None,
                metadata={"mlflow.assessment.sourceRunId": "run", "k": "v"},
                span_id=f"span-{number}",
            )
        )
    first = stock.create_assessment(Feedback(trace_id=trace_id, name="twice", value=1))
    stock.create_assessment(
        Feedback(trace_id=trace_id, name="twice", value=2, overrides=first.assessment_id)
    )
    stock.create_assessment(
        Feedback(trace_id=trace_id, name="bad", error=AssessmentError("E", "failed", "at 1"))
    )
    stock.create_assessment(Expectation(trace_id=trace_id, name="e", value={"a": [1, 2.5]}))
    stock.create_assessment(IssueReference("issue-1", "slow", trace_id=trace_id))
    # NaN is not equal to itself; by text it is.
    (theirs,), (ours,) = (store.search_traces()[0] for store in stores)
    assert repr(ours.assessments) == repr(by_creation(theirs))
    assert len(ours.assessments) == len(values) + len(TEXTS) + 5
    assert [a.valid for a in ours.assessments if a.name == "twice"] in (
        [False, True],
        [True, False],
    )


def by_creation(trace: TraceInfo) -> list[Assessment]:
    """MLflow's assessments of a trace: it asks for no order, and so gets one or another."""
    return sorted(trace.assessments, key=lambda a: a.create_time_ms or 0)


@pytest.mark.parametrize("scan", ["seqscan", "indexscan", "bitmapscan"])
def test_assessments_come_in_the_order_of_their_creation(
    dsn: str, artifacts: str, scan: str
) -> None:
    """Whichever way PostgreSQL reads the table, and after updates, which move rows in it."""
    others = {"seqscan", "indexscan", "bitmapscan", "indexonlyscan"} - {scan}
    options = "%20".join(f"-cenable_{other}=off" for other in sorted(others))
    uri = f"{with_driver(dsn)}?options={options}"
    stock, plugin = SqlAlchemyStore(uri, artifacts), InsightsStore(uri, artifacts)
    trace_id = write(stock, 1)
    made: list[Any] = [
        stock.create_assessment(
            Feedback(trace_id=trace_id, name=f"f{n % 3}", value=n, create_time_ms=START_MS + n // 2)
        ).assessment_id
        for n in range(8)
    ]

    def shown() -> list[list[Any]]:
        with psycopg.connect(dsn) as connection:
            (row,) = connection.execute("select assessments from insights_search(null)").fetchall()
        (ours,) = plugin.search_traces()[0]
        return [[a.assessment_id for a in ours.assessments], [a["assessment_id"] for a in row[0]]]

    # Those of one millisecond as MLflow has them.
    (theirs,) = stock.search_traces()[0]
    assert shown() == [made, made]
    assert [a.assessment_id for a in by_creation(theirs)] == made
    stock.update_assessment(trace_id, made[0], rationale="why")
    stock.update_assessment(trace_id, made[4], feedback=FeedbackValue("other"))
    overriding = stock.create_assessment(
        Feedback(
            trace_id=trace_id,
            name="f2",
            value=1,
            overrides=made[2],
            create_time_ms=START_MS + 9,
        )
    ).assessment_id
    times = [START_MS + n // 2 for n in range(8)] + [START_MS + 9]
    for ids in shown():
        assert sorted(ids) == sorted([*made, overriding])
        assert [times[[*made, overriding].index(one)] for one in ids] == times
    close(stock, plugin)


@pytest.mark.parametrize(
    ("column", "value"), [("assessment_type", "opinion"), ("value", "no JSON")]
)
def test_what_mlflow_cannot_read(
    dsn: str, stores: tuple[SqlAlchemyStore, InsightsStore], column: str, value: str
) -> None:
    """Both refuse to show it, with the same error."""
    trace_id = write(stores[0], 1)
    stores[0].create_assessment(Feedback(trace_id=trace_id, name="f", value=1))
    with psycopg.connect(dsn) as connection:
        connection.execute(f"update assessments set {column} = %s", [value])
    errors = []
    for store in stores:
        with pytest.raises(MlflowException) as caught:
            store.search_traces()
        errors.append((caught.value.error_code, str(caught.value)))
    assert errors[0] == errors[1]
