"""The server app: MLflow's own, with routes beyond MLflow's added.

``mlflow server --app-name insights`` serves it.  The routes are added to the
Flask app that MLflow serves everything else from, so that they share its
workspaces, its security headers, its metrics and its static prefix.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from mlflow.environment_variables import _MLFLOW_SGI_NAME
from mlflow.protos.service_pb2 import CalculateTraceFilterCorrelation
from mlflow.server import handlers

from insights_py.mlflow.rest.bodies import BodyLimit, bounded
from insights_py.mlflow.rest.views import views

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Flask, Response

Route = tuple[str, int, list[str], Callable[..., "Response"]]


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
    for base_path, version, methods, view in ROUTES:
        if view.__name__ in app.view_functions:
            continue
        for path in handlers._get_paths(base_path, version=version):
            app.add_url_rule(path, view.__name__, view, methods=methods)


def insights_calculate_filter_correlation() -> Response:
    """``POST /api/2.0/mlflow/traces/calculate-filter-correlation``.

    The route of MLflow's first trials of trace correlation.  Requests are those
    of ``/api/3.0``; answers hold the counts under the names of both.
    """
    response: Response = handlers.get_handler(CalculateTraceFilterCorrelation)()
    if response.status_code == 200:
        answer: dict[str, Any] = json.loads(response.get_data())
        answer["filter_string1_count"] = answer["filter1_count"]
        answer["filter_string2_count"] = answer["filter2_count"]
        response.set_data(json.dumps(answer, indent=2))
    return response


# Base path, API version, methods, view.  MLflow serves each under /api/<version>.0
# for clients and under /ajax-api/<version>.0 for its UI.
ROUTES: list[Route] = [
    (
        "/mlflow/traces/calculate-filter-correlation",
        2,
        ["POST"],
        bounded(insights_calculate_filter_correlation),
    ),
    *views(),
]
