"""What the packages of the engine keep to, apart from the direction of imports (`make lint`)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from plpython import build

ENGINE = build.ENGINE
PACKAGES = sorted(path.parent for path in ENGINE.rglob("*/__init__.py"))
MODULES = sorted(path for path in ENGINE.rglob("*.py") if path.name != "__init__.py")

#: About a dozen modules can be kept in mind.
MOST = 13


def _name(path: Path) -> str:
    return path.relative_to(ENGINE).as_posix()


@pytest.mark.parametrize("package", PACKAGES, ids=_name)
def test_a_package_says_what_it_knows_and_imports_nothing(package: Path) -> None:
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    text = ast.get_docstring(tree)
    assert text is not None
    assert len(tree.body) == 1, "a first question would have to load what it does not need"
    assert len(re.findall(r"\.(?:\s|$)", text)) == 3
    assert "import" in text


@pytest.mark.parametrize("package", PACKAGES, ids=_name)
def test_a_package_is_small(package: Path) -> None:
    assert len([path for path in package.glob("*.py") if path.name != "__init__.py"]) <= MOST


def test_tests_lie_in_folders_of_the_same_names() -> None:
    unit = build.ROOT / "tests" / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")} - {Path()}
    assert folders <= {package.relative_to(ENGINE) for package in PACKAGES}


def test_no_module_is_outside_a_package() -> None:
    assert {path.name for path in ENGINE.glob("*.py")} == {"__init__.py", "api.py"}


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_private_names_stay_in_their_module(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    others = set()
    imported: list[str] = []
    for_types: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("insights_engine"):
            assert not [one.name for one in node.names if one.name.startswith("_")]
            others |= {one.asname or one.name for one in node.names}
            imported.append(str(node.module))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for_types += [str(one.module) for one in node.body if isinstance(one, ast.ImportFrom)]
    # The linter is told to let imports for types alone pass: it has to see another.
    assert all(imported.count(one) > 1 for one in for_types if one.startswith("insights_engine"))
    used = [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in others
        and re.match(r"_(?!replace$|asdict$|make$|fields$|_)", node.attr)
    ]
    assert used == []


def test_the_map_names_every_package_and_module() -> None:
    text = (ENGINE.parent / "README.md").read_text(encoding="utf-8")
    rows = {
        cells[1].strip(" `"): cells[2] + cells[3]
        for cells in (line.split("|") for line in text.splitlines() if line.startswith("| `"))
    }
    there = {
        _name(package): {path.stem for path in package.glob("*.py")} - {"__init__"}
        for package in PACKAGES
    }
    del there["answers"]
    assert {name: set(re.findall(r"`(\w+)`", row)) for name, row in rows.items()} == {
        **there,
        "api": set(),
    }
