"""docs/sql.md says what the database says, and that explains every argument and column."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from insights_dev import reference
from insights_dev.cluster import ROOT


def test_the_page_is_what_the_database_says(module_conn: psycopg.Connection[Any]) -> None:
    assert reference.PAGE.read_text() == reference.page(module_conn), "run make reference"


def test_every_argument_and_column_is_explained(module_conn: psycopg.Connection[Any]) -> None:
    """By the function's own comment, or by that of one that it refers to."""
    functions = {one.name: one for one in reference.functions(module_conn)}
    assert len(functions) == 14
    comments = {name: one.comment for name, one in functions.items()}
    for name, one in functions.items():
        explained = explanations(comments[name])
        assert set(one.argument_names) <= explained, name
        for other in re.findall(r"columns (?:\w+ )*(insights_\w+)", comments[name]):
            explained |= explanations(comments[other])
        assert set(one.column_names) <= explained, name
    for view in reference.views(module_conn):
        assert set(view.column_names) <= explanations(view.comment), view.name


def explanations(comment: str) -> set[str]:
    """The names that the items of a comment begin with."""
    items = re.findall(r"^- ((?:`\w+`(?:, )?)+)", comment, re.MULTILINE)
    return {name for item in items for name in re.findall(r"\w+", item)}


def test_wrong_arguments_have_their_sqlstate_in_the_reference(
    module_conn: psycopg.Connection[Any],
) -> None:
    for one in reference.functions(module_conn):
        if "filter" in one.comment:
            assert "SQLSTATE" in one.comment or one.is_procedure, one.name


@pytest.mark.parametrize("page", ["README.md", "docs/questions.md", "docs/discovery.md"])
def test_the_reference_is_found(page: str) -> None:
    assert "sql.md" in (ROOT / page).read_text()
