"""The server app: MLflow's own, with routes beyond MLflow's added.

``mlflow server --app-name insights`` serves it.  The routes are added to the
Flask app that MLflow serves everything else from, so that they share its
workspaces, its security headers, its metrics and its static prefix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from insights_py.mlflow import compat
from insights_py.mlflow.plugin import warn_of_misfit

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Flask, Response

Route = tuple[str, int, list[str], Callable[..., "Response"]]


def create_app() -> FastAPI | Flask:
    """The app for the web server that ``mlflow server`` has chosen.

    Returns:
        MLflow's ASGI app for uvicorn, its WSGI app for gunicorn and waitress.
    """
    app = compat.flask_app()
    if problems := compat.server_problems():
        warn_of_misfit("; ".join(problems))
    else:
        add_routes(app)
    return compat.asgi_app() if os.environ.get(compat.SERVER_VARIABLE) == "uvicorn" else app


def add_routes(app: Flask) -> None:
    """Add the routes beyond MLflow's to its Flask app; once is enough."""
    for base_path, version, methods, view in routes():
        if view.__name__ in app.view_functions:
            continue
        for path in compat.paths(base_path, version):
            app.add_url_rule(path, view.__name__, view, methods=methods)


def insights_calculate_filter_correlation() -> Response:
    """``POST /api/2.0/mlflow/traces/calculate-filter-correlation``.

    The route of MLflow's first trials of trace correlation.  Requests are those
    of ``/api/3.0``; answers hold the counts under the names of both.
    """
    response = compat.correlation()
    if response.status_code == 200:
        answer: dict[str, Any] = json.loads(response.get_data())
        answer["filter_string1_count"] = answer["filter1_count"]
        answer["filter_string2_count"] = answer["filter2_count"]
        response.set_data(json.dumps(answer, indent=2))
    return response


def routes() -> list[Route]:
    """Base path, API version, methods and view of each.

    MLflow serves each under /api/<version>.0 for clients and under
    /ajax-api/<version>.0 for its UI.
    """
    from insights_py.mlflow.rest.views import views

    path = "/mlflow/traces/calculate-filter-correlation"
    return [(path, 2, ["POST"], insights_calculate_filter_correlation), *views()]
