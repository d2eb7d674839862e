"""The types of a request's fields: how the document describes them, how a value is read.

``read`` returns what goes to the database as parameter, or raises `Refused`
with a sentence for the caller.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Schema = dict[str, Any]

_SHOWN = 60  # characters of a wrong value in a message


class Refused(ValueError):
    """A value that the document does not allow; the text is for the caller."""


@dataclass(frozen=True)
class Kind(ABC):
    """A type of fields."""

    @abstractmethod
    def schema(self) -> Schema:
        """The values that `read` takes, as JSON schema."""

    @abstractmethod
    def read(self, value: Any, name: str) -> Any:
        """The parameter for the database; ``name`` says in messages what is wrong."""


@dataclass(frozen=True)
class Text(Kind):
    """Any text, of at most so many characters."""

    longest: int

    def schema(self) -> Schema:
        return {"type": "string", "maxLength": self.longest}

    def read(self, value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise _wrong(value, name, "a string")
        if len(value) > self.longest:
            raise Refused(
                f"Field '{name}' is too long: {len(value)} characters, at most {self.longest} are"
                " allowed."
            )
        return value


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.words)}

    def read(self, value: Any, name: str) -> str:
        if value not in self.words:
            hint = nearest(value, self.words) if isinstance(value, str) else ""
            raise _wrong(value, name, "one of " + ", ".join(self.words), hint)
        return str(value)


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number of PostgreSQL's type integer; 5.0 is one, as in JSON schema."""

    minimum: int = -(2**31)
    maximum: int = 2**31 - 1

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}

    def read(self, value: Any, name: str) -> int:
        whole = _whole(value)
        if whole is None:
            raise _wrong(value, name, "an integer")
        if not self.minimum <= whole <= self.maximum:
            raise _wrong(value, name, f"between {self.minimum} and {self.maximum}")
        return whole


@dataclass(frozen=True)
class Number(Kind):
    """A number of PostgreSQL's type double precision."""

    def schema(self) -> Schema:
        return {"type": "number"}

    def read(self, value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _wrong(value, name, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise Refused(f"Field '{name}' is beyond the numbers of double precision.")
        return number


@dataclass(frozen=True)
class Flag(Kind):
    """true or false."""

    def schema(self) -> Schema:
        return {"type": "boolean"}

    def read(self, value: Any, name: str) -> bool:
        if not isinstance(value, bool):
            raise _wrong(value, name, "true or false")
        return value


@dataclass(frozen=True)
class Time(Kind):
    """A moment as in RFC 3339, which is ISO 8601 with date, time and offset."""

    def schema(self) -> Schema:
        return {"type": "string", "format": "date-time"}

    def read(self, value: Any, name: str) -> str:
        wanted = "a time such as 2026-01-31T09:00:00Z or 2026-01-31T10:00:00+01:00"
        if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
            raise _wrong(value, name, wanted)
        # Python 3.10 knows neither Z nor other fractions than of 3 or 6 digits.
        seconds, offset = value[:19].upper(), value.upper()[-6:].replace("Z", "")
        try:
            moment = datetime.fromisoformat(seconds + (offset if offset[:1] in "+-" else ""))
        except ValueError:
            raise _wrong(value, name, wanted) from None
        # A year is left at both ends, since the answer is in another time zone.
        if not 2 <= moment.year <= 9998:
            raise _wrong(value, name, "within the years 2 to 9998")
        return value


_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


@dataclass(frozen=True)
class ExperimentId(Kind):
    """MLflow's id of an experiment: a number, which MLflow's clients have as text."""

    maximum: int = 2**31 - 1  # MLflow's column is an integer

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "string", "pattern": "^[0-9]{1,10}$"},
                {"type": "integer", "minimum": 0, "maximum": self.maximum},
            ]
        }

    def read(self, value: Any, name: str) -> str:
        if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value):
            whole: int | None = int(value)
        else:
            whole = _whole(value)
        if whole is None or not 0 <= whole <= self.maximum:
            raise _wrong(value, name, 'an experiment id such as "1" or 1')
        return str(whole)


@dataclass(frozen=True)
class ListOf(Kind):
    """An array of one type, of at most so many elements."""

    item: Kind
    most: int

    def schema(self) -> Schema:
        return {"type": "array", "items": self.item.schema(), "maxItems": self.most}

    def read(self, value: Any, name: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(value, name, "an array")
        if len(value) > self.most:
            raise Refused(
                f"Field '{name}' must have at most {self.most} elements, not {len(value)}."
            )
        return [self.item.read(one, f"{name}[{index}]") for index, one in enumerate(value)]


@dataclass(frozen=True)
class OneOrList(ListOf):
    """An array of one type, or one value without the array."""

    def schema(self) -> Schema:
        one = self.item.schema()
        return {"anyOf": [super().schema(), *one.get("anyOf", [one])]}

    def read(self, value: Any, name: str) -> list[Any]:
        return (
            super().read(value, name) if isinstance(value, list) else [self.item.read(value, name)]
        )


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint with the word that was probably meant; empty where none is near."""
    near = difflib.get_close_matches(word[:100], list(words), 1, 0.6)
    return f"Did you mean {near[0]}?" if near else ""


def _whole(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _wrong(value: Any, name: str, wanted: str, hint: str = "") -> Refused:
    shown = json.dumps(value)
    if len(shown) > _SHOWN:
        shown = shown[: _SHOWN - 1] + "…"
    text = f"Field '{name}' must be {wanted}, not {shown}."
    return Refused(f"{text}\nHint: {hint}" if hint else text)
