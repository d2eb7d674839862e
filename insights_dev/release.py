"""Releases what the checkout has: ``make release``.

The SQL of the unreleased revision is frozen beside the helpers that the revision uses, and
the revision reads these from now on.  ``migrations/bundles/released.json`` has the hash of
each file, and CHANGELOG.md the date.  After that only a next revision can change what is
installed.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from plpython import build

STEPS = "steps.py"
_UNRELEASED = "## [Unreleased]\n"
_FUTURE = "from __future__ import annotations\n"
_TODAYS = "\nfrom insights_py.bundles import bundle_of\n"
_IMPORTS = """
from pathlib import Path
from runpy import run_path
from typing import Any
"""
_FROZEN = '''

def bundle_of(revision: str) -> Any:
    """What was released with a revision: its SQL, and the steps as they were then."""
    bundles = Path(__file__).parent.parent / "bundles"
    return run_path(str(bundles / revision / "steps.py"))["frozen"]()

'''


class Tree:
    """The files of a checkout that a release changes."""

    def __init__(self, root: Path = build.ROOT) -> None:
        self.root = root
        self.migrations = root / "migrations"
        self.bundles = self.migrations / "bundles"
        self.changelog = root / "CHANGELOG.md"

    def released(self) -> dict[str, dict[str, str]]:
        """Revision to file to SHA-256; files as they are named from ``migrations``."""
        known: dict[str, dict[str, str]] = json.loads((self.bundles / "released.json").read_text())
        return known

    def script(self, revision: str) -> Path:
        """The file of a revision."""
        (path,) = (self.migrations / "versions").glob(f"{revision}_*.py")
        return path

    def hashes(self, paths: Iterable[Path]) -> dict[str, str]:
        """What `released` has of a revision's files."""
        return {
            path.relative_to(self.migrations).as_posix(): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in sorted(paths)
        }

    def version(self) -> str:
        """The version of the package."""
        found = re.search(r'^version = "(.+)"$', (self.root / "pyproject.toml").read_text(), re.M)
        assert found is not None
        return found.group(1)


def problems(tree: Tree) -> list[str]:
    """What is wrong with the revisions, a sentence each."""
    found = []
    released = tree.released()
    for revision, expected in released.items():
        for name, digest in expected.items():
            path = tree.migrations / name
            if not path.is_file():
                found.append(f"{name} of the released revision {revision} is gone")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                found.append(f"{name} of the released revision {revision} was changed")
    for path in sorted(tree.bundles.rglob("*")):
        if path.is_file() and path.parent != tree.bundles and "__pycache__" not in path.parts:
            name = path.relative_to(tree.migrations).as_posix()
            if name not in released.get(path.parent.name, {}):
                found.append(f"{name} belongs to no released revision: remove it")
    try:
        if build.unreleased(tree.migrations) is None and not found:
            last = max(released)
            now = build.bundle()
            if any((tree.bundles / last / name).read_text() != now[name] for name in now):
                found.append(
                    f"sql/ or the engine has changed since {last} was released: add a "
                    "revision (make revision)"
                )
    except build.BuildError as error:
        found.append(str(error))
    return found


def release(tree: Tree, today: datetime.date) -> str:
    """Freeze the revision that is open; which one."""
    found = problems(tree)
    if found:
        raise build.BuildError(found[0])
    revision = build.unreleased(tree.migrations)
    if revision is None:
        raise build.BuildError("every revision is released")
    changelog = dated(tree.changelog.read_text(encoding="utf-8"), tree.version(), today)
    script = tree.script(revision)
    frozen = frozen_script(script.read_text(encoding="utf-8"))
    # Nothing was written up to here.
    directory = tree.bundles / revision
    files = [*build.write_bundle(directory), directory / STEPS, script]
    shutil.copyfile(tree.root / "insights_py" / STEPS, directory / STEPS)
    script.write_text(frozen, encoding="utf-8")
    known = {**tree.released(), revision: tree.hashes(files)}
    (tree.bundles / "released.json").write_text(
        json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    tree.changelog.write_text(changelog, encoding="utf-8")
    return revision


def frozen_script(text: str) -> str:
    """A revision's file that reads what is frozen instead of calling what may change."""
    assignment = "\n\nrevision = "
    if any(text.count(line) != 1 for line in (_FUTURE, _TODAYS, assignment)):
        raise build.BuildError("the revision is not in the form of migrations/script.py.mako")
    if text.count("insights_py") != 1:
        raise build.BuildError("the revision uses more of insights_py than bundle_of")
    text = text.replace(_FUTURE, _FUTURE + _IMPORTS).replace(_TODAYS, "")
    return text.replace(assignment, f"\n{_FROZEN}{assignment[1:]}")


def dated(changelog: str, version: str, today: datetime.date) -> str:
    """The changelog with what is unreleased under ``version``."""
    if f"\n## [{version}]" in changelog:
        raise build.BuildError(f"CHANGELOG.md has a version {version}: raise it in pyproject.toml")
    head, mark, rest = changelog.partition(_UNRELEASED)
    if not mark or not rest.partition("\n## [")[0].strip():
        raise build.BuildError("CHANGELOG.md has nothing under [Unreleased]")
    return f"{head}{mark}\n## [{version}] - {today.isoformat()}\n{rest}"


def next_revision(tree: Tree, message: str) -> Path:
    """Open a revision after the last one; its file."""
    from alembic import command
    from alembic.config import Config

    if build.unreleased(tree.migrations) is not None:
        raise build.BuildError("there is a revision that is not released: change that one")
    number = f"{int(max(tree.released())) + 1:04}"
    config = Config()
    config.set_main_option("script_location", str(tree.migrations).replace("%", "%%"))
    command.revision(config, message, rev_id=number)
    return tree.script(number)


def main() -> int:
    """``make release``, ``make revision`` with ``--next``, and ``make lint`` with ``--check``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="change nothing, say what is wrong")
    group.add_argument("--next", metavar="MESSAGE", help="open the next revision")
    arguments = parser.parse_args()
    tree = Tree()
    found = []
    try:
        if arguments.next:
            next_revision(tree, arguments.next)  # Alembic says which file it writes
        elif arguments.check:
            found = problems(tree)
        else:
            revision = release(tree, datetime.datetime.now(datetime.timezone.utc).date())
            print(f"revision {revision} is released as {tree.version()}")
    except build.BuildError as error:
        found = [str(error)]
    for problem in found:
        print(f"release: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
