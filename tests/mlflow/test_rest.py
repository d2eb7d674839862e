"""The routes ``/api/3.0/mlflow/insights/...``, over the traces of `tests.client.world`.

They are asked in this process, through the Flask app alone; `test_app` has them in
MLflow's server, with workspaces.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import re
import shlex
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, settings
from mlflow.server import handlers
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from psycopg.rows import dict_row
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks
from werkzeug.test import TestResponse

from insights_py import sql
from insights_py.mlflow import app as insights_app
from insights_py.mlflow.rest import openapi, routes
from insights_py.mlflow.rest.bodies import BodyLimit
from insights_py.mlflow.rest.kinds import Number, Refused, Time
from insights_py.mlflow.rest.routes import ROUTES, Route
from insights_py.mlflow.store import InsightsStore
from tests.client import world
from tests.conftest import READER, READER_PASSWORD, Databases
from tests.mlflow.conftest import close, with_driver

PREFIX = "/api/3.0/mlflow/insights"
DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
BY_NAME = {route.name: route for route in ROUTES}
EACH_ROUTE = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
FAILED = "span.status = 'ERROR'"


@pytest.fixture(scope="module")
def world_dsn(databases: Databases) -> Iterator[str]:
    """The small world, indexed, in a database with every function that the routes call."""
    with databases.fresh("insights") as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            world.load(connection)
            connection.execute("select insights_refresh()")
        yield dsn


def serving(store: SqlAlchemyStore, patch: pytest.MonkeyPatch) -> Flask:
    """The routes in an app of their own, on one store."""
    patch.setattr(handlers, "_tracking_store", store)
    app = Flask("rest")
    insights_app.add_routes(app)
    return app


@pytest.fixture(scope="module")
def app(world_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    store = InsightsStore(with_driver(world_dsn), str(tmp_path_factory.mktemp("artifacts")))
    with pytest.MonkeyPatch.context() as patch:
        yield serving(store, patch)
    close(store)


def lasting(answer: Any) -> Any:
    """An answer without what differs from one time to the next."""
    if "next_page_token" in answer:
        return {**answer, "next_page_token": answer["next_page_token"] is not None}
    if "step" in answer.get("rows", [{}])[0]:
        return [row for row in answer["rows"] if row["step"] in ("filter", "predicate")]
    return answer


def post(app: Flask, name: str, body: Any = None, **options: Any) -> TestResponse:
    """Ask one route."""
    if isinstance(body, bytes):
        options = {"data": body, "content_type": "application/json", **options}
    elif body is not None:
        options = {"json": body, **options}
    return app.test_client().post(f"{PREFIX}/{name}", **options)


def answer(app: Flask, name: str, **request: Any) -> Any:
    """The answer of a route, parsed as strictly as JavaScript does."""
    response = post(app, name, request)
    assert response.status_code == 200, response.text
    assert response.mimetype == "application/json"

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(response.data, parse_constant=refuse)


def refusal(response: TestResponse, status: int = 400) -> str:
    """The message of an error, with MLflow's error body around it."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/json"
    body = response.json
    assert body is not None
    if status == 400:
        assert body["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "Traceback" not in response.text
    assert "[SQL" not in response.text
    return str(body["message"])


# ------------------------------------------------------------------------- limits


def test_the_limits_are_the_engines() -> None:
    """What a request may ask for is what the stored functions take."""
    from insights_engine.answers.counts import matrix
    from insights_engine.answers.discovery import options
    from insights_engine.answers.facets import facets
    from insights_engine.answers.search import ordering, search
    from insights_engine.exact import experiments
    from insights_engine.language import tokens

    fields = {(route.name, name): one for route in ROUTES for name, one in route.fields.items()}
    schemas = {place: one.schema() for place, one in fields.items()}
    assert schemas["search", "max_results"]["maximum"] == search.MAX_RESULTS
    assert schemas["facets", "max_results"]["maximum"] == facets.MOST_RESULTS
    for route in ("discover", "compare"):
        assert schemas[route, "max_results"]["maximum"] == options.MOST_RESULTS
        assert schemas[route, "kinds"]["anyOf"][0]["maxItems"] == options.MOST_KINDS
    assert schemas["matrix", "filters"]["maxItems"] == matrix.MOST
    assert schemas["search", "order_by"]["anyOf"][0]["maxItems"] == ordering.MAX_CLAUSES
    for (_, name), schema in schemas.items():
        if name == "experiment_ids":
            assert schema["anyOf"][0]["maxItems"] == experiments.MOST
        if "filter" in name and name != "filters":
            assert schema["maxLength"] == tokens.MAX_BYTES


@EACH_ROUTE
def test_every_field_has_a_limit(route: Route) -> None:
    def bounded(schema: dict[str, Any]) -> bool:
        if "anyOf" in schema:
            return all(bounded(one) for one in schema["anyOf"])
        kind = schema["type"][0] if isinstance(schema["type"], list) else schema["type"]
        if kind == "array":
            return "maxItems" in schema and bounded(schema["items"])
        if kind == "string":
            return any(one in schema for one in ("maxLength", "enum", "pattern", "format"))
        return kind in ("boolean", "null", "number") or "maximum" in schema

    for name, field in route.fields.items():
        assert bounded(field.schema()), name


def test_large_bodies_are_not_read(app: Flask) -> None:
    class Unreadable(io.RawIOBase):
        def readinto(self, buffer: Any) -> int:
            raise AssertionError("the body was read")

    for path in (f"{PREFIX}/count", "/api/2.0/mlflow/traces/calculate-filter-correlation"):
        response = app.test_client().post(
            path,
            content_type="application/json",
            environ_overrides={
                "wsgi.input": Unreadable(),
                "CONTENT_LENGTH": str(4 * 2**20 + 1),
            },
        )
        assert "4194304" in refusal(response, 413)


def test_bodies_in_chunks_are_read_as_far_as_allowed(app: Flask) -> None:
    read = 0

    class Chunks(io.RawIOBase):
        """Does not end before a gigabyte, and gives less than is asked for."""

        def __init__(self, start: bytes, rest: int) -> None:
            self._start, self._left = start, rest

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            nonlocal read
            found, self._start = self._start[:1000], self._start[1000:]
            if not found:
                found = b" " * min(size, self._left, 100_000)
                self._left -= len(found)
            read += len(found)
            return found

    def ask(body: Chunks) -> TestResponse:
        return app.test_client().post(
            f"{PREFIX}/count",
            content_type="application/json",
            headers={"Transfer-Encoding": "chunked"},
            environ_overrides={
                "wsgi.input": body,
                "wsgi.input_terminated": True,
                "CONTENT_LENGTH": "",
            },
        )

    failed = json.dumps({"filter": FAILED}).encode()
    expected = answer(app, "count", filter=FAILED)
    assert ask(Chunks(failed, 0)).json == expected != answer(app, "count")
    assert read == len(failed)
    assert "4194304" in refusal(ask(Chunks(failed, 2**30)), 413)
    assert read < 5 * 2**20


def test_bodies_are_bounded_before_they_reach_flask() -> None:
    """By a server that hands them over as a whole."""
    seen: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        lengths = [int(value) for name, value in scope["headers"] if name == b"content-length"]
        message = await receive()
        seen.append(message["body"])
        assert lengths == [len(message["body"])]
        assert not message["more_body"]

    def ask(path: str, chunks: list[bytes], length: int | None = None) -> tuple[int | None, int]:
        """The status, if it was refused, and how many chunks were taken."""
        sent: list[dict[str, Any]] = []
        taken = 0

        async def receive() -> dict[str, Any]:
            nonlocal taken
            taken += 1
            body = chunks[taken - 1]
            return {"type": "http.request", "body": body, "more_body": taken < len(chunks)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        headers.append(
            (b"transfer-encoding", b"chunked")
            if length is None
            else (b"content-length", str(length).encode())
        )
        scope = {"type": "http", "path": path, "headers": headers}
        asyncio.run(BodyLimit(app, [PREFIX])(scope, receive, send))  # type: ignore[arg-type]
        return (sent[0]["status"] if sent else None), taken

    path = f"{PREFIX}/count"
    megabyte = b" " * 2**20
    assert ask(path, [b"{}"], 2) == (None, 1)
    assert ask(path, [megabyte], 4 * 2**20 + 1) == (413, 0)
    assert ask(path, [b"{", b"}"]) == (None, 2)
    assert ask(path, [megabyte] * 4) == (None, 4)
    assert ask(path, [megabyte] * 1000) == (413, 5)
    assert seen == [b"{}", b"{}", megabyte * 4]


# ------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    "route",
    # The others do not say the same twice, or say more; they have tests of their own.
    [route for route in ROUTES if route.name not in ("search", "explain", "status")],
    ids=lambda route: route.name,
)
def test_the_answer_is_the_stored_functions(app: Flask, world_dsn: str, route: Route) -> None:
    """Column by column, with null for what JSON has no number for, and times in UTC."""
    given = answer(app, route.name, **route.example)
    names = {"experiment_ids": "exp_ids", "filter1": "f1", "filter2": "f2"}
    arguments = {names.get(name, name): value for name, value in route.example.items()}
    query = route.function(
        **{"exp_ids": None, **arguments} if "exp_ids" in route.function.arguments else arguments
    )
    with psycopg.connect(world_dsn, row_factory=dict_row) as connection:
        rows = connection.execute(query.for_psycopg(None).encode(), query.params).fetchall()
    expected = [{name: as_json(value) for name, value in row.items()} for row in rows]
    assert expected
    if route.reply == "rows":
        assert given == {"rows": expected}
    elif route.reply == "row":
        assert [given] == expected
    else:
        assert [given] == [{route.value_name: value} for row in expected for value in row.values()]


def as_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat()
    return value


def test_values_that_json_lacks() -> None:
    assert [routes.to_json(value) for value in (math.nan, math.inf, -math.inf, 0.5, 2**62)] == [
        *[None] * 3,
        0.5,
        2**62,
    ]
    local = datetime.fromisoformat("2026-01-05T10:00:00+01:00")
    assert routes.to_json(local) == "2026-01-05T09:00:00+00:00"


def test_search(app: Flask) -> None:
    first = answer(app, "search", filter=FAILED, experiment_ids=[1], max_results=2)
    rest = answer(
        app,
        "search",
        filter=FAILED,
        experiment_ids=["1"],
        max_results=50,
        page_token=first["next_page_token"],
    )
    found = [*first["rows"], *rest["rows"]]
    assert rest["next_page_token"] is None
    assert len(first["rows"]) == 2
    assert len(found) == answer(app, "count", filter=FAILED, experiment_ids=[1])["count"]
    trace = first["rows"][0]
    assert trace["trace_id"] == world.trace_id(37)
    assert trace["timestamp_ms"] == world.START + 37 * world.MINUTE
    assert trace["request_time"] == "2026-01-05T09:37:00+00:00"
    assert trace["tags"]["release"] == "v2"
    assert trace["metadata"]["mlflow.trace.user"] == "ada"
    everything = answer(app, "search", order_by=["timestamp_ms ASC"], max_results=1000)["rows"]
    assert [row["trace_id"] for row in everything] == [world.trace_id(n) for n in range(48)]
    assert everything[0]["assessments"][0]["name"] == "helpful"


def test_search_that_finds_nothing(app: Flask) -> None:
    assert answer(app, "search", experiment_ids=[]) == {"rows": [], "next_page_token": None}
    assert answer(app, "count", experiment_ids=[]) == {"count": 0}
    assert answer(app, "count", experiment_ids=[999, "2147483647"]) == {"count": 0}


def test_correlation_that_is_undefined(app: Flask) -> None:
    given = answer(app, "correlate", f1="name = 'nothing'", f2=FAILED)
    assert given["filter1_count"] == given["joint_count"] == 0
    assert given["npmi"] is given["npmi_smoothed"] is given["lift"] is None


def test_one_value_stands_for_a_list_of_it(app: Flask) -> None:
    order = "execution_time_ms DESC"
    listed = answer(app, "search", experiment_ids=["1"], order_by=[order], max_results=3)
    for ids in ("1", 1):
        found = answer(app, "search", experiment_ids=ids, order_by=order, max_results=3)
        assert found["rows"] == listed["rows"]
    listed = answer(app, "discover", target=FAILED, kinds=["tag"])
    assert answer(app, "discover", target=FAILED, kinds="tag") == listed


def test_filters_are_called_as_in_python_or_as_in_sql(app: Flask) -> None:
    given = answer(app, "correlate", filter1="tags.release = 'v2'", filter2=FAILED)
    assert (given["filter1_count"], given["filter2_count"]) == (12, 11)
    assert answer(app, "correlate", f1="tags.release = 'v2'", f2=FAILED) == given


def test_explain(app: Flask) -> None:
    steps = answer(app, "explain", filter=FAILED, experiment_ids=None)["rows"]
    assert steps[0] == {"step": "filter", "detail": FAILED}
    assert {"step": "predicate", "detail": FAILED} in steps


def test_status(app: Flask) -> None:
    """A request without a body is one without fields."""
    for response in (post(app, "status"), post(app, "status", b""), post(app, "status", {})):
        assert response.status_code == 200
        status = response.json
        assert status is not None
        assert tuple(status) == sql.INDEX_STATUS.columns
        assert (status["built"], status["traces"], status["pending"]) == (True, 48, 0)


def test_defaults_may_be_given(app: Flask) -> None:
    """A request with every default is the request without."""
    for route in ROUTES:
        defaults = {
            name: known.default for name, known in route.fields.items() if not known.required
        }
        given = lasting(answer(app, route.name, **{**defaults, **route.example}))
        assert given == lasting(answer(app, route.name, **route.example))


def test_the_store_may_have_the_other_driver(
    world_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: Flask
) -> None:
    store = InsightsStore(with_driver(world_dsn, "psycopg2"), str(tmp_path))
    expected = {route.name: lasting(answer(app, route.name, **route.example)) for route in ROUTES}
    other = serving(store, monkeypatch)
    for route in ROUTES:
        assert lasting(answer(other, route.name, **route.example)) == expected[route.name]
    assert "^" in refusal(post(other, "count", {"filter": "span.stauts = 'ERROR'"}))
    close(store)


# ----------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("search", {"filter": "span.stauts = 'ERROR'"}),
        ("count", {"filter": "span.stauts = 'ERROR'"}),
        ("correlate", {"f1": FAILED, "f2": "span.stauts = 'ERROR'"}),
        ("correlate", {"f1": FAILED, "f2": FAILED, "base_filter": "span.stauts = 'ERROR'"}),
        ("matrix", {"filters": [FAILED, "span.stauts = 'ERROR'"]}),
        ("discover", {"target": "span.stauts = 'ERROR'"}),
        ("compare", {"selection": "span.stauts = 'ERROR'", "baseline": FAILED}),
        ("facets", {"filter": "span.stauts = 'ERROR'", "field": "tags.release"}),
        ("timeseries", {"filter": "span.stauts = 'ERROR'"}),
        ("validate", {"filter": "span.stauts = 'ERROR'"}),
        ("explain", {"filter": "span.stauts = 'ERROR'"}),
    ],
)
def test_a_bad_filter(app: Flask, name: str, request_: dict[str, Any]) -> None:
    message = refusal(post(app, name, request_))
    assert "Invalid span attribute 'stauts'" in message
    assert "\nspan.stauts = 'ERROR'\n     ^^^^^^\n" in message
    assert "Hint: Did you mean span.status? Fields of a span: name, " in message


@pytest.mark.parametrize(
    ("name", "request_", "expected"),
    [
        ("search", {"order_by": ["nonsense"]}, "nonsense"),
        ("search", {"page_token": "nonsense"}, "page token"),
        ("timeseries", {"time_zone": "Europe/Nowhere"}, "Europe/Nowhere"),
        ("timeseries", {"bucket": "often"}, "often"),
        ("count", {"filter": "name = 'a\0'"}, "U+0000"),
        ("count", {"filter": "name = '\ud800'"}, "U+D800"),
        ("search", {"order_by": ["\0"]}, "U+0000"),
        ("validate", {"filter": "NOT " * 10_000 + "name = 'a'"}, "Hint"),
    ],
)
def test_other_refusals_of_the_database(
    app: Flask, name: str, request_: dict[str, Any], expected: str
) -> None:
    assert expected in refusal(post(app, name, request_))


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        ("count", {"filter": 5}, "Field 'filter' must be a string, not 5."),
        ("count", {"filter": ["a"]}, "Field 'filter' must be a string, not [\"a\"]."),
        ("search", {"max_results": "5"}, "Field 'max_results' must be an integer, not \"5\"."),
        ("search", {"max_results": 1.5}, "Field 'max_results' must be an integer, not 1.5."),
        ("search", {"max_results": True}, "Field 'max_results' must be an integer, not true."),
        ("search", {"max_results": None}, "Field 'max_results' must be an integer, not null."),
        (
            "search",
            {"max_results": 50_001},
            "Field 'max_results' must be between 1 and 50000, not 50001.",
        ),
        (
            "discover",
            {"target": "", "max_results": 1001},
            "Field 'max_results' must be between 1 and 1000, not 1001.",
        ),
        (
            "count",
            {"filter": "a" * 65_537},
            "Field 'filter' is too long: 65537 characters, at most 65536 are allowed.",
        ),
        (
            "matrix",
            {"filters": [""] * 51},
            "Field 'filters' must have at most 50 elements, not 51.",
        ),
        (
            "count",
            {"experiment_ids": [1] * 100_001},
            "Field 'experiment_ids' must have at most 100000 elements, not 100001.",
        ),
        ("search", {"order_by": 5}, "Field 'order_by' must be a string, not 5."),
        (
            "count",
            {"experiment_ids": ["1", "a"]},
            'Field \'experiment_ids[1]\' must be an experiment id such as "1" or 1, not "a".',
        ),
        (
            "count",
            {"experiment_ids": ["2147483648"]},
            "Field 'experiment_ids[0]' must be an experiment id such as \"1\" or 1, "
            'not "2147483648".',
        ),
        (
            "count",
            {"experiment_ids": [-1]},
            "Field 'experiment_ids[0]' must be an experiment id such as \"1\" or 1, not -1.",
        ),
        (
            "count",
            {"experiment_ids": "a"},
            'Field \'experiment_ids\' must be an experiment id such as "1" or 1, not "a".',
        ),
        ("matrix", {"filters": "a"}, "Field 'filters' must be an array, not \"a\"."),
        ("correlate", {"filter1": "", "f2": ""}, "Unknown field 'filter1'; correlate takes "),
        ("correlate", {"filter1": ""}, "Field 'filter2' is missing."),
        ("correlate", {"f1": ""}, "Field 'f2' is missing."),
        ("matrix", {"filters": [], "f1": ""}, "Unknown field 'f1'; matrix takes "),
        ("discover", {}, "Field 'target' is missing."),
        ("validate", {"filter": None}, "Field 'filter' must be a string, not null."),
        ("discover", {"target": "", "fdr": "0.1"}, "Field 'fdr' must be a number, not \"0.1\"."),
        ("discover", {"target": "", "pairs": 1}, "Field 'pairs' must be true or false, not 1."),
        (
            "discover",
            {"target": "", "direction": "negativ"},
            "Field 'direction' must be one of positive, negative, both, not \"negativ\".\n"
            "Hint: Did you mean negative?",
        ),
        (
            "timeseries",
            {"end_time": "9999-12-31T23:59:59-14:00"},
            "Field 'end_time' must be within the years 2 to 9998, "
            'not "9999-12-31T23:59:59-14:00".',
        ),
        (
            "timeseries",
            {"start_time": "yesterday"},
            "Field 'start_time' must be a time such as 2026-01-31T09:00:00Z or "
            '2026-01-31T10:00:00+01:00, not "yesterday".',
        ),
        (
            "count",
            {"fliter": FAILED},
            f"Unknown field 'fliter'; count takes {', '.join(BY_NAME['count'].fields)}.\n"
            "Hint: Did you mean filter?",
        ),
        ("status", {"filter": FAILED}, "Unknown field 'filter'; status takes none."),
        ("count", [1], "The body must be a JSON object such as {}."),
        ("count", b"null", "The body must be a JSON object such as {}."),
        ("count", b"{", "The body is not JSON: Expecting property name"),
        ("count", b"\xff\xfe\xff", "The body is not JSON: "),
        ("count", b'{"filter": NaN}', "The body is not JSON: NaN is no number in JSON"),
        ("count", b"[" * 1_000_000, "The body is nested too deeply."),
        ("search", b'{"max_results": ' + b"9" * 10_000 + b"}", "The body is not JSON: "),
        (
            "discover",
            b'{"target": "", "fdr": 1e999}',
            "Field 'fdr' is beyond the numbers of double precision.",
        ),
    ],
)
def test_a_malformed_request(app: Flask, name: str, request_: Any, message: str) -> None:
    assert refusal(post(app, name, request_)).startswith(message)


def test_long_values_are_cut_in_messages(app: Flask) -> None:
    message = refusal(post(app, "count", {"filter": ["x" * 1000]}))
    assert len(message) < 120
    assert len(refusal(post(app, "count", {"x" * 1000: 1}))) < 160


def test_numbers_and_times() -> None:
    assert Number().read(1, "fdr") == 1.0
    with pytest.raises(Refused, match="beyond"):
        Number().read(10**400, "fdr")
    for good in ("2026-01-31T09:00:00Z", "2026-01-31t09:00:00.1234567-07:30"):
        assert Time().read(good, "start_time") == good
    for bad in ("2026-02-30T09:00:00Z", "2026-01-31", "2026-01-31T09:00:00", "now", "", 5):
        with pytest.raises(Refused, match="must be a time"):
            Time().read(bad, "start_time")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type(app: Flask, content_type: str | None) -> None:
    response = post(app, "count", b"{}", content_type=content_type)
    assert "application/json" in refusal(response, 415)


def test_json_with_a_charset(app: Flask) -> None:
    response = post(app, "count", b"{}", content_type="Application/JSON; charset=utf-8")
    assert response.json == {"count": 48}


def test_another_method(app: Flask) -> None:
    client = app.test_client()
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        response = client.open(f"{PREFIX}/count", method=method)
        assert refusal(response, 405) == f"count takes POST, not {method}"
        assert response.headers["Allow"] == "POST"
    assert client.post(f"{PREFIX}/openapi.json").headers["Allow"] == "GET"


def test_no_such_route(app: Flask) -> None:
    assert refusal(post(app, "serch", {}), 404) == "No such route. Did you mean search?"
    assert "There are: search, count," in refusal(post(app, "nothing", {}), 404)


# ------------------------------------------------- databases that cannot answer


def test_without_the_functions(
    mlflow_only_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = InsightsStore(with_driver(mlflow_only_dsn), str(tmp_path))
    app = serving(store, monkeypatch)
    for route in ROUTES:
        message = refusal(post(app, route.name, dict(route.example)), 503)
        assert "not installed" in message
        assert "insights install --dsn" in message
    close(store)


def test_with_functions_of_an_earlier_release(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is said, and the rest answers."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop function insights_validate(text)")
    store = InsightsStore(with_driver(dsn), str(tmp_path))
    app = serving(store, monkeypatch)
    message = refusal(post(app, "validate", {"filter": FAILED}), 503)
    assert "insights_validate" in message
    assert "insights install --dsn" in message
    assert answer(app, "count") == {"count": 0}
    close(store)


def test_as_a_role_without_the_tables(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(InsightsStore(with_driver(dsn), str(tmp_path)))  # writes what MLflow writes at first
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"revoke select on trace_info from {READER}")
    address = dsn.partition("@")[2]
    reader = with_driver(f"postgresql://{READER}:{READER_PASSWORD}@{address}")
    store = InsightsStore(reader, str(tmp_path))
    app = serving(store, monkeypatch)
    assert "permission denied" in refusal(post(app, "count", {}), 403)
    close(store)


def test_a_statement_that_takes_too_long(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "create or replace function insights_validate(filter text) returns text "
            "language sql stable as 'select pg_sleep(60)::text' "
            "set statement_timeout = 0"
        )
    timeout = "?options=-c%20statement_timeout%3D1000"
    store = InsightsStore(with_driver(dsn) + timeout, str(tmp_path))
    app = serving(store, monkeypatch)
    assert "statement timeout" in refusal(post(app, "validate", {"filter": FAILED}), 504)
    close(store)


def test_without_a_connection(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = databases.create(databases.template("insights"))
    store = InsightsStore(with_driver(dsn), str(tmp_path))
    app = serving(store, monkeypatch)
    assert answer(app, "count") == {"count": 0}
    databases.drop(dsn)
    for _ in range(2):  # the connection that broke, and the one that cannot be had
        assert refusal(post(app, "count", {}), 503)
    monkeypatch.setattr(store, "_mlflow_schema", None)
    assert "does not exist" in refusal(post(app, "count", {}), 503)
    close(store)


def test_a_time_that_python_does_not_have(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop function insights_explain(text[], text)")
        connection.execute(
            "create function insights_explain(exp_ids text[], filter text default null) "
            "returns table (step text, detail timestamptz) language sql stable "
            "as $$ select 'late', '20000-01-01Z'::timestamptz $$"
        )
    store = InsightsStore(with_driver(dsn), str(tmp_path))
    message = refusal(post(serving(store, monkeypatch), "explain", {}))
    assert "timestamp too large" in message
    close(store)


def test_the_read_replica_answers(
    world_dsn: str, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is one: here a database with other traces."""
    store = InsightsStore(with_driver(dsn), str(tmp_path), read_db_uri=with_driver(world_dsn))
    assert answer(serving(store, monkeypatch), "count") == {"count": 48}
    close(store)


def test_a_store_that_is_not_ours(
    mlflow_only_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlAlchemyStore(with_driver(mlflow_only_dsn), str(tmp_path))
    message = refusal(post(serving(store, monkeypatch), "count", {}), 503)
    assert "MLFLOW_INSIGHTS" in message
    close(store)


# ------------------------------------------------------------------- the document


def test_the_committed_document_is_current() -> None:
    text = json.dumps(openapi.document(), indent=2) + "\n"
    assert DOCUMENT.read_text() == text, (
        "run: python -m insights_py.mlflow.rest.openapi > docs/openapi.json"
    )


def test_the_served_document_is_the_committed_one(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the address, where the server has a static prefix."""
    served = app.test_client().get(openapi.PATH)
    assert served.json == json.loads(DOCUMENT.read_text())
    monkeypatch.setenv("_MLFLOW_STATIC_PREFIX", "/tracking")
    prefixed = Flask("prefixed")
    insights_app.add_routes(prefixed)
    below = prefixed.test_client().get("/tracking" + openapi.PATH)
    assert below.json == {**json.loads(DOCUMENT.read_text()), "servers": [{"url": "/tracking"}]}


@EACH_ROUTE
def test_defaults_are_the_stored_functions(world_dsn: str, route: Route) -> None:
    """A field may be left out, with this meaning, exactly where its argument may be."""
    types = ", ".join(route.function.arguments.values())
    with psycopg.connect(world_dsn) as connection:
        row = connection.execute(
            "select pg_get_function_arguments(cast(%s as regprocedure))",
            [f"{route.function.name}({types})"],
        ).fetchone()
    assert row is not None
    signature = row[0]
    declared = {}
    for argument in re.split(r", (?=\w+ )", signature):
        name, _, default = argument.partition(" DEFAULT ")
        declared[name.split(" ")[0].strip('"')] = default.partition("::")[0].strip("'")
    for argument in route.function.arguments:
        field = route._field(argument)
        if declared[argument]:
            assert json.dumps(field.default).strip('"') == {"NULL": "null"}.get(
                declared[argument], declared[argument]
            )
        else:
            # Where SQL takes NULL but has no default, JSON may leave it out.
            assert field.required or field.default is None


# ----------------------------------------------------------------- docs/rest.md

PAGE = (DOCUMENT.parent / "rest.md").read_text()
SHOWN = re.findall(r"^```sh\n(.*?)^```\n(?:```json\n(.*?)^```)?", PAGE, re.MULTILINE | re.DOTALL)


def command(text: str) -> tuple[str, bytes | None]:
    """The route that a curl command asks, and the body."""
    line, _, document = text.partition("\n")
    words = shlex.split(line)
    assert words[:2] == ["curl", "-s"]
    address = next(word for word in words if word.startswith("localhost:5001"))
    name = address.removeprefix(f"localhost:5001{PREFIX}/")
    if words[-2:] == ["@-", "<<END"]:
        assert document.endswith("\nEND\n")
        return name, document.removesuffix("END\n").encode()
    return name, words[-1].encode() if "--json" in words else None


@pytest.mark.parametrize(("text", "shown"), SHOWN, ids=lambda text: text.partition("\n")[0])
def test_the_page(app: Flask, text: str, shown: str) -> None:
    """A reply is shown for every command, and is the reply; white space does not count."""
    name, body = command(text)
    response = post(app, name, body)
    assert body is None or "Errors" in PAGE.partition(text)[0] or response.status_code == 200
    assert shown
    pattern = ".*".join(re.escape(unspaced(part)) for part in shown.split("..."))
    assert re.fullmatch(pattern, unspaced(response.text)), f"the page should show:\n{response.text}"


def unspaced(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_the_page_has_every_route() -> None:
    assert {command(text)[0] for text, _ in SHOWN} == {route.name for route in ROUTES}


# ------------------------------------------------------------------- hostile JSON

CORRELATION = "/api/2.0/mlflow/traces/calculate-filter-correlation"
CORRELATED = {"experiment_ids": ["1"], "filter_string1": FAILED, "filter_string2": "name = 'x'"}

#: Values that a JSON text can have; some only as its bytes.
HOSTILE: tuple[Any, ...] = (
    *("\ud800", "a\udfff", FAILED + " \udc00", "\0", "\u2028", "\U0001f600" * 1000, "x" * 70_000),
    *(None, True, 0, -1, 2**31, 2**63, 10**400, 1.5, 1e308, [], {}, [[]], ["\ud800"], [None]),
    *({"\ud800": 1}, {"a": ["\ud800"]}, ["1"] * 10_000),
)
HOSTILE_BODIES: tuple[Any, ...] = (
    *([], 5, True, "a", [{}], "\ud800", '{"a": "\ud800"}', {"\ud800": 1}, {"": None}),
    *(b"[" * 100_000, b'{"a":' * 100_000, b'{"a": NaN}', b"{", b"\xff\xfe", b'"\xed\xa0\x80"'),
    *(b'{"filter": "\xed\xa0\x80"}', b'{"filter": "\\ud800"}', b"1" * 5_000, b'{"a":1}x'),
)


@EACH_ROUTE
def test_hostile_json(app: Flask, route: Route) -> None:
    """Refused or answered, by JSON, whichever field it is in; never as if it were not there."""
    requests: list[Any] = [*HOSTILE_BODIES]
    for name in route.fields:
        requests += [{**route.example, name: value} for value in HOSTILE]
    for request in requests:
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        response = post(app, route.name, body)
        assert response.status_code in (200, 400), (body[:200], response.text)
        assert response.mimetype == "application/json"
        if "ud800" in str(request) or "udfff" in str(request) or "udc00" in str(request):
            refusal(response)


def test_hostile_json_of_the_prototypes_route(app: Flask) -> None:
    """What protocol buffers do not take was dropped, and all traces were the answer."""
    client = app.test_client()
    whole = client.post(CORRELATION, json=CORRELATED)
    assert whole.json is not None
    assert whole.json["total_count"] == 40
    requests: list[Any] = [*HOSTILE_BODIES]
    for name in (*CORRELATED, "base_filter", "baseFilter"):
        requests += [{**CORRELATED, name: value} for value in HOSTILE]
    for request in requests:
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        response = client.post(CORRELATION, data=body, content_type="application/json")
        if response.status_code == 200:
            # Nothing is left out but what means nothing: null, and no experiments at all.
            (value,) = set(map(json.dumps, request.values())) - set(
                map(json.dumps, CORRELATED.values())
            )
            assert json.loads(value) in (None, [], ["1"] * 10_000), body[:200]
        else:
            refusal(response)


@pytest.mark.parametrize("path", ["search", "calculate-filter-correlation"])
def test_mlflows_routes_do_not_drop_a_filter_either(
    world_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Half a character is refused; everything else is left to MLflow."""
    from mlflow.server import app as theirs

    store = InsightsStore(with_driver(world_dsn), str(tmp_path))
    monkeypatch.setattr(handlers, "_tracking_store", store)
    insights_app.add_routes(theirs)
    insights_app.add_routes(theirs)
    url = f"/api/3.0/mlflow/traces/{path}"
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "1"}}
    good: dict[str, Any] = {"locations": [location]} if path == "search" else CORRELATED
    for name in ("filter", "order_by") if path == "search" else ("filter_string1", "base_filter"):
        for value, status in (("\ud800", 400), ("name = '\udfff'", 400), ("name = 'é😀'", 200)):
            if name == "order_by":
                value = value if status == 400 else "name"
                request = {**good, name: [value]}
            else:
                request = {**good, name: value}
            response = theirs.test_client().post(url, json=request)
            assert response.status_code == status, response.text
            if status == 400:
                refusal(response)
    close(store)


# ------------------------------------------------------------------- schemathesis

schema = schemathesis.openapi.from_dict(openapi.document())


@schema.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_routes_keep_to_the_document(app: Flask, case: schemathesis.Case[Any]) -> None:
    """With requests that the document allows, and with others."""
    case.operation.schema.app = app
    case.operation.app = app
    case.call_and_validate(
        checks=[
            checks.not_a_server_error,
            openapi_checks.status_code_conformance,
            openapi_checks.content_type_conformance,
            openapi_checks.response_schema_conformance,
            openapi_checks.negative_data_rejection,
            openapi_checks.unsupported_method,
        ]
    )
