"""The server app: MLflow's own, with routes beyond MLflow's added.

``mlflow server --app-name insights`` serves it.  The routes are added to the
Flask app that MLflow serves everything else from, so that they share its
workspaces, its security headers, its metrics and its static prefix.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from flask import Response

from insights_py.mlflow import compat
from insights_py.mlflow.notices import warn_of_misfit

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
    app = compat.flask_app()
    problems = compat.server_problems()
    if problems:
        warn_of_misfit("; ".join(problems))
    else:
        add_routes(app)
    if os.environ.get(compat.SERVER_VARIABLE) != "uvicorn":
        return app
    asgi_app = compat.asgi_app()
    if not problems:
        _bound_bodies(asgi_app)
    return asgi_app


def _bound_bodies(app: FastAPI) -> None:
    from insights_py.mlflow.rest.bodies import BodyLimit

    known: list[Any] = [middleware.cls for middleware in app.user_middleware]
    if BodyLimit not in known:
        # How the paths of our routes begin, up to the names that a path may have instead.
        paths = [
            path.partition("<")[0]
            for base_path, version, _, _ in routes()
            for path in compat.paths(base_path, version)
        ]
        app.add_middleware(BodyLimit, paths=paths)


def add_routes(app: Flask) -> None:
    """Add the routes beyond MLflow's to its Flask app; once is enough."""
    added = routes()
    if all(view.__name__ in app.view_functions for *_, view in added):
        return
    guarded = {path for base in _GUARDED for path in compat.paths(base, 3)}
    for endpoint in {rule.endpoint for rule in app.url_map.iter_rules() if rule.rule in guarded}:
        app.view_functions[endpoint] = _refuses_no_unicode(app.view_functions[endpoint])
    for base_path, version, methods, view in added:
        for path in compat.paths(base_path, version):
            app.add_url_rule(path, view.__name__, view, methods=methods)


def insights_calculate_filter_correlation() -> Response:
    """``POST /api/2.0/mlflow/traces/calculate-filter-correlation``.

    The route of MLflow's first trials of trace correlation.  Requests are those
    of ``/api/3.0``; answers hold the counts under the names of both.
    """
    if (body := compat.request_body()) is not None and not isinstance(body, dict):
        return _refusal("The body must be a JSON object such as {}.")
    response = compat.correlation()
    if response.status_code == 200:
        # MLflow goes on without a field that cannot be read, as long as its check, which
        # knows each by one of its two names, has nothing against it.
        if unreadable := compat.unreadable_correlation(body):
            return _refusal(f"The body cannot be read: {unreadable}")
        answer: dict[str, Any] = json.loads(response.get_data())
        answer["filter_string1_count"] = answer["filter1_count"]
        answer["filter_string2_count"] = answer["filter2_count"]
        response.set_data(json.dumps(answer, indent=2))
    return response


def _refuses_no_unicode(view: Callable[..., Any]) -> Callable[..., Any]:
    """The view of a route, which refuses texts with half a character.

    Protocol buffers do not take them, and MLflow goes on as if there were no such field:
    for a filter, with all traces.
    """

    @wraps(view)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if found := _surrogate(compat.request_body()):
            return _refusal(
                f"The body is no Unicode text: it has the lone surrogate U+{ord(found):04X}."
            )
        return view(*args, **kwargs)

    return compat.caught(checked)


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
    error = compat.MlflowException(message, compat.INVALID_PARAMETER_VALUE)
    return Response(error.serialize_as_json(), 400, mimetype="application/json")


def routes() -> list[Route]:
    """Base path, API version, methods and view of each.

    MLflow serves each under /api/<version>.0 for clients and under
    /ajax-api/<version>.0 for its UI.
    """
    from insights_py.mlflow.rest.bodies import bounded
    from insights_py.mlflow.rest.views import views

    path = "/mlflow/traces/calculate-filter-correlation"
    view = bounded(_refuses_no_unicode(insights_calculate_filter_correlation))
    return [(path, 2, ["POST"], view), *views()]
