"""The OpenAPI document of the routes.

``python -m insights_py.mlflow.rest.openapi > docs/openapi.json`` writes it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from insights_py.mlflow.rest.kinds import Schema
from insights_py.mlflow.rest.routes import PREFIX, ROUTES, VERSION, Route
from insights_py.version import __version__

PATH = f"/api/{VERSION}.0{PREFIX}/openapi.json"

_DESCRIPTION = (
    "The stored functions of MLflow trace insights. A field or column means what the argument or "
    "column of the same name means in SQL; `experiment_ids` is `exp_ids` there, `filter1` and "
    "`filter2` are `f1` and `f2`, which correlate takes as well. A field that is "
    "missing stands for its default.\n\n"
    "Numbers that are not finite are null. Times are in UTC. Where workspaces are enabled, the "
    "header `X-MLFLOW-WORKSPACE` chooses one, as everywhere in MLflow."
)

_ERROR: Schema = {
    "type": "object",
    "description": "MLflow's error.",
    "properties": {
        "error_code": {"type": "string"},
        "message": {
            "type": "string",
            "description": "Where a filter is wrong: the filter, a caret below the place, a hint.",
        },
    },
    "required": ["error_code", "message"],
}

# Status, and the name of the response below components.
_ERRORS = {
    "400": ("Refused", "The body, a field or a filter is wrong: INVALID_PARAMETER_VALUE."),
    "403": ("Forbidden", "The server's role may not read the tables or call the function."),
    "404": ("NotFound", "No such workspace."),
    "413": ("TooLarge", "The body has more than 4 MiB."),
    "415": ("NotJson", "The body's content type is not `application/json`."),
    "503": ("Unavailable", "No connection, or the database lacks the functions."),
    "504": ("Cancelled", "The statement was cancelled, as by `statement_timeout`."),
}


def document(server: str = "/") -> dict[str, Any]:
    """The document; ``server`` is the address that the paths are relative to."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MLflow trace insights",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "paths": {route.path: {"post": _operation(route)} for route in ROUTES},
        "components": {
            "schemas": {
                "Error": _ERROR,
                **{f"{route.name.capitalize()}Request": route.request_schema() for route in ROUTES},
                **{f"{route.name.capitalize()}Reply": route.reply_schema() for route in ROUTES},
            },
            "responses": {
                name: {"description": text, "content": _json("Error")}
                for name, text in _ERRORS.values()
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    name = route.name.capitalize()
    return {
        "operationId": route.name,
        "summary": route.summary,
        "requestBody": {
            "required": route.needs_body,
            "content": _json(f"{name}Request", example=dict(route.example)),
        },
        "responses": {
            "200": {"description": "The answer.", "content": _json(f"{name}Reply")},
            **{
                status: {"$ref": f"#/components/responses/{response}"}
                for status, (response, _) in _ERRORS.items()
            },
        },
    }


def _json(schema: str, **more: Any) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, **more}}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=2) + "\n")
