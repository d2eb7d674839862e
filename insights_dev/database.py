"""The development database: MLflow's schema and ours.

``python -m insights_dev.database SERVER_DSN`` serves ``make db``: it makes the
database ``mlflow`` on that server, or brings it up to date with its index, leaves
a worker running that keeps the index so, and prints the database's DSN.
"""

from __future__ import annotations

import argparse
import sys

import psycopg
from psycopg import sql

from insights_dev import index_worker
from insights_dev.cluster import ROOT, say

NAME = "mlflow"


def migrate_mlflow(dsn: str) -> None:
    """Creates MLflow's tables, or upgrades them to the installed MLflow."""
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(_sqlalchemy_url(dsn))
    try:
        utils._safe_initialize_tables(engine)
        utils._upgrade_db(engine)
    finally:
        engine.dispose()


def install_insights(dsn: str) -> None:
    """Installs this project the way users do; what an older state made is brought up to date."""
    from insights_py.install import install

    install(dsn)


def build_index(dsn: str) -> None:
    """Indexes the traces that are there, if that has not been done."""
    from insights_py.worker import build

    for _ in build(dsn):
        pass


def create(server_dsn: str, name: str = NAME) -> str:
    """Makes the database ``name`` unless it exists; its DSN."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        known = connection.execute("select from pg_database where datname = %s", [name]).fetchone()
        if known is None:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return server_dsn.rpartition("/")[0] + "/" + name


def _sqlalchemy_url(dsn: str) -> str:
    return dsn.replace("postgresql://", "postgresql+psycopg://", 1)


def main() -> int:
    """Makes the database and prints its DSN as the last line."""
    parser = argparse.ArgumentParser(description="the development database")
    parser.add_argument("server_dsn", help="any database of the server, as superuser")
    parser.add_argument("--name", default=NAME)
    arguments = parser.parse_args()
    index_worker.stop(ROOT / ".dev")
    dsn = create(arguments.server_dsn, arguments.name)
    say("running MLflow's migrations")
    migrate_mlflow(dsn)
    say("installing the trace functions")
    install_insights(dsn)
    build_index(dsn)
    say("starting the worker that keeps the index up to date")
    index_worker.start(dsn, ROOT / ".dev")
    print(dsn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
