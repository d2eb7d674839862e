"""Searches, and what to read from the traces that they find.

MLFLOW_TRACKING_URI=http://localhost:5001 python examples/analyze_results.py
"""

import time

import mlflow

MS = 1_000_000


def log_trace(calls: int, seconds: int) -> str:
    """A trace of some model calls that together took this long."""
    now = time.time_ns()
    root = mlflow.start_span_no_context(
        "assistant",
        span_type="CHAIN",
        tags={"environment": "production"},
        start_time_ns=now - seconds * 1000 * MS,
    )
    for number in range(calls):
        call = mlflow.start_span_no_context(
            f"call_{number}",
            span_type="LLM",
            parent_span=root,
            attributes={"model": "gpt-4"},
            start_time_ns=now - seconds * 1000 * MS,
        )
        call.end(end_time_ns=now)
    root.end(end_time_ns=now)
    return root.trace_id


def main() -> None:
    experiment_id = mlflow.set_experiment("analysis").experiment_id
    slow = [log_trace(calls=4, seconds=7), log_trace(calls=1, seconds=4)]
    log_trace(calls=1, seconds=1)
    mlflow.flush_trace_async_logging()

    traces = mlflow.search_traces(
        locations=[experiment_id],
        filter_string="span.type = 'LLM' AND trace.execution_time_ms > 3000",
        order_by=["trace.execution_time_ms DESC", "trace.timestamp_ms DESC"],
        max_results=50,
        return_type="list",
    )
    print(f"Found {len(traces)} slow LLM traces")
    assert set(slow) <= {trace.info.trace_id for trace in traces}

    for trace in traces[:10]:
        print(f"Trace ID: {trace.info.trace_id}")
        print(f"Execution time: {trace.info.execution_duration} ms")
        print(f"Status: {trace.info.state}")
        llm_spans = [span for span in trace.data.spans if span.span_type == "LLM"]
        print(f"Number of LLM calls: {len(llm_spans)}")
        if trace.info.tags:
            print(f"Environment: {trace.info.tags['environment']}")
        print("---")


if __name__ == "__main__":
    main()
