"""Freezes what the working tree gives as the newest revision's bundle.

A migration never reads today's ``sql/``: it carries a snapshot, the bundle.  The
newest bundle may be rewritten (``make bundle``) until it is released; then its
hashes stand in ``migrations/bundles/released.json`` and it never changes again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

from plpython import build

BUNDLES = build.ROOT / "migrations" / "bundles"


def contents() -> dict[str, str]:
    """The files of a bundle, made of the working tree."""
    return {"schema.sql": build.schema_bundle(), "functions.sql": build.function_bundle()}


def newest(bundles: Path = BUNDLES) -> Path:
    """The directory of the newest bundle."""
    return max(path for path in bundles.iterdir() if path.is_dir())


def released(bundles: Path = BUNDLES) -> dict[str, dict[str, str]]:
    """Revision to file name to SHA-256, for the bundles that must not change."""
    known: dict[str, dict[str, str]] = json.loads((bundles / "released.json").read_text())
    return known


def hashes(directory: Path) -> dict[str, str]:
    """File name to SHA-256 of a bundle."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
    }


def problems(bundles: Path = BUNDLES) -> list[str]:
    """What is wrong with the frozen bundles, a sentence each."""
    found = []
    for revision, expected in released(bundles).items():
        directory = bundles / revision
        if not directory.is_dir():
            found.append(f"the released bundle {revision} is gone")
        elif hashes(directory) != expected:
            found.append(f"the released bundle {revision} was changed")
    last = newest(bundles)
    frozen = {path.name: path.read_text(encoding="utf-8") for path in last.iterdir()}
    if frozen != contents():
        found.append(f"bundle {last.name} is not what the working tree gives: run make bundle")
    return found


def is_current(bundles: Path = BUNDLES) -> bool:
    """Whether the newest bundle is what the working tree gives."""
    return not problems(bundles)


def freeze(bundles: Path = BUNDLES) -> Path:
    """Writes the newest bundle anew, unless it is released; its directory."""
    directory = newest(bundles)
    if directory.name in released(bundles):
        raise build.BuildError(
            f"bundle {directory.name} is released; add a revision with a directory of its own"
        )
    for name, text in contents().items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def release(bundles: Path = BUNDLES) -> None:
    """Notes that the newest bundle must not change from now on."""
    directory = newest(bundles)
    known = {**released(bundles), directory.name: hashes(directory)}
    (bundles / "released.json").write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def main() -> int:
    """``make bundle``, and the same with ``--check`` or ``--release``."""
    parser = argparse.ArgumentParser(description="freeze the functions for the newest revision")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="change nothing, say what is wrong")
    group.add_argument("--release", action="store_true", help="never change it again")
    arguments = parser.parse_args()
    try:
        if not arguments.check:
            print(freeze().relative_to(build.ROOT))
        if arguments.release:
            release()
        found = problems()
    except build.BuildError as error:
        found = [str(error)]
    for problem in found:
        print(f"bundle: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
