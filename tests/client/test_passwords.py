"""Where the password comes from; nobody else on the machine sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from insights_dev import mlflow_server
from insights_dev.cluster import free_port
from tests.client.test_worker import until

WAYS = (
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICE",
    "service",
    "a URL with a service",
    "PGDATABASE",
    "INSIGHTS_DSN",
)
ROOT = str(Path(__file__).parents[2])


@dataclass(frozen=True)
class Way:
    """Arguments and environment that name the database."""

    arguments: Sequence[str]
    environment: Mapping[str, str]


class Address:
    """The parts of a DSN, and the files that may hold them."""

    def __init__(self, dsn: str, directory: Path) -> None:
        parts = urlsplit(dsn)
        assert parts.password
        self.dsn = dsn
        self.password = parts.password
        self.name = parts.path[1:]
        self.open = f"postgresql://{parts.username}@{parts.hostname}:{parts.port}/{self.name}"
        self.passwords = directory / "pgpass"
        self.passwords.write_text(f"*:*:*:{parts.username}:{self.password}\n")
        self.passwords.chmod(0o600)
        self.services = directory / "pg_service.conf"
        self.services.write_text(
            f"[traces]\nhost={parts.hostname}\nport={parts.port}\nuser={parts.username}\n"
            f"dbname={self.name}\npassword={self.password}\n"
        )
        self.variables = {
            "PGHOST": str(parts.hostname),
            "PGPORT": str(parts.port),
            "PGUSER": str(parts.username),
            "PGDATABASE": self.name,
            "PGPASSWORD": self.password,
        }

    def ways(self) -> dict[str, Way]:
        services = {"PGSERVICEFILE": str(self.services)}
        dsn = ("--dsn", self.open)
        return {
            "PGPASSWORD": Way(dsn, {"PGPASSWORD": self.password}),
            "PGPASSFILE": Way(dsn, {"PGPASSFILE": str(self.passwords)}),
            "PGSERVICE": Way((), {**services, "PGSERVICE": "traces"}),
            "service": Way(("--dsn", "service=traces"), services),
            "a URL with a service": Way(("--dsn", "postgresql://?service=traces"), services),
            "PGDATABASE": Way((), self.variables),
            "INSIGHTS_DSN": Way((), {"INSIGHTS_DSN": self.dsn}),
        }


@pytest.fixture
def address(dsn: str, tmp_path: Path) -> Address:
    return Address(dsn, tmp_path)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    rest = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**rest, "HOME": "/nowhere", "PYTHONPATH": ROOT, **more}


def command_lines(pid: int) -> str:
    """Those of a process and of all its descendants, as everybody sees them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return "\n".join((own, *(command_lines(int(child)) for child in children)))


def at_work(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            "select from pg_stat_activity"
            " where application_name = 'insights worker' and datname = current_database()"
        )
        return found.rowcount == 1


@pytest.mark.parametrize("way", WAYS)
def test_the_password_is_not_in_the_list_of_processes(address: Address, way: str) -> None:
    given = address.ways()[way]
    process = subprocess.Popen(
        [sys.executable, "-m", "insights_py", "worker", *given.arguments],
        env=environment(given.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until(lambda: at_work(address.dsn))
        assert address.password not in command_lines(process.pid)
        process.send_signal(signal.SIGTERM)
        text, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, text) == (0, "")


def test_a_password_in_an_argument_works_and_warns(address: Address) -> None:
    for form in (address.dsn, address.dsn.replace("postgresql:", "postgresql+psycopg:")):
        command = [sys.executable, "-m", "insights_py", "count", "--dsn", form]
        ended = subprocess.run(command, env=environment({}), capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (0, "0\n")
        assert ended.stderr.count("warning: ") == 1
        assert "the password in --dsn" in ended.stderr
        assert address.password not in ended.stderr


def test_a_terminal_is_asked(address: Address) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "insights_py", "worker", "--dsn", address.open],
        env=environment({}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        shown = b""
        end = time.monotonic() + 20
        while b": " not in shown:
            assert time.monotonic() < end
            shown += os.read(ours, 1000)
        assert shown.decode() == "Password for user postgres: "
        os.write(ours, address.password.encode() + b"\n")
        until(lambda: at_work(address.dsn))
        assert address.password not in command_lines(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(ours)


def test_without_a_terminal_nobody_is_asked(address: Address) -> None:
    command = [sys.executable, "-m", "insights_py", "count", "--dsn", address.open]
    ended = subprocess.run(
        command, env=environment({}), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert ended.returncode == 4
    assert "no password supplied" in ended.stderr


def test_what_works_for_mlflow_server(address: Address, tmp_path: Path) -> None:
    """MLFLOW_BACKEND_STORE_URI with the password, and a URI without it."""
    ways = [
        ("postgresql:///?service=traces", {"PGSERVICEFILE": str(address.services)}),
        (address.open, {"PGPASSFILE": str(address.passwords)}),
    ]
    for uri, variables in ways:
        server = mlflow_server.start(uri, tmp_path / "server", free_port(), environment=variables)
        try:
            assert address.password not in command_lines(server.pid)
        finally:
            mlflow_server.stop(tmp_path / "server")
