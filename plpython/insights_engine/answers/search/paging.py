"""Page tokens: where the next page of a search begins.

A token holds the sort values of the last row of its page, so the next page is
"what comes after this row" and stays right while traces arrive or vanish; an
offset would repeat or skip rows then.  It is base64url text around JSON::

    [fingerprint, now, [values], checksum]

``fingerprint`` stands for the experiments, the filter and the order: a token
continues the search that gave it and no other.  ``now`` is the time that
``now()`` in the filter stood for on the first page and keeps standing for.
The values are exact (no rounding) and reach SQL as parameters only.  The
checksum finds accidents and edits; it is no secret, since whoever makes up a
token merely asks for another part of an answer that is theirs anyway.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from insights_engine.answers.search.ordering import SortColumn
from insights_engine.exact.rawsql import Params
from insights_engine.language.errors import InsightsError, visible

SortValue = Union[str, int, float, None]

# 32 sort values of 8,000 characters that JSON escapes to 12 bytes each fit.
MAX_TOKEN = 8 * 1024 * 1024

_HINT = (
    "A token continues the search that returned it, with the same experiments, filter and "
    "order; leave it out to begin with the first page."
)
_DECIMAL = re.compile(r"-?[0-9]{1,40}")
_WHOLE = re.compile(r"\s*[+-]?[0-9]*\s*")
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Position:
    """The row after which a page begins, and the time the search began (ms)."""

    values: tuple[SortValue, ...]
    now_ms: int


def fingerprint(experiments: Optional[Sequence[int]], filter: str, order: Sequence[str]) -> str:
    """What a token must have in common with the search it is used for.

    ``filter`` and ``order`` in canonical form, ``experiments`` sorted.
    """
    search = json.dumps([experiments, filter, list(order)])
    return hashlib.sha256(search.encode()).hexdigest()[:32]


def encode(position: Position, fingerprint: str) -> str:
    """The token for the page after ``position``."""
    values = [_to_json(value) for value in position.values]
    body = [fingerprint, position.now_ms, values]
    text = json.dumps([*body, _checksum(body)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(token: str, fingerprint: str, columns: Sequence[SortColumn]) -> Position:
    """The position that a token stands for.  Raises InsightsError."""
    body = _read(token)
    if not (
        isinstance(body, list)
        and len(body) == 4
        and isinstance(body[0], str)
        and type(body[1]) is int
        and abs(body[1]) < 2**63
        and isinstance(body[2], list)
    ):
        hint = _HINT
        if isinstance(body, dict) and "offset" in body:
            hint = "This is an offset token of MLflow's own search. " + _HINT
            if isinstance(body["offset"], str) and not _WHOLE.fullmatch(body["offset"]):
                raise _invalid(f"not stringable {visible(body['offset'], 100)}", hint)
        raise _invalid(f"parsed value={visible(repr(body), 100)}", hint)
    if body[3] != _checksum(body[:3]):
        raise _invalid("it has been changed or cut off")
    if body[0] != fingerprint:
        raise _invalid("it belongs to another search")
    if len(body[2]) != len(columns):
        raise _invalid("it has been changed or cut off")
    return Position(tuple(map(_from_json, body[2], columns)), body[1])


def _read(token: str) -> Any:
    if len(token) > MAX_TOKEN:
        raise _invalid(f"it is longer than {MAX_TOKEN} characters")
    try:
        text = token.strip().rstrip("=").encode("ascii")
        # MLflow's tokens use the other alphabet; reading both gives those a
        # better message than that they are not JSON.
        text = text.replace(b"-", b"+").replace(b"_", b"/")
        return json.loads(base64.b64decode(text + b"=" * (-len(text) % 4), validate=True))
    except (ValueError, RecursionError):  # binascii's and Unicode's are ValueErrors
        raise _invalid(_unreadable(token)) from None


def _unreadable(token: str) -> str:
    """What MLflow says of a token: it passes over characters that are not of the alphabet."""
    try:
        raw = base64.b64decode(token.encode("ascii"))
    except ValueError:
        return "could not base64-decode"
    return f"decoded value={visible(repr(raw), 100)}"


def _invalid(reason: str, hint: str = _HINT) -> InsightsError:
    return InsightsError(f"Invalid page token, {reason}", hint=hint)


def _checksum(body: list[Any]) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]


def _to_json(value: SortValue) -> Union[SortValue, dict[str, str]]:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)  # numeric arrives as a Decimal


def _from_json(value: Any, column: SortColumn) -> SortValue:
    """A value of a token, if the column can have it."""
    if value is None and column.nullable:
        return None
    if column.type == "text":
        if isinstance(value, str) and _storable(value):
            return value
    elif column.type == "bigint":
        if type(value) is int and -(2**63) <= value < 2**63:
            return value
    elif column.type == "numeric":
        if isinstance(value, str) and _DECIMAL.fullmatch(value):
            return value
    elif isinstance(value, dict):
        if list(value) == ["float"] and value["float"] in _SPECIAL:
            return _SPECIAL[value["float"]]
    elif type(value) is float:
        return value
    raise _invalid("it has been changed or cut off")


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def after(columns: Sequence[SortColumn], values: Sequence[SortValue], params: Params) -> str:
    """The SQL condition that a row comes after ``values`` in the order.

    Lexicographic: a row is after if it is after in the first column, or equal
    there and after in the rest.  Nulls are equal to each other and after all
    else, whatever the direction.
    """
    names = [
        None if value is None else params.add(value, column.type)
        for column, value in zip(columns, values)
    ]
    condition = ""
    for column, name in reversed(list(zip(columns, names))):
        equal = f"{column.expression} {'is null' if name is None else f'= {name}'}"
        beyond = _beyond(column, name)
        parts = [beyond] if beyond else []
        if condition:
            parts.append(f"{equal} and {condition}")
        if not parts:
            condition = "false"
        elif len(parts) == 1:
            condition = f"({parts[0]})"
        else:
            condition = f"({parts[0]} or ({parts[1]}))"
    first, name = columns[0], names[0]
    if name is not None and not first.nullable:
        # Says nothing new, but can be an index's bound, which OR cannot.
        comparator = "<=" if first.descending else ">="
        condition = f"({first.expression} {comparator} {name} and {condition})"
    return condition


def _beyond(column: SortColumn, name: Optional[str]) -> Optional[str]:
    """That the column's value comes after the parameter; None: nothing does."""
    if name is None:
        return None
    further = f"{column.expression} {'<' if column.descending else '>'} {name}"
    return f"({further} or {column.expression} is null)" if column.nullable else further
