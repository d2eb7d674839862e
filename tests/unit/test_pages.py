"""README and the glossary: commands that exist, terms that are explained, in plain words."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from insights_py.cli.main import cli

ROOT = Path(__file__).parents[2]
#: Written for people; docs/sql.md is made of the COMMENTs.
PAGES = [
    ROOT / "README.md",
    ROOT / "plpython" / "README.md",
    ROOT / "sql" / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "sql.md"),
]
GLOSSARY = ROOT / "docs" / "glossary.md"
COMMANDS = re.findall(r"^    (?:insights) (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
TARGETS = re.findall(r"\bmake (?:-s )?([a-z]+)[ `\")]", (ROOT / "README.md").read_text())


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_are_understood(command: str) -> None:
    name, *arguments = shlex.split(command, comments=True)
    cli.commands[name].make_context(name, arguments)


def test_targets_of_the_readme_are_there() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(TARGETS) <= set(targets)
    assert len(COMMANDS) == 4
    assert {"demo", "db", "test", "bench"} <= set(TARGETS)


def terms() -> dict[str, str]:
    """The glossary's definitions by their terms."""
    return dict(re.findall(r"^\*\*(.+)\*\*\n: (.+(?:\n  .+)*)", GLOSSARY.read_text(), re.MULTILINE))


def test_a_term_takes_two_sentences_at_most() -> None:
    assert 25 <= len(terms()) <= 40
    for term, text in terms().items():
        assert text.endswith("."), term
        assert len(re.findall(r"\.(?=\s|$)", text)) <= 2, term


def test_terms_are_in_order() -> None:
    for part in re.split(r"^## .*$", GLOSSARY.read_text(), flags=re.MULTILINE)[1:]:
        names = re.findall(r"^\*\*(.+)\*\*$", part, re.MULTILINE)
        assert names == sorted(names, key=str.lower)


@pytest.mark.parametrize(
    "page",
    ["README.md", "plpython/README.md", "sql/README.md", "docs/index.md", "docs/discovery.md"],
)
def test_pages_link_to_the_glossary(page: str) -> None:
    assert "glossary.md)" in (ROOT / page).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_the_terms_of_the_field(page: Path) -> None:
    """Outside of code, where identifiers have names of their own."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`]*`", "", prose)
    assert re.findall(r"residue|raw predicate|goes? with (?:it|that|the)\b", prose) == []


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
