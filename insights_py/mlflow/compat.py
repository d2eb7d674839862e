"""Every inner part of MLflow's that the plugin uses, and whether it is as expected.

MLflow promises nothing about these between releases.  So no other module of the plugin
imports anything of MLflow's but its exception, and before a store is opened or a route
is added, `problems` and its like look at each part: that it is there and can be called
as it is called here.  What cannot be seen beforehand shows when a call fails;
`misfit` tells such a failure from a database's or a user's.  In all cases MLflow's own
code answers, which is worth more than no answer.

The module itself can be imported whatever MLflow looks like.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import ArgumentError, CompileError, InvalidRequestError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Flask, Response

    View = Callable[..., Response]

_missing: Exception | None = None
try:
    from mlflow import entities
    from mlflow.entities import Assessment, TraceInfo, TraceLocation, TraceState
    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
    from mlflow.protos.databricks_pb2 import (
        DEADLINE_EXCEEDED,
        ENDPOINT_NOT_FOUND,
        INTERNAL_ERROR,
        INVALID_PARAMETER_VALUE,
        PERMISSION_DENIED,
        TEMPORARILY_UNAVAILABLE,
    )
    from mlflow.server.constants import (
        ARTIFACT_ROOT_ENV_VAR,
        READ_REPLICA_BACKEND_STORE_URI_ENV_VAR,
    )
    from mlflow.store.tracking import (
        DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH,
        SEARCH_TRACES_DEFAULT_MAX_RESULTS,
    )
    from mlflow.store.tracking.dbmodels.models import SqlAssessments, SqlExperiment, SqlTraceInfo
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
    from mlflow.store.tracking.utils.trace_analytics import (
        COST_COLUMN_BY_KEY,
        PROMOTED_TRACE_METADATA_KEYS,
        TOKEN_COLUMN_BY_KEY,
    )
    from mlflow.tracing import analysis
    from mlflow.tracing.analysis import TraceFilterCorrelationResult
    from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey
    from mlflow.utils import validation
    from mlflow.utils.search_utils import SearchTraceUtils

    parse_experiment_ids = validation._parse_experiment_ids
    resolve_experiment_ids_and_locations = validation._resolve_experiment_ids_and_locations
except (ImportError, AttributeError) as error:
    _missing = error

__all__ = [
    "COST_COLUMN_BY_KEY",
    "DEADLINE_EXCEEDED",
    "ENDPOINT_NOT_FOUND",
    "INTERNAL_ERROR",
    "INVALID_PARAMETER_VALUE",
    "PERMISSION_DENIED",
    "PROMOTED_TRACE_METADATA_KEYS",
    "SEARCH_TRACES_DEFAULT_MAX_RESULTS",
    "TEMPORARILY_UNAVAILABLE",
    "TOKEN_COLUMN_BY_KEY",
    "Assessment",
    "MlflowException",
    "SearchTraceUtils",
    "SqlAlchemyStore",
    "SqlAssessments",
    "SqlExperiment",
    "SqlTraceInfo",
    "TraceFilterCorrelationResult",
    "TraceInfo",
    "TraceLocation",
    "TraceMetadataKey",
    "TraceState",
    "TraceTagKey",
    "WorkspaceAwareSqlAlchemyStore",
    "parse_experiment_ids",
    "resolve_experiment_ids_and_locations",
]

SERVER_VARIABLE = "_MLFLOW_SGI_NAME"
"""Environment variable by which ``mlflow server`` names the web server it has chosen."""


class _Call(NamedTuple):
    """A call that the plugin makes: so many positional arguments, then keywords."""

    owner: Any
    name: str
    positional: int
    keywords: tuple[str, ...] = ()

    def problem(self) -> str | None:
        """Why it could not be made."""
        where = getattr(self.owner, "__name__", str(self.owner)).rpartition(".")[2]
        function = getattr(self.owner, self.name, None)
        if function is None:
            return f"{where} has no {self.name}"
        try:
            inspect.signature(function).bind(
                *[None] * self.positional, **dict.fromkeys(self.keywords)
            )
        except (TypeError, ValueError) as error:
            return f"{where}.{self.name}: {error}"
        return None


# ---------------------------------------------------------------------- the store


def problems() -> list[str]:
    """What the tracking store needs of MLflow's and does not find, a phrase each."""
    if _missing is not None:
        return [str(_missing)]
    calls = [
        *(call for store in _stores() for call in _store_calls(store)),
        _Call(validation, "_parse_experiment_ids", 1),
        _Call(validation, "_resolve_experiment_ids_and_locations", 2),
        _Call(SearchTraceUtils, "parse_start_offset_from_page_token", 1),
        _Call(SearchTraceUtils, "parse_order_by_for_search_traces", 1),
        _Call(SqlAssessments, "to_mlflow_entity", 1),
        _Call(TraceLocation, "from_experiment_id", 1),
        _Call(
            entities,
            "TraceInfo",
            0,
            (
                "trace_id",
                "trace_location",
                "request_time",
                "execution_duration",
                "state",
                "tags",
                "trace_metadata",
                "client_request_id",
                "request_preview",
                "response_preview",
                "assessments",
            ),
        ),
        _Call(
            analysis,
            "TraceFilterCorrelationResult",
            0,
            (
                "npmi",
                "npmi_smoothed",
                "filter1_count",
                "filter2_count",
                "joint_count",
                "total_count",
            ),
        ),
    ]
    found = [problem for call in calls if (problem := call.problem()) is not None]
    for store in _stores():
        if not hasattr(store, "supports_workspaces"):
            found.append(f"{store.__name__} has no supports_workspaces")
        # The hook is of use only while MLflow asks it.
        sessions = inspect.unwrap(getattr(store, "find_completed_sessions", problems))
        if "_build_first_trace_filter_subquery" not in sessions.__code__.co_names:
            found.append(f"{store.__name__}.find_completed_sessions does not ask for the filter")
    return found


def _stores() -> tuple[type[SqlAlchemyStore], ...]:
    return SqlAlchemyStore, WorkspaceAwareSqlAlchemyStore


def _store_calls(store: type[SqlAlchemyStore]) -> list[_Call]:
    """Calls of a store's methods; the first argument is the store."""
    return [
        _Call(store, "__init__", 3, ("read_db_uri",)),
        _Call(store, "_validate_max_results_param", 2),
        _Call(store, "_trace_query", 2),
        _Call(store, "_filter_experiment_ids", 3),
        _Call(store, "_get_query", 3),
    ]


def override_problems(ours: type, names: Iterable[str]) -> list[str]:
    """Where a method of ``ours`` has other parameters than MLflow's, whose callers it gets."""
    found = []
    for store in _stores():
        for name in names:
            if not hasattr(store, name):
                found.append(f"{store.__name__} has no {name}")
                continue
            theirs, mine = (_parameters(getattr(owner, name)) for owner in (store, ours))
            if theirs != mine:
                wanted = ", ".join(parameter for parameter, _, _ in theirs)
                found.append(f"{store.__name__}.{name} has the parameters {wanted}")
    return found


def _parameters(function: Callable[..., Any]) -> list[tuple[str, Any, bool]]:
    """Names and kinds of parameters, and whether each must be given."""
    return [
        (parameter.name, parameter.kind, parameter.default is parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
    ]


#: What Python and SQLAlchemy raise when a thing is not what it was taken for.
_MISFITS = (
    ArgumentError,
    AttributeError,
    CompileError,
    ImportError,
    InvalidRequestError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)


def misfit(error: BaseException) -> bool:
    """Whether a failure looks like one of MLflow's inner parts not being what it was.

    MLflow's sessions wrap what goes wrong inside them.
    """
    if isinstance(error, MlflowException):
        return error.error_code == "INTERNAL_ERROR" and isinstance(error.__cause__, _MISFITS)
    return isinstance(error, _MISFITS)


def store_class(plain: type[Any], with_workspaces: type[Any]) -> type[Any]:
    """The one of the two that this process needs."""
    return with_workspaces if MLFLOW_ENABLE_WORKSPACES.get() else plain


def locations(artifact_uri: str | None) -> tuple[str, str | None]:
    """The artifact root for a store, and the address of its read replica.

    MLflow has one builder for servers, which knows of read replicas, and one for
    clients, which knows where the server around it keeps its artifacts.  A server
    names its artifact root, a client leaves it open.
    """
    if artifact_uri is None:
        root = os.environ.get(ARTIFACT_ROOT_ENV_VAR, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
        return root, None
    return artifact_uri, os.environ.get(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR)


def stock_store(store_uri: str, artifact_uri: str | None) -> SqlAlchemyStore:
    """MLflow's own store, opened by MLflow's own builder: the server's or the client's."""
    if artifact_uri is None:
        from mlflow.tracking._tracking_service import utils

        return cast("SqlAlchemyStore", utils._get_sqlalchemy_store(store_uri, artifact_uri))

    from mlflow.server.handlers import TrackingStoreRegistryWrapper

    store = TrackingStoreRegistryWrapper._get_sqlalchemy_store(store_uri, artifact_uri)
    return cast("SqlAlchemyStore", store)


def unguarded_order(order_by: Iterable[str]) -> str | None:
    """The first clause whose field basic-auth takes no notice of, where it guards this server.

    MLflow cannot order by assessments, so its guard lets such a clause pass, whether the
    user may read assessments or not.  What it cannot read needs every permission there.
    """
    # As MLflow asks it: other servers may have imported the module.
    guard = sys.modules.get("mlflow.server.auth")
    if guard is None or not guard.is_auth_enabled():
        return None
    for clause in order_by:
        try:
            kind, _, _ = SearchTraceUtils.parse_order_by_for_search_traces(clause)
        except MlflowException:
            continue
        if kind not in ("attribute", "tag", "request_metadata"):
            return clause
    return None


# --------------------------------------------------------------------- the server
#
# MLflow's server is imported by servers only, so each of these does it by itself.


def server_problems() -> list[str]:
    """What the routes need of MLflow's server and do not find, a phrase each."""
    if _missing is not None:
        return [str(_missing)]
    from mlflow.server import handlers
    from mlflow.utils import proto_json_utils

    calls = [
        _Call(handlers, "_get_paths", 1, ("version",)),
        _Call(handlers, "get_handler", 1),
        _Call(handlers, "catch_mlflow_exception", 1),
        _Call(handlers, "_disable_if_artifacts_only", 1),
        _Call(handlers, "_get_tracking_store", 0),
        _Call(handlers, "_add_static_prefix", 1),
        _Call(handlers, "_get_normalized_request_json", 0),
        _Call(proto_json_utils, "parse_dict", 2),
    ]
    found = [problem for call in calls if (problem := call.problem()) is not None]
    try:
        from mlflow.protos import service_pb2

        service_pb2.CalculateTraceFilterCorrelation  # noqa: B018
    except (ImportError, AttributeError) as error:
        found.append(str(error))
    return found


def flask_app() -> Flask:
    """MLflow's Flask app."""
    from mlflow.server import app

    return app


def asgi_app() -> FastAPI:
    """MLflow's ASGI app, which is built around the Flask app when it is first asked for."""
    from mlflow.server.fastapi_app import app

    return cast("FastAPI", app)


def paths(base_path: str, version: int) -> list[str]:
    """Where MLflow serves a route: for clients and for its UI, below its static prefix."""
    from mlflow.server import handlers

    return cast("list[str]", handlers._get_paths(base_path, version=version))


def static_prefix() -> str:
    """What MLflow puts before the path of each of its routes."""
    from mlflow.server import handlers

    return str(handlers._add_static_prefix("/")).rstrip("/")


def correlation() -> Response:
    """MLflow's answer of its own correlation route to the request at hand."""
    from mlflow.protos.service_pb2 import CalculateTraceFilterCorrelation
    from mlflow.server import handlers

    return cast("Response", handlers.get_handler(CalculateTraceFilterCorrelation)())


def request_body() -> Any:
    """What MLflow takes for the request's body; a text that says why where it is not JSON."""
    from mlflow.server import handlers

    try:
        return handlers._get_normalized_request_json()
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return str(error)


def unreadable_correlation(body: Any) -> str | None:
    """Why a body does not make a request for a correlation."""
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
    from mlflow.protos.service_pb2 import CalculateTraceFilterCorrelation
    from mlflow.utils.proto_json_utils import parse_dict

    try:
        parse_dict({} if body is None else body, CalculateTraceFilterCorrelation())
    except ParseError as error:
        return str(error)
    return None


def caught(view: View) -> View:
    """The view with MLflow's errors as responses."""
    from mlflow.server import handlers

    return cast("View", handlers.catch_mlflow_exception(view))


def served(view: View) -> View:
    """The view with MLflow's errors as responses, refused by servers of artifacts alone."""
    from mlflow.server import handlers

    answer = handlers.catch_mlflow_exception(handlers._disable_if_artifacts_only(view))
    return cast("View", answer)


def server_store() -> Any:
    """The server's tracking store."""
    from mlflow.server import handlers

    return handlers._get_tracking_store()
