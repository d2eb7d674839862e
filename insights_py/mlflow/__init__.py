"""MLflow's plugin: the tracking store and the server app that use the stored functions."""
