"""Every search and every correlation of the prototype's README, end to end.

Traces are logged over HTTP with MLflow's client, and asked for with MLflow's
client and over REST, from ``mlflow server --app-name insights``.  Which traces
each filter has to find follows from their plan.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.store.analytics.trace_correlation import calculate_npmi_from_counts
from mlflow.tracing.client import TracingClient

from tests.mlflow import prototype_world
from tests.mlflow.prototype_promises import CORRELATIONS, SEARCHES, Correlation, Holds, Search
from tests.mlflow.prototype_world import PLAN, World

DAY_MS = 86_400_000
CORRELATE = "/mlflow/traces/calculate-filter-correlation"
PROTOTYPE_DOC = Path(__file__).parents[2] / "docs" / "prototype.md"


@pytest.fixture(scope="module")
def world(tracking_uri: str) -> World:
    return prototype_world.log("prototype")


@pytest.fixture
def client(tracking_uri: str) -> TracingClient:
    return TracingClient(tracking_uri=tracking_uri)


def label(promise: Search | Correlation) -> str:
    filters = (
        [promise.filter or "no filter"]
        if isinstance(promise, Search)
        else [promise.filter1, promise.filter2]
    )
    return " ~ ".join(" ".join(text.split()) for text in filters)


def keys(holds: Holds) -> set[str]:
    return {trace.key for trace in PLAN if holds(trace)}


def filled(search: Search) -> str | None:
    yesterday = int(time.time() * 1000) - DAY_MS
    return search.filter and search.filter.replace("{yesterday}", str(yesterday))


def expected(search: Search, world: World) -> list[str]:
    """The ids in the order asked for; newest first otherwise and among equals."""
    by_duration = search.order_by is not None and "execution_time_ms" in search.order_by[0]
    found = [trace for trace in PLAN if search.holds(trace)]
    found.sort(key=lambda t: (-t.ms if by_duration else 0, -world.started_ms[t.key]))
    return [world.ids[trace.key] for trace in found][: search.max_results]


def post(url: str, body: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def rest_search(url: str, world: World, **arguments: Any) -> Any:
    location = {
        "type": "MLFLOW_EXPERIMENT",
        "mlflow_experiment": {"experiment_id": world.experiment_id},
    }
    return post(f"{url}/api/3.0/mlflow/traces/search", {"locations": [location], **arguments})


@pytest.mark.parametrize("search", SEARCHES, ids=label)
def test_search_with_the_client(search: Search, world: World, client: TracingClient) -> None:
    traces = client.search_traces(
        experiment_ids=[world.experiment_id],
        filter_string=filled(search),
        order_by=list(search.order_by) if search.order_by else None,
        max_results=search.max_results,
    )

    assert [trace.info.trace_id for trace in traces] == expected(search, world)
    planned = {world.ids[trace.key]: trace for trace in PLAN}
    for trace in traces:
        assert len(trace.data.spans) == len(planned[trace.info.trace_id].spans)


@pytest.mark.parametrize("search", SEARCHES, ids=label)
def test_search_over_rest(search: Search, world: World, tracking_uri: str) -> None:
    arguments: dict[str, Any] = {"max_results": search.max_results}
    if search.filter:
        arguments["filter"] = filled(search)
    if search.order_by:
        arguments["order_by"] = list(search.order_by)

    answer = rest_search(tracking_uri, world, **arguments)

    assert [trace["trace_id"] for trace in answer["traces"]] == expected(search, world)


@pytest.mark.parametrize("search", SEARCHES, ids=label)
def test_search_page_by_page(search: Search, world: World, tracking_uri: str) -> None:
    arguments: dict[str, Any] = {"max_results": 3, "filter": filled(search) or ""}
    if search.order_by:
        arguments["order_by"] = list(search.order_by)
    found: list[str] = []
    while True:
        answer = rest_search(tracking_uri, world, **arguments)
        page = [trace["trace_id"] for trace in answer.get("traces", [])]
        assert len(page) <= 3
        found += page
        if not answer.get("next_page_token"):
            break
        assert len(page) == 3
        arguments["page_token"] = answer["next_page_token"]

    assert found == expected(search, world)


@pytest.mark.parametrize("search", SEARCHES, ids=label)
def test_search_is_told_apart_by_the_traces(search: Search) -> None:
    hits = len(keys(search.holds))

    assert hits > 0
    assert (hits == len(PLAN)) == search.all_match


@pytest.mark.parametrize("correlation", CORRELATIONS, ids=label)
def test_correlation_with_the_client(
    correlation: Correlation, world: World, client: TracingClient
) -> None:
    result = client.calculate_trace_filter_correlation(
        experiment_ids=[world.experiment_id],
        filter_string1=correlation.filter1,
        filter_string2=correlation.filter2,
    )

    counts = correlation_counts(correlation)
    npmi = calculate_npmi_from_counts(**counts)
    assert result.filter1_count == counts["filter1_count"]
    assert result.filter2_count == counts["filter2_count"]
    assert result.joint_count == counts["joint_count"]
    assert result.total_count == counts["total_count"]
    assert result.npmi == npmi.npmi
    assert result.npmi_smoothed == npmi.npmi_smoothed
    assert -1 <= result.npmi <= 1


@pytest.mark.parametrize("correlation", CORRELATIONS, ids=label)
def test_correlation_over_rest(correlation: Correlation, world: World, tracking_uri: str) -> None:
    body = {
        "experiment_ids": [world.experiment_id],
        "filter_string1": correlation.filter1,
        "filter_string2": correlation.filter2,
    }
    counts = correlation_counts(correlation)

    today = post(f"{tracking_uri}/api/3.0{CORRELATE}", body)
    prototype = post(f"{tracking_uri}/api/2.0{CORRELATE}", body)

    assert {name: today[name] for name in counts} == counts
    assert today["npmi"] == calculate_npmi_from_counts(**counts).npmi
    assert {name: prototype[name] for name in today} == today
    assert prototype["filter_string1_count"] == counts["filter1_count"]
    assert prototype["filter_string2_count"] == counts["filter2_count"]


@pytest.mark.parametrize("correlation", CORRELATIONS, ids=label)
def test_correlation_is_told_apart_by_the_traces(correlation: Correlation) -> None:
    one, two = keys(correlation.holds1), keys(correlation.holds2)

    assert 0 < len(one) < len(PLAN)
    assert 0 < len(two) < len(PLAN)
    assert one & two
    assert one != two


def correlation_counts(correlation: Correlation) -> dict[str, int]:
    one, two = keys(correlation.holds1), keys(correlation.holds2)
    return {
        "filter1_count": len(one),
        "filter2_count": len(two),
        "joint_count": len(one & two),
        "total_count": len(PLAN),
    }


def test_a_bad_filter_is_refused_with_its_place(world: World, tracking_uri: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        rest_search(tracking_uri, world, filter="trace.statu = 'OK'")

    answer = json.loads(refusal.value.read())
    assert refusal.value.code == 400
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "trace.statu = 'OK'" in answer["message"]
    assert "^^^^^" in answer["message"]
    assert "Did you mean status?" in answer["message"]


def test_fields_of_the_results(world: World, client: TracingClient) -> None:
    """What "Analyzing Search Results" reads of each trace; ``span.type`` is `span_type` now."""
    traces = client.search_traces(
        experiment_ids=[world.experiment_id],
        filter_string="span.type = 'LLM' AND trace.execution_time_ms > 3000",
    )

    planned = {world.ids[trace.key]: trace for trace in PLAN}
    for trace in traces:
        plan = planned[trace.info.trace_id]
        assert trace.info.execution_time_ms == plan.ms
        assert trace.info.status == plan.status
        assert len([s for s in trace.data.spans if s.span_type == "LLM"]) == plan.count(type="LLM")
        assert plan.tags.items() <= trace.info.tags.items()


def test_fluent_search_finds_the_same(world: World) -> None:
    traces = mlflow.search_traces(
        locations=[world.experiment_id],
        filter_string="count(span.type = 'LLM') > 3",
        return_type="list",
    )

    assert {trace.info.trace_id for trace in traces} == {
        world.ids[key] for key in keys(lambda t: t.count(type="LLM") > 3)
    }


@pytest.mark.parametrize("promise", [*SEARCHES, *CORRELATIONS], ids=label)
def test_the_document_lists_each_promise(promise: Search | Correlation) -> None:
    text = " ".join(PROTOTYPE_DOC.read_text().split())
    filters = (
        [promise.filter] if isinstance(promise, Search) else [promise.filter1, promise.filter2]
    )

    for filter_string in filters:
        assert not filter_string or " ".join(filter_string.split()) in text
