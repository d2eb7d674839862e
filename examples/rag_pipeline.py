"""A retrieval pipeline whose spans are started and ended by hand.

The prototype mixed ``mlflow.start_trace`` with spans of the fluent API, which
MLflow refuses today.  `mlflow.start_span_no_context` starts a trace with its
root span, and further spans below a parent that is named; each is ended by hand.

    MLFLOW_TRACKING_URI=http://localhost:5001 python examples/rag_pipeline.py
"""

import mlflow

QUERY = "Explain transformers"
PAGES = {"d1": "Attention weighs every token.", "d2": "Layers are stacked."}


def main() -> None:
    experiment_id = mlflow.set_experiment("rag").experiment_id

    root = mlflow.start_span_no_context(
        name="rag_process",
        span_type="CHAIN",
        inputs={"query": QUERY},
        tags={"pipeline_type": "rag", "customer_id": "12345"},
        metadata={"mlflow.trace.session": "session-1", "mlflow.trace.user": "user-7"},
    )

    retrieval = mlflow.start_span_no_context(
        name="retrieval",
        span_type="RETRIEVER",
        parent_span=root,
        # MLflow's annotation says text, and takes what JSON can hold.
        attributes={
            "index": "documentation",
            "top_k": 5,  # type: ignore[dict-item]
            "similarity_threshold": 0.7,  # type: ignore[dict-item]
        },
    )
    retrieval.end(outputs={"documents": list(PAGES)})

    summarize = mlflow.start_span_no_context(
        name="summarize_context",
        span_type="LLM",
        parent_span=root,
        attributes={"model": "gpt-3.5-turbo"},
    )
    summary = " ".join(PAGES.values())
    summarize.end(outputs={"summary": summary})

    generate = mlflow.start_span_no_context(
        name="generate_answer",
        span_type="LLM",
        parent_span=root,
        attributes={"model": "gpt-4", "temperature": 0.3},  # type: ignore[dict-item]
    )
    answer = f"In short: {summary}"
    generate.end(outputs={"answer": answer})

    root.end(outputs={"final_answer": answer})
    mlflow.flush_trace_async_logging()

    # Two different spans: any(...) for each.  One span with both: a plain AND.
    for filter_string in (
        "any(span.attributes['model'] = 'gpt-4') AND any(span.attributes['top_k'] = 5)",
        "span.attributes['model'] = 'gpt-4' AND span.attributes['temperature'] < 0.5",
        "count(span.type = 'LLM') = 2 AND tags.pipeline_type = 'rag' AND session = 'session-1'",
    ):
        traces = mlflow.search_traces(
            locations=[experiment_id], filter_string=filter_string, return_type="list"
        )
        assert root.trace_id in [trace.info.trace_id for trace in traces]
        print(f"found by {filter_string}")


if __name__ == "__main__":
    main()
