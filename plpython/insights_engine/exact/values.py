"""The values of any field, from MLflow's tables: for what the index cannot list.

What counts as a value is what the raw predicate compares (rawsql.py), so that the
traces with a value are those that a filter for the value finds.
"""

from __future__ import annotations

import json

from insights_engine.exact import rawsql
from insights_engine.exact.attributes import storable
from insights_engine.exact.statement import Statement
from insights_engine.language import fields, storage, tree
from insights_engine.language.storage import Source, Type


def number_type(field: tree.Field) -> str:
    """The type of the column ``number`` of `pairs`."""
    return "numeric" if fields.is_whole(field) else "float8"


def pairs(
    statement: Statement,
    field: tree.Field,
    traces: str,
    *,
    numbers: bool = True,
    nulls: bool = False,
) -> str:
    """A query for (request_id, session_id, value, number) of the traces of a subquery.

    A trace has a row for each of its values, perhaps several times.  ``traces`` gives
    rows of trace_info.  ``value`` is text, of assessments their stored JSON; ``number``
    is NULL where the value is none, or without ``numbers``.  With ``nulls`` there are
    rows for what is there without a value, such as a tag that is NULL.
    """
    schema = statement.schema
    add = statement.params.add
    cast = number_type(field)
    row = storage.of(field)
    source, value, number = "", f"m.{row.column}", ""
    if row.source is Source.EXPERIMENT:
        value = f"{value}::text"
    elif row.source is Source.SUM:
        first, second = [f"m.{part.column}" for part in row.parts]
        value = f"({first}::numeric + coalesce({second}, 0))"
    elif row.source is Source.USAGE:
        value = _usage(row)
    elif row.source is Source.ENTRY:
        source = (
            f"join {schema}.{row.entry.table} v on v.request_id = m.request_id"
            f" and v.key = {add(row.entry.key, 'text')}"
        )
        value = "v.value"
    elif row.source is Source.LINK:
        source = (
            f"join {schema}.entity_associations v on v.source_id = m.request_id"
            f" and v.source_type = {add('trace', 'text')}"
            f" and v.destination_type = {add(row.column, 'text')}"
        )
        value = "v.destination_id"
    elif row.source is Source.LINK_OR_ENTRY:
        source = (
            "join (select k.request_id, k.value"
            f" from {schema}.{row.entry.table} k where k.key = {add(row.entry.key, 'text')}"
            f" union all select e.source_id, e.destination_id from {schema}.entity_associations e"
            f" where e.source_type = {add('trace', 'text')}"
            f" and e.destination_type = {add(row.column, 'text')}) v (request_id, value)"
            " on v.request_id = m.request_id"
        )
        value = "v.value"
    elif row.source is Source.ISSUE:
        source = (
            f"join {schema}.assessments v on v.trace_id = m.request_id"
            f" and v.assessment_type = {add('issue', 'text')}"
        )
        value = f"v.{row.column}"
    elif row.source is Source.ASSESSMENT:
        source = _assessments(statement, row)
        value = "v.value"
        number = "case when v.is_numeric_value then v.aggregate_value end"
    elif row.source is Source.SPAN_COUNT:
        source = (
            f"cross join lateral (select count(*) as n from {schema}.spans s"
            " where s.trace_id = m.request_id and s.experiment_id = m.experiment_id) v"
        )
        value = "v.n"
    elif row.source is Source.SPAN_COLUMN:
        source, value = _spans(schema), f"s.{row.column}"
        if row.type is Type.NANOSECONDS:
            value = f"({value} / 1e6::float8)"
        elif row.empty_is_missing:
            value = f"nullif({value}, '')"
    elif isinstance(field, tree.SpanAttribute):
        source = _spans(schema) + _having(statement, field)
        path = add(list(field.path), "text[]")
        value = f"insights.span_attribute(s.content, {path})"
        number = f"insights.span_attribute_number(s.content, {path})"
    if row.type is not Type.TEXT:
        value, number = f"{value}::text", f"{value}::{cast}"
    elif row.numeric and not number:
        number = f"insights.text_number({value})"
    columns = f"{value} as value"
    columns += f", {number if numbers and number else 'null::' + cast} as number"
    keyed = row.source in (Source.ENTRY, Source.ASSESSMENT)
    there = "" if nulls and keyed else f"\nwhere {value} is not null"
    return f"select m.request_id, m.session_id, {columns}\nfrom ({traces}) m {source}{there}"


def _having(statement: Statement, field: tree.SpanAttribute) -> str:
    """Spares decoding the contents in which the key cannot be."""
    fragments = rawsql.key_fragments(field.path)
    if not fragments:
        return ""
    compiler = rawsql.Compiler(statement.params, statement.schema, None, 0, "set")
    return f" and {compiler.contains([fragments])}"


def _spans(schema: str) -> str:
    return (
        f"join {schema}.spans s on s.trace_id = m.request_id and s.experiment_id = m.experiment_id"
    )


def _assessments(statement: Statement, row: storage.Row) -> str:
    """The valid assessments of the trace itself, and those that cover its session."""
    schema = statement.schema
    add = statement.params.add
    kinds = list(row.kinds)
    wanted = (
        f"a.assessment_type = any({add(kinds, 'text[]')}) and a.name = {add(row.key, 'text')}"
        " and a.valid"
    )
    columns = "a.value, a.is_numeric_value, a.aggregate_value"
    scope = statement.scope().replace("t.", "c.")
    mark = add(rawsql.SESSION_MARK, "text")
    return (
        "join lateral ("
        f"select {columns} from {schema}.assessments a where a.trace_id = m.request_id and {wanted}"
        f" union all select {columns} from {schema}.trace_info c"
        f" join {schema}.assessments a on a.trace_id = c.request_id"
        f" where c.session_id = m.session_id and {scope} and {wanted}"
        f" and pg_catalog.strpos(a.assessment_metadata, {mark}) > 0) v on true"
    )


#: Between the numbers of a synthesised value, as `_usage` gives them.
_SEPARATOR = " "


def _usage(row: storage.Row) -> str:
    """The columns of metadata that MLflow synthesises, as one text; '-' for none."""
    columns = [f"m.{part.column}" for part in row.parts]
    there = " or ".join(f"{column} is not null" for column in columns)
    parts = f" || '{_SEPARATOR}' || ".join(f"coalesce({column}::text, '-')" for column in columns)
    return f"(case when {there} then {parts} end)"


def shown(field: tree.Field, value: str) -> str:
    """What a value of `pairs` is in a filter."""
    if isinstance(field, tree.Assessment):
        return canonical(value)
    if fields.is_usage(field):
        numbers = {
            part.name: int(text) if part.whole else float(text)
            for part, text in zip(storage.of(field).parts, value.split(_SEPARATOR))
            if text != "-"
        }
        return json.dumps(numbers)
    return value


def canonical(stored: str) -> str:
    """The text for which ``=`` finds an assessment stored as ``stored``.

    The raw predicate finds what is stored as the text, or as the JSON string of it.
    """
    if not stored.startswith('"'):
        return stored
    try:
        text = json.loads(stored)
    except (ValueError, RecursionError):
        return stored
    if not isinstance(text, str) or json.dumps(text) != stored:
        return stored
    # A text that PostgreSQL cannot hold can be in no filter.
    return text if storable(text) == text else stored
