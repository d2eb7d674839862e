"""`insights worker` as a background process, beside the development database.

``python -m insights_dev.index_worker start|stop|status`` serves the Makefile.
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
from dataclasses import asdict, dataclass
from pathlib import Path

from insights_dev.cluster import ROOT, say


@dataclass(frozen=True)
class IndexWorker:
    """A started worker and where it writes what it does."""

    pid: int
    log: str


def start(dsn: str, home: Path) -> IndexWorker:
    """Start a worker for the database; one that was started for ``home`` before is stopped."""
    stop(home)
    home.mkdir(parents=True, exist_ok=True)
    log = home / "worker.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "insights_py", "worker"],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # Not in the command line, which everybody on the machine can read.
            env={**os.environ, "INSIGHTS_DSN": dsn, "PYTHONPATH": str(ROOT)},
        )
    worker = IndexWorker(process.pid, str(log))
    _state(home).write_text(json.dumps(asdict(worker), indent=2) + "\n")
    return worker


def known(home: Path) -> IndexWorker | None:
    """The worker that was started for ``home`` if it still runs."""
    try:
        worker = IndexWorker(**json.loads(_state(home).read_text()))
    except FileNotFoundError:
        return None
    return worker if _runs(worker) else None


def stop(home: Path) -> bool:
    """End the worker of ``home``; whether there was one."""
    worker = known(home)
    if worker:
        os.kill(worker.pid, signal.SIGTERM)
        end = time.monotonic() + 10
        while _runs(worker) and time.monotonic() < end:
            time.sleep(0.05)
        if _runs(worker):
            os.kill(worker.pid, signal.SIGKILL)
    _state(home).unlink(missing_ok=True)
    return worker is not None


def _state(home: Path) -> Path:
    return home / "worker.json"


def _runs(worker: IndexWorker) -> bool:
    """Whether the process is the one started, not a later one of the same number."""
    with contextlib.suppress(ChildProcessError):  # it may be another process's child
        os.waitpid(worker.pid, os.WNOHANG)  # our own would stay as a zombie
    try:
        leads = os.getpgid(worker.pid) == worker.pid
    except ProcessLookupError:
        return False
    try:
        command = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    except OSError:  # no Linux
        return leads
    return leads and b"insights_py" in command


def main() -> int:
    """Runs one command; ``start`` needs the database's DSN."""
    parser = argparse.ArgumentParser(description="the worker that keeps the index up to date")
    parser.add_argument("command", choices=["start", "stop", "status"])
    parser.add_argument("--dsn", help="the database (start)")
    parser.add_argument("--home", type=Path, default=ROOT / ".dev")
    arguments = parser.parse_args()
    if arguments.command == "start":
        if not arguments.dsn:
            parser.error("start needs --dsn")
        print(start(arguments.dsn, arguments.home).log)
        return 0
    if arguments.command == "status":
        worker = known(arguments.home)
        print(f"process {worker.pid}" if worker else "not running")
        return 0 if worker else 3
    if stop(arguments.home):
        say("stopped the worker")
    return 0


if __name__ == "__main__":
    sys.exit(main())
