"""The routes as Flask views: they read a request, call the store, write the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from flask import Response, request

from insights_py.mlflow import compat
from insights_py.mlflow.compat import (
    ENDPOINT_NOT_FOUND,
    INVALID_PARAMETER_VALUE,
    TEMPORARILY_UNAVAILABLE,
    MlflowException,
)
from insights_py.mlflow.rest.bodies import bounded
from insights_py.mlflow.rest.kinds import Refused, nearest
from insights_py.mlflow.rest.openapi import document
from insights_py.mlflow.rest.routes import PREFIX, ROUTES, VERSION, Route

if TYPE_CHECKING:
    from insights_py.mlflow.store import InsightsStore

View = Callable[..., Response]

_NO_STORE = (
    "The trace functions are used by PostgreSQL stores with the insights plugin only. "
    "This server has another store, or MLFLOW_INSIGHTS=off."
)


def views() -> list[tuple[str, int, list[str], View]]:
    """Base path, API version, methods and view of each route."""
    anything_else = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return [
        *((f"{PREFIX}/{route.name}", VERSION, ["POST"], _view(route)) for route in ROUTES),
        (f"{PREFIX}/openapi.json", VERSION, ["GET"], insights_openapi),
        (f"{PREFIX}/{{name}}", VERSION, anything_else, insights_no_route),
    ]


def _view(route: Route) -> View:
    def answer() -> Response:
        try:
            arguments = route.arguments(_body())
        except Refused as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None
        rows = _store().call_function(route.function, arguments)
        return _response(route.answer(rows))

    answer.__name__ = f"insights_{route.name}"
    answer.__doc__ = f"``POST {route.path}``: {route.summary}."
    return compat.served(bounded(_only_json(answer)))


def _only_json(view: View) -> View:
    """The view, for bodies that say they are JSON; no body at all is as good as ``{}``."""

    @wraps(view)
    def checked() -> Response:
        if request.mimetype == "application/json" or not request.get_data():
            return view()
        given = request.mimetype[:60] or "none"
        return _error(
            415,
            MlflowException(
                f"The content type must be application/json, not {given}", INVALID_PARAMETER_VALUE
            ),
        )

    return checked


def _body() -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        Refused: the body is not JSON, or not an object.
    """
    body = request.get_data()
    if not body:
        return {}
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise Refused("The body is nested too deeply.") from None
    except ValueError as error:  # that it is no Unicode text included
        raise Refused(f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused("The body must be a JSON object such as {}.")
    return value


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no number in JSON")


def _store() -> InsightsStore:
    """The server's store.

    Raises:
        MlflowException: TEMPORARILY_UNAVAILABLE where it is not ours.
    """
    store = compat.server_store()
    if not hasattr(store, "call_function"):
        raise MlflowException(_NO_STORE, TEMPORARILY_UNAVAILABLE)
    return cast("InsightsStore", store)


def insights_openapi() -> Response:
    """``GET /api/3.0/mlflow/insights/openapi.json``: the document of the routes."""
    return _response(document(compat.static_prefix() or "/"))


def insights_no_route(name: str) -> Response:
    """What there is none of below the prefix, and another method of a route."""
    names = [route.name for route in ROUTES]
    if name in names or name == "openapi.json":
        allowed = "POST" if name in names else "GET"
        refused = _error(
            405,
            MlflowException(f"{name} takes {allowed}, not {request.method}", ENDPOINT_NOT_FOUND),
        )
        refused.headers["Allow"] = allowed
        return refused
    hint = nearest(name, names) or "There are: " + ", ".join(names)
    return _error(404, MlflowException(f"No such route. {hint}", ENDPOINT_NOT_FOUND))


def _error(status: int, error: MlflowException) -> Response:
    return Response(error.serialize_as_json(), status, mimetype="application/json")


def _response(answer: Any) -> Response:
    text = json.dumps(answer, allow_nan=False) + "\n"
    return Response(text, mimetype="application/json")
