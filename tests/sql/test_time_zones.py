"""Where buckets begin in every time zone, against Python's own knowledge of them (zoneinfo)."""

from __future__ import annotations

import itertools
import zoneinfo
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import psycopg
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.semantics.world import Trace
from tests.sql.conftest import Loader

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400
#: After that PostgreSQL and Python go by rules.
FIRST, LAST = date(1970, 1, 1), date(2037, 12, 31)


def seconds_of(day: date) -> int:
    """A date's midnight in UTC, in seconds since 1970."""
    return (day - EPOCH.date()).days * DAY


@dataclass(frozen=True)
class Zone:
    """The clock of a time zone: what it is ahead of UTC in seconds, from when on."""

    moments: tuple[int, ...]
    offsets: tuple[int, ...]  # one more: the first before any of the moments

    def offset(self, moment: int) -> int:
        return self.offsets[bisect_right(self.moments, moment)]

    def start(self, day: date) -> int:
        """The first moment from which on no clock shows an earlier date."""
        midnight = seconds_of(day)
        number = bisect_right(self.moments, midnight + 2 * DAY)
        while True:
            # What the clock shows when this stretch begins, and when it ends.
            begin = self.moments[number - 1] if number else None
            offset = self.offsets[number]
            if begin is None or begin + offset < midnight:
                return midnight - offset
            if begin + self.offsets[number - 1] <= midnight:
                return begin
            number -= 1


@lru_cache(None)
def zone(name: str) -> Zone:
    """The clock, found by looking at it every fortnight."""
    info = zoneinfo.ZoneInfo(name)

    def offset(moment: int) -> int:
        found = (EPOCH + timedelta(seconds=moment)).astimezone(info).utcoffset()
        assert found is not None
        return round(found.total_seconds())

    moments, offsets = [], []
    days = range(seconds_of(FIRST) - 10 * DAY, seconds_of(LAST) + 10 * DAY, 14 * DAY)
    before = offset(days[0])
    offsets.append(before)
    for low, high in itertools.pairwise(days):
        after = offset(high)
        if after != before:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if offset(middle) != before else (middle, high)
            moments.append(high)
            offsets.append(after)
        before = after
    return Zone(tuple(moments), tuple(offsets))


@pytest.fixture(scope="module")
def zones(module_conn: psycopg.Connection[Any]) -> dict[Zone, str]:
    """A name for each different clock among PostgreSQL's time zones."""
    names = [
        name
        for (name,) in module_conn.execute(
            # PostgreSQL takes a name such as EET for the abbreviation, which knows no summer.
            "select name from pg_timezone_names where name not in"
            " (select abbrev from pg_timezone_abbrevs) order by name"
        )
        if not name.startswith("posix/") and name in zoneinfo.available_timezones()
    ]
    return {clock: name for name in reversed(names) for clock in [zone(name)]}


def starts(
    connection: psycopg.Connection[Any], name: str, bucket: str, first: int, end: int
) -> list[int]:
    """Where the buckets between two moments begin, in seconds since 1970."""
    rows = connection.execute(
        'select extract(epoch from "time")::bigint from insights_timeseries('
        "'{}', '', %s, to_timestamp(%s), to_timestamp(%s), %s)",
        (bucket, first, end, name),
    ).fetchall()
    return [start for (start,) in rows]


def unusual(clock: Zone) -> list[date]:
    """The days at whose beginning the clock is put forward or back."""
    found = set()
    for moment, before, after in zip(clock.moments, clock.offsets, clock.offsets[1:], strict=False):
        shown = sorted((moment + before, moment + after))
        for number in range(-(-shown[0] // DAY), shown[1] // DAY + 1):
            found.add(EPOCH.date() + timedelta(number))
    return sorted(day for day in found if FIRST < day < LAST)


#: PostgreSQL may have another edition of the tz database than Python.
MOST_UNLIKE = 5


def test_every_day_that_begins_while_a_clock_is_put_forward_or_back(
    module_conn: psycopg.Connection[Any], zones: dict[Zone, str]
) -> None:
    asked = [(clock, name, day) for clock, name in zones.items() for day in unusual(clock)]
    assert len(asked) > 1_000
    unlike = set()
    for clock, name, day in asked:
        days = [day + timedelta(n) for n in (-1, 0, 1, 2)]
        expected = sorted({clock.start(one) for one in days})
        if starts(module_conn, name, "1 day", expected[0], expected[-1]) != expected[:-1]:
            unlike.add(name)
    assert len(unlike) <= MOST_UNLIKE, unlike


def test_every_month_of_every_zone(
    module_conn: psycopg.Connection[Any], zones: dict[Zone, str]
) -> None:
    months = [date(1970 + n // 12, n % 12 + 1, 1) for n in range(1, 12 * 68)]
    unlike = []
    for clock, name in zones.items():
        expected = [clock.start(month) for month in months]
        found = starts(module_conn, name, "1 month", expected[0], expected[-1])
        if found != expected[:-1]:
            unlike.append(name)
    assert len(unlike) <= MOST_UNLIKE, unlike


WIDTHS = {"1 hour": 3_600, "90 minutes": 5_400, "6 hours": 21_600, "7 hours": 25_200}


@settings(max_examples=150)
@given(data=st.data())
def test_any_series(
    module_conn: psycopg.Connection[Any], zones: dict[Zone, str], data: st.DataObject
) -> None:
    """Hours are counted from where the day begins; days, weeks and months follow the calendar."""
    clock = data.draw(st.sampled_from([clock for clock in zones if clock.moments]))
    day = EPOCH.date() + timedelta(
        data.draw(st.sampled_from(clock.moments)) // DAY + data.draw(st.integers(-3, 1))
    )
    assume(FIRST < day < LAST - timedelta(100))
    bucket = data.draw(st.sampled_from([*WIDTHS, "1 day", "3 days", "1 week", "1 month"]))
    first = clock.start(day) + data.draw(st.integers(-DAY, DAY))
    end = first + data.draw(st.integers(1, 5 * DAY))
    days = [day + timedelta(n) for n in range(-45, 60)]
    if bucket == "1 month":
        days = [one for one in days if one.day == 1]
    elif bucket == "1 week":
        days = [one for one in days if one.weekday() == 0]
    elif bucket == "3 days":
        days = [one for one in days if (one - date(2001, 1, 1)).days % 3 == 0]
    edges = sorted({clock.start(one) for one in days})
    if width := WIDTHS.get(bucket):
        edges = [
            start
            for midnight, following in itertools.pairwise(edges)
            for start in range(midnight, following, width)
        ]
    expected = [
        start for start, following in itertools.pairwise(edges) if following > first and start < end
    ]
    assert starts(module_conn, zones[clock], bucket, first, end) == expected, zones[clock]


@pytest.mark.parametrize(
    ("name", "day", "hour"),
    [
        # Put back from 1 o'clock to midnight: the first of the two begins the day.
        ("Atlantic/Azores", "2024-10-27", "00:00"),
        ("America/Havana", "2024-11-03", "04:00"),
        # From midnight to 23 o'clock: the second.
        ("America/Asuncion", "2024-03-24", "04:00"),
        # From midnight to 1 o'clock: at one.
        ("Africa/Cairo", "2024-04-26", "22:00"),
        # From 23:30 to 0:30: half an hour before midnight would have been.
        ("America/Toronto", "1919-03-31", "04:30"),
        # A day left out, which has no bucket.
        ("Pacific/Apia", "2011-12-31", "10:00"),
    ],
)
def test_traces_of_a_local_day_share_a_bucket(
    put: Loader, module_conn: psycopg.Connection[Any], name: str, day: str, hour: str
) -> None:
    """Every hour of the day, and not those before and after."""
    info = zoneinfo.ZoneInfo(name)
    noon = datetime.fromisoformat(day + " 12:00").replace(tzinfo=info).astimezone(UTC)
    hours = [noon + timedelta(minutes=30 * n) for n in range(-60, 60)]
    put(*(Trace(f"t{n}", 1, int(at.timestamp() * 1000)) for n, at in enumerate(hours)))
    of_the_day = [at for at in hours if str(at.astimezone(info).date()) == day]
    assert str(of_the_day[0])[11:16] == hour
    for built in (True, False):
        module_conn.execute("update insights.state set built = %s", (built,))
        rows = module_conn.execute(
            "select \"time\", total from insights_timeseries('1', '', '1 day', time_zone => %s)",
            (name,),
        ).fetchall()
        assert (of_the_day[0], len(of_the_day)) in rows
    module_conn.execute("update insights.state set built = true")
