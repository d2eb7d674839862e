"""``make release`` on a copy, and the way from a release to the next revision.

There is no second release yet, so a made-up revision stands for it: one more column, one more
table, and a function whose arguments have changed.
"""

from __future__ import annotations

import ast
import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from insights_dev import release
from insights_dev.cluster import ROOT
from plpython import build
from tests.conftest import Databases
from tests.migrations.catalogue import alike, dump, ours
from tests.semantics.world import Trace, replace_traces

PARTS = (
    *("insights_py", "insights_dev", "migrations", "sql", "plpython"),
    *("alembic.ini", "hatch_build.py", "pyproject.toml"),
    *("CHANGELOG.md", "README.md", "LICENSE"),
)
TODAY = datetime.date(2026, 1, 2)


@dataclass(frozen=True)
class Checkout:
    """A source tree of which nothing outside is used."""

    root: Path

    def run(self, *arguments: str) -> str:
        """Runs Python there; what it prints."""
        done = subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": f"{self.root}{os.pathsep}{self.root / 'plpython'}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, dsn: str) -> dict[str, object]:
        """``insights install``; its outcome."""
        code = (
            "import dataclasses, json, sys; from insights_py.install import install;"
            "print(json.dumps(dataclasses.asdict(install(sys.argv[1]))))"
        )
        outcome: dict[str, object] = json.loads(self.run("-c", code, dsn))
        return outcome

    def alembic(self, dsn: str, *arguments: str) -> str:
        """The command ``alembic``."""
        config = str(self.root / "alembic.ini")
        return self.run("-m", "alembic", "-c", config, "-x", f"dsn={dsn}", *arguments)

    def copy(self, target: Path) -> Checkout:
        """The same somewhere else."""
        shutil.copytree(self.root, target)
        return Checkout(target)

    def edit(self, name: str, old: str, new: str) -> None:
        """Changes a file, which must have ``old`` in it."""
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    @property
    def last(self) -> str:
        """The newest released revision."""
        return max(self.tree.released())

    @property
    def open(self) -> str:
        """The revision that is not released."""
        revision = build.unreleased(self.tree.migrations)
        assert revision is not None
        return revision

    @property
    def tree(self) -> release.Tree:
        return release.Tree(self.root)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """This source tree, with a revision that is not released."""
    root = tmp_path_factory.mktemp("opened")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, root / part)
    checkout = Checkout(root)
    # Of whatever version, and whether there is anything to tell or not.
    checkout.edit("pyproject.toml", f'version = "{checkout.tree.version()}"', 'version = "9.0.0"')
    checkout.edit("CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- More.\n")
    if build.unreleased(root / "migrations") is None:
        release.next_revision(checkout.tree, "More")
    return checkout


@pytest.fixture(scope="module")
def released(opened: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The same after ``make release``."""
    checkout = opened.copy(tmp_path_factory.mktemp("released") / "checkout")
    assert "is released as" in checkout.run("-m", "insights_dev.release")
    return checkout


COLUMN = "alter table insights.carrier add column noted_at timestamptz"
COMMENT = "comment on column insights.carrier.noted_at is 'When it was noted'"
TABLE = "create table insights.made_up (number int primary key, words text not null)"
TABLE_COMMENT = "comment on table insights.made_up is 'Made up'"
CHANGES = (COLUMN, COMMENT, TABLE, TABLE_COMMENT)


def later(released: Checkout, target: Path, changes: tuple[str, ...] = CHANGES) -> Checkout:
    """The wanted state with something new, and a revision that makes these ``changes``."""
    checkout = released.copy(target)
    checkout.edit(
        "sql/schema/index.sql",
        'session_id text collate "C" not null\n);',
        'session_id text collate "C" not null,\n    noted_at timestamptz\n);\n\n' + COMMENT + ";",
    )
    (checkout.root / "sql/schema/made_up.sql").write_text(f"{TABLE};\n\n{TABLE_COMMENT};\n")
    validate = "sql/functions/insights_validate.sql"
    checkout.edit(validate, "    filter text\n", "    filter text,\n    extra text default null\n")
    checkout.edit(validate, "shim: validate(plpy, filter)", "shim: validate(plpy, filter, extra)")
    checkout.edit(validate, "run_validate(filter)", "run_validate(filter, extra)")
    checkout.edit(validate, "insights_validate(text)", "insights_validate(text, text)")
    api = "plpython/insights_engine/api.py"
    checkout.edit(
        api,
        "def validate(plpy: Any, filter: Optional[str])",
        "def validate(plpy: Any, filter: Optional[str], extra: Optional[str])",
    )
    script = release.next_revision(checkout.tree, "Made up")
    up, down = script.read_text().split("def downgrade")
    statements = "\n        ".join(f'op.execute("{change}")' for change in changes) or "pass"
    back = (
        'op.execute("drop table insights.made_up")\n'
        '        op.execute("alter table insights.carrier drop column noted_at")'
        if changes
        else "pass"
    )
    script.write_text(
        up.replace("        pass\n", f"        {statements}\n")
        + "def downgrade"
        + down.replace("        pass\n", f"        {back}\n")
    )
    return checkout


@pytest.fixture(scope="module")
def upgraded(released: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return later(released, tmp_path_factory.mktemp("later") / "checkout")


# ----------------------------------------------------------------- what is frozen


def test_the_revisions_are_in_order() -> None:
    assert release.problems(release.Tree()) == []


def test_a_release_freezes_all_that_its_revision_needs(
    opened: Checkout, released: Checkout
) -> None:
    revision = opened.open
    assert build.unreleased(released.tree.migrations) is None
    directory = released.tree.bundles / revision
    assert {path.name: path.read_text() for path in directory.glob("*.sql")} == build.bundle()
    assert (directory / "steps.py").read_text() == (ROOT / "insights_py/steps.py").read_text()
    script = released.tree.script(revision)
    frozen = released.tree.released()[revision]
    assert frozen == released.tree.hashes(
        [script, *directory.glob("*.sql"), directory / "steps.py"]
    )
    assert release.problems(released.tree) == []
    assert "## [Unreleased]\n\n## [9.0.0] - 20" in released.tree.changelog.read_text()
    for command in (["check"], ["format", "--check"]):
        subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(script)],
            cwd=released.root,
            check=True,
            capture_output=True,
        )


def test_what_is_frozen_imports_nothing_that_can_change(released: Checkout) -> None:
    stable = {*sys.stdlib_module_names, "alembic", "psycopg", "sqlalchemy"}
    for revision in released.tree.released():
        for path in (
            released.tree.script(revision),
            released.tree.bundles / revision / "steps.py",
        ):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0
                    names = [node.module or ""]
                assert {name.partition(".")[0] for name in names} <= stable, path


def test_each_change_of_what_is_released_is_noticed(released: Checkout, tmp_path: Path) -> None:
    checkout = released.copy(tmp_path / "copy")
    for revision, files in checkout.tree.released().items():
        for name in files:
            path = checkout.tree.migrations / name
            text = path.read_text()
            path.write_text(text + "\n")
            assert f"{name} of the released revision {revision} was changed" in release.problems(
                checkout.tree
            )
            path.unlink()
            assert f"{name} of the released revision {revision} is gone" in release.problems(
                checkout.tree
            )
            path.write_text(text)
    assert release.problems(checkout.tree) == []
    left = checkout.tree.bundles / "9999" / "functions.sql"
    left.parent.mkdir()
    left.write_text("")
    assert release.problems(checkout.tree) == [
        "bundles/9999/functions.sql belongs to no released revision: remove it"
    ]


def test_a_change_without_a_revision_is_noticed(
    released: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = build.bundle()
    for name in bundle:
        monkeypatch.setattr(build, "bundle", lambda name=name: {**bundle, name: bundle[name] + " "})
        (problem,) = release.problems(released.tree)
        assert "make revision" in problem
        with pytest.raises(build.BuildError, match="make revision"):
            release.release(released.tree, TODAY)


def test_what_cannot_be_released(opened: Checkout, released: Checkout, tmp_path: Path) -> None:
    """Each refusal leaves every file as it was."""

    def refused(checkout: Checkout, words: str) -> None:
        def contents() -> dict[Path, bytes]:
            return {p: p.read_bytes() for p in checkout.root.rglob("*") if p.is_file()}

        before = contents()
        with pytest.raises(build.BuildError, match=words):
            release.release(checkout.tree, TODAY)
        assert contents() == before

    refused(released, "every revision is released")
    with pytest.raises(build.BuildError, match="not released"):
        release.next_revision(opened.tree, "One more")
    again = released.copy(tmp_path / "again")
    release.next_revision(again.tree, "More")
    refused(again, "has a version 9.0.0")
    again.edit("pyproject.toml", 'version = "9.0.0"', 'version = "9.9.9"')
    refused(again, "nothing under")
    again.edit("CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n### Added\n\n- More.\n")
    script = again.tree.script(again.open)
    text = script.read_text()
    script.write_text(text.replace("        pass", "        from insights_py import sql", 1))
    refused(again, "more of insights_py")
    script.write_text(text.replace("from insights_py.bundles import bundle_of", ""))
    refused(again, "form of")
    script.write_text(text)
    release.release(again.tree, TODAY)
    assert f"## [9.9.9] - {TODAY}\n\n### Added\n\n- More." in again.tree.changelog.read_text()
    assert release.problems(again.tree) == []


# ------------------------------------------------- from one revision to the next

# Runs revisions as Alembic does, where this project's package cannot be imported.
_ALONE = """
import importlib.abc, importlib.util, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("insights_py", "insights_dev", "plpython"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import psycopg, sqlalchemy
from alembic.migration import MigrationContext
from alembic.operations import Operations

way, dsn, path = sys.argv[1:]
spec = importlib.util.spec_from_file_location("revision", path)
revision = importlib.util.module_from_spec(spec)
spec.loader.exec_module(revision)
engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
with engine.begin() as connection:
    driver = connection.connection.driver_connection
    driver.execute("select set_config('insights.mlflow_schema', 'public', true)")
    driver.execute("set local search_path = pg_catalog, pg_temp")
    with Operations.context(MigrationContext.configure(connection)):
        getattr(revision, way)()
"""


def without_alembic(connection: psycopg.Connection) -> dict[str, str]:
    """The catalogue but for the table that tells the revision."""
    found = alike(connection)
    return {name: text for name, text in found.items() if "alembic_version" not in name}


def test_a_frozen_revision_runs_by_itself(
    databases: Databases, released: Checkout, mlflow_only_dsn: str
) -> None:
    scripts = [str(released.tree.script(name)) for name in sorted(released.tree.released())]
    with databases.fresh("mlflow") as fresh, psycopg.connect(fresh) as connection:
        released.install(fresh)
        wanted = without_alembic(connection)
    with psycopg.connect(mlflow_only_dsn, autocommit=True) as connection:
        before = dump(databases, mlflow_only_dsn)
        connection.execute("create schema insights")
        for script in scripts:
            released.run("-c", _ALONE, "upgrade", mlflow_only_dsn, script)
        assert without_alembic(connection) == wanted
        for script in reversed(scripts):
            released.run("-c", _ALONE, "downgrade", mlflow_only_dsn, script)
        connection.execute("drop schema insights")
        assert dump(databases, mlflow_only_dsn) == before


def test_the_guard_against_imports_bites(opened: Checkout, mlflow_only_dsn: str) -> None:
    """An open revision does use what may change."""
    script = str(opened.tree.script(opened.open))
    with pytest.raises(AssertionError, match="ImportError: insights_py"):
        opened.run("-c", _ALONE, "upgrade", mlflow_only_dsn, script)


def trace(number: int, status: str) -> Trace:
    return Trace(f"tr-{number}", experiment_id=7, timestamp_ms=number, status=status)


def put(connection: psycopg.Connection, *traces: Trace) -> None:
    replace_traces(connection, traces)


def failed(connection: psycopg.Connection) -> set[str]:
    rows = connection.execute(
        "select trace_id from insights_search(array['7'], $$status = 'ERROR'$$)"
    )
    return {trace_id for (trace_id,) in rows}


INTACT = (
    "select s.built and s.trusted >= m.last_value and s.fingerprint = insights.fingerprint()"
    " from insights.state s, insights.missed m"
)


@pytest.fixture
def bi(databases: Databases) -> Iterator[str]:
    """A role that other people made."""
    with databases.admin() as admin:
        admin.execute("create role bi")
    yield "bi"
    with databases.admin() as admin:
        admin.execute("drop role bi")


def grant(connection: psycopg.Connection, validate: str) -> None:
    """What a DBA may have granted to it."""
    row = connection.execute("select reader_role from insights.installation").fetchone()
    assert row is not None
    connection.execute(sql.SQL("grant {} to bi").format(sql.Identifier(row[0])))
    connection.execute("grant execute on function insights_refresh(int) to bi")
    connection.execute(f"grant execute on function {validate} to bi".encode())


def test_fresh_upgraded_and_up_down_up_are_equal(
    databases: Databases, released: Checkout, upgraded: Checkout, mlflow_only_dsn: str, bi: str
) -> None:
    with databases.fresh("mlflow") as fresh, psycopg.connect(fresh, autocommit=True) as connection:
        assert upgraded.install(fresh)["after"] == upgraded.open
        grant(connection, "insights_validate(text, text)")
        wanted = alike(connection)
        connection.execute("drop owned by bi")
    assert "column carrier.noted_at" in wanted
    assert "relation made_up" in wanted
    assert "bi=X" in wanted["function insights_validate(text,text)"]

    with psycopg.connect(mlflow_only_dsn, autocommit=True) as connection:
        try:
            connection.execute(
                "insert into experiments (experiment_id, name, lifecycle_stage)"
                " values (7, 'seven', 'active')"
            )
            put(connection, trace(1, "ERROR"), trace(2, "OK"))
            assert released.install(mlflow_only_dsn)["after"] == released.last
            grant(connection, "insights_validate(text)")
            connection.execute("call insights_rebuild()")
            put(connection, trace(3, "ERROR"))
            old = alike(connection)
            assert connection.execute(INTACT).fetchone() == (True,)

            outcome = upgraded.install(mlflow_only_dsn)
            assert (outcome["before"], outcome["after"]) == (released.last, upgraded.open)
            # The revision itself did it all: what it forgets would be mended.
            assert outcome["mended"] == []
            assert failed(connection) == {"tr-1", "tr-3"}
            assert connection.execute(INTACT).fetchone() == (True,)
            assert alike(connection) == wanted
            member = "select pg_has_role('bi', reader_role, 'member') from insights.installation"
            assert connection.execute(member).fetchone() == (True,)
            put(connection, trace(2, "ERROR"), trace(4, "ERROR"))
            assert failed(connection) == {"tr-1", "tr-2", "tr-3", "tr-4"}

            upgraded.alembic(mlflow_only_dsn, "downgrade", released.last)
            assert alike(connection) == old
            assert failed(connection) == {"tr-1", "tr-2", "tr-3", "tr-4"}
            assert released.install(mlflow_only_dsn)["mended"] == []
            upgraded.alembic(mlflow_only_dsn, "upgrade", "head")
            assert alike(connection) == wanted
            assert upgraded.install(mlflow_only_dsn)["mended"] == []
            connection.execute("select insights_refresh(1000)")
            assert connection.execute("select * from insights_verify()").fetchall() == []
            assert failed(connection) == {"tr-1", "tr-2", "tr-3", "tr-4"}
        finally:
            connection.execute("drop owned by bi")


@pytest.fixture(scope="module")
def fresh(databases: Databases, upgraded: Checkout) -> dict[str, str]:
    """What a fresh installation of the made-up revision has."""
    with databases.fresh("mlflow") as dsn:
        upgraded.install(dsn)
        with psycopg.connect(dsn) as connection:
            return alike(connection)


def test_every_step_from_nothing_equals_a_fresh_installation(
    upgraded: Checkout, fresh: dict[str, str], mlflow_only_dsn: str
) -> None:
    """Frozen revisions run as Alembic runs them; a fresh installation runs none."""
    for revision in (*sorted(upgraded.tree.released()), upgraded.open):
        upgraded.alembic(mlflow_only_dsn, "upgrade", revision)
    with psycopg.connect(mlflow_only_dsn) as connection:
        assert alike(connection) == fresh
    upgraded.alembic(mlflow_only_dsn, "downgrade", "base")
    with psycopg.connect(mlflow_only_dsn) as connection:
        assert not ours(connection)


@pytest.mark.parametrize(
    "damage",
    [
        "drop table insights.posting",
        "drop table insights.made_up",
        "drop sequence insights.missed cascade",
        "drop table insights.installation cascade",
        "drop extension plpython3u cascade",
    ],
)
def test_uninstalling_walks_no_revisions(
    databases: Databases, upgraded: Checkout, mlflow_only_dsn: str, damage: str
) -> None:
    """An older revision cannot be made of what is damaged, and nobody needs it."""
    before = dump(databases, mlflow_only_dsn)
    upgraded.install(mlflow_only_dsn)
    with psycopg.connect(mlflow_only_dsn, autocommit=True) as connection:
        connection.execute(damage.encode())
        upgraded.alembic(mlflow_only_dsn, "downgrade", "base")
        # Whose the extensions are may be unknown; then they stay.
        connection.execute("drop extension if exists plpython3u, pg_trgm")
    assert dump(databases, mlflow_only_dsn) == before


@pytest.fixture(scope="module")
def old(databases: Databases, released: Checkout) -> Iterator[str]:
    """The name of a database with the release, to be cloned."""
    with databases.fresh("mlflow") as dsn:
        released.install(dsn)
        yield dsn.rpartition("/")[2]


@pytest.mark.parametrize("forgotten", [COLUMN, COMMENT, TABLE, TABLE_COMMENT])
def test_a_revision_that_forgets_something_is_noticed(
    databases: Databases,
    released: Checkout,
    fresh: dict[str, str],
    old: str,
    tmp_path: Path,
    forgotten: str,
) -> None:
    """The comparisons of these tests, shown to fail."""
    of_it = {COLUMN: COMMENT, TABLE: TABLE_COMMENT}.get(forgotten)
    changes = tuple(change for change in CHANGES if change not in (forgotten, of_it))
    forgetful = later(released, tmp_path / "forgetful", changes)
    dsn = databases.create(old)
    try:
        outcome = forgetful.install(dsn)
        with psycopg.connect(dsn) as connection:
            differing = fresh.items() ^ alike(connection).items()
    finally:
        databases.drop(dsn)
    if of_it:
        assert outcome["mended"]
    else:
        assert len({name for name, _ in differing}) == 1


def test_what_a_checkout_has_changed_is_installed(
    opened: Checkout, mlflow_only_dsn: str, tmp_path: Path
) -> None:
    """The open revision is known by what is in it, not by its number."""
    checkout = opened.copy(tmp_path / "changed")
    assert checkout.install(mlflow_only_dsn)["mended"] == []
    validate = "sql/functions/insights_validate.sql"
    comment = "select obj_description('insights_validate(text)'::regprocedure)"
    checkout.edit(validate, "The canonical form of a filter.", "Another sentence.")
    checkout.edit("sql/schema/index.sql", "'The vocabulary: a row", "'The words: a row")
    with psycopg.connect(mlflow_only_dsn, autocommit=True) as connection:
        assert checkout.install(mlflow_only_dsn)["mended"]
        (text,) = connection.execute(comment).fetchone() or ("",)
        assert text.startswith("Another sentence.")
        words = "select obj_description('insights.term'::regclass)"
        assert "The words" in str(connection.execute(words).fetchone())
        future = "from __future__ import annotations\n"
        checkout.edit("plpython/insights_engine/api.py", future, f"{future}\nCHANGED = True\n")
        assert checkout.install(mlflow_only_dsn)["mended"]
        assert checkout.install(mlflow_only_dsn)["mended"] == []
