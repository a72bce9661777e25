"""Log lines of the server: one line an event, with the id of its request, and no text of it."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from ..text import printable
from .problems import request_id
from .served import METRICS, PROBES, Served

log = logging.getLogger("ling.serve")

MAX_LINE = 4000
ROUTINE = PROBES | {METRICS}


def install(level: str, style: str) -> None:
    """Write our lines from `level` on to stderr as `style`, text or json; other libraries' from
    warnings on. A program that has set up logging itself keeps what it has."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("ling").setLevel(level.upper())


def access(served: Served) -> None:
    """The line of a request; its level is `info`, `debug` for what asks every few seconds."""
    is_routine = served.handler in ROUTINE and served.status == 200
    prompt, answer = served.tokens or (None, None)
    tokens = "" if served.tokens is None else f" {prompt}+{answer} tokens"
    log.log(
        logging.DEBUG if is_routine else logging.INFO,
        "%s %s %d%s %.2f s",
        served.method,
        served.path,
        served.status,
        tokens,
        served.seconds,
        extra={
            "fields": {
                "method": served.method,
                "path": served.path,
                "status": served.status,
                "prompt_tokens": prompt,
                "completion_tokens": answer,
                "seconds": round(served.seconds, 4),
            }
        },
    )


class TextLines(logging.Formatter):
    """`TIME LEVEL LOGGER REQUEST MESSAGE`; lines of a traceback are indented, so that none of them
    can pass for an event."""

    def format(self, record: logging.LogRecord) -> str:
        """One event."""
        head = f"{_time(record)} {record.levelname} {record.name} {request_id.get()}"
        line = f"{head} {_message(record)}"
        return "\n    ".join([line, *_traceback(self, record)])


class JsonLines(logging.Formatter):
    """One JSON object a line, ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        """One event."""
        event: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": request_id.get(),
            "message": _message(record),
            **getattr(record, "fields", {}),
        }
        if lines := _traceback(self, record):
            event["traceback"] = lines
        return json.dumps(event)


def _message(record: logging.LogRecord) -> str:
    return printable(record.getMessage()[:MAX_LINE])


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    if not record.exc_info:
        return []
    lines = formatter.formatException(record.exc_info).splitlines()
    return [printable(line[:MAX_LINE]) for line in lines]


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"
