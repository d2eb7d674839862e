"""The items that facts are counted by, and the terms of the index that make them up.

An *item* is a set of traces that can be counted: a fact that is a filter of its
own (``tags.env = 'prod'``, ``span.name = 'retrieve'``, ``feedback.quality IS NOT
NULL``), or what makes facts uncertain, because the index keeps it in a hash bucket that
several values share.  Items are made of terms: those of the vocabulary of the
index, or those of `facts.Facts` about traces that are not indexed.  Their names
(see `names`) are the same in both, so that their counts can be added up.

Thresholds and pairs of facts are no items: they are made of cells, and of other facts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Optional, Union

from insights_engine.base import interrupts, plans
from insights_engine.columns.names import (
    STORED,
    Beyond,
    Both,
    Doubt,
    Experiment,
    Fact,
    HashBucket,
    Item,
    NotCaptured,
    NumberField,
    Presence,
    Single,
    SpanStatus,
    Value,
)
from insights_engine.exact.attributes import number_form, storable
from insights_engine.facts.terms import (
    CONTENT,
    NUMBER,
    PARTS,
    SESSION,
    TEXT,
    Role,
    bucket_of,
    hidden_slot_of,
    name_bucket_of,
)
from insights_engine.language import storage, tree
from insights_engine.language.storage import SEPARATOR

#: What ``kinds`` may name, in the order of the documentation.
KINDS = (
    *("trace", "tag", "metadata", "feedback", "expectation"),
    *("run", "prompt", "issue", "span", "attribute", "number"),
)

#: Terms that are read by one statement.
_TERMS_AT_ONCE = 20_000

#: A key with more different numbers than this is tested by thresholds alone.
MOST_EQUAL_NUMBERS = 32

_SLICES = (Role.LOW, Role.SPREAD)
#: Traces whose session has assessments in another experiment.
MARK_OF_SESSIONS = NotCaptured("trace", "assessments", SESSION)
_ANY_SPAN = NotCaptured("span", "", "")

#: MLflow's own bookkeeping: how much it has stored, where, and in which form.
_BOOKKEEPING = frozenset(
    (
        ("tag", "mlflow.artifactLocation"),
        ("tag", "mlflow.trace.archiveLocation"),
        ("tag", "mlflow.trace.spansLocation"),
        ("metadata", "mlflow.trace.infoFinalized"),
        ("metadata", "mlflow.trace.sizeBytes"),
        ("metadata", "mlflow.trace.sizeStats"),
        ("metadata", "mlflow.trace_schema.version"),
    )
)

_OF_TRACES = (*storage.TRACE.values(), *storage.USAGE.values())
#: What MLflow keeps elsewhere, or every trace has; and what went in and out, which
#: for spans is no fact either.
_NO_FACTS = _BOOKKEEPING.union(
    (
        *(row.entry for row in _OF_TRACES if row.source is not storage.Source.ENTRY),
        ("metadata", "mlflow.traceInputs"),
        ("metadata", "mlflow.traceOutputs"),
        ("attribute", "mlflow.spanType"),
        *(
            ("trace", row.key)
            for row in _OF_TRACES
            if isinstance(row.field, tree.TraceNumber) and not row.nullable
        ),
        ("span", "duration"),
    )
)


class Term(NamedTuple):
    """A row of ``insights.term``, or what would be one."""

    number: int
    kind: str
    key: str
    signature: int
    role: str
    slot: int
    value: str


class Signature(NamedTuple):
    """A row of ``insights.signature``."""

    type: Optional[str]
    name: Optional[str]
    status: str
    bucket: Optional[int]


# ------------------------------------------------------------------------- items


def items_of(term: Term, signatures: dict[int, Signature]) -> tuple[Item, ...]:
    """The names of the items that a term is part of."""
    kind, key, role = term.kind, term.key, term.role
    if role == Role.UNKNOWN:
        return (NotCaptured(kind, key, term.slot),)
    if role == Role.LOW:
        signature = signatures.get(term.signature)
        counted = (kind, key) == ("span", "count")
        return _items_of_spans(signature) if counted and signature is not None else ()
    if (kind, key) in _NO_FACTS:
        return ()
    if role == Role.VALUE:
        value = _readable(term.value) if kind in storage.ASSESSMENTS else term.value
        return (Value(kind, key, value),)
    if role == Role.PRESENT:
        return (Presence(kind, key),)
    # Hash buckets make the values of facts uncertain.
    return (HashBucket(kind, key, term.slot),) if role == Role.BUCKET else ()


def _items_of_spans(signature: Signature) -> tuple[Item, ...]:
    status, bucket = signature.status, signature.bucket
    if bucket is not None and not status:
        return (_ANY_SPAN,)
    found: list[Item] = []
    if bucket is not None:
        found.append(NotCaptured("span", status, bucket))
    elif signature.name is not None:
        found.append(SpanStatus("name", signature.name, status))
    if signature.type is not None:
        found.append(SpanStatus("type", signature.type, status))
    return tuple(found)


def number_field_of(
    kind: str, key: str, signature: int, signatures: Mapping[int, Signature]
) -> Optional[NumberField]:
    """The field that numbers of a key and signature belong to, if it is tested."""
    if (kind, key) == ("trace", storage.END_TIME.key) or (kind, key) in _BOOKKEEPING:
        return None
    if (kind, key) == ("span", "duration") and signature:
        known = signatures.get(signature)
        if known is None or known.name is None:
            return None
        return NumberField(kind, key, known.name)
    return NumberField(kind, key, "")


def _readable(stored: str) -> str:
    """The shortest text that equals a stored value of an assessment.

    A text in a filter equals its own JSON and what it is the JSON of (``'yes'``
    equals ``"yes"``, ``'4'`` equals ``4`` and ``"4"``).
    """
    if stored[:1] == '"':
        try:
            text = json.loads(stored)
        except ValueError:
            return stored
        if isinstance(text, str) and json.dumps(text) == stored and storable(text) == text:
            return text
    return stored


def uncertain_by(name: Union[Single, NumberField]) -> tuple[Doubt, ...]:
    """The items whose traces have the fact perhaps, or another number than is known."""
    if isinstance(name, Experiment):
        return ()
    if isinstance(name, SpanStatus):
        if name.column == "type":
            return (_ANY_SPAN,)
        return (NotCaptured("span", name.status, name_bucket_of(name.text)), _ANY_SPAN)
    kind, key = name.kind, name.key
    found: tuple[Doubt, ...] = ()
    if isinstance(name, Value):
        found = (HashBucket(kind, key, bucket_of(name.value)), _not_captured(kind, key, TEXT))
        if kind in storage.ASSESSMENTS:
            found += (HashBucket(kind, key, bucket_of(json.dumps(name.value))),)
    elif not isinstance(name, Presence):
        found = (_not_captured(kind, key, NUMBER),)
    if kind == "attribute":
        return found + _lost(key)
    return (*found, MARK_OF_SESSIONS) if kind in storage.ASSESSMENTS else found


_not_captured = lru_cache(maxsize=5000)(NotCaptured)


@lru_cache(maxsize=5000)
def _lost(key: str) -> tuple[NotCaptured, ...]:
    """The items whose traces may have an attribute that the index does not know."""
    top, _, part = key.partition(SEPARATOR)
    hidden = hidden_slot_of(top)
    found = (NotCaptured("attribute", "", CONTENT), NotCaptured("attribute", "", hidden))
    return (*found, NotCaptured("attribute", top, PARTS)) if part else found


class SampledCuts(NamedTuple):
    """The cuts of a field (see `cells`), and the blocks and positions they were chosen from."""

    sample: tuple[tuple[int, int], ...]
    cuts: Any


class Items:
    """Items by number; a vocabulary that only ever grows keeps their numbers."""

    def __init__(self, below: Optional[Items] = None) -> None:
        """``below``: the numbers of these come first, and are not changed."""
        self._below = below
        self._start = 0 if below is None else len(below)
        self._numbers: dict[Item, int] = {}
        self._names: list[Item] = []
        #: How many values of a key read as numbers.
        self._numeric: dict[tuple[str, str], int] = {}
        self.signatures: dict[int, Signature] = {}
        #: Of each term of the index the facts it is part of, ...
        self.facts_of: dict[int, tuple[int, ...]] = {}
        #: ... and the other items.
        self.doubts_of: dict[int, tuple[int, ...]] = {}
        self._terms: list[int] = []
        self._made_of: dict[int, list[int]] = {}
        self._terms_made_of = 0
        #: Of each field with numbers the terms of its slices, by signature.
        self.slices: dict[NumberField, dict[int, dict[tuple[str, int], int]]] = {}
        #: The cuts of fields.
        self.cuts: dict[NumberField, SampledCuts] = {}
        #: The cuts of fields without numbers in the largest blocks.
        self.later_cuts: dict[NumberField, SampledCuts] = {}
        self._last_term = 0

    def __len__(self) -> int:
        return self._start + len(self._names)

    def number(self, name: Item) -> int:
        """The number of an item; a new one where it is not known."""
        known = self.known(name)
        if known is not None:
            return known
        number = self._numbers[name] = len(self)
        self._names.append(name)
        if isinstance(name, Value) and reads_as_number(name):
            key = (name.kind, name.key)
            self._numeric[key] = self._numeric.get(key, 0) + 1
        return number

    def known(self, name: Item) -> Optional[int]:
        """The number of an item, if it has one."""
        if self._below is not None:
            known = self._below.known(name)
            if known is not None:
                return known
        return self._numbers.get(name)

    def name(self, number: int) -> Item:
        """The name of an item."""
        if number < self._start:
            assert self._below is not None
            return self._below.name(number)
        return self._names[number - self._start]

    def numeric_values(self, kind: str, key: str) -> int:
        """How many values of a key read as numbers."""
        below = 0 if self._below is None else self._below.numeric_values(kind, key)
        return below + self._numeric.get((kind, key), 0)

    def terms_of(self, items: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """The terms that some items are made of, each with what it is part of."""
        if self._terms_made_of < len(self._terms):
            for term in self._terms[self._terms_made_of :]:
                for item in self._items(term):
                    self._made_of.setdefault(item, []).append(term)
            self._terms_made_of = len(self._terms)
        terms = {term for item in items for term in self._made_of.get(item, ())}
        return {term: self._items(term) for term in terms}

    def _items(self, term: int) -> tuple[int, ...]:
        return self.facts_of.get(term, ()) + self.doubts_of.get(term, ())

    def read(self, plpy: Any) -> None:
        """Add the terms that the vocabulary of the index has gained.

        Terms are only ever added, by one writer at a time, so their numbers ascend;
        those that are gone have no postings any more.
        """
        if self._last_term == 0 or self._has_new_signatures(plpy):
            self._read_signatures(plpy)
        while True:
            (row,) = plans.run(
                plpy,
                "select pg_catalog.array_agg(v.term) as number,"
                " pg_catalog.array_agg(v.kind) as kind, pg_catalog.array_agg(v.key) as key,"
                " pg_catalog.array_agg(v.signature) as signature,"
                " pg_catalog.array_agg(v.role) as role, pg_catalog.array_agg(v.slot) as slot,"
                " pg_catalog.array_agg(v.value) as value"
                " from (select v.term, v.kind, v.key, v.signature, v.role::text as role, v.slot,"
                "  v.value from insights.term v where v.term > $1 order by v.term limit $2) v",
                ("int", "int"),
                (self._last_term, _TERMS_AT_ONCE),
            )
            columns = [row[name] or () for name in Term._fields]
            for term in interrupts.each(plpy, map(Term._make, zip(*columns))):
                self._add(term)
                # Whoever is interrupted goes on from here.
                self._last_term = term.number
            if len(columns[0]) < _TERMS_AT_ONCE:
                return

    def _add(self, term: Term) -> None:
        if term.role in _SLICES and (term.kind, term.key) != ("span", "count"):
            self._add_slice(term)
            return
        names = items_of(term, self.signatures)
        facts = tuple([self.number(name) for name in names if isinstance(name, STORED)])
        doubts = tuple([self.number(name) for name in names if not isinstance(name, STORED)])
        if facts:
            self.facts_of[term.number] = facts
        if doubts:
            self.doubts_of[term.number] = doubts
        if names:
            self._terms.append(term.number)

    def _add_slice(self, term: Term) -> None:
        name = number_field_of(term.kind, term.key, term.signature, self.signatures)
        if name is not None:
            of_signature = self.slices.setdefault(name, {}).setdefault(term.signature, {})
            of_signature[term.role, term.slot] = term.number

    def _has_new_signatures(self, plpy: Any) -> bool:
        (row,) = plans.run(plpy, "select max(s.signature) as last from insights.signature s")
        return row["last"] is not None and row["last"] not in self.signatures

    def _read_signatures(self, plpy: Any) -> None:
        for row in plans.run(
            plpy, "select s.signature, s.type, s.name, s.status, s.bucket from insights.signature s"
        ):
            self.signatures[row["signature"]] = Signature(
                row["type"], row["name"], row["status"], row["bucket"]
            )


def reads_as_number(name: Value) -> bool:
    """Whether the value of an item reads as a number."""
    return number_form(name.value) is not None


# ---------------------------------------------------------------- restatements


class Restated:
    """A predicate for facts that merely restate a filter: those about a field of it.

    Whoever asks about ``status = 'ERROR'`` knows that ``status = 'OK'`` is
    rare there.  A field counts under all its names, and with what it is computed from.
    """

    def __init__(self, nodes: Iterable[tree.Node]) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._attributes: set[str] = set()
        self._durations = False
        #: Whether all spans of a name are root spans, as far as is known.
        self.is_of_roots: Callable[[str], bool] = lambda name: False
        for node in nodes:
            for field in tree.fields_of(node):
                self._add(field)

    def __call__(self, name: Union[Fact, NumberField]) -> bool:
        if isinstance(name, Both):
            return self(name.one) or self(name.other)
        if isinstance(name, Experiment):
            return ("trace", "experiment_id") in self._keys
        if isinstance(name, SpanStatus):
            return ("span", name.column) in self._keys or ("span", "status") in self._keys
        kind, key = name.kind, name.key
        if isinstance(name, (NumberField, Beyond)) and name.span_name:
            if self._durations or ("span", "name") in self._keys:
                return True
            # The time that spans of one name take tells more than that of the trace,
            # but for root spans, which last as long.
            return ("trace", "execution_time_ms") in self._keys and self.is_of_roots(name.span_name)
        if kind == "attribute":
            return any(_one_in_the_other(key, other) for other in self._attributes)
        return (kind, key) in self._keys

    def _add(self, field: tree.Field) -> None:
        if isinstance(field, (tree.TraceText, tree.TraceNumber)):
            row = storage.of(field)
            self._keys.update(_SAME.get(field.name, ((row.kinds[0], row.key),)))
            for ending, attribute in _SUMMED.items():
                if field.name.endswith(ending):
                    self._attributes.add(attribute)
        elif isinstance(field, tree.Tag):
            self._keys.add(("tag", field.key))
        elif isinstance(field, tree.Metadata):
            self._keys.add(("metadata", field.key))
            self._keys.update(("trace", part.key) for part in storage.of(field).parts)
        elif isinstance(field, tree.Assessment):
            self._keys.update((kind, field.name) for kind in storage.of(field).kinds)
        elif isinstance(field, tree.Issue):
            self._keys.add(("issue", ""))
        elif isinstance(field, tree.SpanText):
            self._keys.add(("span", field.name))
        elif isinstance(field, tree.SpanNumber):
            self._durations = True
            # The root span lasts as long as the trace.
            self._keys.update((("span", "duration"), ("trace", "execution_time_ms")))
        else:
            self._attributes.add(SEPARATOR.join(field.path))


def _one_in_the_other(one: str, other: str) -> bool:
    return (one + SEPARATOR).startswith(other + SEPARATOR) or other.startswith(one + SEPARATOR)


_SAME: dict[str, tuple[tuple[str, str], ...]] = {
    "execution_time_ms": (("trace", "execution_time_ms"), ("span", "duration")),
    "end_time_ms": tuple(("trace", part.key) for part in storage.END_TIME.parts),
    **{
        f"total_{what}": tuple(("trace", f"{one}_{what}") for one in ("input", "output", "total"))
        for what in ("tokens", "cost")
    },
    **{
        f"{one}_{what}": (("trace", f"{one}_{what}"), ("trace", f"total_{what}"))
        for one in ("input", "output")
        for what in ("tokens", "cost")
    },
}
#: The attributes of spans that MLflow sums up for the trace, by the ending of its fields.
_SUMMED = {"_tokens": "mlflow.chat.tokenUsage", "_cost": "mlflow.llm.cost"}


def has_span_condition(node: tree.Node) -> bool:
    """Whether a filter has plain conditions on spans, which others would join."""
    return any(isinstance(leaf, tree.AnySpan) for leaf in tree.leaves(node))
