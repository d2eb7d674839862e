"""The entry point through which MLflow opens PostgreSQL tracking stores.

MLflow loads this module while ``import mlflow`` itself is still running, in
servers and in clients alike.  So it imports nothing of MLflow's, and nothing
heavy, before a store is asked for.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

SWITCH = "MLFLOW_INSIGHTS"
"""Environment variable: ``off`` leaves MLflow's own store in charge."""

_ON = frozenset({"", "on", "true", "1", "yes"})
_OFF = frozenset({"off", "false", "0", "no"})

_logger = logging.getLogger(__name__)


def switched_on() -> bool:
    """Whether the environment lets the plugin take part.

    Raises:
        MlflowException: ``MLFLOW_INSIGHTS`` is neither on nor off.
    """
    value = os.environ.get(SWITCH, "").strip().lower()
    if value in _ON:
        return True
    if value in _OFF:
        return False

    from mlflow.exceptions import MlflowException

    raise MlflowException.invalid_parameter_value(
        f"{SWITCH}={os.environ[SWITCH]!r} is neither on nor off. Use 'on' or 'off'."
    )


def build_store(store_uri: str, artifact_uri: str | None = None) -> SqlAlchemyStore:
    """Open the tracking store of a ``postgresql`` URI, whatever its driver.

    MLflow has one builder for servers, which knows of read replicas, and one
    for clients, which knows where the server around it keeps its artifacts.
    Plugins get one entry point for both, so this does the work of the two: a
    server names its artifact root, a client leaves it open.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
    from mlflow.server.constants import (
        ARTIFACT_ROOT_ENV_VAR,
        READ_REPLICA_BACKEND_STORE_URI_ENV_VAR,
    )
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH

    read_db_uri = None
    if artifact_uri is None:
        artifact_uri = os.environ.get(ARTIFACT_ROOT_ENV_VAR, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    else:
        read_db_uri = os.environ.get(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR)
    store_class = _store_class(workspaces=MLFLOW_ENABLE_WORKSPACES.get())
    return store_class(store_uri, artifact_uri, read_db_uri=read_db_uri)


def _store_class(*, workspaces: bool) -> type[SqlAlchemyStore]:
    if switched_on():
        try:
            from insights_py.mlflow.store import InsightsStore, WorkspaceAwareInsightsStore
        except ImportError as error:
            # The store builds on inner parts of MLflow's.  Where a later MLflow
            # has moved them, a server without our answers beats no server.
            _logger.warning(
                "This version of MLflow is not supported by its insights plugin (%s). "
                "Trace search is MLflow's own until the plugin is upgraded.",
                error,
            )
        else:
            return WorkspaceAwareInsightsStore if workspaces else InsightsStore

    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

    return WorkspaceAwareSqlAlchemyStore if workspaces else SqlAlchemyStore
