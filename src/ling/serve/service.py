"""The server's state, and the bridge from generation threads to the event loop.

The event loop never computes: whatever touches the model or the tokenizer runs in a thread of the
pool, and its results come back through an asyncio queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..errors import RequestError

if TYPE_CHECKING:
    from ..infer.request import SamplingParams
    from ..llm import LLM
    from ..outputs import StreamChunk

    # What a job says: something new, how it failed, or None at its end.
    Event = tuple[int, StreamChunk | BaseException | None]

T = TypeVar("T")
MAX_CHOICES_WAITING = 1024
MAX_THREADS = 64


@dataclass(frozen=True)
class Job:
    """One choice of one request: what to continue, and how."""

    prompt_token_ids: list[int]
    params: SamplingParams


class Service:
    """The model behind the app and everything that is running on it.

    `llm` is None until the model is loaded; `failure` is set when it never will be.
    """

    def __init__(self, llm: LLM | None, name: str) -> None:
        self.llm, self.name = llm, name
        self.created = int(time.time())
        self.draining = False
        self.failure: BaseException | None = None
        self._num_calls = 0
        self._running: set[Generation] = set()
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="ling-serve")

    def require(self) -> LLM:
        """The model; raises `RequestError` 503 when it is not to be had."""
        if self.failure is not None:
            raise RequestError("the model could not be loaded", status=503, code="not_loaded")
        if self.draining:
            raise RequestError("the server is shutting down", status=503, code="shutting_down")
        if self.llm is None:
            raise RequestError("the model is still loading", status=503, code="loading")
        return self.llm

    @property
    def num_running(self) -> int:
        """Choices that are being generated or wait for it."""
        return sum(g.num_open for g in self._running)

    @property
    def busy(self) -> bool:
        """Whether something runs that a shutdown should wait for."""
        return bool(self._running) or self._num_calls > 0

    async def call(self, work: Callable[[], T]) -> T:
        """Run blocking work in the pool."""
        self._num_calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._num_calls -= 1

    def generate(self, jobs: Sequence[Job]) -> Generation:
        """Start `jobs`; the caller must close what it gets. Raises `RequestError` 429 when full."""
        llm = self.require()
        if self.num_running + len(jobs) > MAX_CHOICES_WAITING and self._running:
            raise RequestError("too many requests are waiting", status=429)
        generation = Generation(llm, jobs, self._running.discard)
        self._running.add(generation)
        generation.start(self._pool)
        return generation

    def stop_all(self) -> None:
        """End every running generation with an error (the drain limit is over)."""
        for generation in list(self._running):
            generation.fail(RequestError("the server is shutting down", status=503))

    def close(self) -> None:
        """End the threads."""
        self.stop_all()
        self._pool.shutdown(wait=False, cancel_futures=True)


class Generation:
    """The choices of one request while they are being generated; lives on the event loop."""

    def __init__(self, llm: LLM, jobs: Sequence[Job], on_end: Callable[[Generation], Any]) -> None:
        self._llm, self._jobs, self._on_end = llm, list(jobs), on_end
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._first: Event | None = None
        self._cancelled = threading.Event()
        self.num_open = len(self._jobs)
        self.num_tokens = 0

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Give every job to a thread."""
        for index in range(len(self._jobs)):
            pool.submit(self._run, index)

    async def settle(self, wait_s: float) -> None:
        """Wait a little for the first sign; raises what the engine refused, while a status can
        still tell it."""
        try:
            self._first = await asyncio.wait_for(self._queue.get(), wait_s)
        except asyncio.TimeoutError:
            return
        if isinstance(self._first[1], BaseException):
            raise self._first[1]

    async def pieces(
        self, idle_s: float | None = None
    ) -> AsyncIterator[tuple[int, StreamChunk] | None]:
        """Yield (job, chunk) as they come, and None after each `idle_s` seconds of silence.

        Raises what a job raised; the other jobs are then stopped.
        """
        try:
            unfinished = len(self._jobs)
            while unfinished:
                try:
                    index, item = await self._next(idle_s)
                except asyncio.TimeoutError:
                    yield None
                    continue
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    unfinished -= 1
                elif item.finish_reason == "abort":
                    raise RequestError("the engine gave this request up", status=503)
                else:
                    self.num_tokens += len(item.token_ids)
                    yield index, item
        finally:
            self.close()

    async def _next(self, timeout_s: float | None) -> Event:
        if self._first is None:
            return await asyncio.wait_for(self._queue.get(), timeout_s)
        first, self._first = self._first, None
        return first

    def fail(self, error: BaseException) -> None:
        """Stop, and let `pieces` raise `error`."""
        self._cancelled.set()
        self._queue.put_nowait((0, error))

    def close(self) -> None:
        """Stop at the next token; harmless when done already."""
        self._cancelled.set()

    def _run(self, index: int) -> None:
        """Body of one thread."""
        job = self._jobs[index]
        end: BaseException | None = None
        try:
            if not self._cancelled.is_set():
                self._drain(index, job)
        except BaseException as error:  # the loop's side decides what it means
            end = error
        self._tell(self._finish, index, end)

    def _drain(self, index: int, job: Job) -> None:
        prompt = {"prompt_token_ids": job.prompt_token_ids}
        # Closing the iterator is what aborts the request in the engine and frees its pages.
        chunks = cast("Generator[StreamChunk, None, None]", self._llm.stream(prompt, job.params))
        with contextlib.closing(chunks):
            for chunk in chunks:
                if self._cancelled.is_set():
                    return
                self._tell(self._queue.put_nowait, (index, chunk))

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        # The loop is gone when the server stops before its threads: nobody listens any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def _finish(self, index: int, end: BaseException | None) -> None:
        self._queue.put_nowait((index, end))
        self.num_open -= 1
        if not self.num_open:
            self._on_end(self)
