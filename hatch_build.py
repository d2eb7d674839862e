"""Puts the bundle of the revision that is not released into wheels and sdists.

An sdist has it in the place of a released one, so a wheel is made of it as it is.
"""

from __future__ import annotations

from pathlib import Path
from runpy import run_path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PLACES = {"wheel": "insights_py/migrations/bundles", "sdist": "migrations/bundles"}


class BundleHook(BuildHookInterface[Any]):
    """Builds the bundle where its sources are."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Have the files of the bundle included; an editable install reads ``sql/`` itself."""
        if version == "editable":
            return
        migrations = Path(self.root) / "migrations"
        builder = Path(self.root) / "plpython" / "build.py"
        if not builder.is_file():
            for script in (migrations / "versions").glob("*.py"):
                bundle = migrations / "bundles" / script.name.partition("_")[0]
                if not (bundle / "functions.sql").is_file():
                    raise FileNotFoundError(f"{bundle} is missing, and what it is built from")
            return
        build = run_path(str(builder))
        revision = build["unreleased"](migrations)
        if revision is None:
            return
        if (migrations / "bundles" / revision).exists():
            raise build["BuildError"](
                f"migrations/bundles/{revision} exists, but {revision} is not released: remove it"
            )
        # Below build/, which git ignores, so that no checkout has a stale one among the frozen.
        directory = Path(self.root) / "build" / "bundles" / revision
        for path in build["write_bundle"](directory):
            place = f"{_PLACES[self.target_name]}/{revision}/{path.name}"
            build_data["force_include"][str(path)] = place
