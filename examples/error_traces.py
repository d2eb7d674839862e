"""Operations that fail: status, error attributes, and the search for them.

MLFLOW_TRACKING_URI=http://localhost:5001 python examples/error_traces.py
"""

import mlflow


@mlflow.trace(name="error_prone_operation")
def risky_operation(data: dict[str, int]) -> int:
    try:
        with mlflow.start_span("validation") as span:
            if "amount" not in data:
                span.set_attributes({"error_type": "validation_failed"})
                # The exception that leaves the block sets the span's status to ERROR.
                raise ValueError("Invalid input data")

        with mlflow.start_span("processing") as span:
            result = 100 // data["amount"]
            span.set_outputs({"result": result})
            return result

    except Exception as error:
        root = mlflow.get_current_active_span()
        assert root is not None
        root.set_status("ERROR")
        root.set_attributes({"error_message": str(error), "error_type": type(error).__name__})
        raise


def main() -> None:
    experiment_id = mlflow.set_experiment("errors").experiment_id
    for data in ({"amount": 5}, {}, {"amount": 0}):
        try:
            risky_operation(data)
        except (ValueError, ZeroDivisionError) as error:
            print(f"{data}: {error}")
    mlflow.flush_trace_async_logging()

    for filter_string, least in (
        ("trace.status = 'ERROR'", 2),
        ("span.attributes['error_type'] = 'validation_failed'", 1),
        ("span.name = 'processing' AND span.status = 'ERROR'", 1),
        ("span.attributes['error_type'] IN ('ValueError', 'ZeroDivisionError')", 2),
    ):
        traces = mlflow.search_traces(
            locations=[experiment_id], filter_string=filter_string, return_type="list"
        )
        assert len(traces) >= least
        print(f"{len(traces)} by {filter_string}")


if __name__ == "__main__":
    main()
