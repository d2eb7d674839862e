"""``python -m examples.demo --dsn DSN``, the last step of ``make demo``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

# A few senders are faster than MLflow's ten, which wait for each other's rows.
os.environ.setdefault("MLFLOW_ASYNC_TRACE_LOGGING_MAX_WORKERS", "3")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from insights_dev import cluster, index_worker, mlflow_server

TRACES = 330
SEED = 7


def main() -> int:
    """Starts MLflow's server, logs traces, asks questions; 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Logs traces of three small applications and asks about them in every way.",
    )
    parser.add_argument("--dsn", required=True, help="a database with MLflow's tables and ours")
    parser.add_argument("--traces", type=int, default=TRACES, help="how many to log")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--home", type=Path, default=cluster.ROOT / ".dev")
    parser.add_argument("--port", type=int, default=mlflow_server.default_port())
    arguments = parser.parse_args()
    started = time.monotonic()
    cluster.say(f"starting MLflow with the insights app on {mlflow_server.HOST}:{arguments.port}")
    try:
        server = mlflow_server.start(arguments.dsn, arguments.home, arguments.port)
    except mlflow_server.MlflowServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    from examples.demo import report  # imports MLflow, which takes seconds

    right = report.run(arguments.dsn, server.url, traces=arguments.traces, seed=arguments.seed)
    print(f"\nDone in {time.monotonic() - started:.0f} s. The servers keep running:")
    print(f"  MLflow      {server.url}")
    print(f"  PostgreSQL  {arguments.dsn}")
    print(f"  log         {server.log}")
    worker = index_worker.known(arguments.home)
    if worker:
        print(f"  worker      {worker.log}")
    print("End them with: make stop")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
