"""Benchmarks: MLflow's own store and the stored functions over the same traces."""
