"""Runnable examples; each needs MLFLOW_TRACKING_URI."""
