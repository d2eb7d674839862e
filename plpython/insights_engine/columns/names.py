"""The names of facts, and of what makes facts uncertain; the filters that facts are.

A name is independent of where a fact is stored. Tuples are compared by what is in them:
`role` keeps names of different classes apart.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from insights_engine.language import fields, storage, times, tree
from insights_engine.language.storage import SEPARATOR


class Value(NamedTuple):
    """Some value equals a text: ``tags.env = 'prod'``."""

    kind: str
    key: str
    value: str
    role: str = "value"


class Presence(NamedTuple):
    """There is a value: ``feedback.quality IS NOT NULL``."""

    kind: str
    key: str
    role: str = "presence"


class SpanStatus(NamedTuple):
    """Some span has this name or type, and this status."""

    column: str
    text: str
    status: str
    role: str = "span"


class Experiment(NamedTuple):
    """The traces of an experiment."""

    experiment_id: int
    role: str = "experiment"


class NumberField(NamedTuple):
    """A field with numbers, in which thresholds are sought; of spans of one name, if any."""

    kind: str
    key: str
    span_name: str
    role: str = "number"


class Beyond(NamedTuple):
    """Some number lies beyond a threshold: ``execution_time_ms >= 2000``."""

    kind: str
    key: str
    span_name: str
    op: str
    number: Union[int, float]
    cut: int
    role: str = "number"

    @property
    def field(self) -> NumberField:
        """The field that the number is of."""
        return NumberField(self.kind, self.key, self.span_name)


class Both(NamedTuple):
    """One and the other of two facts."""

    one: Single
    other: Single
    role: str = "and"


class HashBucket(NamedTuple):
    """Some value is in this hash bucket."""

    kind: str
    key: str
    bucket: int
    role: str = "hash"


class NotCaptured(NamedTuple):
    """Something of a key is not in the index; ``slot`` says what."""

    kind: str
    key: str
    slot: Union[int, str]
    role: str = "other"


#: Sets of traces that are stored and counted as they are, ...
Stored = Union[Value, Presence, SpanStatus, Experiment]
STORED = (Value, Presence, SpanStatus, Experiment)
#: ... and with thresholds: facts that are a condition.
Single = Union[Stored, Beyond]
Fact = Union[Single, Both]
#: What makes facts uncertain.
Doubt = Union[HashBucket, NotCaptured]
#: What postings are counted for.
Item = Union[Stored, Doubt]


class Label(NamedTuple):
    """The columns that describe a fact."""

    kind: str
    key: str
    value: Optional[str]


def label(name: Fact) -> Label:
    """The columns kind, key and value of a fact."""
    if isinstance(name, Both):
        both = [label(one) for one in (name.one, name.other)]
        return Label(
            " AND ".join([one.kind for one in both]),
            " AND ".join([one.key for one in both]),
            " AND ".join([one.value or "" for one in both]),
        )
    if isinstance(name, Experiment):
        return Label("trace", "experiment_id", str(name.experiment_id))
    if isinstance(name, SpanStatus):
        return Label("span", f"{name.column}, status", f"{name.text}, {name.status}")
    if isinstance(name, Beyond):
        field = fields.spell(field_of(name.kind, name.key))
        of_name = f"span.name, {field}" if name.span_name else field
        value = f"{name.span_name}, " if name.span_name else ""
        return Label("number", of_name, f"{value}{name.op} {_number_text(name)}")
    shown = _SHOWN_KEYS.get(name.kind, name.key).replace(SEPARATOR, ".")
    return Label(name.kind, shown, name.value if isinstance(name, Value) else None)


def _number_text(name: Beyond) -> str:
    """The constant of a threshold, as a filter has it, but without quotes."""
    number = name.number
    if isinstance(number, int) and fields.is_time(field_of(name.kind, name.key)):
        return times.text_of(number) or repr(number)
    return repr(number)


_SHOWN_KEYS = {**{row.kinds[0]: row.name for row in storage.LINKS}, "issue": "issue.id"}


def kind_of(name: Stored) -> str:
    """The kind of a fact."""
    if isinstance(name, Experiment):
        return "trace"
    return "span" if isinstance(name, SpanStatus) else name.kind


def node_of(name: Fact) -> tree.Node:
    """The filter that a fact is."""
    if isinstance(name, Both):
        return tree.And((node_of(name.one), node_of(name.other)))
    if isinstance(name, Experiment):
        return tree.TextCompare(tree.TraceText("experiment_id"), "=", str(name.experiment_id))
    if isinstance(name, SpanStatus):
        return tree.AnySpan(
            tree.And(
                (
                    tree.TextCompare(tree.SpanText(name.column), "=", name.text),
                    tree.TextCompare(tree.SpanText("status"), "=", name.status),
                )
            )
        )
    field = field_of(name.kind, name.key)
    node: tree.Node
    if isinstance(name, Presence):
        node = tree.IsNull(field, negated=True)
    elif isinstance(name, Beyond):
        node = tree.NumberCompare(field, name.op, name.number)
        if name.span_name:
            named = tree.TextCompare(tree.SpanText("name"), "=", name.span_name)
            return tree.AnySpan(tree.And((named, node)))
    else:
        node = tree.TextCompare(field, "=", name.value)
    return tree.AnySpan(node) if fields.is_span_field(field) else node


def field_of(kind: str, key: str) -> tree.Field:
    """The field that facts of a kind and key are about."""
    row = storage.NAMED.get((kind, key))
    if row is not None:
        return row.field
    if kind == "tag":
        return tree.Tag(key)
    if kind == "metadata":
        return fields.PROMOTED_METADATA.get(key) or tree.Metadata(key)
    if kind in storage.ASSESSMENTS:
        return tree.Assessment(kind, key)
    if kind == "issue":
        return tree.Issue()
    return tree.SpanAttribute(tuple(key.split(SEPARATOR)))


def singles(name: Fact) -> tuple[Single, ...]:
    """The facts that a fact is made of: both of a pair, else itself."""
    return (name.one, name.other) if isinstance(name, Both) else (name,)


def ordered_by(name: Fact) -> str:
    """A text by which facts can be put into an order that is always the same."""
    return repr(_plain(name))


def _plain(name: Fact) -> tuple[object, ...]:
    if isinstance(name, Both):
        return (name.role[0], _plain(name.one), _plain(name.other))
    return (name.role[0], *name[:-1])
