"""The errors that users see: what is wrong, where, and what to write instead."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Optional

#: invalid_parameter_value
SQLSTATE_INVALID = "22023"

#: Columns of the filter that an error shows, before and after the place.
_BEFORE, _AFTER = 60, 40


def visible(text: str, limit: int = 0) -> str:
    """``text`` on one line: control characters escaped, cut to ``limit``."""
    if limit and len(text) > limit:
        text = text[: limit - 3] + "..."
    return "".join([_visible_character(character) for character in text])


def _visible_character(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def quoted_set(names: Iterable[str]) -> str:
    """A set as MLflow's messages print it within quotes."""
    return f"'{bare_set(names)}'"


def bare_set(names: Iterable[str]) -> str:
    """A set as MLflow's messages print it."""
    return "{" + ", ".join(f"'{name}'" for name in names) + "}"


def _columns(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def blames_value(error: Any) -> bool:
    """Whether PostgreSQL refused a value, and did not fail or get stopped over it.

    Class 22, data exceptions: also what is wrong with an interval, a regular expression or
    a time zone.
    """
    return str(error.sqlstate).startswith("22")


class InsightsError(Exception):
    """A bad argument: a message in one line, an SQLSTATE, DETAIL and HINT."""

    def __init__(
        self,
        message: str,
        sqlstate: str = SQLSTATE_INVALID,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self._detail = detail
        self.hint = hint

    def detail(self) -> str | None:
        """The text for the error's DETAIL, or None."""
        return self._detail


class FilterError(InsightsError):
    """A filter that cannot be read.

    ``position`` and ``length`` count characters of ``filter`` (``position``
    None: the error is about the filter as a whole).
    """

    def __init__(
        self,
        message: str,
        position: int | None = None,
        length: int = 1,
        hint: str | None = None,
        filter: str = "",
    ) -> None:
        super().__init__(message, SQLSTATE_INVALID, None, hint)
        self.position = position
        self.length = length
        self.filter = filter

    def detail(self) -> str | None:
        """The filter with a caret under the place.

        Of a filter with several lines only the offending one is shown, and of
        a long line only what surrounds the place.
        """
        if self.position is None:
            return None
        position = min(self.position, len(self.filter))
        start = self.filter.rfind("\n", 0, position) + 1
        end = self.filter.find("\n", position)
        end = len(self.filter) if end < 0 else end
        number = self.filter.count("\n", 0, start) + 1
        total = number + self.filter.count("\n", end)
        cut_start = start if position - start <= _BEFORE + 3 else position - _BEFORE
        cut_end = end if end - position <= _AFTER + 3 else position + _AFTER
        before = ("..." if cut_start > start else "") + visible(self.filter[cut_start:position])
        marked = visible(self.filter[position : min(position + max(self.length, 1), cut_end)])
        rest = visible(self.filter[position:cut_end]) + ("..." if cut_end < end else "")
        caret = " " * _columns(before) + "^" * max(_columns(marked), 1)
        heading = f"Line {number} of {total}:\n" if total > 1 else ""
        return f"{heading}{before}{rest}\n{caret}"


def positive(given: Optional[int], name: str, hint: str, most: Optional[int] = None) -> int:
    """``given``, which must be there and from 1 to ``most``; else an InsightsError says so."""
    if given is None or given < 1:
        raise InsightsError(
            f"Invalid value {'NULL' if given is None else given} for parameter '{name}' supplied. "
            "It must be a positive integer",
            hint=hint,
        )
    if most is not None and given > most:
        raise InsightsError(
            f"Invalid value {given} for parameter '{name}' supplied. It must be at most {most}",
            hint=hint,
        )
    return given


def at_most(given: Sequence[Any], name: str, most: int) -> None:
    """Refuses an array of more than ``most`` elements."""
    if len(given) > most:
        raise InsightsError(
            f"Invalid value for parameter '{name}' supplied. "
            f"It must have at most {most} elements, not {len(given)}"
        )
