"""Stores on one database: MLflow's own and the plugin's, over the same real traces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from packaging.version import Version

from insights_dev import cluster, mlflow_server
from insights_py.mlflow.store import InsightsStore
from tests.conftest import Databases
from tests.mlflow import world as worlds

#: The release of MLflow that is tested with, to tell what stock does from release to release.
MLFLOW_RELEASE = Version(mlflow.__version__).release[:2]


@dataclass(frozen=True)
class TwoStores:
    """MLflow's store and the plugin's on one database, and what is in it."""

    stock: SqlAlchemyStore
    plugin: InsightsStore
    world: worlds.World
    dsn: str


def with_driver(dsn: str, driver: str = "psycopg") -> str:
    """The URL for SQLAlchemy with a driver of one's choice."""
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


def close(*stores: SqlAlchemyStore) -> None:
    """Give the connections back, so that the database can be dropped.

    MLflow keeps an engine per URL for the life of the process.
    """
    for store in stores:
        for engine in (store.engine, store.read_engine):
            if engine is not None:
                engine.dispose()


@pytest.fixture(scope="session")
def two_stores(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoStores]:
    """A seeded world, to be read only."""
    artifacts = str(tmp_path_factory.mktemp("artifacts"))
    with databases.fresh("insights") as dsn:
        stock = SqlAlchemyStore(with_driver(dsn), artifacts)
        plugin = InsightsStore(with_driver(dsn), artifacts)
        yield TwoStores(stock, plugin, worlds.build(stock), dsn)
        close(stock, plugin)


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    return str(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def live_server(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``mlflow server --app-name insights`` on a fresh database."""
    home = tmp_path_factory.mktemp("server")
    with databases.fresh("insights") as dsn:
        server = mlflow_server.start(dsn, home, cluster.free_port())
        try:
            yield server.url
        finally:
            mlflow_server.stop(home)


@pytest.fixture(scope="module")
def tracking_uri(live_server: str) -> Iterator[str]:
    """The live server's address, set as this process's tracking URI."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(live_server)
    yield live_server
    mlflow.set_tracking_uri(before)
