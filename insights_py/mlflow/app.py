"""The server app: MLflow's own, with routes beyond MLflow's added.

``mlflow server --app-name insights`` serves it.  The routes are added to the
Flask app that MLflow serves everything else from, so that they share its
workspaces, its security headers, its metrics and its static prefix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from flask import Response
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
from mlflow.environment_variables import _MLFLOW_SGI_NAME
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.protos.service_pb2 import CalculateTraceFilterCorrelation
from mlflow.server import handlers
from mlflow.utils.proto_json_utils import parse_dict

from insights_py.mlflow.rest.bodies import BodyLimit, bounded
from insights_py.mlflow.rest.views import views

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Flask

Route = tuple[str, int, list[str], Callable[..., Response]]


# MLflow's routes whose requests have a filter of traces.
_GUARDED = ("/mlflow/traces/search", "/mlflow/traces/calculate-filter-correlation")


def create_app() -> FastAPI | Flask:
    """The app for the web server that ``mlflow server`` has chosen.

    Returns:
        MLflow's ASGI app for uvicorn, its WSGI app for gunicorn and waitress.
    """
    from mlflow.server import app

    add_routes(app)
    if _MLFLOW_SGI_NAME.get() != "uvicorn":
        return app

    # This module builds the ASGI app around the Flask app when it is imported.
    from mlflow.server.fastapi_app import app as asgi_app

    asgi_app = cast("FastAPI", asgi_app)
    known: list[Any] = [middleware.cls for middleware in asgi_app.user_middleware]
    if BodyLimit not in known:
        asgi_app.add_middleware(BodyLimit, paths=_paths())
    return asgi_app


def _paths() -> list[str]:
    """How the paths of our routes begin, up to the names that a path may have instead."""
    return [
        path.partition("<")[0]
        for base_path, version, _, _ in ROUTES
        for path in handlers._get_paths(base_path, version=version)
    ]


def add_routes(app: Flask) -> None:
    """Add the routes beyond MLflow's to its Flask app; once is enough."""
    if all(view.__name__ in app.view_functions for *_, view in ROUTES):
        return
    guarded = {path for base in _GUARDED for path in handlers._get_paths(base, version=3)}
    for endpoint in {rule.endpoint for rule in app.url_map.iter_rules() if rule.rule in guarded}:
        app.view_functions[endpoint] = _refuses_no_unicode(app.view_functions[endpoint])
    for base_path, version, methods, view in ROUTES:
        for path in handlers._get_paths(base_path, version=version):
            app.add_url_rule(path, view.__name__, view, methods=methods)


def insights_calculate_filter_correlation() -> Response:
    """``POST /api/2.0/mlflow/traces/calculate-filter-correlation``.

    The route of MLflow's first trials of trace correlation.  Requests are those
    of ``/api/3.0``; answers hold the counts under the names of both.
    """
    if (body := _body()) is not None and not isinstance(body, dict):
        return _refusal("The body must be a JSON object such as {}.")
    response: Response = handlers.get_handler(CalculateTraceFilterCorrelation)()
    if response.status_code == 200:
        # MLflow goes on without a field that cannot be read, as long as its check, which
        # knows each by one of its two names, has nothing against it.
        if unreadable := _unreadable(body):
            return _refusal(unreadable)
        answer: dict[str, Any] = json.loads(response.get_data())
        answer["filter_string1_count"] = answer["filter1_count"]
        answer["filter_string2_count"] = answer["filter2_count"]
        response.set_data(json.dumps(answer, indent=2))
    return response


def _body() -> Any:
    """What MLflow takes for the request's body; a text that says why where it is not JSON."""
    try:
        return handlers._get_normalized_request_json()
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return str(error)


def _unreadable(body: Any) -> str | None:
    """Why a body does not make a request for a correlation."""
    try:
        parse_dict({} if body is None else body, CalculateTraceFilterCorrelation())
    except ParseError as error:
        return f"The body cannot be read: {error}"
    return None


def _refuses_no_unicode(view: Callable[..., Any]) -> Callable[..., Any]:
    """The view of a route, which refuses texts with half a character.

    Protocol buffers do not take them, and MLflow goes on as if there were no such field:
    for a filter, with all traces.
    """

    @wraps(view)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if found := _surrogate(_body()):
            return _refusal(
                f"The body is no Unicode text: it has the lone surrogate U+{ord(found):04X}."
            )
        return view(*args, **kwargs)

    return cast("Callable[..., Any]", handlers.catch_mlflow_exception(checked))


def _surrogate(value: Any) -> str | None:
    """The first half of a character in the texts of a JSON value."""
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += [*value.values(), *value]
        elif isinstance(value, list):
            values += value
        elif isinstance(value, str) and (found := _SURROGATE.search(value)):
            return found[0]
    return None


_SURROGATE = re.compile("[\ud800-\udfff]")


def _refusal(message: str) -> Response:
    error = MlflowException(message, INVALID_PARAMETER_VALUE)
    return Response(error.serialize_as_json(), 400, mimetype="application/json")


# Base path, API version, methods, view.  MLflow serves each under /api/<version>.0
# for clients and under /ajax-api/<version>.0 for its UI.
ROUTES: list[Route] = [
    (
        "/mlflow/traces/calculate-filter-correlation",
        2,
        ["POST"],
        bounded(_refuses_no_unicode(insights_calculate_filter_correlation)),
    ),
    *views(),
]
