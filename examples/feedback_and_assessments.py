"""Scores of users and judges on a trace, and how to find traces by them.

MLflow logs one assessment at a time: the prototype's ``client.log_feedback(...,
feedback={...})`` is a loop over `mlflow.log_feedback` today, and what the right
answer would have been is an expectation (`mlflow.log_expectation`).

    MLFLOW_TRACKING_URI=http://localhost:5001 python examples/feedback_and_assessments.py
"""

import mlflow
from mlflow.entities import AssessmentSource

SCORES = {"quality": 0.9, "user_rating": 5, "relevance": 0.85}
JUDGEMENTS = {"accuracy": "correct", "safety": "safe", "helpfulness": "very_helpful"}


@mlflow.trace(name="answer", span_type="CHAIN")
def answer(question: str) -> str:
    return f"An answer to: {question}"


def main() -> None:
    experiment_id = mlflow.set_experiment("feedback").experiment_id
    answer("How do I search traces?")
    trace_id = mlflow.get_last_active_trace_id()
    assert trace_id is not None
    mlflow.flush_trace_async_logging()

    user = AssessmentSource(source_type="HUMAN", source_id="user-42")
    for name, value in SCORES.items():
        mlflow.log_feedback(trace_id=trace_id, name=name, value=value, source=user)

    judge = AssessmentSource(source_type="LLM_JUDGE", source_id="gpt-4")
    for name, verdict in JUDGEMENTS.items():
        mlflow.log_feedback(trace_id=trace_id, name=name, value=verdict, source=judge)
    mlflow.log_expectation(trace_id=trace_id, name="topic", value="search")

    for filter_string in (
        "feedback.quality > 0.8 AND feedback.user_rating >= 4",
        "assessment.accuracy = 'correct' AND assessment.safety = 'safe'",
        "expectation.topic = 'search'",
    ):
        traces = mlflow.search_traces(
            locations=[experiment_id], filter_string=filter_string, return_type="list"
        )
        assert trace_id in [trace.info.trace_id for trace in traces]
        print(f"found by {filter_string}")


if __name__ == "__main__":
    main()
