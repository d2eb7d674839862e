"""The table of storage agrees with MLflow's tables, and with itself."""

from __future__ import annotations

import pytest
from insights_engine.language import fields, parser, storage, tree
from insights_engine.language.storage import Indexed, Row, Source, Type

from insights_py.contract import COLUMNS, NOT_NULL

ROWS = [*storage.TRACE.values(), *storage.SPAN.values()]
TYPES = {
    Type.TEXT: {"text", "varchar"},
    Type.INTEGER: {"int8"},
    Type.TIME: {"int8"},
    Type.NANOSECONDS: {"int8"},
    Type.DOUBLE: {"float8"},
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.source.name} {row.name}")
def test_a_column_is_mlflows(row: Row) -> None:
    tables = {Source.COLUMN: "trace_info", Source.SPAN_COLUMN: "spans"}
    if row.source not in tables:
        return
    table = tables[row.source]
    assert set(COLUMNS[table][row.column]) == TYPES[row.type]
    if row.source is Source.COLUMN:
        assert row.nullable == (row.column not in NOT_NULL[table])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.source.name} {row.name}")
def test_a_name_leads_to_its_row(row: Row) -> None:
    assert storage.of(row.field) is row
    assert parser.parse_field(fields.spell(row.field)) == row.field
    if row.indexed in (Indexed.VALUES, Indexed.PRESENCE):
        assert [storage.NAMED[kind, row.key] for kind in row.kinds] == [row]


@pytest.mark.parametrize(
    ("field", "source", "kinds", "key"),
    [
        (tree.Tag("a"), Source.ENTRY, ("tag",), "a"),
        (tree.Tag("mlflow.traceName"), Source.COLUMN, ("trace",), "name"),
        (tree.Tag("mlflow.linkedPrompts"), Source.ENTRY, ("tag",), "mlflow.linkedPrompts"),
        (tree.Metadata("mlflow.trace.session"), Source.COLUMN, ("trace",), "session_id"),
        (tree.Metadata("mlflow.sourceRun"), Source.ENTRY, ("metadata",), "mlflow.sourceRun"),
        (tree.Assessment("feedback", "f"), Source.ASSESSMENT, ("feedback",), "f"),
        (tree.Assessment("assessment", "f"), Source.ASSESSMENT, ("feedback", "expectation"), "f"),
        (tree.Issue(), Source.ISSUE, ("issue",), ""),
        (tree.SpanAttribute(("a", "b")), Source.ATTRIBUTE, ("attribute",), "a\x1fb"),
    ],
)
def test_families(field: tree.Field, source: Source, kinds: tuple[str, ...], key: str) -> None:
    row = storage.of(field)
    assert (row.source, row.kinds, row.key) == (source, kinds, key)


def test_attributes_that_have_no_key_in_the_index() -> None:
    assert storage.of(tree.SpanAttribute(("a" * 251,))).indexed is Indexed.NOTHING
    assert storage.of(tree.SpanAttribute(("a", "b\x1fc"))).indexed is Indexed.NOTHING
