"""Every fact that a discovery tests, named independently of where it is stored.

An *item* is a set of traces that can be counted: a fact that is a filter of its
own (``tags.env = 'prod'``, ``span.name = 'retrieve'``, ``feedback.quality IS NOT
NULL``), or what makes facts uncertain, because the index keeps it in a bucket that
several values share.  Items are made of terms: those of the vocabulary of the
index, or those of `facts.Facts` about traces that are not indexed.  Their names
are the same in both, so that their counts can be added up.

The first element of an item's name says what it is:

    ("v", kind, key, value)     some value equals this text
    ("p", kind, key)            there is a value
    ("s", column, text, status) some span has this type or name, and this status
    ("e", experiment id)        the experiment
    ("n", kind, key, span name, op, number, cut)
                                some number compares so; no item, but a fact
    ("a", name, name)           both of two facts; no item either
    ("h", kind, key, bucket)    some value is in this hash bucket
    ("o", kind, key, slot)      something was not captured
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Optional

from insights_engine.base import interrupts, plans
from insights_engine.exact.attributes import number_form, storable
from insights_engine.facts.terms import (
    CONTENT,
    NUMBER,
    PARTS,
    SEPARATOR,
    SESSION,
    TEXT,
    bucket_of,
    hidden_slot_of,
    name_bucket_of,
)
from insights_engine.language import fields, times, tree

Name = tuple[Any, ...]

#: What ``kinds`` may name, in the order of the documentation.
KINDS = (
    *("trace", "tag", "metadata", "feedback", "expectation"),
    *("run", "prompt", "issue", "span", "attribute", "number"),
)

#: Terms that are read by one statement.
_TERMS_AT_ONCE = 20_000

#: A key with more different numbers than this is tested by thresholds alone.
MOST_EQUAL_NUMBERS = 32

FACTS = frozenset("vpse")
_ASSESSMENTS = ("feedback", "expectation")
#: Traces whose session has assessments in another experiment.
MARK_OF_SESSIONS: Name = ("o", "trace", "assessments", SESSION)
_ANY_SPAN: Name = ("o", "span", "", "")

#: What MLflow notes for itself: how much it has stored, where, and in which form.
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

#: What MLflow keeps elsewhere, or every trace has; and what went in and out, which
#: for spans is no fact either.
_NO_FACTS = _BOOKKEEPING.union(
    (
        ("tag", "mlflow.traceName"),
        ("tag", "mlflow.linkedPrompts"),
        ("metadata", "mlflow.sourceRun"),
        ("metadata", "mlflow.trace.session"),
        ("metadata", "mlflow.traceInputs"),
        ("metadata", "mlflow.traceOutputs"),
        ("attribute", "mlflow.spanType"),
        *(("metadata", key) for key in fields.USAGE_METADATA),
        ("trace", "timestamp_ms"),
        ("trace", "end_time_ms"),
        ("trace", "span_count"),
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


def items_of(term: Term, signatures: dict[int, Signature]) -> Iterator[Name]:
    """The names of the items that a term is part of."""
    kind, key, role = term.kind, term.key, term.role
    if role == "v":
        if (kind, key) not in _NO_FACTS:
            value = _readable(term.value) if kind in _ASSESSMENTS else term.value
            yield ("v", kind, key, value)
    elif role == "p":
        if (kind, key) not in _NO_FACTS:
            yield ("p", kind, key)
    elif role == "h":
        # Buckets make the values of facts uncertain.
        if (kind, key) not in _NO_FACTS:
            yield ("h", kind, key, term.slot)
    elif role == "o":
        yield ("o", kind, key, term.slot)
    elif role == "n" and kind == "span" and key == "count":
        signature = signatures.get(term.signature)
        if signature is None:
            return
        if signature.bucket is None:
            if signature.name is not None:
                yield ("s", "name", signature.name, signature.status)
        elif signature.status == "":
            yield _ANY_SPAN
            return
        else:
            yield ("o", "span", signature.status, signature.bucket)
        if signature.type is not None:
            yield ("s", "type", signature.type, signature.status)


def series_of(
    kind: str, key: str, signature: int, signatures: Mapping[int, Signature]
) -> Optional[Name]:
    """The field that numbers of a key and signature belong to, if it is tested."""
    if (kind, key) == ("trace", "end_time_ms") or (kind, key) in _BOOKKEEPING:
        return None
    if (kind, key) == ("span", "duration") and signature:
        known = signatures.get(signature)
        if known is None or known.name is None:
            return None
        return ("n", kind, key, known.name)
    return ("n", kind, key, "")


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


def uncertain_by(name: Name) -> tuple[Name, ...]:
    """The items whose traces have the fact perhaps, or another number than is known."""
    role = name[0]
    if role == "n":
        kind, key = name[1], name[2]
        unknown: Name = ("o", kind, key, NUMBER)
        if kind == "attribute":
            return (unknown, *_lost(key))
        return (unknown, MARK_OF_SESSIONS) if kind in _ASSESSMENTS else (unknown,)
    if role == "s":
        if name[1] == "type":
            return (_ANY_SPAN,)
        bucket = name_bucket_of(name[2])
        return (("o", "span", name[3], bucket), _ANY_SPAN)
    if role not in ("v", "p"):
        return ()
    kind, key = name[1], name[2]
    found: list[Name] = []
    if role == "v":
        value = name[3]
        found = [("h", kind, key, bucket_of(value)), ("o", kind, key, TEXT)]
        if kind in _ASSESSMENTS:
            found.append(("h", kind, key, bucket_of(json.dumps(value))))
    if kind == "attribute":
        found += _lost(key)
    elif kind in _ASSESSMENTS:
        found.append(MARK_OF_SESSIONS)
    return tuple(found)


@lru_cache(maxsize=5000)
def _lost(key: str) -> tuple[Name, ...]:
    """Where it is not known whether a span has an attribute."""
    top, _, part = key.partition(SEPARATOR)
    hidden = hidden_slot_of(top)
    found: tuple[Name, ...] = (
        ("o", "attribute", "", CONTENT),
        ("o", "attribute", "", hidden),
    )
    return (*found, ("o", "attribute", top, PARTS)) if part else found


class Items:
    """Items by number; a vocabulary that only ever grows keeps their numbers."""

    def __init__(self, below: Optional[Items] = None) -> None:
        """``below``: the numbers of these come first, and are not changed."""
        self._below = below
        self._start = 0 if below is None else len(below)
        self._numbers: dict[Name, int] = {}
        self._names: list[Name] = []
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
        self.slices: dict[Name, dict[int, dict[tuple[str, int], int]]] = {}
        #: Where fields are cut (see `series`), with the blocks and positions that this comes from.
        self.cuts: dict[Name, tuple[tuple[tuple[int, int], ...], Any]] = {}
        #: The same of those that the largest blocks have no numbers of.
        self.later_cuts: dict[Name, tuple[tuple[tuple[int, int], ...], Any]] = {}
        self._last_term = 0

    def __len__(self) -> int:
        return self._start + len(self._names)

    def number(self, name: Name) -> int:
        """The number of an item; a new one where it is not known."""
        known = self.known(name)
        if known is not None:
            return known
        number = self._numbers[name] = len(self)
        self._names.append(name)
        if name[0] == "v" and reads_as_number(name):
            key = (name[1], name[2])
            self._numeric[key] = self._numeric.get(key, 0) + 1
        return number

    def known(self, name: Name) -> Optional[int]:
        """The number of an item, if it has one."""
        if self._below is not None:
            known = self._below.known(name)
            if known is not None:
                return known
        return self._numbers.get(name)

    def name(self, number: int) -> Name:
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
        """Adds what the vocabulary of the index has more.

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
        if term.role in ("n", "x") and (term.kind, term.key) != ("span", "count"):
            self._add_slice(term)
            return
        names = list(items_of(term, self.signatures))
        facts = tuple([self.number(name) for name in names if name[0] in FACTS])
        doubts = tuple([self.number(name) for name in names if name[0] not in FACTS])
        if facts:
            self.facts_of[term.number] = facts
        if doubts:
            self.doubts_of[term.number] = doubts
        if names:
            self._terms.append(term.number)

    def _add_slice(self, term: Term) -> None:
        name = series_of(term.kind, term.key, term.signature, self.signatures)
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


def reads_as_number(name: Name) -> bool:
    """Whether the value of an item reads as a number."""
    return number_form(name[3]) is not None


# ------------------------------------------------------------------------- facts


class Label(NamedTuple):
    """What a row shows of a fact."""

    kind: str
    key: str
    value: Optional[str]


def label(name: Name) -> Label:
    """The columns kind, key and value of a fact."""
    if name[0] == "a":
        both = [label(one) for one in name[1:]]
        kind, key = (" AND ".join([one[column] or "" for one in both]) for column in (0, 1))
        return Label(kind, key, " AND ".join([one.value or "" for one in both]))
    if name[0] == "e":
        return Label("trace", "experiment_id", str(name[1]))
    if name[0] == "s":
        return Label("span", f"{name[1]}, status", f"{name[2]}, {name[3]}")
    kind, key = name[1], name[2]
    if name[0] == "n":
        field = fields.spell(field_of(kind, key))
        of_name = f"span.name, {field}" if name[3] else field
        value = f"{name[3]}, " if name[3] else ""
        return Label("number", of_name, f"{value}{name[4]} {_number_text(name)}")
    shown = _SHOWN_KEYS.get(str(kind), str(key))
    return Label(kind, shown.replace(SEPARATOR, "."), name[3] if name[0] == "v" else None)


def _number_text(name: Name) -> str:
    """The constant of a threshold, as a filter has it, but without quotes."""
    number = name[5]
    of_time = fields.is_time(field_of(name[1], name[2])) and isinstance(number, int)
    return (of_time and times.text_of(number)) or repr(number)


_SHOWN_KEYS = {"run": "run_id", "prompt": "prompt", "issue": "issue.id"}


def kind_of(name: Name) -> str:
    """The kind of a fact."""
    return {"e": "trace", "s": "span", "n": "number"}.get(name[0]) or str(name[1])


def node_of(name: Name) -> tree.Node:
    """The filter that a fact is."""
    role = name[0]
    if role == "a":
        return tree.And((node_of(name[1]), node_of(name[2])))
    if role == "e":
        return tree.TextCompare(tree.TraceText("experiment_id"), "=", str(name[1]))
    if role == "s":
        return tree.AnySpan(
            tree.And(
                (
                    tree.TextCompare(tree.SpanText(name[1]), "=", name[2]),
                    tree.TextCompare(tree.SpanText("status"), "=", name[3]),
                )
            )
        )
    field = field_of(name[1], name[2])
    node: tree.Node
    if role == "p":
        node = tree.IsNull(field, negated=True)
    elif role == "n":
        node = tree.NumberCompare(field, name[4], name[5])
        if name[3]:
            named = tree.TextCompare(tree.SpanText("name"), "=", name[3])
            return tree.AnySpan(tree.And((named, node)))
    else:
        node = tree.TextCompare(field, "=", name[3])
    return tree.AnySpan(node) if fields.is_span_field(field) else node


def field_of(kind: str, key: str) -> tree.Field:
    """The field that facts of a kind and key are about."""
    if kind == "trace":
        number = key in tree.TRACE_NUMBER_FIELDS
        return tree.TraceNumber(key) if number else tree.TraceText(key)
    if kind == "tag":
        return tree.Tag(key)
    if kind == "metadata":
        return fields.PROMOTED_METADATA.get(key) or tree.Metadata(key)
    if kind in _ASSESSMENTS:
        return tree.Assessment(kind, key)
    if kind in ("run", "prompt"):
        return tree.TraceText("run_id" if kind == "run" else "prompt")
    if kind == "issue":
        return tree.Issue()
    if kind == "span":
        return tree.SpanNumber("duration_ms") if key == "duration" else tree.SpanText(key)
    return tree.SpanAttribute(tuple(key.split(SEPARATOR)))


# ---------------------------------------------------------------- restatements


class Restated:
    """Tells the facts that merely restate a filter: those about a field of it.

    Whoever asks about ``status = 'ERROR'`` knows that ``status = 'OK'`` goes against
    it.  A field counts under all its names, and with what it is computed from.
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

    def __call__(self, name: Name) -> bool:
        role = name[0]
        if role == "a":
            return self(name[1]) or self(name[2])
        if role == "e":
            return ("trace", "experiment_id") in self._keys
        if role == "s":
            return ("span", name[1]) in self._keys or ("span", "status") in self._keys
        kind, key = name[1], name[2]
        if role == "n" and name[3]:
            if self._durations or ("span", "name") in self._keys:
                return True
            # The time that spans of one name take tells more than that of the trace,
            # but for root spans, which last as long.
            return ("trace", "execution_time_ms") in self._keys and self.is_of_roots(name[3])
        if kind == "attribute":
            return any(_one_in_the_other(key, other) for other in self._attributes)
        return (kind, key) in self._keys

    def _add(self, field: tree.Field) -> None:
        if isinstance(field, (tree.TraceText, tree.TraceNumber)):
            self._keys.update(_SAME.get(field.name, (("trace", field.name),)))
            for ending, attribute in _SUMMED.items():
                if field.name.endswith(ending):
                    self._attributes.add(attribute)
        elif isinstance(field, tree.Tag):
            self._keys.add(("tag", field.key))
        elif isinstance(field, tree.Metadata):
            self._keys.add(("metadata", field.key))
            self._keys.update(_USAGE.get(field.key, ()))
        elif isinstance(field, tree.Assessment):
            kinds = _ASSESSMENTS if field.kind == "assessment" else (field.kind,)
            self._keys.update((kind, field.name) for kind in kinds)
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
    "run_id": (("run", ""),),
    "prompt": (("prompt", ""),),
    "user": (("metadata", "mlflow.trace.user"),),
    "execution_time_ms": (("trace", "execution_time_ms"), ("span", "duration")),
    "end_time_ms": (("trace", "timestamp_ms"), ("trace", "execution_time_ms")),
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
_USAGE = {
    "mlflow.trace.tokenUsage": tuple(
        ("trace", name) for name in tree.TRACE_NUMBER_FIELDS if "_tokens" in name
    ),
    "mlflow.trace.cost": tuple(
        ("trace", name) for name in tree.TRACE_NUMBER_FIELDS if name.endswith("_cost")
    ),
}


def has_span_condition(node: tree.Node) -> bool:
    """Whether a filter has plain conditions on spans, which others would join."""
    return any(isinstance(leaf, tree.AnySpan) for leaf in tree.leaves(node))
