"""The thread that runs an engine: an inbox of messages, and sinks for what the requests get.

Nothing waits for a running step: submitting checks a request in the caller's thread and leaves a
message, which the engine thread takes before its next step. What a step brought leaves in one call
for each sink, however many requests it has.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, NamedTuple

from ..errors import RequestError
from .constraint import Constraint
from .engine import Engine
from .failures import answers
from .logprobs import LogprobRows
from .request import DEFAULT_SCHEDULING, Request, SamplingParams, SchedulingParams
from .routed import RoutedExperts

# A thread without work ends after a while, so that an engine that nobody uses can be collected.
IDLE_S = 60.0
# How long it waits before it uses the pause to save cached pages.
SAVE_AFTER_S = 0.5
# After this many steps in a row that failed as a whole, and each time also a request of the
# engine's own, the engine is reported as dead.
MAX_FAILURES = 3

log = logging.getLogger("ling.infer")


@dataclass(slots=True)
class RequestEvent:
    """What a step added to a request; the last event has a `finish_reason` or an `error`, a
    `RequestError` where only this request failed."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: LogprobRows = field(default_factory=LogprobRows)
    """Of each new token, if asked for."""
    finish_reason: str | None = None
    stop_reason: int | None = None
    error: Exception | None = None
    num_cached_tokens: int = 0
    routed_experts: RoutedExperts | None = None
    """Of all tokens so far, if asked for."""


# Called in the engine thread with all that a step brought for it: it must neither block nor raise.
Sink = Callable[[list["Update"]], None]


class Submission(NamedTuple):
    """One request to come: see `Engine.request`. `context` is the sink's own, see `Handle`."""

    token_ids: list[int]
    params: SamplingParams
    sink: Sink
    seed_offset: int = 0
    context: Any = None
    cache_salt: str = ""
    scheduling: SchedulingParams = DEFAULT_SCHEDULING
    constraint: Constraint | None = None
    adapter: str | None = None


class Handle:
    """A submitted request, as its caller sees it; `context` is what the submission carried."""

    def __init__(self, driver: Driver, request: Request, sink: Sink, context: Any) -> None:
        self._driver, self.request, self.sink, self.context = driver, request, sink, context
        self._num_sent = 0

    def abort(self, reason: str = "abort") -> None:
        """Stop before the next step and free the pages; nothing happens when it is finished.

        A caller that found the end of the answer in its text gives the `reason` "stop".
        """
        if self.request.finish_reason is None:
            self._driver.abort(self, reason)

    def take(self) -> RequestEvent:
        """What is new since the last time; engine thread only."""
        request = self.request
        tokens = request.tokens[request.num_prompt_tokens + self._num_sent :]
        logprobs = request.logprobs[self._num_sent :]
        self._num_sent += len(tokens)
        end = (None if request.error else request.finish_reason), request.stop_reason
        about = request.num_cached_tokens, request.routed_experts
        return RequestEvent(tokens, logprobs, *end, request.error, *about)


class Update(NamedTuple):
    """What a step brought for one request."""

    handle: Handle
    event: RequestEvent


class Driver:
    """One daemon thread that steps the engine while there is work.

    A step that fails as a whole ends all its requests, and the next ones run. Where the engine then
    also fails on a request of its own, some times in a row, the driver is dead: `failure` says why,
    and submitting is refused with status 503. No client can bring that about.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.failure: Exception | None = None
        # Messages are functions; the engine thread calls them between steps.
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._handles: dict[Request, Handle] = {}
        self._num_failures = 0
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._is_ending = False

    def submit(
        self, token_ids: list[int], params: SamplingParams, sink: Sink, seed_offset: int = 0
    ) -> Handle:
        """Queue a request; raises `RequestError` when it is unusable."""
        (handle,) = self.submit_all([Submission(token_ids, params, sink, seed_offset)])
        return handle

    def submit_all(self, submissions: Sequence[Submission]) -> list[Handle]:
        """Queue all requests of one caller, or none when one of them is unusable."""
        if self.failure is not None:
            raise RequestError(
                "the engine has failed several times in a row and has stopped; its log says why",
                status=503,
                code="engine_failed",
            ) from self.failure
        handles = [self._handle(s) for s in submissions]
        for handle in handles:
            handle.request.group = handles[0].request.id
        if not self._post(lambda: self._add(handles)):
            raise RequestError("Python is ending, and the engine with it", status=503)
        return handles

    def _handle(self, s: Submission) -> Handle:
        request = self.engine.request(
            s.token_ids,
            s.params,
            s.seed_offset,
            s.cache_salt,
            s.scheduling,
            s.constraint,
            s.adapter,
        )
        return Handle(self, request, s.sink, s.context)

    def abort(self, handle: Handle, reason: str = "abort") -> None:
        """Drop a request between two steps; its sink hears no more of it."""
        self._post(lambda: self._drop(handle.request, reason))

    def save_pages(self) -> None:
        """Write cached pages to the engine's `cache_dir` now; returns when that is done."""
        if self.engine.store is None:
            return
        done = threading.Event()
        with self._starting:
            thread = self._thread
            waits = thread is not None and thread.is_alive() and thread.ident != get_ident()
            if waits:
                self._inbox.put(lambda: self._save_all(done))
        if waits:
            while not done.wait(1) and thread is not None and thread.is_alive():
                pass
        if not done.is_set():  # at the interpreter's end no thread can be started any more
            self._save_all(done)

    def _post(self, message: Callable[[], None]) -> bool:
        """Leave a message for the engine thread; False when Python ends, and nothing reads it."""
        with self._starting:
            if self._is_ending:
                return False
            self._inbox.put(message)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, daemon=True, name="ling-engine")
                self._thread.start()
                atexit.register(self._end)
        return True

    def _end(self) -> None:
        """Let the running step be the last; called when the process ends.

        Python stops a daemon thread where it next needs the interpreter. In the C++ frames of torch
        that aborts the process: `ling generate ... | head` died of it.
        """
        thread = self._thread
        self._is_ending = True
        self._inbox.put(lambda: None)  # wakes a thread without work
        if thread is not None:
            thread.join()

    # ---- engine thread -------------------------------------------------------------------------

    def _add(self, handles: list[Handle]) -> None:
        for handle in handles:
            self._handles[handle.request] = handle
            self.engine.scheduler.add(handle.request)

    def _drop(self, request: Request, reason: str = "abort") -> None:
        self._handles.pop(request, None)
        self.engine.abort(request, reason)

    def _run(self) -> None:
        while not self._is_ending:
            try:
                if not self.engine.has_work:
                    self._wait()()
                while not self._inbox.empty():
                    self._inbox.get_nowait()()
            except queue.Empty:
                with self._starting:  # nobody posts now, so no message is left behind
                    if self._inbox.empty():
                        self._thread = None
                        atexit.unregister(self._end)
                        return
                continue
            if self.engine.has_work:
                self._step()

    def _wait(self) -> Callable[[], None]:
        """The next message; until it comes, cached pages are saved."""
        if self.engine.store is not None:
            try:
                return self._inbox.get(timeout=SAVE_AFTER_S)
            except queue.Empty:
                for _ in self.engine.store.save():
                    if not self._inbox.empty():
                        break
        return self._inbox.get(timeout=IDLE_S)

    def _save_all(self, done: threading.Event) -> None:
        try:
            if self.engine.store is not None:
                for _ in self.engine.store.save(again=True):
                    pass
        finally:
            done.set()

    def _step(self) -> None:
        try:
            touched = self.engine.step()
        except Exception as error:
            self._fail_all(error)
            return
        self._num_failures = 0
        updates = []
        for request in touched:
            handle = self._handles.get(request)
            if handle is None:
                continue
            if request.finish_reason is not None:
                del self._handles[request]
            updates.append(Update(handle, handle.take()))
        self._send(updates)

    def _fail_all(self, error: Exception) -> None:
        log.error("a step of the engine failed", exc_info=error)
        handles = list(self._handles.values())
        for handle in handles:
            self._drop(handle.request, "error")
        self._num_failures = 0 if self._works() else self._num_failures + 1
        if self._num_failures >= MAX_FAILURES:
            self.failure = error
        self._send([Update(handle, RequestEvent(error=error)) for handle in handles])

    def _works(self) -> bool:
        """Whether the engine, left without requests, still answers one of its own."""
        try:
            return answers(self.engine)
        except Exception as error:
            log.error("the engine fails on a request of its own too", exc_info=error)
            return False

    def _send(self, updates: list[Update]) -> None:
        """One call for each sink; one that raises loses its requests, and nobody else's."""
        by_sink: dict[Sink, list[Update]] = {}
        for update in updates:
            by_sink.setdefault(update.handle.sink, []).append(update)
        for sink, own in by_sink.items():
            try:
                sink(own)
            except Exception as error:
                log.error("a sink failed; its requests end", exc_info=error)
                for update in own:
                    self._drop(update.handle.request)
