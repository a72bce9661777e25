"""Time and date of a moment."""

from __future__ import annotations

from datetime import datetime, timedelta

from ling.tools.clock import DAYS, MONTHS, date_of, time_of

SUNDAY = datetime(2026, 11, 29, 7, 5, 9)


def test_time_and_date_of_a_moment():
    assert time_of(SUNDAY) == "7:05"
    assert date_of(SUNDAY) == {"weekday": "Sunday", "date": "November 29"}


def test_every_day_and_month_has_its_name():
    days = [date_of(SUNDAY + timedelta(days=n))["weekday"] for n in range(1, 8)]
    assert tuple(days) == DAYS
    assert [date_of(SUNDAY.replace(month=n, day=1))["date"] for n in range(1, 13)] == [
        f"{month} 1" for month in MONTHS
    ]
