"""A request that has its reply, as the log, the metrics and traces see it: nothing of its text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PROBES = frozenset({"/health", "/ready"})
METRICS = "/metrics"


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One HTTP request and how it ended."""

    request_id: str
    method: str
    path: str
    """As it was sent, percent-encoded, so that it cannot forge a log line; 200 characters."""
    handler: str
    """The endpoint's path as this server declares it, "none" where there is no such endpoint."""
    status: int
    """0 where the client left before a reply began."""
    seconds: float
    ended: float
    """`time.time()`."""
    tokens: tuple[int, int] | None = None
    """Of prompt and answer, where text was generated."""
    traceparent: str = ""
    """The W3C header of the caller's trace."""


Observer = Callable[[Served], None]
"""Called on the event loop when a reply has ended."""
