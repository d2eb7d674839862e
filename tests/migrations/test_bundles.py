"""Frozen bundles stay frozen, and the newest one is what the working tree gives.

Each guard is also shown to fail when it should.
"""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import psycopg
import pytest

from insights_dev import bundle
from plpython import build, generate_tables


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The bundles, with the newest one fresh, where they can be spoilt."""
    bundles = tmp_path / "bundles"
    shutil.copytree(bundle.BUNDLES, bundles)
    for name, text in bundle.contents().items():
        (bundle.newest(bundles) / name).write_text(text, encoding="utf-8")
    return bundles


def test_the_bundles_are_in_order() -> None:
    assert bundle.problems() == []


def test_the_parsers_tables_are_current() -> None:
    tables = build.ENGINE / "language" / "tables.py"
    assert tables.read_text(encoding="utf-8") == generate_tables.generate_tables()


@pytest.mark.parametrize("name", sorted(bundle.contents()))
def test_a_stale_bundle_is_noticed(copy: Path, name: str) -> None:
    assert bundle.problems(copy) == []
    path = bundle.newest(copy) / name
    path.write_text(path.read_text() + "\n")
    (problem,) = bundle.problems(copy)
    assert "make bundle" in problem


def test_a_file_too_many_is_noticed(copy: Path) -> None:
    (bundle.newest(copy) / "more.sql").write_text("")
    assert bundle.problems(copy)


@pytest.mark.parametrize("name", sorted(bundle.contents()))
def test_a_change_of_a_released_bundle_is_noticed(copy: Path, name: str) -> None:
    bundle.release(copy)
    assert bundle.problems(copy) == []
    newest = bundle.newest(copy)
    later = copy / "9999"
    shutil.copytree(newest, later)
    assert bundle.problems(copy) == []
    path = newest / name
    path.write_text(path.read_text().replace("e", "E", 1))
    (problem,) = bundle.problems(copy)
    assert f"{newest.name} was changed" in problem


def test_a_lost_released_bundle_is_noticed(copy: Path) -> None:
    bundle.release(copy)
    newest = bundle.newest(copy)
    shutil.copytree(newest, copy / "9999")
    shutil.rmtree(newest)
    assert f"{newest.name} is gone" in bundle.problems(copy)[0]


def test_a_released_bundle_is_not_written_again(copy: Path) -> None:
    bundle.freeze(copy)
    bundle.release(copy)
    with pytest.raises(build.BuildError, match="released"):
        bundle.freeze(copy)
    assert json.loads((copy / "released.json").read_text())


@pytest.mark.parametrize("name", sorted(build.engine_sources()))
def test_the_engine_is_python_39(name: str) -> None:
    """The oldest Python that a supported server may have (Debian 11)."""
    ast.parse(build.engine_sources()[name], feature_version=(3, 9))


def test_no_placeholder_is_left() -> None:
    for text in bundle.contents().values():
        assert not build._PLACEHOLDER.search(build.render(text))
        assert "@mlflow@" not in build.render(text)


def test_schema_names_that_would_break_out_are_refused() -> None:
    for name in ('a"b', "a'b", "a\\b", "a$b", "a@b", "a\nb", ""):
        with pytest.raises(build.BuildError):
            build.render("@mlflow@", name)


def test_unknown_placeholders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROOT", tmp_path)
    path = tmp_path / "f.sql"
    path.write_text("select '@nonsense@'")
    with pytest.raises(build.BuildError, match="@nonsense@"):
        build._resolve(path, "")


def test_the_engine_arrives_byte_for_byte(conn: psycopg.Connection) -> None:
    """PL/Python indents function bodies, and drivers may interpret % and :."""
    conn.execute(
        """
        create function engine_sources() returns setof text language plpython3u as $$
            plpy.execute("select insights.load_engine()")
            import sys, insights_engine
            loader = insights_engine.__spec__.loader
            for name in sorted(n for n in sys.modules if n.startswith("insights_engine")):
                yield name
                yield loader.get_source(name)
        $$
        """
    )
    flat = [row[0] for row in conn.execute("select engine_sources()")]
    arrived = dict(zip(flat[::2], flat[1::2], strict=True))
    expected = build.engine_sources()
    assert arrived
    assert arrived == {name: expected[name] for name in arrived}


def test_an_upgrade_replaces_the_engine_of_a_running_session(conn: psycopg.Connection) -> None:
    assert conn.execute("select insights_validate('tags.a = ''b''')").fetchone()
    script = build.loader({**build.engine_sources(), "insights_engine.api": "ANSWER = 42\n"})
    conn.execute(script.encode())
    conn.execute(
        """
        create function loaded() returns int language plpython3u as $$
            plpy.execute("select insights.load_engine()")
            import insights_engine.api
            (current,) = GD["insights_engines"]
            assert GD[current] is insights_engine.api
            assert set(GD) == {current, "insights_engines"}
            return insights_engine.api.ANSWER
        $$
        """
    )
    assert conn.execute("select loaded()").fetchone() == (42,)
