"""How two filters go together: the client, and the REST route as with curl.

MLFLOW_TRACKING_URI=http://localhost:5001 python examples/correlation.py
"""

import json
import random
import urllib.request

import mlflow
from mlflow.tracing.client import TracingClient

RETRIEVAL = "count(span.type = 'RETRIEVER') > 0"
ACCURATE = "feedback.accuracy = 'high'"


def log_traces(count: int) -> None:
    """Traces with and without retrieval; those with it are mostly more accurate."""
    rng = random.Random(1)
    accuracy = {}
    for number in range(count):
        retrieves = number % 2 == 0
        with mlflow.start_span("answer", span_type="CHAIN") as root:
            if retrieves:
                with mlflow.start_span("search", span_type="RETRIEVER"):
                    pass
        accuracy[root.trace_id] = "high" if rng.random() < (0.9 if retrieves else 0.2) else "low"
    mlflow.flush_trace_async_logging()
    for trace_id, value in accuracy.items():
        mlflow.log_feedback(trace_id=trace_id, name="accuracy", value=value)


def main() -> None:
    experiment_id = mlflow.set_experiment("correlation").experiment_id
    log_traces(20)

    result = TracingClient().calculate_trace_filter_correlation(
        experiment_ids=[experiment_id], filter_string1=RETRIEVAL, filter_string2=ACCURATE
    )
    print(f"NPMI: {result.npmi:.3f}")
    print(f"Traces with retrieval: {result.filter1_count}")
    print(f"Traces with high accuracy: {result.filter2_count}")
    print(f"Traces with both: {result.joint_count}")
    print(f"Total traces: {result.total_count}")
    assert result.npmi > 0.2

    request = urllib.request.Request(
        f"{mlflow.get_tracking_uri()}/api/2.0/mlflow/traces/calculate-filter-correlation",
        json.dumps(
            {
                "experiment_ids": [experiment_id],
                "filter_string1": RETRIEVAL,
                "filter_string2": ACCURATE,
            }
        ).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
    print(f"The same over REST: {answer['npmi']:.3f}")
    assert answer["npmi"] == result.npmi
    assert answer["filter_string1_count"] == result.filter1_count


if __name__ == "__main__":
    main()
