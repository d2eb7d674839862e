"""The values of any field, from MLflow's tables: for what the index cannot list.

What counts as a value is what the raw predicate compares (rawsql.py), so that the
traces with a value are those that a filter for the value finds.
"""

from __future__ import annotations

import json
from typing import Optional

from insights_engine.exact import rawsql
from insights_engine.exact.attributes import storable
from insights_engine.exact.rawsql import SESSION, SOURCE_RUN, TOKEN_USAGE, TRACE_NAME, USER
from insights_engine.exact.statement import Statement
from insights_engine.language import fields, tree

#: Fields of integers; their numbers are compared exactly, all others as doubles.
WHOLE = fields.INTEGER_FIELDS


def is_whole(field: tree.Field) -> bool:
    """Whether the field holds integers only."""
    return isinstance(field, tree.TraceNumber) and field.name in WHOLE


def is_single(field: tree.Field) -> bool:
    """Whether a trace has one value at the most."""
    if isinstance(field, tree.TraceText):
        return field.name not in ("run_id", "prompt")
    return isinstance(field, (tree.TraceNumber, tree.Tag, tree.Metadata))


def number_type(field: tree.Field) -> str:
    """The type of the column ``number`` of `pairs`."""
    return "numeric" if is_whole(field) else "float8"


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
    source, value, number = "", "", ""
    if isinstance(field, tree.TraceNumber):
        if field.name == "span_count":
            source = (
                f"cross join lateral (select count(*) as n from {schema}.spans s"
                " where s.trace_id = m.request_id and s.experiment_id = m.experiment_id) v"
            )
            value, number = "v.n::text", "v.n::numeric"
        elif field.name == "end_time_ms":
            number = "(m.timestamp_ms::numeric + coalesce(m.execution_time_ms, 0))"
            value = f"{number}::text"
        else:
            value, number = f"m.{field.name}::text", f"m.{field.name}::{cast}"
    elif isinstance(field, tree.SpanNumber):
        source = _spans(schema)
        number = "(s.duration_ns / 1e6::float8)"
        value = f"{number}::text"
    elif isinstance(field, tree.SpanText):
        source = _spans(schema)
        value = "nullif(s.content, '')" if field.name == "content" else f"s.{field.name}"
    elif isinstance(field, tree.SpanAttribute):
        source = _spans(schema) + _having(statement, field)
        path = add(list(field.path), "text[]")
        value = f"insights.span_attribute(s.content, {path})"
        number = f"insights.span_attribute_number(s.content, {path})"
    elif isinstance(field, tree.Assessment):
        source = _assessments(statement, field)
        value = "v.value"
        number = "case when v.is_numeric_value then v.aggregate_value end"
    else:
        source, value = _texts(statement, field)
        if fields.may_hold_numbers(field):
            number = f"insights.text_number({value})"
    columns = f"{value} as value"
    columns += f", {number if numbers and number else 'null::' + cast} as number"
    keyed = isinstance(field, (tree.Tag, tree.Metadata, tree.Assessment))
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


def _texts(statement: Statement, field: tree.Field) -> tuple[str, str]:
    """The join, and the value, of a field of the trace that holds texts."""
    schema = statement.schema
    add = statement.params.add
    key: Optional[tuple[str, str]] = None
    if isinstance(field, tree.Tag):
        if field.key == TRACE_NAME:
            return "", "m.trace_name"
        key = ("trace_tags", field.key)
    elif isinstance(field, tree.Metadata):
        if field.key == SESSION:
            return "", "m.session_id"
        if fields.is_usage(field):
            return "", _usage(field.key)
        key = ("trace_request_metadata", field.key)
    elif isinstance(field, tree.Issue):
        return (
            f"join {schema}.assessments v on v.trace_id = m.request_id"
            f" and v.assessment_type = {add('issue', 'text')}"
        ), "v.name"
    elif isinstance(field, tree.TraceText) and field.name == "user":
        key = ("trace_request_metadata", USER)
    if key is not None:
        return (
            f"join {schema}.{key[0]} v on v.request_id = m.request_id"
            f" and v.key = {add(key[1], 'text')}"
        ), "v.value"
    assert isinstance(field, tree.TraceText)
    if field.name == "prompt":
        return _linked(statement, "prompt_version"), "v.destination_id"
    if field.name == "run_id":
        return (
            "join (select k.request_id, k.value"
            f" from {schema}.trace_request_metadata k where k.key = {add(SOURCE_RUN, 'text')}"
            f" union all select e.source_id, e.destination_id from {schema}.entity_associations e"
            f" where e.source_type = {add('trace', 'text')}"
            f" and e.destination_type = {add('run', 'text')}) v (request_id, value)"
            " on v.request_id = m.request_id"
        ), "v.value"
    if field.name == "experiment_id":
        return "", "m.experiment_id::text"
    column, _ = rawsql.TEXT_COLUMNS[field.name]
    return "", f"m.{column}"


def _linked(statement: Statement, kind: str) -> str:
    add = statement.params.add
    return (
        f"join {statement.schema}.entity_associations v on v.source_id = m.request_id"
        f" and v.source_type = {add('trace', 'text')} and v.destination_type = {add(kind, 'text')}"
    )


def _assessments(statement: Statement, field: tree.Assessment) -> str:
    """The valid assessments of the trace itself, and those that cover its session."""
    schema = statement.schema
    kinds = ["feedback", "expectation"] if field.kind == "assessment" else [field.kind]
    add = statement.params.add
    wanted = (
        f"a.assessment_type = any({add(kinds, 'text[]')}) and a.name = {add(field.name, 'text')}"
        " and a.valid"
    )
    columns = "a.value, a.is_numeric_value, a.aggregate_value"
    scope = statement.scope().replace("t.", "c.")
    mark = add(f'"{SESSION}":', "text")
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


def _usage(key: str) -> str:
    """The columns of metadata that MLflow synthesises, as one text; '-' for none."""
    columns = [f"m.{column}" for column in rawsql.SYNTHESISED[key]]
    there = " or ".join(f"{column} is not null" for column in columns)
    parts = f" || '{_SEPARATOR}' || ".join(f"coalesce({column}::text, '-')" for column in columns)
    return f"(case when {there} then {parts} end)"


def shown(field: tree.Field, value: str) -> str:
    """What a value of `pairs` is in a filter."""
    if isinstance(field, tree.Assessment):
        return canonical(value)
    if fields.is_usage(field):
        assert isinstance(field, tree.Metadata)
        columns = rawsql.SYNTHESISED[field.key]
        parse = int if field.key == TOKEN_USAGE else float
        numbers = {
            column: parse(text)
            for column, text in zip(columns, value.split(_SEPARATOR))
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
