"""Extracts the facts of traces: what the index says about them.

`Facts` collects, for traces that are given one after the other under ascending
positions, at which positions each fact holds.  What a fact means is defined by
the raw predicate (rawsql.py, attributes.py); a fact may be left out only where a
fact of `Role.UNKNOWN` says so.  Pure: what the index knows already comes from a
`Vocabulary`.

A batch sees the same values over and over, so each stored value leads, through
dictionaries that fill themselves, straight to the lists of positions that it
belongs to.  They last for the batch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Optional, Protocol, Union

from insights_engine.exact.attributes import attributes_of, loads, number_form, storable
from insights_engine.facts.terms import (
    CONTENT,
    NUMBER,
    PARTS,
    SESSION,
    TEXT,
    Role,
    bucket_of,
    hidden_slot_of,
)
from insights_engine.language import storage
from insights_engine.language.storage import LONGEST_KEY, SEPARATOR, Indexed, Type

#: Distinct texts of a key, signatures counted apart, that get a term each.
VALUES = 1_000
#: The same for keys that are not attributes', whose signature is always the same.
TRACE_VALUES = 4_000
#: Longer texts are always hashed.
LONGEST_VALUE = 250
#: Distinct keys of attributes, and of the parts of them, that are indexed.
KEYS = 2_000
#: Parts of an attribute's value that are indexed: how many of one value, how many
#: different ones of one attribute, and how far down.
PARTS_OF_VALUE = 24
PARTS_OF_KEY = 100
DEPTH = 3

#: Attributes with a value of their own in nearly every span.
UNINDEXED = frozenset(
    (
        "mlflow.spanInputs",
        "mlflow.spanOutputs",
        "mlflow.traceRequestId",
        "mlflow.spanStartTimeNs",
    )
)

# When a batch holds very many texts, no key may have more than some of its own.
_SOME_TEXTS = 100
_MOST_TEXTS_OF_ALL = 300_000
# Of the texts that numbers are printed as, which are seldom asked for, less is kept.
_MOST_PRINTED = 200
# When so many texts are found at fewer than so many traces, nearly every trace has
# its own: the texts need no terms.
_LOOKED_AT = 1_000
_MOSTLY_UNIQUE = 1_250
# Combinations of type, name and status that are remembered.
_MOST_COLUMNS = 10_000

# How deep JSON may be nested for certain, whatever calls the decoder: Python's
# limit counts the frames below as well.  With fewer brackets it is not looked at.
SURE_DEPTH = 300

# The first characters of texts that read as a number; the empty text does no harm.
_NUMBERS_BEGIN = "0123456789+-."

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_INT64 = range(-(2**63), 2**63)

#: Ascending; the first is -1, which is none.
Positions = list[int]
#: (kind, key, signature, role, slot)
Fact = tuple[str, str, int, str, int]
Number = Union[int, float]
Content = Optional[str]

_TEXT_COLUMNS, _PREVIEWS = (
    [row.name for row in storage.COLUMNS if row.type is Type.TEXT and row.indexed is indexed]
    for indexed in (Indexed.VALUES, Indexed.PRESENCE)
)
_START, _DURATION = (part.name for part in storage.END_TIME.parts)
_LINKED = (*(row.kinds[0] for row in storage.LINKS), "issue")


class Vocabulary(Protocol):
    """What the index knows already."""

    def signature(self, type: Optional[str], name: Optional[str], status: str) -> int:
        """The number of a signature, a new one where needed."""

    def attribute_keys(self) -> Iterable[str]:
        """The keys of attributes that are indexed."""

    def full_keys(self) -> set[tuple[str, str]]:
        """The (kind, key) of which no more texts get a term."""

    def values(self, kind: str, key: str) -> frozenset[tuple[int, str]]:
        """The (signature, text) of a key that have a term of their own."""


class Series:
    """The numbers of one key and signature: the smallest and largest of each trace."""

    __slots__ = ("high", "low", "positions", "whole")

    def __init__(self, whole: bool) -> None:
        #: Whether they are integers, of 64 bits; otherwise finite doubles.
        self.whole = whole
        self.positions: Positions = [-1]
        self.low: list[Number] = [0]
        #: By position, where it differs.
        self.high: dict[int, Number] = {}

    def add(self, position: int, number: Number) -> None:
        """One more number of a trace."""
        if self.positions[-1] != position:
            self.positions.append(position)
            self.low.append(number)
            return
        low = self.low[-1]
        if number < low:
            self.low[-1] = number
            self.high.setdefault(position, low)
        elif number > low and number > self.high.get(position, low):
            self.high[position] = number


#: What a stored value says: lists of positions to append to, numbers to add.
_Entry = tuple[Sequence[Positions], Sequence[tuple[Series, Number]]]
_NOTHING: _Entry = ((), ())


class Texts:
    """The texts of one key."""

    __slots__ = (
        *("_buckets", "_facts", "_most", "_printed"),
        *("candidates", "full", "key", "kind", "known"),
    )

    def __init__(self, facts: Facts, kind: str, key: str) -> None:
        self._facts = facts
        self.kind = kind
        self.key = key
        self._printed = 0
        self._most = _SOME_TEXTS if (kind, key) in facts.full else 2 * most_values(kind)
        #: (signature, text, whether it is a number that JSON printed)
        self.candidates: dict[tuple[int, str, bool], Positions] = {}
        #: Whether texts are hashed from now on unless ``known``.
        self.full = False
        self.known: frozenset[tuple[int, str]] = frozenset()
        self._buckets: dict[int, Positions] = {}

    def at(self, signature: int, text: str, printed: bool = False) -> tuple[Positions, bool]:
        """Where a text's positions are collected, and whether that is for it alone."""
        found = self.candidates.get((signature, text, printed))
        if found is not None:
            return found, True
        if len(text) > LONGEST_VALUE:
            return self._shared(signature, text, printed), False
        if not self.full and (
            len(self.candidates) >= self._most
            or (printed and self._printed >= _MOST_PRINTED)
            or (
                len(self.candidates) >= _SOME_TEXTS and self._facts.text_count >= _MOST_TEXTS_OF_ALL
            )
        ):
            self.close()
        if self.full and (signature, text) not in self.known:
            return self._shared(signature, text, printed), False
        self._facts.text_count += 1
        self._printed += printed
        found = self.candidates[signature, text, printed] = [-1]
        return found, True

    def close(self) -> None:
        """From now on only known texts are collected by themselves."""
        self.full = True
        self.known = self._facts.vocabulary.values(self.kind, self.key)

    def _shared(self, signature: int, text: str, printed: bool) -> Positions:
        if printed:
            return self._facts.at(*self.shared_fact(signature, text, printed))
        bucket = bucket_of(text)
        found = self._buckets.get(bucket)
        if found is None:
            found = self._facts.at(self.kind, self.key, 0, Role.BUCKET, bucket)
            self._buckets[bucket] = found
        return found

    def shared_fact(self, signature: int, text: str, printed: bool) -> Fact:
        """What stands for a text without a term of its own.

        A number printed by JSON is found by its value, so it needs no bucket.
        """
        if printed:
            return (self.kind, self.key, signature, Role.UNKNOWN, TEXT)
        return (self.kind, self.key, 0, Role.BUCKET, bucket_of(text))


def most_values(kind: str) -> int:
    """How many texts of a key get a term each."""
    return VALUES if kind == "attribute" else TRACE_VALUES


class _Values(dict[Optional[str], _Entry]):
    """The entries of the texts under one key; no attribute's."""

    __slots__ = ("_facts", "_numbers", "_texts", "_there")

    def __init__(self, facts: Facts, kind: str, key: str, numbers: bool) -> None:
        super().__init__()
        self._facts = facts
        self._numbers = numbers
        self._texts = facts.texts_of(kind, key)
        self._there = facts.at(kind, key, 0, Role.PRESENT)

    def __missing__(self, text: Optional[str]) -> _Entry:
        if text is None:
            # There, yet nothing compares with it: left to the raw predicate.
            unknown = self._facts.at(self._texts.kind, self._texts.key, 0, Role.UNKNOWN, TEXT)
            self[text] = nothing = ((self._there, unknown), ())
            return nothing
        texts = self._texts
        if len(texts.candidates) == _LOOKED_AT and len(self._there) < _MOSTLY_UNIQUE:
            texts.close()
        positions, alone = texts.at(0, text)
        entry: _Entry = ((self._there, positions), ())
        if self._numbers and text[:1] in _NUMBERS_BEGIN:
            number = number_form(text)
            if number is not None:
                series = self._facts.series_of(texts.kind, texts.key, 0)
                entry = ((self._there, positions), ((series, number),))
        if alone:
            self[text] = entry
        return entry


class _Keys(dict[str, _Values]):
    """The values by key of one kind, which is not ``attribute``."""

    __slots__ = ("_facts", "_kind", "_numbers")

    def __init__(self, facts: Facts, kind: str, numbers: bool) -> None:
        super().__init__()
        self._facts = facts
        self._kind = kind
        self._numbers = numbers

    def __missing__(self, key: str) -> _Values:
        self[key] = values = _Values(self._facts, self._kind, key, self._numbers)
        return values


class _Path:
    """Where to note what spans of one signature have under one path of attributes."""

    __slots__ = ("_facts", "_series", "_text", "path", "signature", "texts", "there")

    def __init__(self, facts: Facts, path: str, signature: int) -> None:
        self._facts = facts
        self.path = path
        self.signature = signature
        self.there = facts.at("attribute", path, signature, Role.PRESENT)
        self.texts = facts.texts_of("attribute", path)
        self._series: Optional[Series] = None
        # Where it is noted that a text is not captured.
        self._text: Optional[Positions] = None

    def opaque(self, slot: int) -> Positions:
        """Where it is noted that something is not captured."""
        return self._facts.at("attribute", self.path, self.signature, Role.UNKNOWN, slot)

    def series(self) -> Series:
        """Where numbers are noted."""
        if self._series is None:
            self._series = self._facts.series_of("attribute", self.path, self.signature)
        return self._series

    def entry(self, value: Any) -> tuple[_Entry, bool]:
        """What a decoded value says, and whether its text has positions of its own."""
        if isinstance(value, (dict, list)):
            return ((self.there, self.opaque(TEXT)), ()), False
        if isinstance(value, str):
            positions, alone = self.texts.at(self.signature, storable(value))
        else:
            printed = not isinstance(value, bool)
            positions, alone = self.texts.at(self.signature, json.dumps(value), printed)
        number = number_form(value)
        numbers = ((self.series(), number),) if number is not None else ()
        return ((self.there, positions), numbers), alone

    def note_number(self, position: int, value: Number) -> None:
        """The same for a number, noted at once: most numbers do not come again."""
        if self.there[-1] != position:
            self.there.append(position)
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            number = math.inf
        if number - number == 0.0:
            series = self._series or self.series()
            if series.positions[-1] != position:
                series.positions.append(position)
                series.low.append(number)
            else:
                series.add(position, number)
            text = repr(value)
        else:
            text = json.dumps(value)
        texts = self.texts
        signature = self.signature
        positions = texts.candidates.get((signature, text, True))
        if positions is None:
            if texts.full and (not texts.known or (signature, text) not in texts.known):
                positions = self._text
                if positions is None:
                    positions = self._text = self.opaque(TEXT)
            else:
                positions, _ = texts.at(signature, text, True)
        if positions[-1] != position:
            positions.append(position)


class _Attribute(dict[str, _Entry]):
    """The entries of the stored texts of one attribute in spans of one signature."""

    __slots__ = ("_facts", "_where")

    def __init__(self, facts: Facts, signature: int, key: str) -> None:
        super().__init__()
        self._facts = facts
        self._where = _Path(facts, key, signature)

    def __missing__(self, stored: str) -> _Entry:
        if self._facts.bracketed and too_deep(stored):
            return self._facts.unread(self._where.signature)
        value = loads(stored, stored)
        if value is None:
            self[stored] = _NOTHING
            return _NOTHING
        if isinstance(value, (dict, list)):
            return self.describe(value)
        entry, alone = self._where.entry(value)
        if alone:
            self[stored] = entry
        return entry

    def describe(self, value: Any) -> _Entry:
        """What a decoded value says; its parts are noted already."""
        if value is None:
            return _NOTHING
        entry, _ = self._where.entry(value)
        if value and isinstance(value, dict):
            self._facts.note_parts(self._where, value)
        elif value and isinstance(value, list):
            return (*entry[0], self._where.opaque(PARTS)), ()
        return entry


class _Unindexed(_Attribute):
    """One of the attributes that are not indexed by value."""

    __slots__ = ("_any", "_compound", "_scalar")

    def __init__(self, facts: Facts, signature: int, key: str) -> None:
        super().__init__(facts, signature, key)
        there = self._where.there
        # Wherever it is there, its text is not captured.
        facts.share(there, "attribute", key, signature, Role.UNKNOWN, TEXT)
        number, parts = self._where.opaque(NUMBER), self._where.opaque(PARTS)
        self._scalar: _Entry = ((there, number), ())
        self._compound: _Entry = ((there, parts), ())
        self._any: _Entry = ((there, number, parts), ())

    def __getitem__(self, stored: str) -> _Entry:
        # Whatever begins like this is not null, be it JSON or a plain text.
        first = stored[:1]
        if first == "{" or first == "[":
            if self._facts.bracketed and too_deep(stored):
                return self._facts.unread(self._where.signature)
            return self._compound
        if first == '"' or first.isdecimal():
            return self._scalar
        if self._facts.bracketed and too_deep(stored):
            return self._facts.unread(self._where.signature)
        return self.describe(loads(stored, stored))

    def describe(self, value: Any) -> _Entry:
        return _NOTHING if value is None else self._any


class _Signature(dict[str, Optional[_Attribute]]):
    """The attributes by key of spans of one signature; None: the key is hidden."""

    __slots__ = ("_facts", "counts", "durations", "number", "timed")

    def __init__(self, facts: Facts, number: int) -> None:
        super().__init__()
        self._facts = facts
        self.number = number
        #: Where the number of spans has a bit set.
        self.counts: list[Positions] = []
        self.timed = facts.at("span", "duration", number, Role.PRESENT)
        self.durations = facts.series_of("span", "duration", number, True)

    def __missing__(self, key: str) -> Optional[_Attribute]:
        if _UNSTORABLE.search(key) or not self._facts.admit(key, key):
            return None
        kind = _Unindexed if key in UNINDEXED else _Attribute
        self[key] = attribute = kind(self._facts, self.number, key)
        return attribute


class _Column:
    """Where to note a number of the traces themselves."""

    __slots__ = ("_facts", "_name", "series", "there")

    def __init__(self, facts: Facts, row: storage.Row) -> None:
        self._facts = facts
        self._name = row.name
        self.there = facts.at("trace", row.name, 0, Role.PRESENT)
        self.series = facts.series_of("trace", row.name, 0, row.whole)

    def note(self, position: int, number: Optional[Number]) -> None:
        """A number that is there; None: it cannot be captured."""
        self.there.append(position)
        if number is None:
            self._facts.at("trace", self._name, 0, Role.UNKNOWN, NUMBER).append(position)
        else:
            self.series.add(position, number)


class Facts:
    """The facts of a batch of traces, each with the positions where it holds."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.full = vocabulary.full_keys()
        self.text_count = 0
        #: Facts without values and numbers.
        self.plain: dict[Fact, Positions] = {}
        self.series: dict[tuple[str, str, int], Series] = {}
        self.texts: dict[tuple[str, str], Texts] = {}
        self.signatures: dict[tuple[Optional[str], Optional[str], str], _Signature] = {}
        # Several triples may share a signature.
        self._by_number: dict[int, _Signature] = {}
        #: Keys of attributes and paths of parts that are indexed.
        self.keys = set(vocabulary.attribute_keys())
        self._parts: dict[tuple[int, str], dict[str, _Path]] = {}
        self._parts_of_key: dict[str, int] = {}
        for key in self.keys:
            top, _, part = key.partition(SEPARATOR)
            if part:
                self._parts_of_key[top] = self._parts_of_key.get(top, 0) + 1
        self._pairs = {
            kind: _Keys(self, kind, kind in storage.ENTRIES)
            for kind in ("trace", *storage.ENTRIES, *storage.ASSESSMENTS)
        }
        self._columns = {
            row.name: _Column(self, row) for row in storage.COLUMNS if row.type is not Type.TEXT
        }
        # That there is one, and that its text is not captured.
        self._previews = {
            name: (
                self.at("trace", name, 0, Role.PRESENT),
                self.at("trace", name, 0, Role.UNKNOWN, TEXT),
            )
            for name in _PREVIEWS
        }
        self._end = _Column(self, storage.END_TIME)
        self._span_count = _Column(self, storage.SPAN_COUNT)
        self._span_columns: dict[tuple[Optional[str], Optional[str], str], list[Positions]] = {}
        self._position = -1
        #: Whether the content at hand has so many brackets that it may nest too deep.
        self.bracketed = False
        self._links = {kind: _Values(self, kind, "", False) for kind in _LINKED}

    # ------------------------------------------------------------ collections

    def size(self) -> int:
        """How many facts there are."""
        return len(self.plain) + self.text_count + len(self.series)

    def at(self, kind: str, key: str, signature: int, role: str, slot: int = 0) -> Positions:
        """Where the positions of a fact are collected."""
        fact = (kind, key, signature, role, slot)
        found = self.plain.get(fact)
        if found is None:
            found = self.plain[fact] = [-1]
        return found

    def share(self, positions: Positions, *fact: Any) -> None:
        """Lets a fact hold wherever another one does."""
        self.plain[fact] = positions

    def series_of(self, kind: str, key: str, signature: int, whole: bool = False) -> Series:
        """Where the numbers of a key are collected."""
        found = self.series.get((kind, key, signature))
        if found is None:
            found = self.series[kind, key, signature] = Series(whole)
        return found

    def texts_of(self, kind: str, key: str) -> Texts:
        """Where the texts of a key are collected."""
        found = self.texts.get((kind, key))
        if found is None:
            found = self.texts[kind, key] = Texts(self, kind, key)
        return found

    def admit(self, top: str, path: str) -> bool:
        """Whether an attribute, or the part under ``path`` of it, is indexed."""
        if path in self.keys:
            return True
        if len(self.keys) >= KEYS or len(path) > LONGEST_KEY:
            return False
        if path != top:
            parts = self._parts_of_key.get(top, 0)
            if parts >= PARTS_OF_KEY:
                return False
            self._parts_of_key[top] = parts + 1
        elif SEPARATOR in top:
            return False
        self.keys.add(path)
        return True

    def _note(self, position: int, entry: _Entry) -> None:
        lists, numbers = entry
        for positions in lists:
            if positions[-1] != position:
                positions.append(position)
        for series, number in numbers:
            series.add(position, number)

    def _mark(self, position: int, *fact: Any) -> None:
        positions = self.at(*fact)
        if positions[-1] != position:
            positions.append(position)

    # ----------------------------------------------------------- trace columns

    def add_trace(self, position: int, row: dict[str, Any]) -> None:
        """The columns of trace_info; of the previews whether they are there."""
        values = self._pairs["trace"]
        for column in _TEXT_COLUMNS:
            text = row[column]
            if text is not None:
                self._note(position, values[column][text])
        for column, lists in self._previews.items():
            if row[column]:
                for positions in lists:
                    positions.append(position)
        for name, noted in self._columns.items():
            number = row[name]
            if number is not None:
                finite = noted.series.whole or math.isfinite(number)
                noted.note(position, number if finite else None)
        end = row[_START] + (row[_DURATION] or 0)
        self._end.note(position, end if end in _INT64 else None)

    def add_pairs(
        self, position: int, kind: str, keys: Iterable[str], values: Iterable[Optional[str]]
    ) -> None:
        """Tags or metadata."""
        known = self._pairs[kind]
        for key, value in zip(keys, values):
            lists, numbers = known[key][value]
            for positions in lists:
                if positions[-1] != position:
                    positions.append(position)
            for series, number in numbers:
                series.add(position, number)

    def add_link(self, position: int, kind: str, value: str) -> None:
        """A run, a prompt or an issue of the trace."""
        self._note(position, self._links[kind][value])

    def add_assessment(
        self,
        position: int,
        kind: str,
        name: str,
        value: Optional[str],
        numeric: bool,
        number: Optional[float],
    ) -> None:
        """A valid feedback or expectation of the trace or its session, with its stored value."""
        self._note(position, self._pairs[kind][name][value])
        if value is None:
            self._mark(position, kind, name, 0, Role.UNKNOWN, TEXT)
        if numeric:
            if number is None or not math.isfinite(number):
                self._mark(position, kind, name, 0, Role.UNKNOWN, NUMBER)
            else:
                self.series_of(kind, name, 0).add(position, number)

    def add_session_elsewhere(self, position: int) -> None:
        """The session has assessments in another experiment, which may count."""
        self._mark(position, "trace", "assessments", 0, Role.UNKNOWN, SESSION)

    # ------------------------------------------------------------------ spans

    def add_spans(
        self,
        position: int,
        spans: Iterable[tuple[Any, Optional[str], Optional[str], str, Optional[int], Content]],
    ) -> Optional[str]:
        """All spans of a trace: (any, type, name, status, duration, content); their rollup.

        ``content`` None was too long to be read.
        """
        self._position = position
        rollup: dict[int, list[Any]] = {}
        signatures = self.signatures
        columns: set[tuple[Optional[str], Optional[str], str]] = set()
        total = 0
        for _, type, name, status, duration, content in spans:
            total += 1
            columns.add((type, name, status))
            signature = signatures.get((type, name, status))
            if signature is None:
                signature = signatures[type, name, status] = self._signature(type, name, status)
            counted = rollup.get(signature.number)
            if counted is None:
                # Spans, those with a duration, sum, smallest and largest duration.
                counted = rollup[signature.number] = [0, 0, 0, None, None, signature]
            counted[0] += 1
            if duration is not None:
                counted[2] += duration
                if not counted[1] or duration < counted[3]:
                    counted[3] = duration
                if not counted[1] or duration > counted[4]:
                    counted[4] = duration
                counted[1] += 1
            if content is None:
                self._note(position, self.unread(signature.number))
                continue
            # Brackets may also be written as \u005b or \u007b, within a string.
            self.bracketed = bracketed = (
                content.count("{") + content.count("[") > SURE_DEPTH or "\\u00" in content
            )
            if bracketed and too_deep(content):
                self._note(position, self.unread(signature.number))
                continue
            for key, stored in attributes_of(content).items():
                attribute = signature[key]
                if attribute is None:
                    self._hide(position, signature.number, key)
                    continue
                if stored.__class__ is str:
                    lists, numbers = attribute[stored]
                else:
                    lists, numbers = attribute.describe(stored)
                for positions in lists:
                    if positions[-1] != position:
                        positions.append(position)
                for series, number in numbers:
                    # As in Series.add, for the first number of the trace.
                    if series.positions[-1] != position:
                        series.positions.append(position)
                        series.low.append(number)
                    else:
                        series.add(position, number)
        self._span_count.note(position, total)
        for three in columns:
            for positions in self._span_columns.get(three) or self._columns_of(*three):
                if positions[-1] != position:
                    positions.append(position)
        if not rollup:
            return None
        lows = [counted[3] for counted in rollup.values() if counted[1]]
        if lows:
            # Of all spans together, for conditions on the duration alone.
            self.at("span", "duration", 0, Role.PRESENT).append(position)
            durations = self.series_of("span", "duration", 0, True)
            durations.add(position, min(lows))
            durations.add(position, max(c[4] for c in rollup.values() if c[1]))
        return " ".join([self._finish(position, counted) for counted in rollup.values()])

    def _columns_of(self, type: Optional[str], name: Optional[str], status: str) -> list[Positions]:
        """Where the traces with a span of that type, name and status are collected, by column."""
        found = []
        for key, value in (("type", type), ("name", name), ("status", status)):
            if value is not None:
                found.append(self.texts_of("span", key).at(0, value)[0])
        if len(self._span_columns) < _MOST_COLUMNS:
            self._span_columns[type, name, status] = found
        return found

    def _signature(self, type: Optional[str], name: Optional[str], status: str) -> _Signature:
        number = self.vocabulary.signature(type, name, status)
        found = self._by_number.get(number)
        if found is None:
            found = self._by_number[number] = _Signature(self, number)
        return found

    def _finish(self, position: int, counted: list[Any]) -> str:
        """Notes what the spans of a signature have in common; its part of the rollup."""
        count, timed, total, low, high, signature = counted
        number = signature.number
        bits = signature.counts
        for bit in range(count.bit_length()):
            if bit == len(bits):
                bits.append(self.at("span", "count", number, Role.LOW, bit))
            if count >> bit & 1:
                bits[bit].append(position)
        if not timed:
            return f"{number}:{count}:::"
        signature.timed.append(position)
        signature.durations.add(position, low)
        if high != low:
            signature.durations.add(position, high)
        if count == 1:
            return f"{number}:{total}"
        return f"{number}:{count}:{total}:{low}:{high}"

    def unread(self, signature: int) -> _Entry:
        """Attributes of spans of this signature are not known."""
        return ((self.at("attribute", "", signature, Role.UNKNOWN, CONTENT),), ())

    def _hide(self, position: int, signature: int, key: str) -> None:
        """An attribute whose key is not indexed."""
        if not _UNSTORABLE.search(key):
            slot = hidden_slot_of(key)
            self._mark(position, "attribute", "", signature, Role.UNKNOWN, slot)

    def note_parts(self, where: _Path, value: dict[str, Any]) -> None:
        """Notes the parts of an object, an attribute of a span of the trace at hand."""
        position = self._position
        signature, top = where.signature, where.path
        left = PARTS_OF_VALUE
        whole = True
        todo = [(top, value)]
        for depth in range(1, DEPTH + 1):
            below: list[tuple[str, dict[str, Any]]] = []
            for path, inner in todo:
                known = self._parts.get((signature, path))
                if known is None:
                    known = self._parts[signature, path] = {}
                for name, part in inner.items():
                    if part is None:
                        continue
                    at = known.get(name)
                    if at is None:
                        if _UNSTORABLE.search(name):
                            continue  # no filter can name it
                        full = path + SEPARATOR + name
                        if not left or SEPARATOR in name or not self.admit(top, full):
                            whole = False
                            continue
                        at = known[name] = _Path(self, full, signature)
                    elif not left:
                        whole = False
                        continue
                    left -= 1
                    if part.__class__ is int or part.__class__ is float:
                        at.note_number(position, part)
                        continue
                    self._note(position, at.entry(part)[0])
                    if part and isinstance(part, dict) and depth < DEPTH:
                        below.append((at.path, part))
                    elif part and isinstance(part, (dict, list)):
                        whole = False
            todo = below
        if not whole:
            self._note(position, ((where.opaque(PARTS),), ()))


def too_deep(text: str) -> bool:
    """Whether JSON is nested so deep that it depends on the caller what decoding gives."""
    if text.count("{") + text.count("[") <= SURE_DEPTH:
        return False
    try:
        level: list[Any] = [[json.loads(text)]]
    except RecursionError:
        return True
    except ValueError:
        return False
    for _ in range(SURE_DEPTH):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
            if inner and isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
