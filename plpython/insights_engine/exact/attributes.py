"""Reads values out of the JSON that MLflow stores: span content, assessments.

This module uses nothing but the standard library and no other module of the
engine, because its source is inlined into small PL/Python helper functions:
those also run in parallel workers, which must not load the whole engine.
For the same reason its annotations are valid without ``__future__`` imports.

A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
other writers, to a plain value.  Whatever cannot be read counts as missing.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Optional

#: Stands for a value that is not there; JSON's null counts as missing too.
MISSING = None

# The decimal numbers that a text may consist of; float() alone would take
# blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

# What PostgreSQL's text cannot hold.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


# json.loads() without its detours: the value that starts at an index, and where
# it ends.  The settings are the same: NaN is a number, of equal keys the last counts.
_scan = vars(json.JSONDecoder())["scan_once"]


def loads(text: str, otherwise: Any = MISSING) -> Any:
    """What ``json.loads(text)`` gives, or ``otherwise`` where it fails.

    It fails with ValueError (not JSON, or an integer of more than 4,300 digits)
    and with RecursionError.
    """
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except (ValueError, RecursionError):
        return otherwise
    except StopIteration:  # blanks come first, or nothing that JSON knows
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def storable(text: str) -> str:
    """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub("\ufffd", text)


def attributes_of(content: str) -> Any:
    """The ``attributes`` of a span's content, ``{}`` where there are none."""
    span = loads(content)
    attributes = span.get("attributes") if isinstance(span, dict) else MISSING
    return attributes if isinstance(attributes, dict) else {}


def remembered(memory: dict[str, Any], content: str) -> Any:
    """`attributes_of`, which ``memory`` keeps for another look at the same span."""
    last = memory.get("insights_span")
    if last is None or last[0] != content:
        last = memory["insights_span"] = (content, attributes_of(content))
    return last[1]


def step_into(value: Any, path: Sequence[str]) -> Any:
    """The value under ``path``: keys of objects and decimal indexes of lists."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
            index = int(step)
            value = value[index] if index < len(value) else MISSING
        else:
            return MISSING
    return value


def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
    """The decoded value of one attribute, or of a part of it.

    The engine's paths are texts, at least one; whoever calls the SQL functions by hand
    may send NULLs, arrays of arrays, or nothing.
    """
    if not path or any(type(step) is not str for step in path):
        return MISSING
    value = attributes.get(path[0])
    if isinstance(value, str):
        # What is not JSON is a text that is its own value.
        value = loads(value, value)
    return step_into(value, path[1:]) if len(path) > 1 else value


def attribute(content: str, path: Sequence[str]) -> Any:
    """The decoded value under ``path`` of a span's content, or MISSING."""
    return attribute_in(attributes_of(content), path)


def text_form(value: Any) -> Optional[str]:
    """A decoded value as text: strings as they are, all else as JSON prints it."""
    if value is MISSING:
        return None
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False)
        except (ValueError, RecursionError):
            return None
    return storable(value)


def number_form(value: Any) -> Optional[float]:
    """A decoded value as a finite number, or None.

    Numbers count, and strings that wholly read as a decimal number; booleans
    do not.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return None
    elif not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond every double
        return None
    return number if math.isfinite(number) else None
