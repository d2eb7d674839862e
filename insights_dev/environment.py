"""Makes ``.venv`` with the locked dependencies; standard library only.

``python3 insights_dev/environment.py`` does nothing if it is there and current.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements-dev.txt"
OLDEST = (3, 11)


def say(text: str) -> None:
    """Progress for people; standard output is left to results."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def fingerprint() -> str:
    """Changes whenever the environment has to be made anew."""
    digest = hashlib.sha256(LOCK.read_bytes())
    digest.update((ROOT / "pyproject.toml").read_bytes())
    digest.update(f"{ROOT} {sys.version_info[:2]}".encode())
    return digest.hexdigest()


def ensure_venv_module() -> None:
    """Debian keeps a part of the module venv in a package of its own."""
    if importlib.util.find_spec("ensurepip") is not None:
        return
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit(f"error: install the package {package} first: apt-get install {package}")
    say(f"installing {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--no-install-recommends", package]):
        subprocess.run(
            ["apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", *arguments],
            check=True,
            env=environment,
            stdout=sys.stderr,
        )


def pip(*arguments: str) -> None:
    """Runs ``pip install`` in the new environment."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    subprocess.run([*command, *arguments], check=True, stdout=sys.stderr)


def install_lock() -> None:
    """Installs what the lock names: by uv, which takes seconds, else by pip.

    uv knows nothing of pip's settings (an index of one's own, a certificate), so
    it may fail where pip succeeds.
    """
    uv_lines = re.search(r"^uv==.*(?:\n .*)*", LOCK.read_text(), re.MULTILINE)
    if uv_lines is None:
        raise SystemExit(f"error: {LOCK.name} has no uv")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as only_uv:
        only_uv.write(uv_lines.group() + "\n")
        only_uv.flush()
        pip("--quiet", "--require-hashes", "-r", only_uv.name)
    done = subprocess.run(
        [
            str(VENV / "bin" / "uv"),
            "pip",
            "install",
            "--python",
            str(VENV / "bin" / "python"),
            "--require-hashes",
            "--only-binary",
            ":all:",
            "-r",
            str(LOCK),
        ],
        check=False,
        stdout=sys.stderr,
    )
    if done.returncode:
        say("uv could not (see above); trying pip, which takes some minutes")
        pip("--require-hashes", "--only-binary", ":all:", "-r", str(LOCK))


def main() -> int:
    """Makes the environment if it is missing or out of date."""
    if sys.version_info < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise SystemExit(f"error: Python {wanted} or later is needed: make PYTHON=python{wanted}")
    stamp = VENV / "insights-stamp"
    current = fingerprint()
    if stamp.is_file() and stamp.read_text() == current:
        return 0
    ensure_venv_module()
    say("making .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    count = sum(1 for line in LOCK.read_text().splitlines() if line[:1].isalnum())
    say(f"installing {count} packages from {LOCK.name}")
    install_lock()
    pip("--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    stamp.write_text(current)
    return 0


if __name__ == "__main__":
    sys.exit(main())
