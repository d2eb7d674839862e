"""The entry point through which MLflow opens PostgreSQL tracking stores.

MLflow loads this module while ``import mlflow`` itself is still running, in
servers and in clients alike.  So it imports nothing of MLflow's, and nothing
heavy, before a store is asked for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from insights_py.mlflow.notices import warn_of_misfit

if TYPE_CHECKING:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

SWITCH = "MLFLOW_INSIGHTS"
"""Environment variable: ``off`` leaves MLflow's own store in charge."""

_ON = frozenset({"", "on", "true", "1", "yes"})
_OFF = frozenset({"off", "false", "0", "no"})


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
    """Open the tracking store of a ``postgresql`` URI, whatever its driver."""
    from insights_py.mlflow import compat

    store = _insights_store(store_uri, artifact_uri) if switched_on() else None
    return compat.stock_store(store_uri, artifact_uri) if store is None else store


def _insights_store(store_uri: str, artifact_uri: str | None) -> SqlAlchemyStore | None:
    """The store that uses the functions; None where MLflow's inner parts do not fit it."""
    from insights_py.mlflow import compat

    problems = compat.problems()
    try:
        if not problems:
            from insights_py.mlflow.store import OVERRIDDEN, InsightsStore, open_store

            problems = compat.override_problems(InsightsStore, OVERRIDDEN)
            if not problems:
                return open_store(store_uri, artifact_uri)
    except Exception as error:
        if not compat.misfit(error):
            raise
        problems = [f"{type(error).__name__}: {error}"]
    warn_of_misfit("; ".join(problems))
    return None
