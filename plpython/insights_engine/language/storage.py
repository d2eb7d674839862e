"""How every field is kept, in MLflow's tables and in the index: one table.

A field of the trace is added by adding a row to `_ROWS`; a column that nothing has read
before belongs into the contract of ``insights_py``, too.  The keys of tags, metadata,
assessments and attributes are anybody's; these families have a row each.  What reads a
field asks `of` for its row and looks at `Row.source` (MLflow's tables) or at `Row.indexed`
(terms), not at its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import lru_cache
from typing import Any, NamedTuple

from insights_engine.language import tree

#: Between the keys of a path into an attribute's value, in the key of a term.
SEPARATOR = "\x1f"
#: Longer keys of attributes are not indexed.
LONGEST_KEY = 250


class Type(Enum):
    """What the values are."""

    TEXT = auto()
    INTEGER = auto()  # of 64 bits, compared exactly
    TIME = auto()  # an integer: milliseconds since 1970 UTC
    DOUBLE = auto()
    NANOSECONDS = auto()  # an integer of nanoseconds, compared as a double of milliseconds


class Source(Enum):
    """Where MLflow keeps the values."""

    COLUMN = auto()  # a column of ``trace_info``
    EXPERIMENT = auto()  # an integer column of ``trace_info``, whose values filters take as texts
    SUM = auto()  # two columns of ``trace_info``, added; the second counts as 0 where it is NULL
    USAGE = auto()  # columns of ``trace_info``, shown as one JSON text
    ENTRY = auto()  # the tag or metadata `Row.entry`
    LINK = auto()  # rows of ``entity_associations`` from the trace to a `Row.column`
    LINK_OR_ENTRY = auto()  # those, and the metadata `Row.entry`
    ASSESSMENT = auto()  # valid ``assessments`` of the trace, and those of its whole session
    ISSUE = auto()  # ``assessments`` that stand for issues
    SPAN_COUNT = auto()  # how many rows of ``spans`` there are
    SPAN_COLUMN = auto()  # a column of ``spans``
    ATTRIBUTE = auto()  # the content of ``spans``


class Indexed(Enum):
    """What the index has of the values."""

    VALUES = auto()  # terms of texts, slices of numbers
    PRESENCE = auto()  # whether there is one
    TRACE = auto()  # ``insights.trace`` lists them
    BLOCK = auto()  # ``insights.block`` lists them
    PARTS = auto()  # the numbers of the fields `Row.parts`
    NOTHING = auto()


class Entry(NamedTuple):
    """A tag or metadata of that key, which its table has unless the field is kept elsewhere."""

    kind: str
    key: str

    @property
    def table(self) -> str:
        return ENTRIES[self.kind]


#: The tables of entries, by kind.
ENTRIES = {"tag": "trace_tags", "metadata": "trace_request_metadata"}
_NO_ENTRY = Entry("", "")


@dataclass(frozen=True)
class Row:
    """How one field, or each field of a family, is kept."""

    #: The canonical name; families have none.
    name: str
    type: Type
    source: Source
    column: str = ""
    #: Whether it may be missing.
    nullable: bool = True
    #: Whether a trace has one value at the most.
    single: bool = True
    #: Of texts: whether those that read as numbers compare with numbers.
    numeric: bool = False
    #: Whether an empty text stands for a missing one.
    empty_is_missing: bool = False
    #: The tag or metadata that MLflow keeps, or shows, the values as.
    entry: Entry = _NO_ENTRY
    #: The fields that the value is made of.
    parts: tuple[Row, ...] = ()
    indexed: Indexed = Indexed.VALUES
    #: The kinds and the key of its terms.
    kinds: tuple[str, ...] = ("trace",)
    key: str = ""

    @property
    def field(self) -> tree.Field:
        """The field of that name."""
        if self.source is Source.SPAN_COLUMN:
            return (tree.SpanText if self.type is Type.TEXT else tree.SpanNumber)(self.name)
        return (tree.TraceText if self.type is Type.TEXT else tree.TraceNumber)(self.name)

    @property
    def whole(self) -> bool:
        """Whether the values are integers."""
        return self.type in (Type.INTEGER, Type.TIME)

    @property
    def sql_type(self) -> str:
        """The type that its columns have."""
        return "bigint" if self.whole else _SQL_TYPES[self.type]

    @property
    def sliced(self) -> bool:
        """Whether the index has slices of numbers that are values, or are among them."""
        return self.type is not Type.TEXT or (self.numeric and self.source in _READ_AS_NUMBERS)

    @property
    def of_trace_info(self) -> bool:
        """Whether ``trace_info`` alone has the values."""
        return self.source in _OF_TRACE_INFO


_READ_AS_NUMBERS = (Source.ENTRY, Source.ASSESSMENT, Source.ATTRIBUTE)
_SQL_TYPES = {Type.TEXT: "text", Type.DOUBLE: "double precision"}
_TERMS = (Indexed.VALUES, Indexed.PRESENCE)
_OF_TRACE_INFO = (Source.COLUMN, Source.EXPERIMENT, Source.SUM, Source.USAGE)


def _row(name: str, type: Type, column: str = "", **rest: Any) -> Row:
    """A column of ``trace_info``, unless ``rest`` says otherwise, with keys of the same name."""
    given = {"source": Source.COLUMN, "column": column or name, "key": name, **rest}
    return Row(name, type, **given)


def _linked(name: str, kind: str, to: str, source: Source, entry: Entry) -> Row:
    """What traces are linked to."""
    return Row(name, Type.TEXT, source, to, single=False, entry=entry, kinds=(kind,))


#: Blocks know the first and the last time in them.
START_TIME = _row("timestamp_ms", Type.TIME, nullable=False)
_EXECUTION_TIME = _row("execution_time_ms", Type.INTEGER)
_TOKENS = (
    _row("input_tokens", Type.INTEGER),
    _row("output_tokens", Type.INTEGER),
    _row("total_tokens", Type.INTEGER),
    _row("cache_read_input_tokens", Type.INTEGER),
    _row("cache_creation_input_tokens", Type.INTEGER),
    _row("cache_creation_input_tokens_above_1hr", Type.INTEGER),
)
_COSTS = (
    _row("input_cost", Type.DOUBLE),
    _row("output_cost", Type.DOUBLE),
    _row("total_cost", Type.DOUBLE),
)
_SUM: dict[str, Any] = {"source": Source.SUM, "parts": (START_TIME, _EXECUTION_TIME)}
END_TIME = _row("end_time_ms", Type.TIME, nullable=False, **_SUM)
SPAN_COUNT = _row("span_count", Type.INTEGER, nullable=False, source=Source.SPAN_COUNT)

_IDS: dict[str, Any] = {"source": Source.EXPERIMENT, "indexed": Indexed.BLOCK}
_ENTRY = Row("", Type.TEXT, Source.ENTRY, numeric=True)
_NAME = Entry("tag", "mlflow.traceName")
_SESSION = Entry("metadata", "mlflow.trace.session")
_USER = Entry("metadata", "mlflow.trace.user")
_RUN = Entry("metadata", "mlflow.sourceRun")
_PROMPTS = Entry("tag", "mlflow.linkedPrompts")

_ROWS = (
    _row("trace_id", Type.TEXT, "request_id", nullable=False, indexed=Indexed.TRACE),
    _row("experiment_id", Type.TEXT, nullable=False, numeric=True, **_IDS),
    _row("status", Type.TEXT, nullable=False),
    _row("client_request_id", Type.TEXT),
    _row("name", Type.TEXT, "trace_name", entry=_NAME),
    _row("session_id", Type.TEXT, numeric=True, entry=_SESSION),
    replace(_ENTRY, name="user", entry=_USER, kinds=(_USER.kind,), key=_USER.key),
    _linked("run_id", "run", "run", Source.LINK_OR_ENTRY, _RUN),
    _linked("prompt", "prompt", "prompt_version", Source.LINK, _PROMPTS),
    _row("request_preview", Type.TEXT, indexed=Indexed.PRESENCE),
    _row("response_preview", Type.TEXT, indexed=Indexed.PRESENCE),
    *(START_TIME, _EXECUTION_TIME, END_TIME, *_TOKENS, *_COSTS, SPAN_COUNT),
)
#: The fields of the trace by name.
TRACE = {row.name: row for row in _ROWS}

_SPAN = Row("", Type.TEXT, Source.SPAN_COLUMN, single=False, kinds=("span",))
#: The fields of a span by name, but for attributes.
SPAN = {
    "name": replace(_SPAN, name="name", column="name", key="name"),
    "type": replace(_SPAN, name="type", column="type", key="type"),
    "status": replace(_SPAN, name="status", column="status", key="status"),
    "content": replace(
        _SPAN, name="content", column="content", empty_is_missing=True, indexed=Indexed.NOTHING
    ),
    "duration_ms": replace(
        _SPAN, name="duration_ms", type=Type.NANOSECONDS, column="duration_ns", key="duration"
    ),
}

#: The kinds of assessments.
ASSESSMENTS = ("feedback", "expectation")

_USAGE = Row("", Type.TEXT, Source.USAGE, indexed=Indexed.PARTS)
#: Metadata that MLflow makes of columns, by key.
USAGE = {
    key: replace(_USAGE, entry=Entry("metadata", key), parts=parts)
    for key, parts in (("mlflow.trace.tokenUsage", _TOKENS), ("mlflow.trace.cost", _COSTS))
}
_ASSESSMENT = Row("", Type.TEXT, Source.ASSESSMENT, numeric=True, single=False)
_ISSUE = Row("", Type.TEXT, Source.ISSUE, "name", single=False, kinds=("issue",))
_ATTRIBUTE = Row("", Type.TEXT, Source.ATTRIBUTE, numeric=True, single=False, kinds=("attribute",))

#: The columns of ``trace_info`` that there are terms of.
COLUMNS = tuple(row for row in _ROWS if row.source is Source.COLUMN and row.indexed in _TERMS)
#: What traces are linked to.
LINKS = tuple(row for row in _ROWS if row.source in (Source.LINK, Source.LINK_OR_ENTRY))
#: The fields with a name that there are terms of, by the kind and key of these.
NAMED = {(row.kinds[0], row.key): row for row in (*_ROWS, *SPAN.values()) if row.indexed in _TERMS}
#: What MLflow shows as tags and metadata, but keeps in ``trace_info``.
SHOWN = {row.entry: row for row in (*_ROWS, *USAGE.values()) if row.of_trace_info and row.entry.key}


@lru_cache(maxsize=1000)
def of(field: tree.Field) -> Row:
    """How a field is kept."""
    if isinstance(field, (tree.TraceText, tree.TraceNumber)):
        return TRACE[field.name]
    if isinstance(field, (tree.SpanText, tree.SpanNumber)):
        return SPAN[field.name]
    if isinstance(field, (tree.Tag, tree.Metadata)):
        kind = "tag" if isinstance(field, tree.Tag) else "metadata"
        entry = Entry(kind, field.key)
        shown = SHOWN.get(entry)
        return shown or replace(_ENTRY, entry=entry, kinds=(kind,), key=field.key)
    if isinstance(field, tree.Assessment):
        kinds = ASSESSMENTS if field.kind == "assessment" else (field.kind,)
        return replace(_ASSESSMENT, kinds=kinds, key=field.name)
    if isinstance(field, tree.Issue):
        return _ISSUE
    known = len(field.path[0]) <= LONGEST_KEY and not any(SEPARATOR in one for one in field.path)
    indexed = Indexed.VALUES if known else Indexed.NOTHING
    return replace(_ATTRIBUTE, key=SEPARATOR.join(field.path), indexed=indexed)
