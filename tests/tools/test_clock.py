"""The clock's parts."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from ling.errors import ToolError
from ling.tools.clock import tell

SUNDAY = datetime(2026, 11, 29, 7, 5, 9)


def test_each_part_of_a_moment():
    assert [tell(part, SUNDAY) for part in ("time", "date", "weekday")] == [
        "07:05",
        "2026-11-29",
        "Sunday",
    ]


def test_it_tells_the_time_of_now():
    before = datetime.now()
    told = datetime.fromisoformat(f"{tell('date')} {tell('time')}")
    assert before - timedelta(minutes=2) <= told <= datetime.now()


def test_another_part_is_named():
    with pytest.raises(ToolError, match="`part` must be one of time, date, weekday"):
        tell("year")
