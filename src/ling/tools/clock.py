"""What time it is on this machine."""

from __future__ import annotations

from datetime import datetime

from ..errors import ToolError

FORMATS = {"time": "%H:%M", "date": "%Y-%m-%d", "weekday": "%w"}
DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


def tell(part: str, now: datetime | None = None) -> str:
    """The local `time`, `date` or `weekday`; raises `ToolError` for another part."""
    if part not in FORMATS:
        raise ToolError(f"`part` must be one of {', '.join(FORMATS)}")
    text = (now or datetime.now()).strftime(FORMATS[part])
    return DAYS[int(text)] if part == "weekday" else text  # whatever the language of the machine
