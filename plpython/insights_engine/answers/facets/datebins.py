"""Intervals of time that a calendar has a name for, in UTC."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Optional

from insights_engine.answers.facets import histogram

_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000
#: Widths in milliseconds, each of which divides the next unit.
_CLOCK = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(_SECOND * n for n in (1, 5, 15, 30)),
    *(_MINUTE * n for n in (1, 5, 15, 30)),
    *(_HOUR * n for n in (1, 3, 6, 12)),
    *(_DAY * n for n in (1, 7)),
)
#: Widths in months.
_CALENDAR = (1, 3, 6, *(12 * n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)))
#: 1970-01-05, a Monday.
_MONDAY = 4 * _DAY


def edges(low: int, high: int, most: int) -> histogram.Edges:
    """The edges of at most ``most`` intervals, all of one width, that hold ``low`` to ``high``.

    In milliseconds since 1970, ascending: clock hours, days, weeks from Mondays, months,
    years and so on.  Beyond the years 1 to 9999, round numbers.
    """
    for width in _CLOCK:
        start = _MONDAY if width == 7 * _DAY else 0
        first, last = (low - start) // width, (high - start) // width
        found = [start + number * width for number in (first, last + 1)]
        if last - first < most and found[0] >= -(2**63) and found[1] < 2**63:
            return range(found[0], found[1] + 1, width)
    return _months(low, high, most) or histogram.edges(low, high, most, whole=True)


def _months(low: int, high: int, most: int) -> Optional[list[int]]:
    begin, end = _month(low), _month(high)
    if begin is None or end is None:
        return None
    for width in _CALENDAR:
        first, last = begin // width, end // width
        if last - first < most:
            found = [_begin(number * width) for number in range(first, last + 2)]
            known = [moment for moment in found if moment is not None]
            return known if len(known) == len(found) else None
    return None


def _month(milliseconds: int) -> Optional[int]:
    """Months from January of year 0 to that of a moment, if Python knows its year."""
    days = milliseconds // _DAY + _DAYS_BEFORE_1970
    if not 1 <= days <= _LAST_DAY:
        return None
    day = datetime.fromordinal(days)
    return day.year * 12 + day.month - 1


def _begin(month: int) -> Optional[int]:
    year, of_year = divmod(month, 12)
    if not 1 <= year <= 9999:
        return None
    begin = datetime(year, of_year + 1, 1, tzinfo=timezone.utc)
    return (begin.toordinal() - _DAYS_BEFORE_1970) * _DAY


_DAYS_BEFORE_1970 = datetime(1970, 1, 1).toordinal()
_LAST_DAY = datetime.max.toordinal()
