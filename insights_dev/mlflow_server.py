"""MLflow's server with this project's app, as a background process.

``python -m insights_dev.mlflow_server start|stop|status`` serves the Makefile;
the demo, the examples' tests and the end-to-end tests use `start` and `stop`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from insights_dev.cluster import ROOT, free_port, port_is_busy, say

DEFAULT_PORT = 5001
HOST = "127.0.0.1"
WORKERS = 2
_START_SECONDS = 300
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The runner of evaluation jobs is ten processes more, which nothing here uses.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


class MlflowServerError(Exception):
    """The server cannot be had; the message says what to do about it."""


@dataclass(frozen=True)
class MlflowServer:
    """A started server; ``pid`` leads the process group of all its workers."""

    pid: int
    port: int
    log: str

    @property
    def url(self) -> str:
        """The address for a browser and for ``MLFLOW_TRACKING_URI``."""
        return f"http://{HOST}:{self.port}"


def default_port() -> int:
    """``INSIGHTS_MLFLOW_PORT``, or 5001."""
    return int(os.environ.get("INSIGHTS_MLFLOW_PORT") or DEFAULT_PORT)


def start(
    dsn: str,
    home: Path,
    port: int,
    *,
    app: str | None = "insights",
    environment: Mapping[str, str] | None = None,
) -> MlflowServer:
    """Start ``mlflow server`` on the database and wait until it answers.

    A server that was started for ``home`` before is stopped first, so the one
    returned runs the present code.

    Args:
        dsn: the database, as ``postgresql://`` URL.
        home: directory for log, process id and artifacts.
        port: TCP port on the loopback interface.
        app: MLflow's ``--app-name``; None for plain ``mlflow server``.
        environment: variables beside those of this process.
    """
    stop(home)
    if port_is_busy(port):
        raise MlflowServerError(
            f"port {port} of {HOST} is in use by another program.\n"
            f"Choose a free one: INSIGHTS_MLFLOW_PORT={free_port()} make demo"
        )
    home.mkdir(parents=True, exist_ok=True)
    log = home / "mlflow.log"
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", dsn, "--artifacts-destination", str(home / "artifacts")]
    command += ["--host", HOST, "--port", str(port), "--workers", str(WORKERS)]
    if app:
        command += ["--app-name", app]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            # Not the clone: there `import mlflow` could find a directory of that name.
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**_ENVIRONMENT, **os.environ, **(environment or {})},
        )
    server = MlflowServer(process.pid, port, str(log))
    _state(home).write_text(json.dumps(asdict(server), indent=2) + "\n")
    end = time.monotonic() + _START_SECONDS
    while not answers(server):
        if process.poll() is not None or time.monotonic() > end:
            what = "ended at once" if process.poll() is not None else "does not answer"
            stop(home)
            lines = log.read_text(errors="replace").splitlines()
            raise MlflowServerError(
                f"MLflow's server {what}; the end of {log}:\n  " + "\n  ".join(lines[-15:])
            )
        time.sleep(0.2)
    return server


def answers(server: MlflowServer) -> bool:
    """Whether the server serves requests."""
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def known(home: Path) -> MlflowServer | None:
    """The server that was started for ``home`` if its processes are still there."""
    try:
        server = MlflowServer(**json.loads(_state(home).read_text()))
    except FileNotFoundError:
        return None
    return server if _is_ours(server) else None


def stop(home: Path) -> bool:
    """End the server of ``home`` with all its workers; whether there was one."""
    server = known(home)
    if server:
        _signal(server, signal.SIGTERM)
        end = time.monotonic() + 10
        while _alive(server) and time.monotonic() < end:
            time.sleep(0.1)
        if _alive(server):
            _signal(server, signal.SIGKILL)
    _state(home).unlink(missing_ok=True)
    return server is not None


def _state(home: Path) -> Path:
    return home / "mlflow.json"


def _is_ours(server: MlflowServer) -> bool:
    """Whether the process is the one started, not a later one of the same number."""
    try:
        leads = os.getpgid(server.pid) == server.pid
    except ProcessLookupError:
        return _alive(server)
    try:
        command = Path(f"/proc/{server.pid}/cmdline").read_bytes()
    except OSError:  # no Linux
        return leads
    return leads and b"mlflow" in command


def _alive(server: MlflowServer) -> bool:
    """Whether the process group still has members that run."""
    with contextlib.suppress(ChildProcessError):  # it may be another process's child
        os.waitpid(server.pid, os.WNOHANG)  # our own would stay as a zombie
    try:
        os.killpg(server.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _signal(server: MlflowServer, number: signal.Signals) -> None:
    try:
        os.killpg(server.pid, number)
    except ProcessLookupError:
        return


def main() -> int:
    """Runs one command; ``start`` needs the database's DSN and prints the address."""
    parser = argparse.ArgumentParser(description="MLflow's server with the trace functions")
    parser.add_argument("command", choices=["start", "stop", "status"])
    parser.add_argument("--dsn", help="the database (start)")
    parser.add_argument("--home", type=Path, default=ROOT / ".dev")
    parser.add_argument("--port", type=int, default=default_port())
    arguments = parser.parse_args()
    try:
        if arguments.command == "start":
            if not arguments.dsn:
                parser.error("start needs --dsn")
            print(start(arguments.dsn, arguments.home, arguments.port).url)
            return 0
        server = known(arguments.home)
        if arguments.command == "status":
            print(server.url if server else "not running")
            return 0 if server else 3
        if stop(arguments.home):
            say("stopped MLflow's server")
    except MlflowServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
