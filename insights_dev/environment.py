"""Makes ``.venv`` with the locked dependencies; standard library only.

``python3 insights_dev/environment.py`` does nothing if it is there and current.
``--mlflow 3.18.0`` makes ``.venv-mlflow-3.18.0`` beside it: the same lock, with
another release of MLflow in place of the locked one.
"""

from __future__ import annotations

import argparse
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
LOCK = ROOT / "requirements-dev.txt"
OLDEST = (3, 11)

#: What one release of MLflow consists of.  The first has all that the others have.
MLFLOW = ("mlflow", "mlflow-skinny", "mlflow-tracing")


def say(text: str) -> None:
    """Progress for people; standard output is left to results."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def directory(mlflow: str | None) -> Path:
    """Where the environment with this release of MLflow is; None: with the locked one."""
    return ROOT / (".venv" if mlflow is None else f".venv-mlflow-{mlflow}")


def fingerprint(mlflow: str | None) -> str:
    """Changes whenever the environment has to be made anew."""
    digest = hashlib.sha256(LOCK.read_bytes())
    digest.update((ROOT / "pyproject.toml").read_bytes())
    digest.update(f"{ROOT} {sys.version_info[:2]} {mlflow}".encode())
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


def pip(venv: Path, *arguments: str) -> None:
    """Runs pip in the new environment."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], check=True, stdout=sys.stderr)


def uv_install(venv: Path, *arguments: str) -> bool:
    """Whether ``uv pip install`` could install something in the new environment."""
    command = [str(venv / "bin" / "uv"), "pip", "install", "--python", str(venv / "bin" / "python")]
    return not subprocess.run([*command, *arguments], check=False, stdout=sys.stderr).returncode


def install_lock(venv: Path) -> None:
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
        pip(venv, "install", "--quiet", "--require-hashes", "-r", only_uv.name)
    locked = ("--require-hashes", "--only-binary", ":all:", "-r", str(LOCK))
    if not uv_install(venv, *locked):
        say("uv could not (see above); trying pip, which takes some minutes")
        pip(venv, "install", *locked)


def replace_mlflow(venv: Path, release: str) -> None:
    """Puts a release of MLflow into the place of the locked one.

    The packages of one release own the same files, so all go before one comes.
    Nothing else may change.  A release of which a part cannot be had, or that wants
    something newer than the lock has, is installed as it is.
    """
    pip(venv, "uninstall", "--quiet", "--yes", *MLFLOW)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as rest:
        for line in re.findall(r"^[\w.-]+==[^\\\n]+", LOCK.read_text(), re.MULTILINE):
            if line.partition("==")[0] not in MLFLOW:
                rest.write(f"{line}\n")
        rest.flush()
        whole = [f"{name}=={release}" for name in MLFLOW]
        if uv_install(venv, "--constraint", rest.name, *whole):
            return
    say(f"MLflow {release} cannot be had as a whole (see above): mlflow alone, without its needs")
    pip(venv, "install", "--quiet", "--no-deps", f"mlflow=={release}")


def main() -> int:
    """Makes the environment if it is missing or out of date."""
    parser = argparse.ArgumentParser(description="the development environment")
    parser.add_argument("--mlflow", metavar="RELEASE", help="instead of the locked one")
    release: str | None = parser.parse_args().mlflow
    if sys.version_info < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise SystemExit(f"error: Python {wanted} or later is needed: make PYTHON=python{wanted}")
    venv = directory(release)
    stamp = venv / "insights-stamp"
    current = fingerprint(release)
    if stamp.is_file() and stamp.read_text() == current:
        return 0
    ensure_venv_module()
    say(f"making {venv.name}")
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    count = sum(1 for line in LOCK.read_text().splitlines() if line[:1].isalnum())
    say(f"installing {count} packages from {LOCK.name}")
    install_lock(venv)
    if release is not None:
        replace_mlflow(venv, release)
    pip(venv, "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    stamp.write_text(current)
    return 0


if __name__ == "__main__":
    sys.exit(main())
