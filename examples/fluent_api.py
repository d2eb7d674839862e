"""Traces with the fluent API: a decorated function, spans, attributes, tags.

MLFLOW_TRACKING_URI=http://localhost:5001 python examples/fluent_api.py
"""

import mlflow
from mlflow import MlflowClient

DOCUMENTS = {
    "mlflow": "MLflow keeps experiments, models and traces.",
    "postgresql": "PostgreSQL is where MLflow keeps them here.",
}


def retrieve_documents(query: str) -> list[str]:
    return [text for word, text in DOCUMENTS.items() if word in query.lower()]


def generate(query: str, context: list[str]) -> str:
    return context[0] if context else f"I do not know: {query}"


@mlflow.trace(name="chat_completion")
def process_query(query: str) -> str:
    with mlflow.start_span("retrieve_context", span_type="RETRIEVER") as span:
        span.set_attributes({"query_length": len(query)})
        context = retrieve_documents(query)
        span.set_outputs({"num_docs": len(context)})

    with mlflow.start_span("generate_response", span_type="LLM") as span:
        span.set_attributes({"model": "gpt-4", "temperature": 0.7, "max_tokens": 500})
        response = generate(query, context)
        span.set_outputs({"response_length": len(response)})

    return response


def main() -> None:
    experiment_id = mlflow.set_experiment("fluent-api").experiment_id
    client = MlflowClient()

    print(process_query("What is MLflow?"))
    trace_id = mlflow.get_last_active_trace_id()
    mlflow.flush_trace_async_logging()  # spans are sent in the background

    client.set_trace_tag(trace_id, "environment", "production")
    client.set_trace_tag(trace_id, "version", "v1.2.0")

    traces = client.search_traces(
        locations=[experiment_id],
        filter_string="span.attributes['model'] = 'gpt-4' AND tags.version = 'v1.2.0'",
    )
    assert trace_id in [trace.info.trace_id for trace in traces]
    print(f"found {trace_id} by its model and its version")


if __name__ == "__main__":
    main()
