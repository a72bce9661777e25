"""What of a step fails: one request alone, or all of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import RequestError
from .request import Request, SamplingParams
from .routed import StepRouting, wants_routing
from .runner import Runner
from .scheduler import ScheduledRequest, assign_rows

if TYPE_CHECKING:
    from .engine import Engine

log = logging.getLogger("ling.infer")

PROBE_STEPS = 4


def alone(request: Request, work: Callable[[], None]) -> None:
    """Do work for one request of a step; where it cannot be done, this request fails alone."""
    try:
        work()
    except RequestError as error:
        request.fail(error)
    except Exception as error:
        log.error("request %d failed", request.id, exc_info=error)
        request.fail(_unexpected(error))


def run_step(
    runner: Runner, step: list[ScheduledRequest], routing: StepRouting
) -> tuple[list[ScheduledRequest], list[Request], Tensor]:
    """Run the model over a step; returns what ran, the requests that failed, and hidden states.

    Where the model raises, every request is tried alone: those for which it raises again fail, and
    the others run without them, which changes none of their tokens. Raises what it raises for all.
    `routing` has the experts of the rows that ran, where a request of theirs asks for its own.
    """
    try:
        return step, [], _forward(runner, step, routing)
    except Exception as error:
        if len(step) == 1:
            raise
        cause = error
    log.error("the model failed on a step: trying its %d requests alone", len(step), exc_info=cause)
    failed = [s.request for s in step if not _runs(runner, s, routing)]
    rest = [s for s in step if s.request.error is None]
    if not rest:
        raise cause
    assign_rows(rest)
    return rest, failed, _forward(runner, rest, routing)


def _forward(runner: Runner, step: list[ScheduledRequest], routing: StepRouting) -> Tensor:
    traced = wants_routing(step)
    if traced:
        routing.begin(sum(len(s.ids) for s in step))
    # Said for every pass: one that failed may have left its own request for a trace behind.
    runner.trace_experts(routing if traced else None)
    return runner.forward([i for s in step for i in s.ids], [s.segment() for s in step])


def _runs(runner: Runner, scheduled: ScheduledRequest, routing: StepRouting) -> bool:
    assign_rows([scheduled])
    try:
        _forward(runner, [scheduled], routing)
    except Exception as error:
        scheduled.request.fail(_unexpected(error))
        return False
    return True


def answers(engine: Engine) -> bool:
    """Whether an engine gives a token to a request of its own, which nothing is wrong with.

    After a step that failed this tells a broken engine from requests that it fails on. Raises what
    the engine raises.
    """
    probe = engine.add([0], SamplingParams(max_tokens=1, temperature=0))
    try:
        for _ in range(PROBE_STEPS):
            if probe.finish_reason is None:
                engine.step()
        return probe.finish_reason in ("length", "stop")
    finally:
        engine.abort(probe)


def _unexpected(error: Exception) -> RequestError:
    """What may be told to a client; the cause is for the log, and for a caller in this process."""
    told = RequestError("the engine failed on this request", status=500)
    told.__cause__ = error
    return told
