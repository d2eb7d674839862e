"""Errors at a place of a filter."""

from __future__ import annotations

from typing import NoReturn, Protocol

from insights_engine.language.errors import FilterError, visible


class Place(Protocol):
    """A part of the filter: a token, a value, a range."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...


class Mistakes:
    """Raises the errors of one filter."""

    def __init__(self, text: str) -> None:
        self.text = text

    def source(self, place: Place) -> str:
        """What the filter has at a place."""
        return self.text[place.start : place.end]

    def shown(self, place: Place) -> str:
        """The same, in one line of limited length."""
        return visible(self.source(place), 60)

    def fail(self, message: str, place: Place, hint: str | None) -> NoReturn:
        """Raise the FilterError."""
        raise FilterError(message, place.start, place.end - place.start, hint, self.text)
