"""The thread that runs an engine: an inbox of messages, and a sink for what each request gets.

Nothing waits for a running step: submitting checks a request in the caller's thread and leaves a
message, which the engine thread takes before its next step.
"""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import get_ident
from typing import NamedTuple

from torch import Tensor

from .engine import Engine
from .request import Request, SamplingParams
from .routed import RoutedExperts

# A thread without work ends after a while, so that an engine that nobody uses can be collected.
IDLE_S = 60.0
# How long it waits before it uses the pause to save cached pages.
SAVE_AFTER_S = 0.5


@dataclass(slots=True)
class RequestEvent:
    """What a step added to a request; the last event has a `finish_reason` or an `error`, a
    `RequestError` where only this request failed."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Tensor] = field(default_factory=list)
    """Log-probabilities [V] at each new token, if asked for."""
    finish_reason: str | None = None
    stop_reason: int | None = None
    error: Exception | None = None
    num_cached_tokens: int = 0
    routed_experts: RoutedExperts | None = None
    """Of all tokens so far, if asked for."""


# Called in the engine thread, so it must neither block nor raise.
Sink = Callable[[RequestEvent], None]


class Submission(NamedTuple):
    """One request to come: see `Engine.request`."""

    token_ids: list[int]
    params: SamplingParams
    sink: Sink
    seed_offset: int = 0


class Handle:
    """A submitted request, as its caller sees it."""

    def __init__(self, driver: Driver, request: Request, sink: Sink) -> None:
        self._driver, self.request, self._sink = driver, request, sink
        self._num_sent = 0

    def abort(self) -> None:
        """Stop before the next step and free the pages; nothing happens when it is finished."""
        if self.request.finish_reason is None:
            self._driver.abort(self)

    def send(self) -> None:
        """Tell the sink what is new; engine thread only."""
        request = self.request
        tokens = request.tokens[request.num_prompt_tokens + self._num_sent :]
        if tokens or request.finish_reason is not None:
            logprobs = request.logprobs[self._num_sent :]
            self._num_sent += len(tokens)
            end = (None if request.error else request.finish_reason), request.stop_reason
            about = request.num_cached_tokens, request.routed_experts
            self._sink(RequestEvent(tokens, logprobs, *end, request.error, *about))

    def fail(self, error: Exception) -> None:
        """Tell the sink that there will be no more; engine thread only."""
        self._sink(RequestEvent(error=error))


class Driver:
    """One daemon thread that steps the engine while there is work."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # Messages are functions; the engine thread calls them between steps.
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._handles: dict[Request, Handle] = {}
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
        """Queue all requests at once, or none when one of them is unusable."""
        handles = [
            Handle(self, self.engine.request(s.token_ids, s.params, s.seed_offset), s.sink)
            for s in submissions
        ]
        self._post(lambda: self._add(handles))
        return handles

    def abort(self, handle: Handle) -> None:
        """Drop a request between two steps."""
        self._post(lambda: self._drop(handle.request))

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
        else:  # also at the interpreter's end, when no thread can be started any more
            self._save_all(done)

    def _post(self, message: Callable[[], None]) -> None:
        with self._starting:
            self._inbox.put(message)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, daemon=True, name="ling-engine")
                self._thread.start()
                atexit.register(self._end)

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

    def _drop(self, request: Request) -> None:
        self._handles.pop(request, None)
        self.engine.abort(request)

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
            for request, handle in list(self._handles.items()):
                self._drop(request)
                handle.fail(error)
            return
        for request in touched:
            waiting = self._handles.get(request)
            if waiting is None:
                continue
            waiting.send()
            if request.finish_reason is not None:
                del self._handles[request]
