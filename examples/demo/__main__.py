"""``python -m examples.demo``: the whole thing from nothing, see `make demo`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

# A few senders are faster than MLflow's ten, which wait for each other's rows.
os.environ.setdefault("MLFLOW_ASYNC_TRACE_LOGGING_MAX_WORKERS", "3")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from insights_dev import cluster, database, mlflow_server

TRACES = 330
SEED = 7


def main() -> int:
    """Starts everything, logs traces, asks questions; 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--traces", type=int, default=TRACES, help="how many to log")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--home", type=Path, default=cluster.ROOT / ".dev")
    pg_port = os.environ.get("INSIGHTS_PG_PORT") or cluster.DEFAULT_PORT
    parser.add_argument("--pg-port", type=int, default=pg_port)
    parser.add_argument("--mlflow-port", type=int, default=mlflow_server.default_port())
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        server = cluster.up(arguments.home, arguments.pg_port)
        cluster.say("preparing database mlflow: MLflow's migrations, then ours")
        dsn = database.create(server.dsn())
        database.migrate_mlflow(dsn)
        database.install_insights(dsn)
        cluster.say(f"starting MLflow on {mlflow_server.HOST}:{arguments.mlflow_port}")
        mlflow = mlflow_server.start(dsn, arguments.home, arguments.mlflow_port)
    except (cluster.ClusterError, mlflow_server.MlflowServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    from . import report  # imports MLflow, which takes seconds

    agreed = report.run(dsn, mlflow.url, traces=arguments.traces, seed=arguments.seed)
    print(f"\nThe servers keep running (make stop ends them); {time.monotonic() - started:.0f} s.")
    print(f"  MLflow      {mlflow.url}")
    print(f"  PostgreSQL  {dsn}")
    print(f"  Logs        {mlflow.log}")
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
