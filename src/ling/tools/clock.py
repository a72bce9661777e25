"""What time and what day it is on this machine, in English whatever its language."""

from __future__ import annotations

from datetime import datetime

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)


def time_of(now: datetime) -> str:
    """Such as `9:05`."""
    return f"{now.hour}:{now.minute:02}"


def date_of(now: datetime) -> dict[str, str]:
    """The weekday, and the date as `November 29`."""
    return {"weekday": DAYS[now.weekday()], "date": f"{MONTHS[now.month - 1]} {now.day}"}
