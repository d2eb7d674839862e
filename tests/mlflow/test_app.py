"""``mlflow server --app-name insights``, live, beside plain ``mlflow server``.

Both servers serve one database, with workspaces enabled, so that every route can
be asked in a workspace as well.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from flask import Flask
from mlflow.entities import TraceInfo, TraceLocation, TraceState
from mlflow.entities.workspace import Workspace
from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore as WorkspaceStore
from mlflow.utils.workspace_context import WorkspaceContext
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from insights_dev import cluster, mlflow_server
from insights_dev.mlflow_server import MlflowServer
from insights_py.mlflow import app as insights_app
from insights_py.mlflow.rest.routes import ROUTES
from tests.conftest import Databases
from tests.mlflow.conftest import close, with_driver
from tests.mlflow.world import START_MS

CORRELATE_2 = "/api/2.0/mlflow/traces/calculate-filter-correlation"
CORRELATE_3 = "/api/3.0/mlflow/traces/calculate-filter-correlation"
SEARCH = "/api/3.0/mlflow/traces/search"


@dataclass(frozen=True)
class Answer:
    """Status and body of an HTTP response."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed as strictly as JavaScript parses JSON."""

        def refuse(constant: str) -> None:
            raise ValueError(f"{constant} is not JSON")

        return json.loads(self.body, parse_constant=refuse)


def ask(
    server: MlflowServer,
    path: str,
    body: Any = None,
    *,
    workspace: str | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """GET, or POST where there is a body."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        server.url + path,
        data=data,
        headers={
            "Content-Type": "application/json",
            **({"X-MLFLOW-WORKSPACE": workspace} if workspace else {}),
            **(headers or {}),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Answer(response.status, response.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read())


@dataclass(frozen=True)
class Servers:
    """The two servers and an experiment in the default workspace and in another."""

    insights: MlflowServer
    plain: MlflowServer
    experiment: str
    blue_experiment: str


@pytest.fixture(scope="module")
def servers(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Both servers, on ten traces in the default workspace and one in ``blue-team``."""
    home = tmp_path_factory.mktemp("servers")
    environment = {
        "MLFLOW_ENABLE_WORKSPACES": "true",
        # The job runner has a queue of its own per server and nothing to do here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with databases.fresh("insights") as dsn:
        experiment, blue_experiment = _fill(dsn, home)
        started = []
        try:
            for app in ("insights", None):
                started.append(
                    mlflow_server.start(
                        dsn,
                        home / str(app),
                        cluster.free_port(),
                        app=app,
                        environment=environment,
                    )
                )
            yield Servers(started[0], started[1], experiment, blue_experiment)
        finally:
            for app in ("insights", None):
                mlflow_server.stop(home / str(app))


def _fill(dsn: str, home: Path) -> tuple[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
        WorkspaceStore(with_driver(dsn)).create_workspace(Workspace(name="blue-team"))
        store = WorkspaceAwareSqlAlchemyStore(with_driver(dsn), str(home / "artifacts"))
        experiments = []
        for workspace, count in (("default", 10), ("blue-team", 1)):
            with WorkspaceContext(workspace):
                experiment = store.create_experiment("traces")
                experiments.append(experiment)
                for number in range(count):
                    store.start_trace(
                        TraceInfo(
                            trace_id=f"tr-{workspace}-{number}",
                            trace_location=TraceLocation.from_experiment_id(experiment),
                            request_time=START_MS + number,
                            state=TraceState.OK if number % 2 else TraceState.ERROR,
                            execution_duration=1000 * number,
                            tags={"environment": "production"} if number < 5 else {},
                        )
                    )
        close(store)
    return experiments[0], experiments[1]


def located(experiment: str, **fields: Any) -> dict[str, Any]:
    """The body of a search in one experiment."""
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    return {"locations": [location], **fields}


# -------------------------------------------------- what plain MLflow serves, too


def test_the_ui(servers: Servers) -> None:
    """Its page, and the script that the page loads."""
    page = ask(servers.insights, "/")
    assert page == ask(servers.plain, "/")
    assert b"<title>MLflow</title>" in page.body
    (script, *_) = re.findall(r'src="(?:\./)?(static-files/[^"]+\.js)"', page.body.decode())
    assert ask(servers.insights, f"/{script}") == ask(servers.plain, f"/{script}")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/health", None),
        ("/version", None),
        ("/api/3.0/mlflow/server-info", None),
        ("/api/2.0/mlflow/experiments/get-by-name?experiment_name=traces", None),
        ("/api/2.0/mlflow/experiments/search", {"max_results": 5}),
        ("/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"]}),
        ("/api/2.0/mlflow/registered-models/search", None),
        ("/api/3.0/mlflow/traces/tr-default-3", None),
        ("/api/3.0/mlflow/traces/nothing", None),
        ("/ajax-api/3.0/mlflow/gateway/supported-providers", None),
        ("/ajax-api/3.0/jobs/nothing", None),
        ("/gateway/nothing/mlflow/invocations", {}),
        ("/gateway/mlflow/v1/chat/completions", {"model": "nothing", "messages": []}),
        ("/v1/traces", {}),
        ("/graphql", {"query": "{ __typename }"}),
        ("/api/3.0/mlflow/nothing", None),
        ("/api/2.0/mlflow-artifacts/artifacts", None),
    ],
)
def test_other_routes_are_unchanged(servers: Servers, path: str, body: Any) -> None:
    """Status and body are those of plain ``mlflow server``."""
    ours, stock = ask(servers.insights, path, body), ask(servers.plain, path, body)
    assert ours.status == stock.status
    # The order of a protobuf map's keys changes from process to process.
    assert _content(ours) == _content(stock)


def _content(answer: Answer) -> Any:
    try:
        return answer.json
    except ValueError:
        return answer.body


def test_health_and_version(servers: Servers) -> None:
    """What load balancers and clients look at first."""
    assert ask(servers.insights, "/health") == Answer(200, b"OK")
    assert ask(servers.insights, "/version") == Answer(200, mlflow.__version__.encode())


def test_otlp_ingestion(servers: Servers) -> None:
    """A trace that comes by OTLP is in the next answer."""
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id = bytes(range(16)), bytes(range(8))
    span.name = "from-otlp"
    span.start_time_unix_nano, span.end_time_unix_nano = 10**18, 10**18 + 10**9
    attribute = span.attributes.add()
    attribute.key, attribute.value.string_value = "model", "gpt-4"
    sent = ask(
        servers.insights,
        "/v1/traces",
        request.SerializeToString(),
        headers={
            "Content-Type": "application/x-protobuf",
            "X-Mlflow-Experiment-Id": "0",
        },
    )
    assert sent.status == 200
    body = located("0", filter="span.attributes['model'] = 'gpt-4' AND span.duration_ms = 1000")
    (trace,) = ask(servers.insights, SEARCH, body).json["traces"]
    assert trace["trace_id"] == "tr-" + bytes(range(16)).hex()


# ---------------------------------------------------------------- search by REST


def test_search(servers: Servers) -> None:
    """The whole language, in both servers: the store needs no app of ours."""
    body = located(
        servers.experiment,
        filter="tags.environment IS NULL AND (status = 'OK' OR execution_time > 7000)",
        order_by=["execution_time DESC"],
        max_results=2,
    )
    for server in (servers.insights, servers.plain):
        first = ask(server, SEARCH, body).json
        assert [trace["trace_id"] for trace in first["traces"]] == ["tr-default-9", "tr-default-8"]
        rest = ask(server, SEARCH, {**body, "page_token": first["next_page_token"]}).json
        assert [trace["trace_id"] for trace in rest["traces"]] == ["tr-default-7", "tr-default-5"]
        assert "next_page_token" not in rest


def test_a_bad_filter(servers: Servers) -> None:
    """HTTP 400 with MLflow's error body; our message, place and hint in its text."""
    text = "span.stauts = 'ERROR'"
    requests = [
        (SEARCH, located(servers.experiment, filter=text)),
        *(
            (path, {"experiment_ids": [servers.experiment], **filters})
            for path in (CORRELATE_2, CORRELATE_3)
            for filters in (
                {"filter_string1": text, "filter_string2": "status = 'OK'"},
                {"filter_string1": "status = 'OK'", "filter_string2": text},
            )
        ),
    ]
    for path, body in requests:
        refused = ask(servers.insights, path, body)
        assert refused.status == 400
        assert refused.json["error_code"] == "INVALID_PARAMETER_VALUE"
        message = refused.json["message"]
        assert "Invalid span attribute 'stauts'" in message
        assert f"\n{text}\n" in message
        assert "^" in message
        assert "Hint: " in message
        assert "span.status" in message
        assert "Traceback" not in message


# ----------------------------------------------------------- correlation by REST

COUNTS = {"filter1_count": 5, "filter2_count": 5, "joint_count": 2, "total_count": 10}
PROTOTYPE_COUNTS = {"filter_string1_count": 5, "filter_string2_count": 5}


def correlation(servers: Servers, filter1: str, filter2: str, **fields: Any) -> dict[str, Any]:
    """A request of the prototype's README."""
    return {
        "experiment_ids": [servers.experiment],
        "filter_string1": filter1,
        "filter_string2": filter2,
        **fields,
    }


@pytest.mark.parametrize("prefix", ["/api", "/ajax-api"])
def test_correlation(servers: Servers, prefix: str) -> None:
    """Both routes, with the counts under the names of MLflow and of the prototype."""
    body = correlation(servers, "tags.environment = 'production'", "status = 'OK'")
    third = ask(servers.insights, prefix + CORRELATE_3.removeprefix("/api"), body)
    second = ask(servers.insights, prefix + CORRELATE_2.removeprefix("/api"), body)
    assert (second.status, third.status) == (200, 200)
    assert third.json.items() >= COUNTS.items()
    assert third.json == ask(servers.plain, CORRELATE_3, body).json
    assert second.json == {**third.json, **PROTOTYPE_COUNTS}
    assert second.json["npmi"] == pytest.approx(-0.1386, abs=1e-4)
    assert -1 < second.json["npmi_smoothed"] < 0


def test_correlation_with_a_base_filter(servers: Servers) -> None:
    """All counts are over the base filter's traces."""
    body = correlation(
        servers, "status = 'OK'", "execution_time > 0", base_filter="execution_time < 4000"
    )
    second = ask(servers.insights, CORRELATE_2, body).json
    assert second["total_count"] == 4
    assert (second["filter_string1_count"], second["filter_string2_count"]) == (2, 3)
    assert second == {
        **ask(servers.insights, CORRELATE_3, body).json,
        "filter_string1_count": 2,
        "filter_string2_count": 3,
    }


def test_correlation_that_is_undefined(servers: Servers) -> None:
    """NPMI is not a number then: left out, as MLflow does, since JSON has no NaN."""
    body = correlation(servers, "status = 'OK'", "name = 'nothing'")
    for path in (CORRELATE_2, CORRELATE_3):
        answer = ask(servers.insights, path, body).json
        assert answer["filter2_count"] == 0
        assert "npmi" not in answer
        assert "npmi_smoothed" not in answer
    assert ask(servers.insights, CORRELATE_3, body) == ask(servers.plain, CORRELATE_3, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        {},
        {"experiment_ids": ["1"]},
        {"experiment_ids": ["1"], "filter_string1": "status = 'OK'"},
        {"experiment_ids": "1", "filter_string1": "", "filter_string2": ""},
        {"experiment_ids": ["a"], "filter_string1": "name = 'a'", "filter_string2": "name = 'b'"},
        {"experiment_ids": ["1"], "filter_string1": 5, "filter_string2": "name = 'b'"},
    ],
    ids=repr,
)
def test_malformed_correlation(servers: Servers, body: Any) -> None:
    """The prototype's route refuses what MLflow's refuses, in the same words."""
    refused = ask(servers.insights, CORRELATE_2, body)
    assert refused.status == 400
    theirs = ask(servers.plain, CORRELATE_3, body)
    assert (refused.status, refused.json) == (theirs.status, theirs.json)
    assert refused.json["error_code"] in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def test_the_prototypes_route_takes_post_only(servers: Servers) -> None:
    """And plain ``mlflow server`` does not have it."""
    body = correlation(servers, "status = 'OK'", "status = 'OK'")
    assert ask(servers.insights, CORRELATE_2).status == 405
    assert ask(servers.plain, CORRELATE_2, body).status in (404, 405)


# -------------------------------------------------------------------- workspaces


def test_workspaces(servers: Servers) -> None:
    """The header chooses the workspace, and its traces are all there is."""
    both = [servers.experiment, servers.blue_experiment]
    body = {"experiment_ids": both, "filter_string1": "status = 'OK' OR status = 'ERROR'"}
    body["filter_string2"] = "NOT name = 'x'"
    for workspace, total in ((None, 10), ("default", 10), ("blue-team", 1)):
        for path in (CORRELATE_2, CORRELATE_3):
            answer = ask(servers.insights, path, body, workspace=workspace).json
            assert answer["total_count"] == answer["joint_count"] == total
    other = located(servers.blue_experiment, filter="NOT name = 'x'")
    assert ask(servers.insights, SEARCH, other).json == {}
    assert len(ask(servers.insights, SEARCH, other, workspace="blue-team").json["traces"]) == 1


def test_an_unknown_workspace(servers: Servers) -> None:
    """Refused as by the route next door."""
    body = correlation(servers, "status = 'OK'", "status = 'OK'")
    refused = ask(servers.insights, CORRELATE_2, body, workspace="nowhere")
    assert refused.json["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    assert refused == ask(servers.insights, CORRELATE_3, body, workspace="nowhere")


@pytest.mark.parametrize("prefix", ["/api", "/ajax-api"])
def test_workspaces_of_the_insights_routes(servers: Servers, prefix: str) -> None:
    """Whether experiments are named or not, those of the workspace are all there is."""
    failed = "status = 'ERROR'"
    requests: dict[str, tuple[dict[str, Any], Callable[[Any], int]]] = {
        "search": ({"filter": "NOT name = 'x'"}, lambda answer: len(answer["rows"])),
        "count": ({}, lambda answer: int(answer["count"])),
        "correlate": ({"f1": failed, "f2": failed}, lambda answer: int(answer["total_count"])),
    }
    both = [servers.experiment, int(servers.blue_experiment), "2147483647"]
    for route, (request, seen) in requests.items():
        path = f"{prefix}/3.0/mlflow/insights/{route}"
        for workspace, experiments, total in (
            (None, {"experiment_ids": both}, 10),
            ("default", {"experiment_ids": both}, 10),
            ("blue-team", {"experiment_ids": both}, 1),
            ("blue-team", {"experiment_ids": None}, 1),
            ("blue-team", {}, 1),
        ):
            answer = ask(servers.insights, path, {**request, **experiments}, workspace=workspace)
            assert answer.status == 200
            assert seen(answer.json) == total
    other = {"experiment_ids": [servers.experiment]}
    path = f"{prefix}/3.0/mlflow/insights/count"
    assert ask(servers.insights, path, other, workspace="blue-team").json == {"count": 0}
    unknown = ask(servers.insights, path, other, workspace="nowhere")
    assert (unknown.status, unknown.json["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


def test_plain_mlflow_lacks_the_insights_routes(servers: Servers) -> None:
    for path, body in (("count", {}), ("openapi.json", None)):
        assert ask(servers.plain, f"/api/3.0/mlflow/insights/{path}", body).status == 404
        assert ask(servers.insights, f"/api/3.0/mlflow/insights/{path}", body).status == 200


# --------------------------------------------------------------- building the app


def rules(app: Flask) -> set[tuple[str, str]]:
    """Every route of an app with its view."""
    return {(rule.rule, rule.endpoint) for rule in app.url_map.iter_rules()}


def test_the_app_is_mlflows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the added routes, for the web server that was chosen."""
    from mlflow.server import app as flask_app
    from mlflow.server.fastapi_app import app as asgi_app

    before = {rule for rule in rules(flask_app) if not rule[1].startswith("insights_")}
    monkeypatch.setenv("_MLFLOW_SGI_NAME", "uvicorn")
    assert insights_app.create_app() is asgi_app
    for server in ("gunicorn", "waitress"):
        monkeypatch.setenv("_MLFLOW_SGI_NAME", server)
        assert insights_app.create_app() is flask_app
    insights = {
        (f"/3.0/mlflow/insights/{route.name}", f"insights_{route.name}") for route in ROUTES
    }
    added = {
        (CORRELATE_2.removeprefix("/api"), "insights_calculate_filter_correlation"),
        ("/3.0/mlflow/insights/openapi.json", "insights_openapi"),
        ("/3.0/mlflow/insights/<name>", "insights_no_route"),
        *insights,
    }
    assert rules(flask_app) - before == {
        (prefix + path, view) for path, view in added for prefix in ("/api", "/ajax-api")
    }
    assert before <= rules(flask_app)


def test_the_static_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The routes lie below it like MLflow's own."""
    monkeypatch.setenv("_MLFLOW_STATIC_PREFIX", "/tracking")
    app = Flask("prefixed")
    insights_app.add_routes(app)
    assert ("/tracking" + CORRELATE_2, "insights_calculate_filter_correlation") in rules(app)
    assert CORRELATE_2 not in {rule for rule, _ in rules(app)}


def test_artifacts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without a tracking store says so, as for MLflow's own routes."""
    app = Flask("artifacts")
    insights_app.add_routes(app)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACTS_ONLY", "true")
    for path in (CORRELATE_2, "/api/3.0/mlflow/insights/count"):
        refused = app.test_client().post(path, json={})
        assert refused.status_code == 503
        assert b"artifacts-only" in refused.data
