"""The PostgreSQL server that the tests use.

Where a Docker engine answers it is a container of the project's own image
(``Dockerfile.postgres``), managed by testcontainers.  Everywhere else it is a
private cluster made of this machine's PostgreSQL.  ``INSIGHTS_TEST_SERVER`` set
to ``container`` or ``cluster`` insists on one of them.  There is no third way:
without a server the tests fail.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from insights_dev import cluster
from insights_dev.cluster import Server


@contextmanager
def running_server() -> Iterator[Server]:
    """A fresh server for one test session."""
    choice = os.environ.get("INSIGHTS_TEST_SERVER") or (
        "container" if _engine_answers() else "cluster"
    )
    if choice not in ("container", "cluster"):
        raise ValueError(f"INSIGHTS_TEST_SERVER is {choice!r}, not container or cluster")
    with _container() if choice == "container" else _cluster() as server:
        yield server


def _engine_answers() -> bool:
    from docker.client import DockerClient
    from docker.errors import DockerException

    try:
        client = DockerClient.from_env(timeout=10)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except DockerException:
        return False
    finally:
        client.close()


@contextmanager
def _container() -> Iterator[Server]:
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.image import DockerImage

    image = DockerImage(
        path=str(cluster.ROOT),
        dockerfile_path="Dockerfile.postgres",
        tag=cluster.IMAGE,
        clean_up=False,
    ).build()
    container = PostgresContainer(
        image=str(image),
        username=cluster.SUPERUSER,
        password="insights",
        dbname="postgres",
        driver=None,
    ).with_command("postgres -c fsync=off -c synchronous_commit=off -c timezone=UTC")
    with container:
        yield Server(
            "container",
            container.get_wrapped_container().name,
            int(container.get_exposed_port(5432)),
            "insights",
            host=container.get_container_host_ip(),
        )


@contextmanager
def _cluster() -> Iterator[Server]:
    with private_cluster() as server:
        yield server


@contextmanager
def private_cluster(
    settings: Mapping[str, str] | None = None, purpose: str = "tests", home: Path | None = None
) -> Iterator[Server]:
    """A private cluster of this machine's PostgreSQL, with settings beside the usual ones.

    ``home``: an empty directory for it, which stays.
    """
    binaries = cluster.binaries_or_install()
    if binaries is None:
        raise cluster.ClusterError(
            "The tests need PostgreSQL 14 or later with PL/Python, or a Docker engine; some need "
            "the former.\nDebian 12: apt-get install postgresql-15 postgresql-plpython3-15"
        )
    with _home(purpose) if home is None else nullcontext(home) as place:
        server = cluster.create(place, binaries, cluster.free_port())
        with (Path(server.home) / "postgresql.conf").open("a") as configuration:
            for name, value in (settings or {}).items():
                configuration.write(f"{name} = '{value}'\n")
        cluster.start(server)
        try:
            yield server
        finally:
            cluster.stop(server)


@contextmanager
def _home(purpose: str) -> Iterator[Path]:
    # Under /var/tmp since the clone may lie where the server's account cannot go.
    home = Path(tempfile.mkdtemp(prefix=f"insights-{purpose}-", dir="/var/tmp"))
    home.chmod(0o711)
    try:
        yield home
    finally:
        shutil.rmtree(home)
