"""What is built of ``sql/`` and the engine, and how it arrives."""

from __future__ import annotations

import ast
from pathlib import Path

import psycopg
import pytest

from insights_py.steps import FILES, Bundle
from plpython import build, generate_tables


def test_the_parsers_tables_are_current() -> None:
    tables = build.ENGINE / "language" / "tables.py"
    assert tables.read_text(encoding="utf-8") == generate_tables.generate_tables()


@pytest.mark.parametrize("name", sorted(build.engine_sources()))
def test_the_engine_is_python_39(name: str) -> None:
    """The oldest Python that a supported server may have (Debian 11)."""
    ast.parse(build.engine_sources()[name], feature_version=(3, 9))


def test_no_placeholder_is_left() -> None:
    bundle = Bundle(build.bundle())
    assert tuple(bundle.texts) == FILES
    for name, text in bundle.texts.items():
        assert not build._PLACEHOLDER.search(text)
        assert "@mlflow@" not in bundle.rendered(name, "public")


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
