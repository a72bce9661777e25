"""The server's state: the model, what is running on it, and how much may.

The event loop never computes: prompts are tokenised in a few threads, one thread makes the text of
all streams (`output.py`), and the engine has its own. No request has a thread to itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import RequestError
from .garbage import Garbage
from .output import ChoiceStream, OutputThread

if TYPE_CHECKING:
    from ..infer.driver import Handle
    from ..infer.request import Request, SamplingParams, SchedulingParams
    from ..llm import LLM
    from ..outputs import StreamChunk

T = TypeVar("T")
MAX_CHOICES = 1024
"""Choices that run or wait; what comes beyond them is refused."""
MAX_TEXTS = 256
"""Texts that wait to be tokenised, beside the prompts of those choices."""
NUM_THREADS = 4


@dataclass(frozen=True)
class Job:
    """One choice of one request: what to continue, and how."""

    prompt_token_ids: list[int]
    params: SamplingParams


@dataclass(frozen=True)
class Terms:
    """When a request runs, and with whom it shares cached prefixes."""

    scheduling: SchedulingParams
    cache_salt: str = ""
    adapter: str | None = None


class Ends:
    """How fast choices have ended lately."""

    def __init__(self) -> None:
        self._last: deque[tuple[float, int]] = deque(maxlen=64)

    def add(self, num_choices: int) -> None:
        """This many have ended now."""
        self._last.append((time.monotonic(), num_choices))

    def seconds_for(self, num_choices: int) -> int | None:
        """Seconds until this many more will have ended, within a minute; None if nothing tells."""
        if len(self._last) < 2:
            return None
        passed = time.monotonic() - self._last[0][0]
        ended = sum(count for _, count in self._last)
        return min(max(math.ceil(num_choices * passed / ended), 1), 60)


class Service:
    """The model behind the app and everything that is running on it.

    `llm` is None until the model is loaded; `failure` is set when it never will be.
    """

    def __init__(self, llm: LLM | None, name: str) -> None:
        self.llm, self.name = llm, name
        self.created = int(time.time())
        self.draining = False
        self.failure: BaseException | None = None
        self._num_calls = self._num_texts = 0
        self._running: set[Generation] = set()
        self._ends = Ends()
        self.garbage = Garbage()
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="ling-tokenize")
        self._compilers = ThreadPoolExecutor(1, thread_name_prefix="ling-compile")
        self._output: OutputThread | None = None

    def require(self) -> LLM:
        """The model; raises `RequestError` 503 when it is not to be had."""
        if self.failure is not None:
            raise RequestError("the model could not be loaded", status=503, code="not_loaded")
        if self.draining:
            raise RequestError("the server is shutting down", status=503, code="shutting_down")
        if self.llm is None:
            raise RequestError("the model is still loading", status=503, code="loading")
        if self.engine_failure is not None:
            raise RequestError("the engine has failed", status=503, code="engine_failed")
        return self.llm

    def require_room(self) -> None:
        """Raise `RequestError` 503 when a request would not be taken now."""
        self.require()
        if self.num_running >= MAX_CHOICES:
            raise RequestError(
                "as many requests as may wait do so",
                status=503,
                code="full",
                retry_after_s=self._ends.seconds_for(1),
            )

    @property
    def engine_failure(self) -> Exception | None:
        """Why the engine takes no more requests; None while it does, or is yet to come."""
        return None if self.llm is None else self.llm.failure

    @property
    def adapters(self) -> dict[str, str]:
        """Folders of the adapters by their names, by which requests choose them as their model."""
        return {} if self.llm is None else self.llm.adapter_folders

    @property
    def vocab_size(self) -> int | None:
        """Ids that the model has, None while it loads."""
        return None if self.llm is None else self.llm.config.vocab_size

    @property
    def num_running(self) -> int:
        """Choices that are being tokenised, generated or wait for it."""
        return sum(g.num_open for g in self._running)

    @property
    def busy(self) -> bool:
        """Whether something runs that a shutdown should wait for."""
        return bool(self._running) or self._num_calls > 0

    async def call(self, work: Callable[[], T]) -> T:
        """Run blocking work in the pool."""
        return await self._call_in(self._pool, work)

    async def call_compiler(self, work: Callable[[], T]) -> T:
        """The same for grammars, which may take a second each: prompts do not wait behind them."""
        return await self._call_in(self._compilers, work)

    async def _call_in(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        self._num_calls += 1
        try:
            inside = contextvars.copy_context().run  # log lines have the request's id there, too
            return await asyncio.get_running_loop().run_in_executor(pool, inside, work)
        finally:
            self._num_calls -= 1

    async def call_text(self, work: Callable[[], T]) -> T:
        """Run the work of a request that is not admitted otherwise; raises `RequestError` 429."""
        if self._num_texts >= MAX_TEXTS:
            raise RequestError("too many texts wait to be tokenised", status=429)
        self._num_texts += 1
        try:
            return await self.call(work)
        finally:
            self._num_texts -= 1

    def admit(self, num_choices: int, terms: Terms) -> Generation:
        """Take a request of this many choices, before anything is done for it; the caller must
        close what it gets. Raises `RequestError` 429 when too many run and wait already."""
        self.require()
        if self.num_running + num_choices > MAX_CHOICES and self._running:
            raise RequestError(
                "too many requests are waiting",
                status=429,
                retry_after_s=self._ends.seconds_for(num_choices),
            )
        return self._generation(num_choices, terms)

    def part_of(self, admitted: Generation, num_choices: int) -> Generation:
        """More work for an admitted request, which ends with it."""
        part = self._generation(num_choices, admitted.terms)
        admitted.parts.append(part)
        return part

    def _generation(self, num_choices: int, terms: Terms) -> Generation:
        generation = Generation(self._output_thread(), num_choices, terms, self._end)
        self._running.add(generation)
        self.garbage.started()
        return generation

    def _end(self, generation: Generation) -> None:
        if generation in self._running:
            self._running.remove(generation)
            self.garbage.ended()
            self._ends.add(generation.num_choices)

    def _output_thread(self) -> OutputThread:
        loop = asyncio.get_running_loop()
        if self._output is None or self._output.loop is not loop:
            if self._output is not None:
                self._output.close()
            self._output = OutputThread(loop)
        return self._output

    def stop_all(self) -> None:
        """End every running generation with an error (the drain limit is over)."""
        for generation in list(self._running):
            generation.fail(RequestError("the server is shutting down", status=503))

    def close(self) -> None:
        """End the threads."""
        self.stop_all()
        for pool in (self._pool, self._compilers):
            pool.shutdown(wait=False, cancel_futures=True)
        if self._output is not None:
            self._output.close()


class Generation:
    """The choices of one request from admission to end; lives on the event loop.

    Until `start` it only counts; a part that is done, or was never begun, does not.
    """

    def __init__(
        self,
        output: OutputThread,
        num_choices: int,
        terms: Terms,
        on_end: Callable[[Generation], Any],
    ) -> None:
        self._output, self.terms, self._on_end = output, terms, on_end
        self._pieces: dict[int, StreamChunk] = {}
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None  # when the waiter has waited long enough
        self._handles: list[Handle] = []
        self.num_choices = self.num_open = num_choices
        self.num_tokens = 0
        self.is_closed = False
        self.parts: list[Generation] = []
        """Work for the same request, which ends with it."""

    def start(self, llm: LLM, jobs: Sequence[Job]) -> list[Handle]:
        """Queue the choices in the engine; any thread. Raises what the engine refuses."""
        from ..infer.driver import Submission

        streams = [ChoiceStream(self, i, llm.text_stream(job.params)) for i, job in enumerate(jobs)]
        self._handles = llm.submit(
            [
                Submission(
                    job.prompt_token_ids,
                    job.params,
                    self._output.sink,
                    context=stream,
                    cache_salt=self.terms.cache_salt,
                    scheduling=self.terms.scheduling,
                    adapter=self.terms.adapter,
                )
                for job, stream in zip(jobs, streams, strict=True)
            ]
        )
        if self.is_closed:  # meanwhile
            self.close()
        return self._handles

    @property
    def requests(self) -> list[Request]:
        """Those of the engine, in the order of the choices."""
        return [handle.request for handle in self._handles]

    async def settle(self, wait_s: float) -> None:
        """Wait a little for the first sign; raises what the engine refused, while a status can
        still tell it."""
        if not self._pieces and self._error is None:
            await self._wait(wait_s)
        if self._error is not None and not self._pieces:
            raise self._error

    async def pieces(self, idle_s: float | None = None) -> AsyncIterator[dict[int, StreamChunk]]:
        """Yield all that is new, by choice, as it comes; nothing after each `idle_s` seconds of
        silence.

        Raises what a choice raised; the others are then stopped.
        """
        try:
            while self._pieces or self.num_open:
                if not self._pieces:
                    if self._error is not None:
                        raise self._error
                    if not await self._wait(idle_s):
                        yield {}
                    continue
                pieces, self._pieces = self._pieces, {}
                for chunk in pieces.values():
                    if chunk.finish_reason == "abort":
                        raise RequestError("the engine gave this request up", status=503)
                    self.num_tokens += len(chunk.token_ids)
                yield pieces
        finally:
            self.close()

    async def _wait(self, timeout_s: float | None) -> bool:
        """Wait for something new; False when nothing came in time."""
        self._waiter = self._output.loop.create_future()
        if timeout_s is not None:
            self._set_timer(self._output.loop.time() + timeout_s)
        try:
            await self._waiter
        finally:
            self._waiter = self._due = None
        return bool(self._pieces) or self._error is not None

    def _set_timer(self, due: float) -> None:
        """Wake the waiter at `due`. One timer serves many waits: a stream waits for every token,
        and a timer of its own for each would cost as much as the token's text."""
        self._due = due
        if self._timer is not None and self._timer.when() > due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._output.loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._waiter is None or self._due is None:
            return
        if self._output.loop.time() < self._due:
            self._set_timer(self._due)
        else:
            _wake(self._waiter)

    def put(self, index: int, chunk: StreamChunk | None, error: BaseException | None) -> None:
        """Take what is new of a choice; on the event loop."""
        if self.is_closed:
            return
        self._error = self._error or error
        if chunk is not None:
            self.num_open -= chunk.finish_reason is not None
            if index in self._pieces:
                self._pieces[index].extend(chunk)
            else:
                self._pieces[index] = chunk
        if self._waiter is not None:
            _wake(self._waiter)

    def fail(self, error: BaseException) -> None:
        """Stop, and let `pieces` raise `error`."""
        self.put(0, None, error)
        self._abort()

    def close(self) -> None:
        """Stop before the engine's next step and free what it had; harmless when done already."""
        self.is_closed = True
        self.num_open = 0
        if self._timer is not None:
            self._timer.cancel()
        self._abort()
        for part in self.parts:
            part.close()
        self._on_end(self)

    def _abort(self) -> None:
        for handle in self._handles:
            handle.abort()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
