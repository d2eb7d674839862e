"""What this project takes for granted about MLflow's tables: pure data, and how it is checked.

Whatever release of MLflow a database comes from, its traces can be answered if this
holds.  So it is what decides; the known heads only say which releases were tested.

The module imports nothing of the project's and runs on Python 3.9, so that the
engine can share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

#: MLflow's Alembic heads that were tested, with the releases that have them.
KNOWN_HEADS: Mapping[str, str] = {"dc11669786a5": "3.17", "f4a9b2c7d1e6": "3.18"}

OLDEST_RELEASE = "3.17"

#: Every revision before the oldest release's.
OLDER_HEADS = frozenset(
    """
    0584bdc529eb 0a8213491aaa 0c779009ac13 17e22815139b 181f10493468 1971f2d9a75b
    1a0cddfcaa16 1b5f0d9ad7c1 1bd49d398cd23 27a6a02d2cf1 2b4d017a5e9b 2c33131f4dae
    2d6e25af4d3e 3500859a5d39 39d1c3be5f05 3da73c924c2f 400f98739977 4465047574b1
    451aebb31d03 534353b11cbc 5b0e9adcef9c 5d2d30f0abce 6953534de441 6f8d9c3b2a1e
    71994744cf8e 728d730b5ebd 75868b020152 76601a5f987d 770bee3ae1dd 7ac759974ad8
    7d34483879f0 7f2a7d5fae7d 84291f40a231 867495a8f9d4 89d3d66ed43f 89d4b8295536
    90e64c465722 97727af70f4d a1b2c3d4e5f6 a5b4c3d2e1f0 a8b9c0d1e2f3 a8c4a736bde6
    acf3f17fdcc7 ae8bbe7743c9 b7c8d9e0f1a2 b7e2c1a4d9f3 b7e4c1a90f23 bd07f7e963c5
    bda7b8c39065 bf29a5ff90ea c1d2e3f4a5b6 c3d6457b6d8a c3d9e7f1a2b4 c48cb773bb87
    c8d9e0f1a2b3 c9d4e5f6a7b8 cbc13b556ace cc1f77228345 cfd24bdc0731 d0e1f2a3b4c5
    d3e4f5a6b7c8 da6fb0208061 de4033877273 df50e92ffc5e e1f2a3b4c5d6 f5a4f2784254
    """.split()  # noqa: SIM905
)

#: Ordinary and partitioned tables.  A view or a foreign table may run anybody's code.
RELKINDS = ("r", "p")

# Types by their names in pg_catalog, which nobody can add to.  A domain, an enum or
# another type of a user's comes with casts and operators that are code of its owner's.
_TEXT = ("varchar", "text")
_INTEGER = ("int4",)
_BIGINT = ("int8",)
_DOUBLE = ("float8",)
_BOOLEAN = ("bool",)

#: By table, the columns that the functions read, each with the types it may have.
COLUMNS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "assessments": {
        "assessment_id": _TEXT,
        "trace_id": _TEXT,
        "name": _TEXT,
        "assessment_type": _TEXT,
        "value": _TEXT,
        "error": _TEXT,
        "created_timestamp": _BIGINT,
        "last_updated_timestamp": _BIGINT,
        "source_type": _TEXT,
        "source_id": _TEXT,
        "run_id": _TEXT,
        "span_id": _TEXT,
        "rationale": _TEXT,
        "overrides": _TEXT,
        "valid": _BOOLEAN,
        "assessment_metadata": _TEXT,
        "aggregate_value": _DOUBLE,
        "is_numeric_value": _BOOLEAN,
    },
    "entity_associations": {
        "source_type": _TEXT,
        "source_id": _TEXT,
        "destination_type": _TEXT,
        "destination_id": _TEXT,
    },
    "spans": {
        "trace_id": _TEXT,
        "experiment_id": _INTEGER,
        "span_id": _TEXT,
        "name": _TEXT,
        "type": _TEXT,
        "status": _TEXT,
        "duration_ns": _BIGINT,
        "content": _TEXT,
    },
    "trace_info": {
        "request_id": _TEXT,
        "experiment_id": _INTEGER,
        "timestamp_ms": _BIGINT,
        "execution_time_ms": _BIGINT,
        "status": _TEXT,
        "client_request_id": _TEXT,
        "request_preview": _TEXT,
        "response_preview": _TEXT,
        "trace_name": _TEXT,
        "session_id": _TEXT,
        "input_tokens": _BIGINT,
        "output_tokens": _BIGINT,
        "total_tokens": _BIGINT,
        "cache_read_input_tokens": _BIGINT,
        "cache_creation_input_tokens": _BIGINT,
        "cache_creation_input_tokens_above_1hr": _BIGINT,
        "input_cost": _DOUBLE,
        "output_cost": _DOUBLE,
        "total_cost": _DOUBLE,
    },
    "trace_request_metadata": {"key": _TEXT, "value": _TEXT, "request_id": _TEXT},
    "trace_tags": {"key": _TEXT, "value": _TEXT, "request_id": _TEXT},
}

#: Of these columns, those that are never NULL: answers rely on it.
NOT_NULL: Mapping[str, tuple[str, ...]] = {
    "assessments": (
        "assessment_id",
        "trace_id",
        "name",
        "assessment_type",
        "value",
        "created_timestamp",
        "last_updated_timestamp",
        "source_type",
        "valid",
        "is_numeric_value",
    ),
    "entity_associations": ("source_type", "source_id", "destination_type", "destination_id"),
    "spans": ("trace_id", "experiment_id", "span_id", "status", "content"),
    "trace_info": ("request_id", "experiment_id", "timestamp_ms", "status"),
    "trace_request_metadata": ("key", "request_id"),
    "trace_tags": ("key", "request_id"),
}

# What else shows that MLflow's migration to 3.17 has come to its end.  Its tool that
# fills tables beforehand leaves the columns there and these undone.
FILLED_COLUMN = ("assessments", "is_numeric_value")
DROPPED_COLUMN = ("spans", "dimension_attributes")
LAST_TABLE = "sql_trace_metric_daily_rollups"


class Fact(NamedTuple):
    """A row of `query`: a column of a table, or a table that has none."""

    table: str
    relkind: str
    column: str | None
    type_name: str | None
    not_null: bool | None
    deterministic: bool | None


def query(schema: str) -> str:
    """SQL that reads the facts for `broken`; ``schema`` is a parameter, such as ``$1``."""
    tables = ", ".join(f"'{table}'" for table in (*COLUMNS, LAST_TABLE))
    return f"""
        select c.relname::pg_catalog.text,
            c.relkind::pg_catalog.text,
            a.attname::pg_catalog.text,
            case when tn.nspname = 'pg_catalog' then t.typname::pg_catalog.text
                else tn.nspname || '.' || t.typname
            end,
            a.attnotnull,
            coalesce(l.collisdeterministic, true)
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        left join pg_catalog.pg_attribute a
            on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_catalog.pg_type t on t.oid = a.atttypid
        left join pg_catalog.pg_namespace tn on tn.oid = t.typnamespace
        left join pg_catalog.pg_collation l on l.oid = a.attcollation
        where n.nspname = {schema}
            and c.relname in ({tables})
    """


def broken(facts: Iterable[Fact]) -> list[str]:
    """What the contract asks for and is not so, a phrase each; none if it is kept."""
    relkinds: dict[str, str] = {}
    columns: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        relkinds[fact.table] = fact.relkind
        if fact.column is not None:
            columns[fact.table, fact.column] = fact
    found: list[str] = []
    for table, wanted in COLUMNS.items():
        if table not in relkinds:
            found.append(f"there is no table {table}")
            continue
        if relkinds[table] not in RELKINDS:
            found.append(f"{table} is not an ordinary table")
        missing = [column for column in wanted if (table, column) not in columns]
        if missing:
            found.append(f"{table} lacks {', '.join(missing)}")
        for column, types in wanted.items():
            if (table, column) in columns:
                found += _wrong(columns[table, column], types)
    signs = _unfinished(relkinds, columns)
    if signs:
        found.append(f"MLflow's migration to {OLDEST_RELEASE} is not complete ({', '.join(signs)})")
    return found


def _wrong(fact: Fact, types: tuple[str, ...]) -> Iterator[str]:
    name = f"{fact.table}.{fact.column}"
    if fact.type_name not in types:
        yield f"{name} has type {fact.type_name}, not {' or '.join(types)}"
    if not fact.deterministic:
        yield f"{name} has a nondeterministic collation"
    sign = (fact.table, fact.column) == FILLED_COLUMN
    if not fact.not_null and fact.column in NOT_NULL[fact.table] and not sign:
        yield f"{name} may be NULL"


def _unfinished(relkinds: Mapping[str, str], columns: Mapping[tuple[str, str], Fact]) -> list[str]:
    signs = []
    if FILLED_COLUMN in columns and not columns[FILLED_COLUMN].not_null:
        signs.append(f"{'.'.join(FILLED_COLUMN)} may be NULL")
    if DROPPED_COLUMN in columns:
        signs.append(f"{'.'.join(DROPPED_COLUMN)} is still there")
    if LAST_TABLE not in relkinds:
        signs.append(f"there is no table {LAST_TABLE}")
    return signs
