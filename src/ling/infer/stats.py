"""Counters of the engine: written by its thread, read by anybody."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .histogram import LONG_SECONDS, MICROSECONDS, SECONDS, TOKENS, Histogram

if TYPE_CHECKING:
    from .request import Request
    from .scheduler import ScheduledRequest


@dataclass(slots=True)
class Timeline:
    """When something happened to a request, in `time.monotonic()` seconds; 0 until it does."""

    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0


def _histogram(bounds: Sequence[float]) -> Callable[[], Histogram]:
    return lambda: Histogram(bounds)


@dataclass
class Stats:
    """Totals since the engine was made."""

    generated: int = 0
    seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0
    forced: int = 0
    """Generated tokens that a constraint forced, verified with others in one step; these are no
    drafts."""
    prompt_tokens: int = 0
    """Tokens of the prompts that have been read, cached ones included."""
    prefix_queries: int = 0
    """Prompt tokens that were looked up in the prefix cache."""
    prefix_hits: int = 0
    """Those of them that were found there."""
    preemptions: int = 0
    """Times that a running request lost its pages to another."""
    finished: Counter[str] = field(default_factory=Counter)
    """Requests by their `finish_reason`, those under adapters included."""
    finished_under: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Requests under adapters, by the adapter's number and their `finish_reason`."""
    time_to_first_token: Histogram = field(default_factory=_histogram(LONG_SECONDS))
    """Seconds from a request's arrival to its first token."""
    inter_token: Histogram = field(default_factory=_histogram(SECONDS))
    """Seconds between two steps that bring a request tokens."""
    queue_time: Histogram = field(default_factory=_histogram(LONG_SECONDS))
    """Seconds from arrival until a request first runs."""
    prefill_time: Histogram = field(default_factory=_histogram(LONG_SECONDS))
    """Seconds from then to the first token, of finished requests."""
    decode_time: Histogram = field(default_factory=_histogram(LONG_SECONDS))
    """Seconds from the first token to the last, of finished requests."""
    end_to_end: Histogram = field(default_factory=_histogram(LONG_SECONDS))
    """Seconds from arrival to the last token, of finished requests."""
    request_prompt_tokens: Histogram = field(default_factory=_histogram(TOKENS))
    request_output_tokens: Histogram = field(default_factory=_histogram(TOKENS))
    step_tokens: Histogram = field(default_factory=_histogram(TOKENS))
    """Rows of a step."""
    grammar_compile: Histogram = field(default_factory=_histogram(LONG_SECONDS))
    """Seconds that a grammar took to compile."""
    grammar_mask: Histogram = field(default_factory=_histogram(MICROSECONDS))
    """Seconds that a mask of a constrained choice took to compute."""

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second of engine time, prefill included."""
        return self.generated / self.seconds if self.seconds else 0.0

    @property
    def acceptance(self) -> float | None:
        """Share of drafts that the model itself would have chosen; None without drafts."""
        return self.accepted / self.drafted if self.drafted else None

    def begin_step(self, step: Sequence[ScheduledRequest]) -> None:
        """A step is about to run: some of its requests run for the first time."""
        for s in step:
            if not s.request.timeline.started:
                self._start(s.request)

    def _start(self, request: Request) -> None:
        timeline = request.timeline
        timeline.started = time.monotonic()
        self.queue_time.observe(timeline.started - timeline.arrived)
        if not request.params.computes_prompt:
            self.prefix_queries += request.num_prompt_tokens
            self.prefix_hits += request.num_cached_tokens

    def end_step(self, step: Sequence[ScheduledRequest]) -> None:
        """A step has run: those of its requests that reached their last token got new ones."""
        now = time.monotonic()
        self.step_tokens.observe(sum(len(s.ids) for s in step))
        for s in step:
            if not s.reaches_end or s.request.error is not None:
                continue
            timeline = s.request.timeline
            if timeline.first_token:
                self.inter_token.observe(now - timeline.last_token)
            else:
                timeline.first_token = now
                self.time_to_first_token.observe(now - timeline.arrived)
                self.prompt_tokens += s.request.num_prompt_tokens
            timeline.last_token = now

    def end(self, request: Request) -> None:
        """A request is over; its times count where it got all of its answer."""
        reason = request.finish_reason or "abort"
        self.finished[reason] += 1
        if request.adapter:
            self.finished_under[request.adapter, reason] += 1
        timeline = request.timeline
        if request.finish_reason not in ("stop", "length") or not timeline.first_token:
            return
        self.prefill_time.observe(timeline.first_token - timeline.started)
        self.decode_time.observe(timeline.last_token - timeline.first_token)
        self.end_to_end.observe(timeline.last_token - timeline.arrived)
        self.request_prompt_tokens.observe(request.num_prompt_tokens)
        self.request_output_tokens.observe(request.num_output_tokens)
