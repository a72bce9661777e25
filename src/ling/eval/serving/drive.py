"""One measurement: all requests of a point sent to one server, with what it used meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...errors import RunError
from ...ops.cores import FreeCores
from ...ops.processes import Usage, is_local, listening_process, usage
from .client import Client, Unreachable
from .replies import Reply
from .requests import (
    BACKENDS,
    Conversation,
    LoadOptions,
    Point,
    Turn,
    Words,
    arrivals,
    background_turn,
    conversations,
    request_body,
    text_of,
)

PROBE_INTERVAL_S = 0.1
PROBE_TEXT = "def add(first, second):\n    return first + second\n"


class Target(NamedTuple):
    """A server, its model, and its process where that is on this machine and can be seen."""

    client: Client
    model: str
    pid: int | None


@dataclass(kw_only=True)
class Measurement:
    """What one measurement found."""

    replies: list[Reply]
    wall_s: float
    """From the first request to the end of the last answer."""
    before: Usage | None
    after: Usage | None
    """Of the server's process; None where it cannot be seen."""
    client_cpu_s: float
    taken: float | None
    """Cores that other programs took meanwhile."""
    probes_s: dict[str, list[float]] = field(default_factory=dict)
    background: list[Reply] = field(default_factory=list)


async def target(client: Client, model: str | None) -> Target:
    """The server behind a client; `model` None is the first that it lists."""
    names = await client.models()
    local = is_local(client.host)
    return Target(client, model or names[0], listening_process(client.port) if local else None)


async def calibrate(server: Target, options: LoadOptions) -> Words:
    """How many tokens the server makes of words: two short requests, read from their usage."""
    if options.random_vocab_size is not None:
        return Words()
    counts: list[int] = []
    for words in (16, 48):
        turn = Turn(text_of(random.Random(0), words), 1)
        reply = await _ask(server, options, turn, 0, [])
        if reply.prompt_tokens is None:
            if reply.fault:
                raise RunError(
                    f"{server.client.root}: the first request failed: {reply.fault}"
                    + (f": {reply.detail}" if reply.detail else "")
                )
            return Words()
        counts.append(reply.prompt_tokens)
    each = max((counts[1] - counts[0]) / 32, 0.01)
    return Words(fixed=max(0.0, counts[0] - 16 * each), each=each)


async def warm_up(server: Target, options: LoadOptions, words: Words) -> None:
    """Requests before the measured ones, with prompts of their own."""
    for conversation in conversations(options, "warm-up", words)[: options.num_warmups]:
        await _ask(server, options, conversation.turns[0], conversation.seed, [])


async def measure(
    server: Target, options: LoadOptions, point: Point, label: str, words: Words
) -> Measurement:
    """Send all requests of a point. `label` names the measurement: two servers that get the same
    one get the same requests.

    Raises `RunError` when the server ends meanwhile.
    """
    sent = conversations(options, label, words)
    starts = arrivals(options, point.request_rate, len(sent), label)
    limit = asyncio.Semaphore(point.max_concurrency or len(sent))
    found = Measurement(
        replies=[], wall_s=0.0, before=_used(server), after=None, client_cpu_s=0.0, taken=None
    )
    cores = FreeCores(own=lambda: time.process_time() + _cpu_s(server))
    cpu, begin = time.process_time(), time.perf_counter()

    async def converse(conversation: Conversation, start_s: float) -> None:
        await asyncio.sleep(begin + start_s - time.perf_counter())
        async with limit:
            await _converse(server, options, conversation, found.replies)

    async with _beside(server, options, label, words, found):
        try:
            await _all(converse(c, s) for c, s in zip(sent, starts, strict=True))
        except Unreachable:
            raise RunError(_ended(server, found.replies, sent)) from None
    found.wall_s = max((r.end_s for r in found.replies), default=begin) - begin
    found.client_cpu_s = time.process_time() - cpu
    found.after, found.taken = _used(server), cores.taken()
    await _check_alive(server, found.replies, sent)
    return found


async def _all(tasks: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first failure ends the others."""
    running = [asyncio.ensure_future(task) for task in tasks]
    try:
        await asyncio.gather(*running)
    finally:
        await _cancel(running)


async def _cancel(running: Sequence[asyncio.Future[None]]) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def _converse(
    server: Target, options: LoadOptions, conversation: Conversation, replies: list[Reply]
) -> None:
    """The turns of a conversation; it ends at the first that fails."""
    history: list[dict[str, str]] = []
    for turn in conversation.turns:
        reply = await _ask(server, options, turn, conversation.seed, history)
        replies.append(reply)
        if reply.fault is not None:
            return
        history.append({"role": "user", "content": str(turn.content)})
        history.append({"role": "assistant", "content": reply.text})


async def _ask(
    server: Target, options: LoadOptions, turn: Turn, seed: int, history: list[dict[str, str]]
) -> Reply:
    body = request_body(options, server.model, turn, seed, history)
    path = BACKENDS[options.backend]
    return await server.client.ask(path, body, stop_at_eos=options.stop_at_eos)


@asynccontextmanager
async def _beside(
    server: Target, options: LoadOptions, label: str, words: Words, found: Measurement
) -> AsyncIterator[None]:
    """What runs beside the measured requests, until they end."""
    running: list[asyncio.Future[None]] = []
    if options.background_input_len is not None:
        long = _send_long_prompts(server, options, label, words, found.background)
        running.append(asyncio.ensure_future(long))
        await asyncio.sleep(0.2)  # its first prompt is being read when the others come
    if options.probe:
        text = {"model": server.model, "prompt": PROBE_TEXT}
        for method, path, body in (("GET", "/health", None), ("POST", "/tokenize", text)):
            probe = _probe(server, method, path, body, found.probes_s)
            running.append(asyncio.ensure_future(probe))
    try:
        yield
    finally:
        await _cancel(running)


async def _send_long_prompts(
    server: Target, options: LoadOptions, label: str, words: Words, replies: list[Reply]
) -> None:
    for k in range(1 << 30):
        turn = background_turn(options, f"{label}/background {k}", words)
        with contextlib.suppress(Unreachable):  # the measured requests will say so
            reply = await _ask(server, options, turn, k, [])
            replies.append(reply)
            if reply.fault is not None:
                return


async def _probe(
    server: Target,
    method: str,
    path: str,
    body: dict[str, str] | None,
    seconds: dict[str, list[float]],
) -> None:
    while True:
        seconds.setdefault(path, []).append(await server.client.seconds(method, path, body))
        await asyncio.sleep(PROBE_INTERVAL_S)


async def _check_alive(
    server: Target, replies: Sequence[Reply], sent: Sequence[Conversation]
) -> None:
    """Raise `RunError` where the last answers were cut because the server ended."""
    if any(r.fault == "connection lost" for r in replies):
        try:
            await server.client.status("/health")
        except Unreachable:
            raise RunError(_ended(server, replies, sent)) from None


def _ended(server: Target, replies: Sequence[Reply], sent: Sequence[Conversation]) -> str:
    whole = sum(r.fault is None for r in replies)
    asked = sum(len(c.turns) for c in sent)
    return f"{server.client.root}: the server ended after {whole} of {asked} answers"


def _used(server: Target) -> Usage | None:
    return None if server.pid is None else usage(server.pid)


def _cpu_s(server: Target) -> float:
    used = _used(server)
    return 0.0 if used is None else used.cpu_s
