"""Durations and times that filters write as text."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone

from insights_engine.language import fields
from insights_engine.language.tokens import unit_in_ms

_QUANTITY = r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*([A-Za-z]+)\s*"
NUMBER_AND_UNIT = re.compile(_QUANTITY, re.ASCII)
_DURATION_PART = re.compile(_QUANTITY + ",?", re.ASCII)
_TIME = re.compile(
    r"\s*(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:[T ]\s*(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?"
    r"\s*(Z|UTC|[+-]\d{2}(?::?\d{2})?)?)?\s*",
    re.ASCII | re.IGNORECASE,
)
_DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: No duration reaches farther: 2**53 ms are 285,000 years.
_MAX_DURATION_MS = 2**53


def duration_in_ms(text: str) -> int | None:
    """Milliseconds of a duration such as '1 day 2 hours'; None if it is none."""
    total = 0.0
    position = 0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        unit = unit_in_ms(part[2]) if part else None
        if part is None or unit is None:
            return None
        total += float(part[1]) * unit
        position = part.end()
    if not text.strip() or not math.isfinite(total) or abs(total) > _MAX_DURATION_MS:
        return None
    return round(total)


def duration_hint(text: str) -> str:
    """What to write instead of a text that is no duration."""
    hint = "For example '30 minutes', '24 hours', '7 days' or '1 day 2 hours'."
    part = _DURATION_PART.match(text)
    if part is None:
        return f"A unit is missing. {hint}" if text.strip().isdecimal() else hint
    unit = part[2].lower().rstrip("s")
    if unit in ("month", "mon", "year", "yr", "y", "quarter"):
        return "Months and years have no fixed length: use days, such as '30 days'."
    units = ("milliseconds", "seconds", "minutes", "hours", "days", "weeks")
    near = fields.nearest(part[2], units)
    if near and unit_in_ms(part[2]) is None:
        return f"Did you mean {near}? {hint}"
    return hint


def time_in_ms(text: str) -> int | float | None:
    """Milliseconds since 1970 of an ISO 8601 text; None if it is none.

    UTC without a zone.  Raises ValueError, with the reason, for a text of that
    form that is no time, such as 2025-02-30.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            tzinfo=_zone(zone),
        )
        milliseconds: int | float = (moment - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError as error:
        raise ValueError(str(error)) from None
    if fraction:
        nanoseconds = int(fraction.ljust(9, "0"))
        milliseconds += nanoseconds // 1_000_000
        if nanoseconds % 1_000_000:
            milliseconds += nanoseconds % 1_000_000 / 1e6
    return milliseconds


def text_of(milliseconds: int) -> str | None:
    """The shortest ISO 8601 text of a time in UTC; None beyond the years that it can write.

    ``time_in_ms(text_of(n)) == n``.
    """
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
    if not milliseconds % _DAY_MS:
        return moment.date().isoformat()
    parts = "minutes" if not milliseconds % 60_000 else "seconds"
    if milliseconds % 1000:
        parts = "milliseconds"
    return moment.replace(tzinfo=None).isoformat(timespec=parts) + "Z"


def _zone(zone: str | None) -> timezone:
    if zone is None or zone.upper() in ("Z", "UTC"):
        return timezone.utc
    hours, minutes = int(zone[1:3]), int(zone[-2:]) if len(zone) > 3 else 0
    if hours > 23 or minutes > 59:
        raise ValueError("the zone must lie within a day")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if zone[0] == "-" else offset)
