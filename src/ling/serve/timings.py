"""How long the parts of a reply took (`timings`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from .schema.common import Sampling, Timings

if TYPE_CHECKING:
    from ..infer.request import Request

When = Literal["never", "end", "always"]


def when(body: Sampling) -> When:
    """Whether timings are told, and in which events of a stream."""
    if body.timings_per_token:
        return "always"
    return "end" if body.timings else "never"


def timings_of(requests: Sequence[Request], num_prompts: int = 1) -> Timings:
    """The times of choices that were asked for together, of so many prompts; 0 for what has yet to
    come."""
    lines = [r.timeline for r in requests]
    arrived = min(line.arrived for line in lines)
    started = min((line.started for line in lines if line.started), default=arrived)
    began = min((line.first_token for line in lines if line.first_token), default=started)
    ended = max((line.last_token for line in lines if line.last_token), default=began)
    step = len(requests) // num_prompts
    prompts = [requests[i : i + step] for i in range(0, len(requests), step)]
    cached = sum(min(r.num_cached_tokens for r in group) for group in prompts)
    read = sum(group[0].num_prompt_tokens for group in prompts) - cached
    written = sum(r.num_output_tokens for r in requests)
    return Timings(
        queue_ms=_ms(started - arrived),
        cache_n=cached,
        prompt_n=read,
        prompt_ms=_ms(began - started),
        prompt_per_second=_rate(read, began - started),
        predicted_n=written,
        predicted_ms=_ms(ended - began),
        # The first token of each choice is of the prompt's time.
        predicted_per_second=_rate(written - len(requests), ended - began),
        draft_n=sum(r.num_drafted for r in requests),
        draft_n_accepted=sum(r.num_accepted for r in requests),
    )


def _ms(seconds: float) -> float:
    return round(max(seconds, 0.0) * 1000, 3)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds > 0 and count > 0 else 0.0
