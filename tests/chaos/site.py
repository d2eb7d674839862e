"""A server of its own for a campaign: MLflow's owner without special rights, and a worker.

The index lies on a small disk of its own where the machine lets us mount one (root may,
as a rule), so that it can be filled without MLflow's tables, or the machine, noticing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from insights_dev import cluster, database
from insights_dev.cluster import Server
from tests.servers import private_cluster

Connection = psycopg.Connection[Any]

DATABASE = "mlflow"
OWNER = "mlflow_owner"
READER = "trace_reader"
#: A member of the owner's role: what is set for it meets nobody else.
WORKER = "mlflow_worker"
PASSWORD = "secret"
#: The disk of the index, in bytes.
DISK = 64 * 2**20

SETTINGS = {
    "max_prepared_transactions": "20",
    # Commits last as they do in production, as far as a killed server goes.
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum_naptime": "1s",
    "deadlock_timeout": "200ms",
    "log_lock_waits": "on",
    "log_line_prefix": "%m [%p] %a ",
}


class Site:
    """A running server with MLflow's tables and the project in a database."""

    def __init__(self, server: Server, home: Path, disk: Path | None) -> None:
        self.server = server
        self.home = home
        self.disk = disk
        self.restarting = threading.Lock()

    # -------------------------------------------------------------- connections

    def dsn(self, role: str = "", application: str = "") -> str:
        """A URL for a role; as superuser without one."""
        server = replace(self.server, user=role, password=PASSWORD) if role else self.server
        url = server.dsn(DATABASE)
        return f"{url}?application_name={application}" if application else url

    def connect(self, role: str = "", application: str = "chaos") -> Connection:
        """Waits until the server answers."""
        end = time.monotonic() + 60
        while True:
            try:
                return psycopg.connect(self.dsn(role, application), autocommit=True)
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    # -------------------------------------------------------------------- server

    def postmaster(self) -> int:
        return int((Path(self.server.home) / "postmaster.pid").read_text().split()[0])

    def restart(self, mode: str) -> None:
        """``immediate``, as if the power had failed, or ``fast``."""
        with self.restarting:
            os.kill(self.postmaster(), {"immediate": signal.SIGQUIT, "fast": signal.SIGINT}[mode])
            end = time.monotonic() + 60
            while cluster.is_running(self.server):
                if time.monotonic() > end:
                    raise TimeoutError("the server does not stop")
                time.sleep(0.02)
            cluster.start(self.server)

    def log(self) -> str:
        return (Path(self.server.home) / "server.log").read_text(errors="replace")

    # ---------------------------------------------------------------------- disk

    @property
    def filler(self) -> Path:
        assert self.disk is not None
        return self.disk / "filler"

    def fill_disk(self) -> None:
        """Until there is not a byte left."""
        with self.filler.open("ab", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                while True:
                    try:
                        file.write(b"x" * size)
                    except OSError:
                        break

    def free_disk(self) -> None:
        self.filler.unlink(missing_ok=True)


def _mount(path: Path) -> bool:
    """A small disk at ``path``, if this process may mount."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "none", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def site() -> Iterator[Site]:
    """A fresh one."""
    home = Path(tempfile.mkdtemp(prefix="insights-chaos-", dir="/var/tmp"))
    home.chmod(0o711)
    small = home / "disk"
    small.mkdir()
    mounted = _mount(small)
    try:
        with private_cluster(SETTINGS, home=home) as server:
            made = Site(server, home, small if mounted else None)
            _furnish(made)
            yield made
    finally:
        if mounted:
            subprocess.run(["umount", str(small)], check=True)
        shutil.rmtree(home)


def _furnish(made: Site) -> None:
    """Roles, MLflow's tables, the project, and the index on its disk."""
    with psycopg.connect(made.server.dsn(), autocommit=True) as admin:
        for role in (OWNER, READER, WORKER):
            admin.execute(
                sql.SQL("create role {} login password {}").format(
                    sql.Identifier(role), sql.Literal(PASSWORD)
                )
            )
        admin.execute(
            sql.SQL("grant {} to {}").format(sql.Identifier(OWNER), sql.Identifier(WORKER))
        )
        admin.execute(
            sql.SQL("create database {} owner {}").format(
                sql.Identifier(DATABASE), sql.Identifier(OWNER)
            )
        )
        if made.disk is not None:
            space = made.disk / "space"
            space.mkdir(mode=0o700)
            owner = Path(made.server.home).stat()
            for directory in (made.disk, space):
                os.chown(directory, owner.st_uid, owner.st_gid)
            admin.execute(
                sql.SQL("create tablespace small location {}").format(sql.Literal(str(space)))
            )
    database.migrate_mlflow(made.dsn(OWNER))
    database.install_insights(made.dsn())
    with made.connect() as connection:
        connection.execute(
            sql.SQL("grant select on all tables in schema public to {}").format(
                sql.Identifier(READER)
            )
        )
        if made.disk is not None:
            for kind in ("table", "index"):
                relations = connection.execute(
                    "select c.oid::regclass::text from pg_class c"
                    " where c.relnamespace = 'insights'::regnamespace and c.relkind = %s",
                    [kind[0] if kind == "index" else "r"],
                ).fetchall()
                for (name,) in relations:
                    connection.execute(f"alter {kind} {name} set tablespace small".encode())


# ------------------------------------------------------------------------ the worker


class WorkerProcess(threading.Thread):
    """``insights worker`` as users run it; begun again if it ends, which is counted."""

    def __init__(self, made: Site) -> None:
        super().__init__(name="worker", daemon=True)
        self._site = made
        self._stopping = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self.ends: list[str] = []
        self.lines: list[str] = []

    def run(self) -> None:
        command = [sys.executable, "-u", "-m", "insights_py", "worker", "--poll", "0.05"]
        while not self._stopping.is_set():
            self._process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "INSIGHTS_DSN": self._site.dsn(WORKER)},
            )
            assert self._process.stdout is not None
            began = len(self.lines)
            for line in self._process.stdout:
                self.lines.append(line.rstrip())
            code = self._process.wait()
            if self._stopping.is_set():
                break
            said = self.lines[began:]
            if said and any("indexed" in line or "trying again" in line for line in said):
                self.ends.append(f"exit code {code}: {' / '.join(said[-3:])}")
            # Else it could not begin, since the server was down just then.
            time.sleep(0.5)

    def stop(self) -> None:
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
        self.join(30)
