"""The table of routes: each is one stored function, its arguments and its columns.

The names of fields and columns are those of `insights_py.sql`; here they get
their types in JSON and a description.  `_JSON_NAMES` are called otherwise in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from insights_py import sql
from insights_py.mlflow.rest.kinds import (
    Choice,
    ExperimentId,
    Flag,
    Integer,
    Kind,
    ListOf,
    Number,
    OneOrList,
    Refused,
    Schema,
    Text,
    Time,
    nearest,
)
from insights_py.rows import Trace

PREFIX = "/mlflow/insights"
VERSION = 3

# What a route takes where the stored function has no default of its own.
_MISSING = object()


@dataclass(frozen=True)
class Field:
    """A field of a request; ``default`` is what a missing one stands for."""

    kind: Kind
    description: str
    default: Any = _MISSING

    @property
    def required(self) -> bool:
        """Whether a request has to have it."""
        return self.default is _MISSING

    def schema(self) -> Schema:
        """The values it takes, as JSON schema; null where that is the default."""
        schema = self.kind.schema()
        if self.default is None:
            if "anyOf" in schema:
                schema = {"anyOf": [*schema["anyOf"], {"type": "null"}]}
            else:
                schema["type"] = [schema["type"], "null"]
        if not self.required:
            schema["default"] = self.default
        return {**schema, "description": self.description}


KINDS = (
    "trace",
    "tag",
    "metadata",
    "feedback",
    "expectation",
    "run",
    "prompt",
    "issue",
    "span",
    "attribute",
    "number",
)

# The limits are the engine's: a filter may have 65,536 bytes.
_FILTER = Text(64 * 1024)
_WORD = Text(1000)

# By the names of the stored functions' arguments.
FIELDS: Mapping[str, Field] = {
    "exp_ids": Field(
        OneOrList(ExperimentId(), most=100_000),
        "Experiments to look at; null: every one of the active workspace.",
        None,
    ),
    "filter": Field(_FILTER, "Which traces; null: all.", None),
    "f1": Field(_FILTER, "The first filter."),
    "f2": Field(_FILTER, "The second filter."),
    "filters": Field(ListOf(_FILTER, most=50), "The filters to correlate, each with each."),
    "target": Field(_FILTER, "The filter for what is to be explained."),
    "selection": Field(_FILTER, "The filter for the traces of interest."),
    "baseline": Field(_FILTER, "The filter for the traces to compare with."),
    "base_filter": Field(_FILTER, "Look at these traces only; null: at all.", None),
    "field": Field(_FILTER, "A field of the filter language."),
    "max_results": Field(Integer(minimum=1, maximum=1000), "At most so many rows.", 20),
    "order_by": Field(
        OneOrList(_FILTER, most=32),
        "Clauses such as `execution_time_ms DESC`; null: newest first.",
        None,
    ),
    "page_token": Field(Text(4 * 1024 * 1024), "The `next_page_token` of the page before.", None),
    "kinds": Field(OneOrList(Choice(KINDS), most=100), "Kinds of facts to test; null: all.", None),
    "min_support": Field(Integer(minimum=1), "Leave out facts of fewer traces than that.", 5),
    "fdr": Field(
        Number(), "The share of false discoveries among the rows to put up with, 0 to 1.", 0.05
    ),
    "direction": Field(
        Choice(("positive", "negative", "both")),
        "Facts that are more frequent in the target, rarer in it, or both.",
        "positive",
    ),
    "pairs": Field(Flag(), "Test two facts together as well.", False),
    "restatements": Field(Flag(), "Keep facts that merely restate the target.", False),
    "bucket": Field(_WORD, "The length of a bucket, as an interval of PostgreSQL.", "1 hour"),
    "start_time": Field(Time(), "Where the series begins; null: at the first trace.", None),
    "end_time": Field(Time(), "Where the series ends; null: at the last trace.", None),
    "time_zone": Field(_WORD, "The time zone in which days and months begin.", "UTC"),
    "unit": Field(
        Choice(("trace", "session", "session_all")),
        "What is counted: traces, sessions of which any trace matches, or sessions of which "
        "all traces match.",
        "trace",
    ),
}

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_WHOLE_OR_NULL: Schema = {"type": ["integer", "null"]}
_NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
_TIME: Schema = {"type": "string", "format": "date-time"}
_MAP: Schema = {"type": "object", "additionalProperties": _TEXT_OR_NULL}

# By the names of the stored functions' columns.
COLUMNS: Mapping[str, Schema] = {
    "assessments": {
        "type": "array",
        "items": {"type": "object"},
        "description": "As in MLflow's REST API.",
    },
    "blocks": _WHOLE_OR_NULL,
    "built": {"type": ["boolean", "null"]},
    "cost": _NUMBER_OR_NULL,
    "count": _COUNT,
    "detail": _TEXT_OR_NULL,
    "difference": _NUMBER_OR_NULL,
    "error_rate": _NUMBER_OR_NULL,
    "errors": _COUNT,
    "execution_time_ms": _WHOLE_OR_NULL,
    "experiment_id": _TEXT,
    "fact_count": _COUNT,
    "filter": _TEXT,
    "filter1": _TEXT,
    "filter1_count": _COUNT,
    "filter1_number": {"type": "integer", "minimum": 1},
    "filter2": _TEXT,
    "filter2_count": _COUNT,
    "filter2_number": {"type": "integer", "minimum": 1},
    "high": _NUMBER_OR_NULL,
    "index_bytes": _COUNT,
    "index_share": _NUMBER_OR_NULL,
    "joint_count": _COUNT,
    "key": _TEXT_OR_NULL,
    "kind": _TEXT,
    "lag_seconds": _NUMBER_OR_NULL,
    "lift": _NUMBER_OR_NULL,
    "low": _NUMBER_OR_NULL,
    "matched": _COUNT,
    "metadata": _MAP,
    "missed": _WHOLE_OR_NULL,
    "mlflow_bytes": _WHOLE_OR_NULL,
    "npmi": _NUMBER_OR_NULL,
    "npmi_smoothed": _NUMBER_OR_NULL,
    "odds_ratio": _NUMBER_OR_NULL,
    "odds_ratio_high": _NUMBER_OR_NULL,
    "odds_ratio_low": _NUMBER_OR_NULL,
    "other_share": _NUMBER_OR_NULL,
    "p50_ms": _NUMBER_OR_NULL,
    "p95_ms": _NUMBER_OR_NULL,
    "p99_ms": _NUMBER_OR_NULL,
    "p_value": _NUMBER_OR_NULL,
    "pending": _WHOLE_OR_NULL,
    "phi": _NUMBER_OR_NULL,
    "postings": _WHOLE_OR_NULL,
    "q_value": _NUMBER_OR_NULL,
    "rate": _NUMBER_OR_NULL,
    "request_preview": _TEXT_OR_NULL,
    "request_time": {
        "type": ["string", "null"],
        "format": "date-time",
        "description": "`timestamp_ms` as a time; null beyond the year 9999.",
    },
    "response_preview": _TEXT_OR_NULL,
    "restates": {"type": "boolean"},
    "session_id": _TEXT_OR_NULL,
    "screened_count": {
        **_COUNT,
        "description": "Among how many units facts were sought: `total_count`, or fewer in a "
        "sample of very many.",
    },
    "share": _NUMBER_OR_NULL,
    "similar": {"type": "array", "items": _TEXT},
    "status": _TEXT,
    "step": _TEXT,
    "tags": _MAP,
    "target_count": _COUNT,
    "target_share": _NUMBER_OR_NULL,
    "terms": _WHOLE_OR_NULL,
    "test": {
        **_TEXT_OR_NULL,
        "description": "Where `p_value` comes from: `Fisher`, `G2`, or the best of some splits by "
        "one of these. Null where it is.",
    },
    "tested": _COUNT,
    "time": _TIME,
    "timestamp_ms": {"type": "integer"},
    "tokens": _WHOLE_OR_NULL,
    "total": _COUNT,
    "total_count": _COUNT,
    "trace_id": _TEXT,
    "trace_name": _TEXT_OR_NULL,
    "traces": _WHOLE_OR_NULL,
    "unwatched": _TEXT_OR_NULL,
    "usable": {"type": ["boolean", "null"]},
    "value": _TEXT_OR_NULL,
}

#: What arguments of the stored functions are called in JSON, where it is not the same: as in
#: Python and as the columns of the answer.
_JSON_NAMES = {"exp_ids": "experiment_ids", "f1": "filter1", "f2": "filter2"}
#: Those that a request may also call as SQL does.
_SHORT = ("f1", "f2")
_SHORT_NAMES = {name: one for name, one in _JSON_NAMES.items() if name not in _SHORT}

Reply = Literal["page", "rows", "row", "value"]


@dataclass(frozen=True)
class Route:
    """One route.

    ``reply`` is what the answer holds: a ``page`` of traces, ``rows``, the one
    ``row`` of the function, or its ``value``, under the name ``value_name``.
    ``defaults``, ``kinds`` and ``required`` differ from `FIELDS`.  ``example`` is a request.
    """

    name: str
    function: sql.Function
    summary: str
    reply: Reply
    example: Mapping[str, Any]
    value_name: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The address on the server, below its static prefix."""
        return f"/api/{VERSION}.0{PREFIX}/{self.name}"

    @property
    def fields(self) -> dict[str, Field]:
        """The fields of a request, by their names in JSON."""
        return self._fields(_JSON_NAMES)

    def _fields(self, names: Mapping[str, str]) -> dict[str, Field]:
        return {names.get(name, name): self._field(name) for name in self.function.arguments}

    def _field(self, argument: str) -> Field:
        known = FIELDS[argument]
        default = self.defaults.get(argument, known.default)
        if argument in self.required:
            default = _MISSING
        return Field(self.kinds.get(argument, known.kind), known.description, default)

    def arguments(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What a request passes to the function.

        A field that is missing is left to the function's own default; null is
        passed, since not every argument that may be NULL has a default.

        Raises:
            Refused: the document does not allow the request.
        """
        names = _JSON_NAMES
        if any(name in self.function.arguments and name in request for name in _SHORT):
            names = _SHORT_NAMES
        fields = self._fields(names)
        for name in request:
            if name not in fields:
                raise Refused(_unknown(name, fields, self.name))
        arguments: dict[str, Any] = {}
        for argument in self.function.arguments:
            name = names.get(argument, argument)
            known = fields[name]
            if name not in request and known.required:
                raise Refused(f"Field '{name}' is missing.")
            value = request.get(name)
            if value is None and known.default is None:
                arguments[argument] = None
            elif name in request:
                arguments[argument] = known.kind.read(value, name)
        return arguments

    def answer(self, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """The reply that the function's rows make."""
        if self.reply == "value":
            return {self.value_name: to_json(rows[0][0])}
        if self.reply == "row":
            return self._row(rows[0])
        if self.reply == "rows":
            return {"rows": [self._row(row) for row in rows]}
        return {
            "rows": [_trace(row) for row in rows],
            "next_page_token": rows[-1][-1] if rows else None,
        }

    def _row(self, row: Sequence[Any]) -> dict[str, Any]:
        return {
            name: to_json(value) for name, value in zip(self.function.columns, row, strict=True)
        }

    def request_schema(self) -> Schema:
        """The body of a request."""
        forms = [
            _request(self._fields(names))
            for names in (_JSON_NAMES, _SHORT_NAMES)
            if names is _JSON_NAMES or any(name in self.function.arguments for name in _SHORT)
        ]
        return forms[0] if len(forms) == 1 else {"anyOf": forms}

    @property
    def needs_body(self) -> bool:
        """Whether a request has to have any field."""
        return any(known.required for known in self.fields.values())

    def reply_schema(self) -> Schema:
        """The body of the answer."""
        if self.reply == "value":
            return _object({self.value_name: COLUMNS[self.value_name]})
        if self.reply == "row":
            return _object({name: COLUMNS[name] for name in self.function.columns})
        names = Trace.columns() if self.reply == "page" else self.function.columns
        rows = {"type": "array", "items": _object({name: COLUMNS[name] for name in names})}
        if self.reply == "rows":
            return _object({"rows": rows})
        token = {**_TEXT_OR_NULL, "description": "For the next page; null on the last one."}
        return _object({"rows": rows, "next_page_token": token})


def to_json(value: Any) -> Any:
    """A value of the database as JSON has it: no NaN, no infinity, times in UTC."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat()
    return value


def _trace(row: Sequence[Any]) -> dict[str, Any]:
    trace = Trace.from_row(row[:-1])
    return {name: to_json(value) for name, value in trace.as_dict().items()}


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _request(fields: Mapping[str, Field]) -> Schema:
    schema: Schema = {
        "type": "object",
        "properties": {name: known.schema() for name, known in fields.items()},
        "additionalProperties": False,
    }
    required = [name for name, known in fields.items() if known.required]
    return {**schema, "required": required} if required else schema


def _unknown(name: str, fields: Iterable[str], route: str) -> str:
    names = ", ".join(fields)
    text = f"Unknown field {name[:60]!r}; " + (
        f"{route} takes {names}." if names else f"{route} takes none."
    )
    hint = nearest(name, fields)
    return f"{text}\nHint: {hint}" if hint else text


_LLM_ERRORS = "span.status = 'ERROR'"
_VERSION_2 = "tags.release = 'v2'"

ROUTES: tuple[Route, ...] = (
    Route(
        "search",
        sql.SEARCH,
        "The traces that match a filter, a page at a time",
        "page",
        {
            "experiment_ids": ["1"],
            "filter": _LLM_ERRORS,
            "max_results": 1,
            "order_by": ["execution_time_ms DESC"],
        },
        defaults={"max_results": 100},
        kinds={"max_results": Integer(minimum=1, maximum=50_000)},
    ),
    Route(
        "count",
        sql.COUNT,
        "How many traces match a filter",
        "value",
        {"experiment_ids": ["1"], "filter": _LLM_ERRORS},
        value_name="count",
    ),
    Route(
        "correlate",
        sql.CORRELATE,
        "How two filters go together",
        "row",
        {"filter1": "span.attributes.model = 'gpt-4'", "filter2": _LLM_ERRORS},
    ),
    Route(
        "matrix",
        sql.MATRIX,
        "How several filters go together, each with each",
        "rows",
        {"filters": ["span.attributes.model = 'gpt-4'", _LLM_ERRORS, _VERSION_2]},
    ),
    Route(
        "discover",
        sql.DISCOVER,
        "Facts associated with a target, the surest effect first",
        "rows",
        {"target": _LLM_ERRORS, "max_results": 1},
    ),
    Route(
        "compare",
        sql.COMPARE,
        "In what two sets of traces differ",
        "rows",
        {"selection": _VERSION_2, "baseline": "tags.release = 'v1'", "max_results": 1},
    ),
    Route(
        "facets",
        sql.FACETS,
        "The values of a field among the traces that match",
        "rows",
        {"filter": _LLM_ERRORS, "field": "span.attributes.model"},
    ),
    Route(
        "timeseries",
        sql.TIMESERIES,
        "Matches, errors, latency, tokens and cost over time",
        "rows",
        {
            "filter": _VERSION_2,
            "bucket": "30 minutes",
            "start_time": "2026-01-05T09:00:00Z",
            "end_time": "2026-01-05T10:00:00Z",
        },
    ),
    Route(
        "validate",
        sql.VALIDATE,
        "A filter in its canonical form, or what is wrong with it",
        "value",
        {"filter": "span.status='ERROR' and not tag.release=\"v1\""},
        value_name="filter",
        required=("filter",),
    ),
    Route(
        "explain",
        sql.EXPLAIN,
        "How a filter is answered",
        "rows",
        {"experiment_ids": ["1"], "filter": _VERSION_2},
    ),
    Route(
        "status",
        sql.INDEX_STATUS,
        "The state of the index: of the whole database, whatever the workspace",
        "row",
        {},
    ),
)
