"""What ``pip install`` brings is enough to install into a database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import psycopg
import pytest

from insights_dev.cluster import ROOT
from insights_py import bundles
from insights_py.install import installed_revision, latest_revision
from insights_py.steps import FILES


def build_package(source: Path, target: Path, kind: str) -> Path:
    """The wheel or sdist of a source tree."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", kind, "-d", str(target)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (package,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return package


def extracted(wheel: Path) -> Path:
    """The wheel's contents, in a directory of their own."""
    site = wheel.parent / "site"
    with zipfile.ZipFile(wheel) as archive:
        assert len(set(archive.namelist())) == len(archive.namelist())
        archive.extractall(site)
    return site


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel of the checkout has."""
    return extracted(build_package(ROOT, tmp_path_factory.mktemp("wheel"), "wheel"))


@pytest.fixture(scope="module")
def by_way_of_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel has that is made of the sdist, where sql/ and the engine are not."""
    target = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build_package(ROOT, target, "sdist")) as archive:
        archive.extractall(target / "source", filter="data")
    (source,) = (target / "source").iterdir()
    assert not (source / "sql").exists()
    return extracted(build_package(source, target, "wheel"))


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


@pytest.mark.parametrize("package", ["unpacked", "by_way_of_sdist"])
def test_the_wheel_has_every_bundle(package: str, request: pytest.FixtureRequest) -> None:
    unpacked: Path = request.getfixturevalue(package)
    there = unpacked / "insights_py" / "migrations"
    wanted = {
        path.relative_to(bundles.migrations()).as_posix(): path.read_text()
        for path in bundles.migrations().rglob("*")
        if path.is_file() and path.suffix in {".py", ".sql", ".json"}
    }
    revision = latest_revision()
    wanted |= {f"bundles/{revision}/{name}": bundles.read(revision, name) for name in FILES}
    found = {
        path.relative_to(there).as_posix(): path.read_text()
        for path in there.rglob("*")
        if path.is_file() and path.suffix in {".py", ".sql", ".json"}
    }
    assert found == wanted
    assert {p.name for p in unpacked.iterdir() if not p.name.endswith(".dist-info")} == {
        "insights_py"
    }


def part_of_the_tree(target: Path, *more: str) -> None:
    """Copies what a package is built of, and ``more``."""
    files = ("README.md", "LICENSE", "alembic.ini", "hatch_build.py", "pyproject.toml")
    for name in files:
        shutil.copy(ROOT / name, target / name)
    for name in ("insights_py", "migrations", *more):
        shutil.copytree(ROOT / name, target / name)


def test_a_bundle_left_over_stops_the_build(tmp_path: Path) -> None:
    """Else the package would have it twice, and one of them old."""
    part_of_the_tree(tmp_path, "plpython", "sql")
    released = tmp_path / "migrations" / "bundles" / "released.json"
    revision = latest_revision()
    known = json.loads(released.read_text())
    known.pop(revision, None)
    released.write_text(json.dumps(known))
    (tmp_path / "migrations" / "bundles" / revision).mkdir(exist_ok=True)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build_package(tmp_path, tmp_path / "dist", "wheel")
    assert f"{revision} exists, but {revision} is not released" in caught.value.stderr.decode()


def test_a_source_tree_without_its_bundle_stops_the_build(tmp_path: Path) -> None:
    part_of_the_tree(tmp_path)
    shutil.rmtree(tmp_path / "migrations" / "bundles" / latest_revision(), ignore_errors=True)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build_package(tmp_path, tmp_path / "dist", "wheel")
    assert "is missing, and what it is built from" in caught.value.stderr.decode()


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
