"""What the plugin says once, in MLflow's log.

Imports nothing of MLflow's, which may still be being imported.
"""

from __future__ import annotations

import logging
import os

WARNED = "_MLFLOW_INSIGHTS_WARNED"
"""Environment variable: what has been warned of."""

_logger = logging.getLogger(__name__)


def warn_of_misfit(problem: str) -> None:
    """Say once that MLflow's own code answers, since its inner parts have changed."""
    if first_time("mlflow"):
        _logger.warning(
            "This version of MLflow is not supported by its insights plugin (%s). "
            "Trace search is MLflow's own until the plugin is upgraded.",
            problem,
        )


def first_time(warning: str) -> bool:
    """Whether a warning is due; ``warning`` has no spaces in it.

    Child processes inherit the variable, so that a server warns once and not once
    more from each of its workers.
    """
    warned = os.environ.get(WARNED, "").split()
    if warning in warned:
        return False
    os.environ[WARNED] = " ".join([*warned, warning])
    return True
