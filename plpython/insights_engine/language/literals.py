"""The values of a filter."""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import NamedTuple, Union

from insights_engine.language import tree

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\Z", re.ASCII)
_INTEGER = re.compile(r"([+-]?)(\d+)\Z", re.ASCII)


class Type(Enum):
    """The type of a value as it is written."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIME = "time"  # now() and what is added to it
    NULL = "null"


class Value(NamedTuple):
    """A value with its type settled, at ``text[start:end]`` of the filter.

    Booleans and NULL have their texts.
    """

    type: Type
    value: Union[str, int, float, tree.Now]
    start: int
    end: int


def is_number(text: str) -> bool:
    """Whether a text reads as a number."""
    return _NUMBER.match(text) is not None


def is_integer(text: str) -> bool:
    """Whether a text reads as a whole number."""
    return _INTEGER.match(text) is not None


def number_of(text: str) -> int | float:
    """The number that a text reads as, perhaps infinity."""
    number = float(text)
    integer = _INTEGER.match(text)
    if integer is None or math.isinf(number):
        return number
    # Without the zeros, because Python reads no integer of 4300 digits.
    return int(integer[1] + (integer[2].lstrip("0") or "0"))
