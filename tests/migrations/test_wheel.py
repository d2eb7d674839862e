"""What ``pip install`` brings is enough to install into a database."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import psycopg
import pytest

from insights_dev.cluster import ROOT
from insights_py import bundles
from insights_py.install import installed_revision


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents, in a directory of their own."""
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = target.glob("*.whl")
    site = target / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(unpacked: Path, *arguments: str, **environment: str) -> str:
    """A program that sees the wheel's contents and not the source tree."""
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=unpacked,
        env={**os.environ, "PYTHONPATH": str(unpacked), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_every_bundle(unpacked: Path) -> None:
    here = bundles.migrations()
    there = unpacked / "insights_py" / "migrations"
    wanted = {
        path.relative_to(here)
        for path in here.rglob("*")
        if path.is_file() and path.suffix in {".py", ".sql", ".json"}
    }
    assert wanted <= {path.relative_to(there) for path in there.rglob("*")}
    assert {p.name for p in unpacked.iterdir() if not p.name.endswith(".dist-info")} == {
        "insights_py"
    }


def test_installing_from_the_wheel(unpacked: Path, mlflow_only_dsn: str) -> None:
    code = "import insights_py.cli as c, sys; print(c.__file__); sys.exit(c.main())"
    out = run(unpacked, "-c", code, "install", "--dsn", mlflow_only_dsn)
    assert out.startswith(str(unpacked))
    with psycopg.connect(mlflow_only_dsn) as connection:
        assert installed_revision(connection)
        assert connection.execute("select insights_count(null::text[], '')").fetchone() == (0,)


def test_plain_alembic_from_the_wheel(unpacked: Path, mlflow_only_dsn: str) -> None:
    config = str(unpacked / "insights_py" / "alembic.ini")
    arguments = ("-m", "alembic", "-c", config, "upgrade", "head")
    run(unpacked, *arguments, INSIGHTS_DSN=mlflow_only_dsn)
    with psycopg.connect(mlflow_only_dsn) as connection:
        assert installed_revision(connection)


def test_mlflow_finds_the_plugin(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info/entry_points.txt")
    text = metadata.read_text()
    assert "postgresql = insights_py.mlflow.plugin:build_store" in text
    assert "insights = insights_py.mlflow.app:create_app" in text
    assert "insights = insights_py.cli:main" in text
