"""A pseudo-terminal to run the command line in."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def environment(directory: Path, dsn: str) -> dict[str, str]:
    """An environment with ``insights`` on the PATH, a script in ``directory``."""
    script = directory / "insights"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m insights_py "$@"\n')
    script.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{directory}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "INSIGHTS_DSN": dsn,
    }


def screen(dsn: str, columns: int, *arguments: str, term: str = "xterm-256color") -> str:
    """What ``insights`` writes to a terminal of this width, standard error included."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "INSIGHTS_DSN": dsn}
    command = [sys.executable, "-m", "insights_py", *arguments]
    return in_terminal(command, columns, {**env, "TERM": term})


def in_terminal(command: Sequence[str], columns: int, env: dict[str, str]) -> str:
    """What a command writes to a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={name: value for name, value in env.items() if name not in ("COLUMNS", "NO_COLOR")},
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            # How Linux says that the other side is closed.
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    process.wait(30)
    return written.decode().replace("\r\n", "\n")
