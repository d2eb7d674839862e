"""A private PostgreSQL server for development, tests and the demo.

It never touches the system's own clusters: data, port and socket are its own.
It runs from the machine's PostgreSQL binaries.  Where they are missing, root on
a Debian system gets them installed, and others get a container if a Docker
engine answers.

``python -m insights_dev.cluster start|stop|status`` serves the Makefile.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 54329
IMAGE = "mlflow-insights-postgres:15"
SUPERUSER = "postgres"
# A Unix socket's path must fit in 107 bytes, ".s.PGSQL.65535" included.
_LONGEST_SOCKET_DIRECTORY = 90

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "100",
    # The data is disposable, and the disk need not be waited for.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


class ClusterError(Exception):
    """The server cannot be had; the message says what to do about it."""


@dataclass(frozen=True)
class Server:
    """A running server and how to reach it as a superuser.

    ``kind`` is ``cluster`` (our own processes, files under ``home``) or
    ``container`` (``home`` is the container's name).
    """

    kind: str
    home: str
    port: int
    password: str
    host: str = "127.0.0.1"
    user: str = SUPERUSER
    binaries: str = ""
    sockets: str = ""

    def dsn(self, database: str = "postgres") -> str:
        """The URL of a database of this server, in libpq's form."""
        account = f"{self.user}:{quote(self.password, safe='')}"
        return f"postgresql://{account}@{self.host}:{self.port}/{quote(database, safe='')}"


# ---------------------------------------------------------------- the machine


def say(text: str) -> None:
    """Progress for people; standard output is left to results."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def find_binaries() -> Path | None:
    """The newest PostgreSQL (14 or later) of this machine that has PL/Python."""
    found: list[tuple[int, Path]] = []
    candidates = list(Path("/usr/lib/postgresql").glob("*/bin"))
    on_path = shutil.which("pg_config")
    if on_path:
        candidates.append(Path(_output([on_path, "--bindir"])))
    chosen = os.environ.get("INSIGHTS_PG_BIN")
    for directory in [Path(chosen)] if chosen else candidates:
        if not (directory / "initdb").exists():
            continue
        version = re.search(r"\) (\d+)", _output([str(directory / "postgres"), "--version"]))
        shares = (directory.parent / "share", Path("/usr/share/postgresql") / directory.parent.name)
        controls = [
            control
            for share in shares
            for control in (
                *share.glob("extension/plpython3u.control"),
                *share.glob("postgresql/extension/plpython3u.control"),
            )
        ]
        if version and int(version.group(1)) >= 14 and controls:
            found.append((int(version.group(1)), directory))
    return max(found)[1] if found else None


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def docker_answers() -> bool:
    """Whether a Docker engine can be used from here."""
    if not shutil.which("docker"):
        return False
    probe = subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False)
    return probe.returncode == 0


def install_packages() -> None:
    """Installs PostgreSQL with PL/Python from Debian's packages, as root.

    The packages normally create and start a cluster of the system's; that is
    suppressed, unless the machine already had them.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}

    def apt(*arguments: str) -> None:
        command = ["apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", *arguments]
        result = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
        if result.returncode:
            raise ClusterError(f"{' '.join(command)} failed; its output is above")

    say("installing PostgreSQL with PL/Python from the system's packages")
    apt("update")
    names = _output(["apt-cache", "pkgnames", "postgresql-plpython3-"]).split()
    versions = sorted(int(n.rpartition("-")[2]) for n in names if n.rpartition("-")[2].isdigit())
    versions = [version for version in versions if version >= 14]
    if not versions:
        raise ClusterError("the system's packages have no postgresql-plpython3-14 or later")
    version = 15 if 15 in versions else versions[-1]
    configuration = Path("/etc/postgresql-common/createcluster.conf")
    fresh = not configuration.exists()
    apt("install", "--no-install-recommends", "postgresql-common")
    original = configuration.read_text()
    if fresh:
        configuration.write_text(original + "\ncreate_main_cluster = false\n")
    try:
        apt(
            "install",
            "--no-install-recommends",
            f"postgresql-{version}",
            f"postgresql-plpython3-{version}",
        )
    finally:
        if fresh:
            configuration.write_text(original)


def binaries_or_install() -> Path | None:
    """The machine's PostgreSQL; root on Debian gets it installed."""
    found = find_binaries()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install_packages()
        found = find_binaries()
    return found


# ------------------------------------------------------------ a private cluster


@dataclass(frozen=True)
class _Account:
    """Who runs the server: PostgreSQL refuses to run as root."""

    uid: int | None
    gid: int | None

    @staticmethod
    def choose() -> _Account:
        if os.geteuid() != 0:
            return _Account(None, None)
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return _Account(entry.pw_uid, entry.pw_gid)
        raise ClusterError("PostgreSQL refuses to run as root, and there is no user postgres")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in / (the current directory may be closed to the account)."""
        # A file, since a pipe would stay open as long as the server lives.
        with tempfile.TemporaryFile("w+") as log:
            done = subprocess.run(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.uid,
                group=self.gid,
                check=False,
                extra_groups=[] if self.uid is not None else None,
            )
            log.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, log.read(), "")

    def must(self, *command: str) -> None:
        done = self.run(*command)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)} failed:\n{done.stdout.strip()}")

    def give(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        if self.uid is not None and self.gid is not None:
            os.chown(directory, self.uid, self.gid)

    def reaches(self, directory: Path) -> bool:
        return self.run("/bin/sh", "-c", 'cd "$1"', "sh", str(directory)).returncode == 0


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_busy(port: int) -> bool:
    """Whether a program listens on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def create(home: Path, binaries: Path, port: int) -> Server:
    """Makes a new cluster under ``home`` (or beside it, see below); not started.

    Where the server's account cannot reach ``home``, as in a clone that only
    root can read, the data goes to a new directory under /var/tmp.
    """
    account = _Account.choose()
    home.mkdir(parents=True, exist_ok=True)
    base = home
    if account.uid is not None and not account.reaches(home):
        base = Path(tempfile.mkdtemp(prefix="insights-pg-", dir="/var/tmp"))
        base.chmod(0o711)
    data, sockets = base / "pgdata", base / "run"
    if len(str(sockets)) > _LONGEST_SOCKET_DIRECTORY:
        sockets = Path(tempfile.mkdtemp(prefix="insights-pg-", dir="/tmp"))
    account.give(data)
    account.give(sockets)
    password = secrets.token_urlsafe(16)
    password_file = sockets / "password"
    password_file.write_text(password)
    if account.uid is not None and account.gid is not None:
        os.chown(password_file, account.uid, account.gid)
    password_file.chmod(0o600)
    try:
        account.must(
            str(binaries / "initdb"),
            "--pgdata",
            str(data),
            "--username",
            SUPERUSER,
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth=scram-sha-256",
            "--pwfile",
            str(password_file),
            "--no-sync",
        )
    finally:
        password_file.unlink()
    with (data / "postgresql.conf").open("a") as configuration:
        for name, value in SETTINGS.items():
            configuration.write(f"{name} = '{value}'\n")
        configuration.write(
            "unix_socket_directories = '{}'\n".format(str(sockets).replace("'", "''"))
        )
    return Server(
        "cluster", str(data), port, password, binaries=str(binaries), sockets=str(sockets)
    )


def start(server: Server) -> None:
    """Starts the processes of a cluster and waits until they answer."""
    account = _Account.choose()
    data = Path(server.home)
    account.must(
        str(Path(server.binaries) / "pg_ctl"),
        "--pgdata",
        str(data),
        "--wait",
        "--timeout=60",
        "--log",
        str(data / "server.log"),
        "-o",
        f"-p {server.port}",
        "start",
    )


def is_running(server: Server) -> bool:
    """Whether the server's processes or container are there."""
    if server.kind == "container":
        done = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.Running}}", server.home],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() == "true"
    status = _Account.choose().run(
        str(Path(server.binaries) / "pg_ctl"), "--pgdata", server.home, "status"
    )
    return status.returncode == 0


def stop(server: Server, mode: str = "fast") -> None:
    """Stops the server; its data stays.  ``mode`` is pg_ctl's."""
    if server.kind == "container":
        subprocess.run(["docker", "stop", server.home], check=True, capture_output=True)
        return
    if is_running(server):
        _Account.choose().must(
            str(Path(server.binaries) / "pg_ctl"),
            "--pgdata",
            server.home,
            f"--mode={mode}",
            "--wait",
            "stop",
        )


def remove(server: Server) -> None:
    """Stops the server and deletes what it keeps."""
    stop(server)
    if server.kind == "container":
        subprocess.run(["docker", "rm", "--volumes", server.home], check=True, capture_output=True)
        return
    for directory in (server.home, server.sockets):
        shutil.rmtree(directory)
    base = Path(server.home).parent
    if base.name.startswith("insights-pg-"):
        base.rmdir()  # see create()


# ------------------------------------------------------------------ a container


def _docker(*arguments: str, **environment: str) -> None:
    """Runs docker; its output is progress, its failure is ours."""
    done = subprocess.run(
        ["docker", *arguments], check=False, stdout=sys.stderr, env={**os.environ, **environment}
    )
    if done.returncode:
        raise ClusterError(f"docker {arguments[0]} failed; its output is above")


def _start_container(name: str, port: int) -> Server:
    say(f"building {IMAGE}")
    _docker("build", "--file", str(ROOT / "Dockerfile.postgres"), "--tag", IMAGE, str(ROOT))
    # One of this name could be left from a start that failed.
    subprocess.run(["docker", "rm", "--force", "--volumes", name], check=False, capture_output=True)
    password = secrets.token_urlsafe(16)
    settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    _docker(
        *("run", "--detach", "--name", name, "--publish", f"127.0.0.1:{port}:5432"),
        *("--env", "POSTGRES_PASSWORD", IMAGE, "postgres", *settings),
        *("-c", "listen_addresses=*"),
        POSTGRES_PASSWORD=password,
    )
    server = Server("container", name, port, password)
    _wait_for_container(server)
    return server


def _wait_for_container(server: Server) -> None:
    _wait(
        lambda: _answers_inside(server),
        f"PostgreSQL does not answer; see: docker logs {server.home}",
    )


def _answers_inside(server: Server) -> bool:
    if not is_running(server):
        raise ClusterError(f"container {server.home} has ended; see: docker logs {server.home}")
    probe = ["docker", "exec", server.home, "pg_isready", "--quiet", "--host", "127.0.0.1"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def _wait(ready: Callable[[], bool], message: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise ClusterError(message)
        time.sleep(0.2)


# ------------------------------------------------------- the server under .dev/


def _state(home: Path) -> Path:
    return home / "server.json"


def load(home: Path) -> Server | None:
    """The server that was last started for ``home``, running or not."""
    try:
        return Server(**json.loads(_state(home).read_text()))
    except FileNotFoundError:
        return None


def _save(home: Path, server: Server) -> None:
    home.mkdir(parents=True, exist_ok=True)
    path = _state(home)
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(server), indent=2) + "\n")


def _exists(server: Server) -> bool:
    if server.kind == "cluster":
        return Path(server.home).is_dir()
    probe = ["docker", "inspect", server.home]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def up(home: Path, port: int) -> Server:
    """The running server of ``home``, on ``port``; made or started as needed."""
    known = load(home)
    if known and _exists(known):
        if known.port == port and is_running(known):
            return known
    else:
        known = None
    if port_is_busy(port):
        raise ClusterError(
            f"port {port} of 127.0.0.1 is in use by another program.\n"
            f"Choose a free one: INSIGHTS_PG_PORT={free_port()} make ..."
        )
    if known:
        stop(known)  # it may be running on another port
    if known and known.kind == "container" and known.port != port:
        remove(known)  # its port cannot be changed
        known = None
    if known is None:
        known = _make(home, port)
    elif known.kind == "container":
        _docker("start", known.home)
        _wait_for_container(known)
    else:
        known = Server(**{**asdict(known), "port": port})
    if known.kind == "cluster":
        say(f"starting PostgreSQL on 127.0.0.1:{port}")
        start(known)
    _save(home, known)
    return known


def _make(home: Path, port: int) -> Server:
    binaries = binaries_or_install()
    if binaries:
        say(f"creating a private cluster with {binaries}")
        return create(home, binaries, port)
    if docker_answers():
        return _start_container(f"insights-dev-{port}", port)
    raise ClusterError(
        "PostgreSQL with PL/Python is not installed, and no Docker engine answers.\n"
        "Install the packages (Debian 12): apt-get install postgresql-15 postgresql-plpython3-15\n"
        "or run this as root, or start Docker."
    )


def main() -> int:
    """Runs one command; ``start`` prints the DSN of database ``postgres``."""
    parser = argparse.ArgumentParser(description="the project's private PostgreSQL server")
    parser.add_argument("command", choices=["start", "stop", "status", "remove"])
    parser.add_argument("--home", type=Path, default=ROOT / ".dev")
    default = os.environ.get("INSIGHTS_PG_PORT") or str(DEFAULT_PORT)
    parser.add_argument("--port", type=int, default=default)
    arguments = parser.parse_args()
    try:
        if arguments.command == "start":
            print(up(arguments.home, arguments.port).dsn())
            return 0
        server = load(arguments.home)
        running = server is not None and is_running(server)
        if arguments.command == "status":
            print(server.dsn() if server and running else "not running")
            return 0 if running else 3
        if server and running:
            say(f"stopping PostgreSQL on 127.0.0.1:{server.port}")
            stop(server)
        if server and arguments.command == "remove":
            remove(server)
            _state(arguments.home).unlink()
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
