"""Every field of the language: its names, its type, what it may be compared with.

The one place to look a name up, for filters as for ``order_by``, and to print
a field in its canonical spelling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from insights_engine.language import storage, tree

# ------------------------------------------------------------- trace-level names

#: Names without an entity, or after ``trace.``/``attribute.``/``attributes.``.
TRACE_FIELDS: dict[str, tree.Field] = {
    **{name: row.field for name, row in storage.TRACE.items()},
    "request_id": tree.TraceText("trace_id"),
    "session": tree.TraceText("session_id"),
    "timestamp": tree.TraceNumber("timestamp_ms"),
    "execution_time": tree.TraceNumber("execution_time_ms"),
    "end_time": tree.TraceNumber("end_time_ms"),
    "text": tree.SpanText("content"),
}

#: The entity of ``entity.key``: what MLflow's aliases stand for, plus our own.
ENTITIES: dict[str, str] = {
    "trace": "trace",
    "attribute": "trace",
    "attributes": "trace",
    "tag": "tags",
    "tags": "tags",
    "metadata": "metadata",
    "request_metadata": "metadata",
    "feedback": "feedback",
    "expectation": "expectation",
    "assessment": "assessment",
    "issue": "issue",
    "span": "span",
}

SPAN_FIELDS: dict[str, tree.Field] = {name: row.field for name, row in storage.SPAN.items()}

#: MLflow replaces these keys whatever entity they stand in (except ``span``),
#: compared in lower case; brackets reach the real key.
KEY_TO_FIELD: dict[str, tree.Field] = {
    "name": tree.TraceText("name"),
    "prompt": tree.TraceText("prompt"),
    "run_id": tree.TraceText("run_id"),
    "text": tree.SpanText("content"),
}
KEY_TO_KEY: dict[str, str] = {
    "timestamp": "timestamp_ms",
    "execution_time": "execution_time_ms",
    "end_time": "end_time_ms",
}

#: Keys whose value MLflow keeps in a column or in links of the trace.
PROMOTED_TAGS, PROMOTED_METADATA = (
    {row.entry.key: row.field for row in storage.TRACE.values() if row.entry.kind == kind}
    for kind in ("tag", "metadata")
)

#: Those of them that stand for links as well.  Brackets reach what is kept by that name.
LINKED_KEYS = frozenset(
    (group, key)
    for group, promoted in (("tags", PROMOTED_TAGS), ("metadata", PROMOTED_METADATA))
    for key, field in promoted.items()
    if storage.of(field) in storage.LINKS
)


def is_span_field(field: tree.Field) -> bool:
    """Whether the field is one of a span (else of the trace)."""
    return isinstance(field, (tree.SpanText, tree.SpanNumber, tree.SpanAttribute))


def is_number(field: tree.Field) -> bool:
    """Whether the field holds numbers only."""
    return isinstance(field, (tree.TraceNumber, tree.SpanNumber))


def is_whole(field: tree.Field) -> bool:
    """Whether the field holds integers only, of 64 bits."""
    return storage.of(field).whole


def is_time(field: tree.Field) -> bool:
    """Whether the field is a point in time (milliseconds since 1970 UTC)."""
    return storage.of(field).type is storage.Type.TIME


def is_usage(field: tree.Field) -> bool:
    """Whether the field is one of MLflow's two synthesised metadata entries."""
    return isinstance(field, tree.Metadata) and field.key in storage.USAGE


def may_hold_numbers(field: tree.Field) -> bool:
    """Whether the field can be compared with a number literal."""
    return is_number(field) or storage.of(field).numeric


def may_hold_booleans(field: tree.Field) -> bool:
    """Whether the field can be compared with ``true`` and ``false``."""
    return isinstance(field, (tree.Tag, tree.Assessment, tree.SpanAttribute)) or (
        isinstance(field, tree.Metadata) and not is_usage(field)
    )


# ---------------------------------------------------------------------- spelling

_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
_INDEX = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")


def quote(text: str) -> str:
    """``text`` as a string of the language."""
    return "'" + text.replace("'", "''") + "'"


def spell(field: tree.Field) -> str:
    """The canonical text of a field."""
    if isinstance(field, (tree.TraceText, tree.TraceNumber)):
        return field.name
    if isinstance(field, (tree.SpanText, tree.SpanNumber)):
        return "span." + field.name
    if isinstance(field, tree.Tag):
        return _spell_key("tags", field.key)
    if isinstance(field, tree.Metadata):
        return _spell_key("metadata", field.key)
    if isinstance(field, tree.Assessment):
        return _spell_key(field.kind, field.name)
    if isinstance(field, tree.Issue):
        return "issue.id"
    if len(field.path) == 1 and _DOTTED.match(field.path[0]):
        return "span.attributes." + field.path[0]
    first, *rest = field.path
    return f"span.attributes[{quote(first)}]" + "".join(
        f"[{step}]" if _INDEX.match(step) else f"[{quote(step)}]" for step in rest
    )


def _spell_key(entity: str, key: str) -> str:
    plain = key.lower()
    remapped = plain in KEY_TO_FIELD or plain in KEY_TO_KEY or (entity, key) in LINKED_KEYS
    if _DOTTED.match(key) and not remapped:
        return f"{entity}.{key}"
    return f"{entity}[{quote(key)}]"


# ------------------------------------------------------------------- suggestions

#: Names that other tools, or MLflow's own objects, give to what a field holds.
SYNONYMS: dict[str, str] = {
    "id": "trace_id",
    "traceid": "trace_id",
    "state": "status",
    "trace_status": "status",
    "trace_name": "name",
    "latency": "execution_time_ms",
    "latency_ms": "execution_time_ms",
    "duration": "execution_time_ms",
    "duration_ms": "execution_time_ms",
    "execution_duration": "execution_time_ms",
    "time": "timestamp_ms",
    "date": "timestamp_ms",
    "created": "timestamp_ms",
    "created_at": "timestamp_ms",
    "start_time": "timestamp_ms",
    "request_time": "timestamp_ms",
    "user_id": "user",
    "userid": "user",
    "sessionid": "session_id",
    "session": "session_id",
    "run": "run_id",
    "experiment": "experiment_id",
    "tokens": "total_tokens",
    "token_count": "total_tokens",
    "cost": "total_cost",
    "request": "request_preview",
    "input": "request_preview",
    "inputs": "request_preview",
    "response": "response_preview",
    "output": "response_preview",
    "outputs": "response_preview",
    "content": "span.content",
    "type": "span.type",
    "span_type": "span.type",
    "span_name": "span.name",
    "span_status": "span.status",
    "model": "span.attributes.model",
    "spans": "span_count",
}

SPAN_SYNONYMS: dict[str, str] = {
    "duration": "span.duration_ms",
    "latency": "span.duration_ms",
    "latency_ms": "span.duration_ms",
    "execution_time_ms": "span.duration_ms",
    "execution_time": "span.duration_ms",
    "duration_ns": "span.duration_ms",
    "span_type": "span.type",
    "kind": "span.type",
    "state": "span.status",
    "status_code": "span.status",
    "text": "span.content",
    "inputs": "span.attributes.mlflow.spanInputs",
    "outputs": "span.attributes.mlflow.spanOutputs",
}

ENTITY_SYNONYMS: dict[str, str] = {
    "assessments": "assessment",
    "feedbacks": "feedback",
    "expectations": "expectation",
    "scores": "feedback",
    "score": "feedback",
    "meta": "metadata",
    "attr": "span.attributes",
    "param": "tags",
    "params": "tags",
    "issues": "issue",
    "spans": "span",
    "traces": "trace",
}


#: What the messages list beside MLflow's lists, which lack whatever stock has not.
TRACE_NUMBERS = [row.name for row in storage.TRACE.values() if row.type is not storage.Type.TEXT]
TRACE_NAMES = "Fields of the trace: " + ", ".join(sorted(storage.TRACE))
SPAN_NAMES = "Fields of a span: " + ", ".join((*SPAN_FIELDS, "attributes['key']"))
ENTITY_NAMES = "Before a dot stand trace, span, tags, metadata, feedback, expectation, assessment"
ENTITY_NAMES += " or issue"
#: What stock MLflow prints in its messages; sets are printed sorted.
MLFLOW_ENTITIES = (
    "attribute",
    "attributes",
    "expectation",
    "feedback",
    "issue",
    "metadata",
    "request_metadata",
    "span",
    "tag",
    "tags",
    "trace",
)


def operators(field: tree.Field) -> str:
    """The operators that a field takes, without their negations."""
    if is_usage(field):
        return "=, != or IS NULL"
    if field == tree.SpanText("content"):
        return "LIKE, ILIKE, RLIKE or IS NULL"
    if is_number(field):
        return "=, !=, <, <=, >, >=, IN, BETWEEN or IS NULL"
    if may_hold_numbers(field):
        return "=, !=, <, <=, >, >=, LIKE, ILIKE, RLIKE, IN, BETWEEN or IS NULL"
    return "=, !=, LIKE, ILIKE, RLIKE, IN or IS NULL"


def nearest(name: str, candidates: Sequence[str]) -> str | None:
    """The candidate that ``name`` is most likely a misspelling of, if any.

    One slip for names of up to five letters, one more for every three beyond them: a name
    that is only somewhat alike would lead astray.  Else one that ``name`` begins, if all
    that it begins are forms of one.
    """
    name = name[:100].lower()
    near: str | None = None
    fewest = len(name)
    for candidate in candidates:
        most = max(1, min(len(name), len(candidate)) // 3)
        slips = _slips(name, candidate.lower(), most if near is None else min(most, fewest - 1))
        if slips is not None:
            near, fewest = candidate, slips
    if near is not None:
        return near
    begun = [one for one in candidates if len(name) > 2 and one.lower().startswith(name)]
    shortest = min(begun, key=len, default="")
    return shortest if begun and all(one.startswith(shortest) for one in begun) else None


def _slips(one: str, other: str, most: int) -> int | None:
    """How many letters are wrong, missing, too many or swapped; None if more than ``most``."""
    if most < 0 or abs(len(one) - len(other)) > most:
        return None
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return None
        before, last = last, row
    return last[-1] if last[-1] <= most else None
