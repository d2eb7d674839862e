"""Name the tests of the files that differ from main: those that `make check` runs.

A test file belongs to a changed file if it has its name (``plan.py``: ``test_plan.py``,
``test_plan_again.py``), if it mentions or imports it, or if `ALWAYS` says so of the folder.
That finds the tests most likely to fail, not all that may: `make test` runs all.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from insights_dev.cluster import ROOT

#: The start of a changed file's path, and the tests that run whatever its name.
ALWAYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("sql/", ("tests/sql/test_catalogue.py", "tests/sql/test_reference.py")),
    ("plpython/insights_engine/", ("tests/semantics/test_index_equals_oracle.py",)),
    ("insights_py/cli/", ("tests/client/test_cli.py",)),
    ("insights_py/mlflow/rest/", ("tests/mlflow/test_rest.py",)),
    ("migrations/", ("tests/migrations/test_bundles.py", "tests/migrations/test_revisions.py")),
    ("examples/", ("tests/mlflow/test_examples.py",)),
    ("examples/demo/", ("tests/mlflow/test_demo_pages.py",)),
    ("bench/", ("tests/mlflow/test_bench_cases.py",)),
)


def tests_of(changed: Iterable[str], tests: Mapping[str, str]) -> list[str]:
    """The paths of tests to run; ``tests`` has the text of every test file by its path."""
    found: set[str] = set()
    for name in changed:
        path = PurePosixPath(name)
        if name in tests:
            found.add(name)
        if path.name == "conftest.py":
            found.update(test for test in tests if test.startswith(f"{path.parent}/"))
        for start, always in ALWAYS:
            if name.startswith(start):
                found.update(always)
        found.update(test for test in tests if _named(path, test))
        mention = _mention(path)
        found.update(test for test, text in tests.items() if mention.search(text))
    return sorted(found & tests.keys())


def _named(path: PurePosixPath, test: str) -> bool:
    stem = path.stem.removeprefix("insights_")
    return re.match(rf"test_{re.escape(stem)}(_|$)", PurePosixPath(test).stem) is not None


def _mention(path: PurePosixPath) -> re.Pattern[str]:
    """What a test has in it that mentions this file."""
    if path.suffix == ".sql":
        # A function, by its name in SQL.
        return re.compile(rf"\b{re.escape(path.stem)}\b")
    if path.suffix != ".py":
        return re.compile(rf"[\"'/]{re.escape(path.name)}\b")
    parts = path.with_suffix("").parts
    if parts[0] == "plpython":
        parts = parts[1:]
    if parts[-1] == "__init__":
        parts = parts[:-1]
    package, module = ".".join(parts[:-1]), parts[-1]
    return re.compile(
        rf"^(from|import) {re.escape('.'.join(parts))}\b"
        rf"|^from {re.escape(package)} import (\([^)]*|.*)\b{re.escape(module)}\b",
        re.MULTILINE,
    )


def changed_files(base: str) -> list[str]:
    """Files of the working tree that differ from where this branch left ``base``, new ones too."""
    left = _git("merge-base", base, "HEAD") or ["HEAD"]
    return sorted(
        {
            *_git("diff", "--name-only", left[0], "--"),
            *_git("ls-files", "--others", "--exclude-standard"),
        }
    )


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, check=False, capture_output=True, encoding="utf-8"
    )
    if done.returncode and arguments[0] != "merge-base":
        raise SystemExit(f"error: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def texts_of_tests() -> dict[str, str]:
    """Every test file's text by its path, but for those that `make unit` runs and simulations."""
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if path.relative_to(ROOT / "tests").parts[0] not in ("unit", "simulation")
    }


def main() -> int:
    """Print the paths of the tests, a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="main", help="the branch to compare with (main)")
    for test in tests_of(changed_files(parser.parse_args().base), texts_of_tests()):
        print(test)
    return 0


if __name__ == "__main__":
    sys.exit(main())
