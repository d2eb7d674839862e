"""Time buckets: the start of each, by the calendar of a time zone.

A bucket is so many months, so many days, or a shorter time.  Months are counted from
January of year 0, days from a Monday.  A day begins at the first moment from which on
no clock shows an earlier date: with the first midnight where the clock is put back onto
midnight, with the second where it is put back across it, and where midnight is left out,
when that happens.  Shorter times are counted from there, which always begins a bucket:
where they do not divide the day, or the clock is put forward or back, the last bucket of
the day is shorter.  PostgreSQL knows the time zones.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple, Optional

from insights_engine.base import plans
from insights_engine.language.errors import InsightsError, blames_value, visible

MOST = 10_000

_DAY_MS = 86_400_000
_HINT = "For example '15 minutes', '1 hour', '1 day', '1 week' or '1 month'."


class Width(NamedTuple):
    """The length of a time bucket: one of the three, the others are 0."""

    months: int
    days: int
    milliseconds: int

    @property
    def least_ms(self) -> int:
        """The least length of a time bucket, other than the last one of a day."""
        return self.milliseconds or (self.days * 23 + self.months * 28 * 24) * 3_600_000


def width_of(plpy: Any, bucket: Optional[str]) -> Width:
    """The width that an interval's text asks for.  Raises InsightsError."""
    if bucket is None:
        raise InsightsError("The bucket must not be NULL.", hint=_HINT)
    try:
        (row,) = plans.run(
            plpy,
            "select (extract(year from i) * 12 + extract(month from i))::bigint as months,"
            " extract(day from i)::bigint as days,"
            " (extract(hour from i) * 3600000000 + extract(minute from i) * 60000000"
            " + extract(microseconds from i))::bigint as microseconds"
            " from (select $1::interval as i) t",
            ("text",),
            (bucket,),
        )
    except plpy.SPIError as error:
        if not blames_value(error):
            raise
        raise InsightsError(f"Invalid bucket '{visible(bucket, 60)}'.", hint=_HINT) from None
    months, days, microseconds = row["months"], row["days"], row["microseconds"]
    whole_days, rest = divmod(microseconds, _DAY_MS * 1000)
    if not rest:
        days, microseconds = days + whole_days, 0
    width = Width(months, days, microseconds // 1000)
    if min(width) < 0 or sum(map(bool, width)) != 1 or microseconds % 1000:
        raise InsightsError(
            f"Invalid bucket '{visible(bucket, 60)}': it must be whole months, whole days, or less "
            "than a day in whole milliseconds.",
            hint=_HINT,
        )
    if width.milliseconds > _DAY_MS:
        raise InsightsError(
            f"Invalid bucket '{visible(bucket, 60)}': above a day, it must be whole days.",
            hint=_HINT,
        )
    return width


def edges(
    plpy: Any, width: Width, time_zone: Optional[str], first_ms: int, end_ms: int
) -> list[int]:
    """Where the buckets from ``first_ms`` to before ``end_ms`` begin, and the last one ends.

    Milliseconds since 1970 UTC, ascending; the first edge is not after ``first_ms``, the
    last not before ``end_ms``.  Raises InsightsError.
    """
    if time_zone is None:
        raise InsightsError("The time zone must not be NULL.", hint=_ZONES)
    if (end_ms - first_ms) // width.least_ms > MOST + 1:
        raise _too_many()
    starts = _starts(plpy, width, time_zone, first_ms, end_ms)
    if width.milliseconds:
        starts = [
            start
            for midnight, next_midnight in zip(starts, starts[1:])
            for start in range(midnight, next_midnight, width.milliseconds)
        ] + starts[-1:]
    # The calendar was asked about a little more than is needed: midnight may be later
    # than some moment of its day, where the clock is put back to it.
    first = bisect_right(starts, first_ms) - 1
    last = bisect_right(starts, end_ms - 1)
    if last - first > MOST:
        raise _too_many()
    return starts[first : last + 1]


_ZONES = "For example 'UTC', 'Europe/Berlin' or 'America/New_York'."


def _too_many() -> InsightsError:
    return InsightsError(
        f"More than {MOST} buckets.", hint="Choose a longer bucket, or a later start_time."
    )


#: Two days in seconds: further than that no clock has been put.
_LONGEST = 172_800


def _starts(plpy: Any, width: Width, time_zone: str, first_ms: int, end_ms: int) -> list[int]:
    """Where months or days begin, from before ``first_ms`` to after ``end_ms``."""
    if width.months:
        place = "(extract(year from d.local) * 12 + extract(month from d.local) - 1)::int"
        begin = "make_date(n.n * $4 / 12, n.n * $4 % 12 + 1, 1)"
    else:
        place = "(d.local::date - date '2001-01-01')"
        begin = "(date '2001-01-01' + n.n * $4)"
    # floor(), as dates before the origin are not to be rounded towards it.
    number = f"pg_catalog.floor({place} / $4::numeric)::int"
    moment = "(pg_catalog.to_timestamp({}) at time zone $3)"
    ends = [
        f"(select {number} {more} from (select {moment.format(end)} as local) d)"
        for end, more in (("$1::bigint / 1000.0", "- 1"), ("$2::bigint / 1000.0", "+ 2"))
    ]
    # A clock shows some midnights twice, and others never: PostgreSQL takes the second
    # one, or the moment at which it would have been.  Where it was that late already
    # a second before, the moment at which it became so is halved in upon.
    is_late = f"{moment} >= {{}}.local"
    try:
        rows = plans.run(
            plpy,
            "with recursive b as ("
            "select d.local, extract(epoch from d.local at time zone $3)::bigint as moment"
            f" from (select {begin}::timestamp as local"
            f" from pg_catalog.generate_series({', '.join(ends)}) n (n)) d"
            "), s as ("
            f"select b.local, b.moment - case when {is_late.format('b.moment - 1', 'b')}"
            f" then {_LONGEST} else 1 end as before, b.moment from b"
            " union all"
            " select s.local, case when m.late then s.before else m.moment end,"
            " case when m.late then m.moment else s.moment end"
            " from s cross join lateral ("
            f"select h.moment, {is_late.format('h.moment', 's')} as late"
            " from (select (s.before + s.moment) / 2 as moment) h"
            ") m where s.moment - s.before > 1"
            ") select distinct s.moment * 1000 as start from s where s.moment - s.before = 1"
            " order by start",
            ("bigint", "bigint", "text", "int"),
            (first_ms, end_ms, time_zone, width.months or width.days or 1),
        )
    except plpy.SPIError as error:
        if error.sqlstate == "22023":
            raise InsightsError(
                f"Invalid time zone '{visible(time_zone, 60)}'.", hint=_ZONES
            ) from None
        raise
    return [row["start"] for row in rows]
