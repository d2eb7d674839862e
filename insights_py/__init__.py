"""Trace search and correlation for MLflow, inside PostgreSQL: the Python client.

>>> from insights_py import Insights
>>> with Insights("postgresql://mlflow@db/mlflow") as insights:
...     insights.count("span.status = 'ERROR'")

`Insights` and its asyncio twin `AsyncInsights` call the stored functions and
know nothing about filters; see docs/language.md for those.
"""

from insights_py.aio import AsyncInsights
from insights_py.analysis import (
    Bucket,
    Comparison,
    Discovery,
    Facet,
    Facets,
    Fact,
    Matrix,
    Pair,
    TimeSeries,
)
from insights_py.client import Insights
from insights_py.errors import (
    ArgumentError,
    Cancelled,
    ConnectionFailed,
    DatabaseError,
    FilterError,
    InsightsError,
    InstallError,
    NotInstalled,
    PermissionDenied,
)
from insights_py.rows import (
    Correlation,
    Experiment,
    ExplainStep,
    Explanation,
    IndexStatus,
    Page,
    Refresh,
    Status,
    Trace,
    Wrong,
)
from insights_py.version import __version__

__all__ = [
    "ArgumentError",
    "AsyncInsights",
    "Bucket",
    "Cancelled",
    "Comparison",
    "ConnectionFailed",
    "Correlation",
    "DatabaseError",
    "Discovery",
    "Experiment",
    "ExplainStep",
    "Explanation",
    "Facet",
    "Facets",
    "Fact",
    "FilterError",
    "IndexStatus",
    "Insights",
    "InsightsError",
    "InstallError",
    "Matrix",
    "NotInstalled",
    "Page",
    "Pair",
    "PermissionDenied",
    "Refresh",
    "Status",
    "TimeSeries",
    "Trace",
    "Wrong",
    "__version__",
]
