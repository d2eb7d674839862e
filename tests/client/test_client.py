"""`Insights`: every method, over every kind of connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.orm import Session

from insights_py import Correlation, ExplainStep, FilterError, Insights, Page, Trace
from insights_py.version import __version__
from tests.client.world import START, trace_id

ERRORS = "span.status = 'ERROR'"
V2 = "tags.release = 'v2'"
KINDS = (
    "dsn",
    "psycopg",
    "psycopg in a transaction",
    "psycopg with dictionaries",
    "engine psycopg",
    "engine psycopg2",
    "connection psycopg",
    "connection psycopg2",
    "session",
)


def opened(kind: str, dsn: str, stack: ExitStack) -> Any:
    """A database of this kind, closed with the stack."""
    name = kind.partition(" ")[0]
    if name == "dsn":
        return dsn
    if name == "psycopg":
        connection = stack.enter_context(psycopg.connect(dsn, autocommit="transaction" not in kind))
        if "dictionaries" in kind:
            connection.row_factory = dict_row  # type: ignore[assignment]
        return connection
    driver = "psycopg2" if kind.endswith("psycopg2") else "psycopg"
    engine = sqlalchemy.create_engine(dsn.replace("postgresql://", f"postgresql+{driver}://", 1))
    stack.callback(engine.dispose)
    if name == "engine":
        return engine
    if name == "session":
        return stack.enter_context(Session(engine))
    return stack.enter_context(engine.connect())


@pytest.fixture(scope="module", params=KINDS)
def database(request: pytest.FixtureRequest, world_dsn: str) -> Iterator[Any]:
    with ExitStack() as stack:
        yield opened(request.param, world_dsn, stack)


@pytest.fixture(scope="module")
def insights(world_dsn: str) -> Iterator[Insights]:
    with Insights(world_dsn) as client:
        yield client


def test_each_method_over_each_kind_of_connection(database: Any) -> None:
    with Insights(database) as insights:
        _all_methods(insights, None)


def test_a_connection_for_one_call(database: Any) -> None:
    if isinstance(database, (str, sqlalchemy.Engine)):
        # These are for the whole client, not for a call.
        database = None
    with Insights("host=/nowhere dbname=nothing") as insights:
        if database is not None:
            _all_methods(insights, database)


def _all_methods(insights: Insights, connection: Any) -> None:
    assert insights.count(connection=connection) == 48
    assert insights.count(ERRORS, connection=connection) == 11
    assert insights.count(ERRORS, experiment_ids=1, connection=connection) == 10
    page = insights.search(ERRORS, max_results=2, connection=connection)
    assert [trace.trace_id for trace in page] == [trace_id(42), trace_id(37)]
    assert len(list(insights.search_iter(ERRORS, page_size=3, connection=connection))) == 11
    correlation = insights.correlate(
        "span.attributes.model = 'gpt-4'", ERRORS, "tags.release = 'v1'", connection=connection
    )
    assert correlation.total_count == 36
    (pair,) = insights.matrix([ERRORS, V2], "tags.release = 'v2'", connection=connection)
    assert (pair.filter1, pair.filter2_count, pair.total_count) == (ERRORS, 12, 12)
    facts = insights.discover(ERRORS, experiment_ids=1, fdr=1, connection=connection)
    assert facts[0].total_count == 40
    facts = insights.compare(V2, "tags.release = 'v1'", fdr=1, connection=connection)
    assert (facts[0].target_count, facts[0].total_count) == (12, 48)
    facets = insights.facets(ERRORS, "tags.release", connection=connection)
    assert [(facet.value, facet.count) for facet in facets] == [("v1", 8), ("v2", 3)]
    series = insights.timeseries(ERRORS, "15 minutes", connection=connection)
    assert [bucket.matched for bucket in series] == [4, 3, 4, 0]
    assert insights.validate("span.status='ERROR'", connection=connection) == ERRORS
    steps = insights.explain(ERRORS, connection=connection)
    assert steps[0] == ExplainStep("filter", ERRORS)
    assert insights.status(connection=connection).traces == 48
    assert [e.name for e in insights.experiments(connection=connection)] == ["chat", "agents"]


def test_a_trace_has_all_its_fields(insights: Insights) -> None:
    page = insights.search(f"trace_id = '{trace_id(36)}'")
    assert isinstance(page, Page)
    assert page.next_page_token is None
    (trace,) = page
    assert trace == Trace(
        trace_id=trace_id(36),
        experiment_id="1",
        timestamp_ms=START + 36 * 60_000,
        execution_time_ms=2060,
        status="ERROR",
        trace_name="answer",
        session_id="session-4",
        request_preview="How do I reset my password?",
        response_preview=None,
        tags={"release": "v1", "mlflow.traceName": "answer"},
        metadata={
            "mlflow.trace.session": "session-4",
            "mlflow.trace.tokenUsage": '{"total_tokens": 156}',
            "mlflow.trace.user": "ada",
        },
        assessments=trace.assessments,
    )
    assert trace.request_time == datetime(2026, 1, 5, 9, 36, tzinfo=timezone.utc)
    (assessment,) = trace.assessments
    assert "helpful" in assessment.values()
    assert len({trace, trace}) == 1


def test_json_columns_are_the_same_from_every_driver(database: Any, insights: Insights) -> None:
    filter = f"trace_id = '{trace_id(36)}'"
    assert list(Insights(database).search(filter)) == list(insights.search(filter))


def test_pages_follow_each_other(insights: Insights) -> None:
    found: list[str] = []
    token = None
    sizes = []
    while True:
        page = insights.search(experiment_ids=["1"], max_results=15, page_token=token)
        found += [trace.trace_id for trace in page]
        sizes.append(len(page))
        token = page.next_page_token
        if token is None:
            break
    assert sizes == [15, 15, 10]
    assert found == [trace_id(number) for number in reversed(range(40))]
    assert found == [trace.trace_id for trace in insights.search_iter(experiment_ids=1)]


def test_a_page_is_a_sequence(insights: Insights) -> None:
    page = insights.search(max_results=3)
    assert len(page) == 3
    assert page[0].trace_id == trace_id(47)
    assert [trace.trace_id for trace in page[1:]] == [trace_id(46), trace_id(45)]
    assert page[0] in page
    assert list(page) == list(insights.search(max_results=3))
    assert list(page) != list(insights.search(max_results=2))
    assert not insights.search("status = 'nothing'")


@pytest.mark.parametrize("order", ["execution_time_ms DESC", ["execution_time_ms DESC"]])
def test_order(insights: Insights, order: Any) -> None:
    page = insights.search("trace.execution_time_ms > 5900", order_by=order)
    durations = [trace.execution_time_ms or 0 for trace in page]
    assert durations == sorted(durations, reverse=True)
    assert len(durations) > 3


@pytest.mark.parametrize(
    ("given", "count"),
    [(None, 48), (1, 40), ("2", 8), ([1, "2"], 48), ((2,), 8), ([], 0), (iter(["1"]), 40), (77, 0)],
)
def test_experiment_ids(insights: Insights, given: Any, count: int) -> None:
    assert insights.count(experiment_ids=given) == count


def test_experiment_ids_of_the_client_are_the_default(world_dsn: str) -> None:
    with Insights(world_dsn, experiment_ids=[2]) as insights:
        assert insights.count() == 8
        assert len(list(insights.search_iter())) == 8
        assert insights.count(experiment_ids=1) == 40
        assert insights.correlate("", "").total_count == 8


def test_correlation(insights: Insights) -> None:
    found = insights.correlate("span.attributes.model = 'gpt-4'", ERRORS)
    assert isinstance(found, Correlation)
    assert (
        found.filter1_count,
        found.filter2_count,
        found.joint_count,
        found.total_count,
    ) == (16, 11, 9, 48)
    assert found.npmi == pytest.approx(0.5364, abs=1e-4)
    assert found.lift == pytest.approx(9 * 48 / (16 * 11))
    nothing = insights.correlate("span.status = 'NEVER'", ERRORS)
    assert nothing.joint_count == 0
    assert nothing.npmi != nothing.npmi


def test_the_empty_filter_is_canonical(insights: Insights) -> None:
    assert insights.validate("") == ""
    assert insights.validate(None) == ""


def test_status(insights: Insights) -> None:
    status = insights.status()
    assert status.installed
    assert status.missing_functions == ()
    assert (status.experiments, status.traces) == (2, 48)
    assert status.index is not None
    assert status.index.built
    assert status.client == __version__
    assert status.mlflow_revision


def test_status_where_nothing_is_installed(mlflow_only_dsn: str) -> None:
    with Insights(mlflow_only_dsn) as insights:
        status = insights.status()
    assert not status.installed
    assert status.revision is None
    assert status.functions == ()
    assert status.traces == 0


def test_status_of_a_database_that_is_not_mlflows(databases: Any) -> None:
    dsn = databases.create()
    try:
        with Insights(dsn) as insights:
            status = insights.status()
        assert (status.mlflow_revision, status.traces) == (None, None)
    finally:
        databases.drop(dsn)


def test_the_schema_can_be_named(world_dsn: str) -> None:
    elsewhere = world_dsn + "?options=-csearch_path%3Dpg_catalog"
    with Insights(elsewhere, schema="public") as insights:
        _all_methods(insights, None)


def test_a_call_sees_the_transaction_of_its_connection(world_dsn: str) -> None:
    with (
        Insights(world_dsn) as insights,
        psycopg.connect(world_dsn) as connection,
    ):
        connection.execute("delete from trace_info where request_id = %s", [trace_id(0)])
        assert insights.count(connection=connection) == 47
        assert insights.count() == 48
        connection.rollback()


def test_nothing_of_the_callers_is_committed_or_closed(world_dsn: str) -> None:
    with psycopg.connect(world_dsn) as connection:
        with Insights(connection) as insights:
            connection.execute("delete from trace_info where request_id = %s", [trace_id(0)])
            assert insights.count() == 47
        assert not connection.closed
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        connection.rollback()


def test_an_engine_gets_its_connection_back(world_dsn: str) -> None:
    engine = sqlalchemy.create_engine(
        world_dsn.replace("postgresql://", "postgresql+psycopg://"), pool_size=1, max_overflow=0
    )
    insights = Insights(engine)
    for _ in range(3):
        assert insights.count() == 48
    with pytest.raises(FilterError):
        insights.count("nonsense = 'x'")
    assert insights.count() == 48
    engine.dispose()


def test_its_own_connection_is_opened_late_kept_and_opened_again(world_dsn: str) -> None:
    insights = Insights(world_dsn)
    assert insights._own is None
    insights.count()
    first = insights._own
    insights.count()
    assert insights._own is first
    assert first is not None
    assert first.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    first.close()
    assert insights.count() == 48
    insights.close()
    insights.close()
    assert insights.count() == 48
    insights.close()


def test_an_error_does_not_spoil_its_own_connection(insights: Insights) -> None:
    with pytest.raises(FilterError):
        insights.count("nonsense = 'x'")
    assert insights.count() == 48


def test_threads_share_a_client(insights: Insights) -> None:
    found: list[int] = []

    def work() -> None:
        for _ in range(5):
            found.append(insights.count(ERRORS))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [11] * 20


@pytest.mark.parametrize("wrong", [None, 5, object(), ["postgresql://x"]])
def test_what_is_no_database(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a database is a DSN"):
        Insights(wrong)


def test_async_objects_are_sent_to_the_async_client(world_dsn: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(world_dsn.replace("postgresql://", "postgresql+psycopg://"))
    with pytest.raises(TypeError, match="AsyncInsights"):
        Insights(engine)  # type: ignore[arg-type]


def test_a_filter_must_be_text(insights: Insights) -> None:
    with pytest.raises(TypeError, match="a filter is text or None, not int"):
        insights.count(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "filter",
    ["tags.x = '%s %(name)s :name ::text'", "tags.x = '{schema}'", "tags.x = 'ünï😀'"],
)
def test_a_filter_travels_as_it_is(database: Any, filter: str) -> None:
    assert Insights(database).validate(filter) == filter


def test_pandas(insights: Insights) -> None:
    frame = insights.search(ERRORS, max_results=3).to_pandas()
    assert list(frame.columns)[:4] == ["trace_id", "experiment_id", "request_time", "timestamp_ms"]
    assert str(frame["request_time"].dt.tz) == "UTC"
    assert frame["request_time"][0].timestamp() * 1000 == frame["timestamp_ms"][0]
    assert frame["trace_id"].tolist() == [trace_id(42), trace_id(37), trace_id(36)]
    nothing = insights.search("status = 'nothing'").to_pandas()
    assert len(nothing) == 0
    assert list(nothing.columns) == list(frame.columns)
    one = insights.correlate("", ERRORS).to_pandas()
    assert one["joint_count"].tolist() == [11]
    assert insights.explain(ERRORS).to_pandas()["step"][0] == "filter"


def test_without_pandas_the_message_says_what_to_do(
    insights: Insights, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = insights.search(max_results=1)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        page.to_pandas()


def test_the_version_is_that_of_the_project(pytestconfig: pytest.Config) -> None:
    import re

    text = (pytestconfig.rootpath / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.*)"$', text, re.MULTILINE).group(1) == __version__  # type: ignore[union-attr]
