"""The clauses of ``order_by``: what MLflow takes, and every other field with one value.

Missing values come last, ascending and descending.  ``timestamp_ms DESC`` and
``trace_id ASC`` are appended unless a clause orders by them already, so the
order is total.

``feedback.x``, ``expectation.x`` and ``assessment.x`` order by the trace's own
newest valid assessment of that name (by last update, then creation, then id).
Its values order so: numbers by value, then all others, booleans included, by
their decoded text (of long texts the first 1,000 characters); DESC is the exact
reverse, except that JSON's null counts as missing and stays last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Optional

from insights_engine.exact.rawsql import Params
from insights_engine.language import fields, storage, tree
from insights_engine.language.errors import InsightsError, bare_set, quoted_set, visible
from insights_engine.language.storage import Source

MAX_CLAUSES = 32

# What tells one trace from all others, newest first: MLflow's tie-breakers.
_TIME = tree.TraceNumber("timestamp_ms")
_ID = tree.TraceText("trace_id")

_HINT = "A clause is a field, optionally followed by ASC or DESC: timestamp_ms DESC, tags.env."

# A name, plain or in one of the quotes, and whatever stands between the dots.
_QUOTED = r"`[^`]+`|\"[^\"]*\"|'[^']*'"
_CLAUSE = re.compile(
    rf"""
    (?P<entity>{_QUOTED}|[^\s.,;()\[\]`"']+)
    (?:
        \.(?P<key>(?:{_QUOTED}|[^\s,;()\[\]`"'])*)
      | \[(?P<bracket>'(?:[^']|'')*'|"(?:[^"]|"")*")\]
    )?
    (?:\s+(?P<rest>\S.*))?
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Clause:
    """One clause: a field of the trace and its direction."""

    field: tree.TraceField
    descending: bool = False

    def __str__(self) -> str:
        return fields.spell(self.field) + (" DESC" if self.descending else " ASC")


@dataclass(frozen=True)
class SortColumn:
    """One SQL expression to sort by, over the alias ``t`` and the order's joins."""

    expression: str
    type: str
    nullable: bool
    descending: bool

    def __str__(self) -> str:
        direction = " desc" if self.descending else ""
        # An index on a column without nulls only serves if nothing is said
        # about nulls where they would come first by default.
        return f"{self.expression}{direction}{' nulls last' if self.nullable else ''}"


# --------------------------------------------------------------------- parsing


def parse_order(clauses: Optional[Sequence[Optional[str]]]) -> tuple[Clause, ...]:
    """The clauses, the tie-breakers included.  Raises InsightsError."""
    clauses = clauses or ()
    if len(clauses) > MAX_CLAUSES:
        raise InsightsError(f"`order_by` has more than {MAX_CLAUSES} clauses.")
    order = [_parse_clause(clause) for clause in clauses]
    seen = [clause.field for clause in order]
    if len(set(seen)) < len(seen):
        shown = [visible(clause or "", 100) for clause in clauses]
        raise InsightsError(
            f"`order_by` contains duplicate fields: {shown}",
            hint="Name each field once; timestamp and timestamp_ms are the same field.",
        )
    if _TIME not in seen:
        order.append(Clause(_TIME, descending=True))
    if _ID not in seen:
        order.append(Clause(_ID))
    return tuple(order)


def _parse_clause(clause: Optional[str]) -> Clause:
    if not isinstance(clause, str):
        raise InsightsError("`order_by` must be an array of texts without NULL.", hint=_HINT)
    match = _CLAUSE.fullmatch(clause.strip())
    if match is None:
        raise _unreadable(clause)
    rest = (match["rest"] or "asc").split()
    if len(rest) > 1:
        raise _unreadable(clause)
    direction = rest[0].lower()
    if direction not in ("asc", "desc"):
        if match["entity"] == "timestamp" and match["key"] is None:
            raise _unreadable(clause)  # as MLflow's parser has it, for a word of SQL's
        raise InsightsError(
            f"Invalid ordering key in order_by clause '{visible(clause, 100)}'.", hint=_HINT
        )
    return Clause(_resolve(match, clause), direction == "desc")


def _unreadable(clause: str, hint: str = _HINT) -> InsightsError:
    return InsightsError(
        f"Invalid order_by clause '{visible(clause, 100)}'. Could not be parsed.", hint=hint
    )


#: What MLflow's parser takes for no name: numbers, punctuation, strings, and words of SQL's.
_NO_NAME = re.compile(
    r"[^A-Za-z_`\"]|(?:COUNT|DATE|INPUT|ISSUE|KEY|LEVEL|OUTPUT|SOURCE|TEXT|TIME|TIMESTAMP|TYPE)\Z",
    re.IGNORECASE,
)


def _unquoted(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "`\"'" else name


def _resolve(match: re.Match[str], clause: str) -> tree.TraceField:
    entity_name = _unquoted(match["entity"])
    if match["key"] is None and match["bracket"] is None:
        if entity_name not in _ATTRIBUTES and _NO_NAME.match(match["entity"]):
            raise _unreadable(clause, _meant(entity_name, _ATTRIBUTES) or _HINT)
        return _attribute(entity_name)
    entity = fields.ENTITIES.get(entity_name)
    if entity is None:
        hint = f"{_meant(entity_name, fields.ENTITIES)} {fields.ENTITY_NAMES}.".lstrip()
        raise InsightsError(
            f"Invalid entity type '{visible(entity_name, 60)}'. "
            f"Valid values are {bare_set(fields.MLFLOW_ENTITIES)}",
            hint=hint,
        )
    if match["bracket"] is not None:
        quote = match["bracket"][0]
        key = match["bracket"][1:-1].replace(quote * 2, quote)
        return _keyed(entity, key, clean=False)
    key = "".join(_unquoted(part) for part in re.findall(rf"{_QUOTED}|[^`\"']+", match["key"]))
    return _keyed(entity, key, clean=True)


def _meant(name: str, names: Iterable[str]) -> str:
    guess = fields.nearest(name, list(names))
    return f"Did you mean {guess}?" if guess else ""


#: The attributes of a trace with one value each.
_ATTRIBUTES = {
    name: field
    for name, field in fields.TRACE_FIELDS.items()
    if isinstance(field, (tree.TraceText, tree.TraceNumber))
    and storage.of(field).source is not Source.LINK
}


# What MLflow prints in its messages; sets are printed sorted.
_MLFLOW_KEYS = (
    "end_time",
    "end_time_ms",
    "execution_time",
    "execution_time_ms",
    "experiment_id",
    "name",
    "request_id",
    "run_id",
    "status",
    "timestamp",
    "timestamp_ms",
)


def _attribute(key: str) -> tree.TraceField:
    field = _ATTRIBUTES.get(key)
    if field is None:
        names = "Traces are ordered by " + ", ".join(sorted(_ATTRIBUTES))
        raise InsightsError(
            f"Invalid attribute key '{visible(key, 60)}' specified. "
            f"Valid keys are {quoted_set(_MLFLOW_KEYS)}",
            hint=f"{_meant(key, _ATTRIBUTES)} {names}.".lstrip(),
        )
    return field


def _keyed(entity: str, key: str, clean: bool) -> tree.TraceField:
    """The field ``entity.key``, or ``entity['key']`` without MLflow's remapping."""
    if entity == "trace":
        return _attribute(key)
    if entity == "span":
        raise _no_order("span")
    if clean:
        remapped = fields.KEY_TO_FIELD.get(key.lower())
        if isinstance(remapped, tree.SpanText):
            raise _no_order("span")
        if isinstance(remapped, tree.TraceText):
            # Ordering by links is ordering by the tag that MLflow once kept.
            row = storage.of(remapped)
            return tree.Tag(row.entry.key) if row.source is Source.LINK else remapped
        key = fields.KEY_TO_KEY.get(key.lower(), key)
    if entity == "tags":
        promoted = fields.PROMOTED_TAGS.get(key)
        if isinstance(promoted, tree.TraceText):
            return promoted if storage.of(promoted).source is not Source.LINK else tree.Tag(key)
        return tree.Tag(key)
    if entity == "metadata":
        if key in storage.USAGE:
            raise InsightsError(
                f"Ordering by reserved metadata '{key}' is not supported because it is "
                "represented by multiple columns.",
                hint="Order by total_tokens or total_cost, for example.",
            )
        promoted_metadata = fields.PROMOTED_METADATA.get(key)
        if isinstance(promoted_metadata, tree.TraceText):
            return promoted_metadata
        return tree.Metadata(key)
    if entity == "issue":
        raise _no_order("issue")
    if not key:
        raise InsightsError("Assessment field name cannot be empty", hint=_HINT)
    return tree.Assessment(entity, key)


def _no_order(kind: str) -> InsightsError:
    return InsightsError(
        f"Invalid identifier type '{kind}'",
        hint="Traces can be ordered by their own fields, tags.x, metadata.x, feedback.x, "
        "expectation.x and assessment.x.",
    )


# ------------------------------------------------------------------- compiling


def compile_order(
    order: Sequence[Clause], params: Params, schema: str
) -> tuple[list[SortColumn], str]:
    """The expressions to sort by, and the joins (with ``t``) that they need."""
    columns: list[SortColumn] = []
    joins: list[str] = []
    for number, clause in enumerate(order):
        alias = f"o{number}"
        found, join = _compile(clause.field, alias, params, schema)
        if join:
            joins.append(join)
        columns += [
            SortColumn(column.expression, column.type, column.nullable, clause.descending)
            for column in found
        ]
    return columns, "\n".join(joins)


def _compile(
    field: tree.TraceField, alias: str, params: Params, schema: str
) -> tuple[list[SortColumn], str]:
    row = storage.of(field)
    if row.source in (Source.ENTRY, Source.LINK_OR_ENTRY):
        key = params.add(row.entry.key, "text")
        join = (
            f"left join {schema}.{row.entry.table} {alias}"
            f" on {alias}.request_id = t.request_id and {alias}.key = {key}"
        )
        return [SortColumn(f"{alias}.value", "text", True, False)], join
    if row.source is Source.ASSESSMENT:
        columns = [
            SortColumn(f"{alias}.kind", "bigint", True, False),
            SortColumn(f"{alias}.number", "double precision", True, False),
            SortColumn(f"{alias}.text", "text", True, False),
        ]
        return columns, _newest_assessment(row, alias, params, schema)
    if row.source is Source.SPAN_COUNT:
        join = (
            f"cross join lateral (select count(*) as value from {schema}.spans s"
            f" where s.trace_id = t.request_id and s.experiment_id = t.experiment_id) {alias}"
        )
        return [SortColumn(f"{alias}.value", "bigint", False, False)], join
    if row.source is Source.SUM:
        # numeric, because two bigints can add up to more than one.
        first, second = [f"t.{part.column}" for part in row.parts]
        added = f"({first}::numeric + coalesce({second}, 0))"
        return [SortColumn(added, "numeric", row.nullable, False)], ""
    if not row.of_trace_info:
        raise TypeError(f"no order for {field}")
    type_ = "bigint" if row.source is Source.EXPERIMENT else row.sql_type
    return [SortColumn(f"t.{row.column}", type_, row.nullable, False)], ""


def _newest_assessment(row: storage.Row, alias: str, params: Params, schema: str) -> str:
    name = params.add(row.key, "text")
    types = params.add(list(row.kinds), "text[]")
    return f"""left join lateral (
    select
        case when a.is_numeric_value then 0 when v.text is not null then 1 end as kind,
        case when a.is_numeric_value then a.aggregate_value end as number,
        case when a.is_numeric_value then null else v.text end as text
    from (
        select a.is_numeric_value, a.aggregate_value, a.value
        from {schema}.assessments a
        where a.trace_id = t.request_id and a.name = {name}
            and a.assessment_type = any({types}) and a.valid
        order by a.last_updated_timestamp desc, a.created_timestamp desc, a.assessment_id desc
        limit 1
    ) a
    cross join lateral (select pg_catalog.left(insights.json_text(a.value), 1000) as text) v
) {alias} on true"""
