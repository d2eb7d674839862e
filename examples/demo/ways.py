"""Ways to ask the same question: SQL, REST, MLflow's client, the Python package."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import psycopg
from mlflow import MlflowClient
from mlflow.tracing.client import TracingClient

from insights_py import Correlation, Insights

PAGE = 500
"""Traces asked for: MLflow's largest page over REST, and more than the demo logs."""


@dataclass(frozen=True)
class Counts:
    """A correlation's answer, as far as all ways give it."""

    filter1: int
    filter2: int
    joint: int
    total: int
    npmi: float


@dataclass(frozen=True)
class Discovered:
    """A fact that a discovery has found, as far as the demo shows it."""

    filter: str
    target_count: int
    fact_count: int
    joint_count: int
    total_count: int
    target_share: float
    other_share: float
    odds_ratio_low: float
    p_value: float
    q_value: float
    tested: int

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """The fact, the target, both, all."""
        return self.fact_count, self.target_count, self.joint_count, self.total_count


class Ways:
    """Asks one experiment; each method returns an answer per way."""

    def __init__(self, dsn: str, url: str, experiment_id: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._insights = Insights(dsn, experiment_ids=[experiment_id])
        self._mlflow = MlflowClient(url)
        # MlflowClient has no method for correlations, this class has.
        self._tracing = TracingClient(url)
        self._url = url
        self._experiment_id = experiment_id

    def close(self) -> None:
        self._insights.close()
        self._connection.close()

    def search(self, filter_string: str, order_by: Sequence[str]) -> dict[str, list[str]]:
        """The ids of the traces that match, in order, by way."""
        rows = self._connection.execute(
            "select trace_id from insights_search(%s, %s, max_results => %s, order_by => %s)",
            [[self._experiment_id], filter_string, PAGE, list(order_by)],
        ).fetchall()
        answer = self._post(
            "/api/3.0/mlflow/traces/search",
            {
                "locations": [
                    {
                        "type": "MLFLOW_EXPERIMENT",
                        "mlflow_experiment": {"experiment_id": self._experiment_id},
                    }
                ],
                "filter": filter_string,
                "max_results": PAGE,
                "order_by": list(order_by),
            },
        )
        traces = self._mlflow.search_traces(
            locations=[self._experiment_id],
            filter_string=filter_string,
            max_results=PAGE,
            order_by=list(order_by),
            include_spans=False,
        )
        page = self._insights.search(filter_string, max_results=PAGE, order_by=list(order_by))
        return {
            "SQL: insights_search": [row[0] for row in rows],
            "REST: /api/3.0/.../search": [t["trace_id"] for t in answer.get("traces", [])],
            "MLflow: search_traces": [trace.info.trace_id for trace in traces],
            "Python: Insights.search": [trace.trace_id for trace in page],
        }

    def correlate(self, filter1: str, filter2: str) -> dict[str, Counts]:
        """The counts and the NPMI of two filters, by way."""
        row = self._connection.execute(
            "select filter1_count, filter2_count, joint_count, total_count, npmi"
            " from insights_correlate(%s, %s, %s)",
            [[self._experiment_id], filter1, filter2],
        ).fetchone()
        if row is None:
            raise RuntimeError("insights_correlate returned no row")
        body = {
            "experiment_ids": [self._experiment_id],
            "filter_string1": filter1,
            "filter_string2": filter2,
        }
        route = "/mlflow/traces/calculate-filter-correlation"
        v3 = self._post(f"/api/3.0{route}", body)
        v2 = self._post(f"/api/2.0{route}", body)
        client = self._tracing.calculate_trace_filter_correlation(
            experiment_ids=[self._experiment_id], filter_string1=filter1, filter_string2=filter2
        )
        own = self._insights.correlate(filter1, filter2)
        return {
            "SQL: insights_correlate": Counts(*row),
            "REST: /api/3.0/...": Counts(
                v3["filter1_count"],
                v3["filter2_count"],
                v3["joint_count"],
                v3["total_count"],
                v3["npmi"],
            ),
            "REST: /api/2.0/... (prototype)": Counts(
                v2["filter_string1_count"],
                v2["filter_string2_count"],
                v2["joint_count"],
                v2["total_count"],
                v2["npmi"],
            ),
            "MLflow: calculate_trace_filter_correlation": Counts(
                client.filter1_count,
                client.filter2_count,
                client.joint_count,
                client.total_count,
                client.npmi,
            ),
            "Python: Insights.correlate": Counts(
                own.filter1_count, own.filter2_count, own.joint_count, own.total_count, own.npmi
            ),
        }

    def discover(self, target: str, kinds: Sequence[str] | None) -> dict[str, list[Discovered]]:
        """Facts associated with a filter, the surest first, by way."""
        names = [field.name for field in fields(Discovered)]
        rows = self._connection.execute(
            f"select {', '.join(names)} from insights_discover(%s, %s, kinds => %s)".encode(),
            [[self._experiment_id], target, None if kinds is None else list(kinds)],
        ).fetchall()
        answer = self._post(
            "/api/3.0/mlflow/insights/discover",
            {"experiment_ids": [self._experiment_id], "target": target, "kinds": kinds},
        )
        own = self._insights.discover(target, kinds=kinds)
        return {
            "SQL: insights_discover": [Discovered(*row) for row in rows],
            "REST: /api/3.0/.../insights/discover": [
                Discovered(*(row[name] for name in names)) for row in answer["rows"]
            ],
            "Python: Insights.discover": [
                Discovered(*(getattr(fact, name) for name in names)) for fact in own
            ],
        }

    def statistics(self, filter1: str, filter2: str) -> Correlation:
        """All statistics of two filters."""
        return self._insights.correlate(filter1, filter2)

    def _post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)
