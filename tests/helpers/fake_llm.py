"""A stand-in for `ling.LLM`: tokens are bytes and the answer is a script that tests know."""

from __future__ import annotations

import codecs
import dataclasses
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import ClassVar

from ling.infer.driver import Update
from ling.infer.stats import Stats
from ling.outputs import StreamChunk

SCRIPT = "Grüße, 世界 ☃!"
NAME = "fake"


class FakeTokenizer:
    """One token a byte, none of them for control."""

    control_tokens: ClassVar[dict] = {}

    def encode(self, text: str, *, parse_special: bool = False, guard: str = "") -> list[int]:
        return list(text.replace(guard, "").encode() if guard else text.encode())

    def decode(self, ids, *, skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode("utf-8", "replace")

    def token_bytes(self, i: int) -> bytes:
        return bytes([i])


class FakeLLM:
    """Answers `script`, or `script` and the seed when one is given.

    `terms` are the submissions; `open_streams` counts requests that hold their place, `step_s` is
    the time of one token.
    """

    max_model_len = 200
    sampling_defaults: ClassVar = {}
    adapter_folders: ClassVar = {}

    def __init__(self, script: str = SCRIPT, step_s: float = 0.0, tokenizer: bool = True) -> None:
        self.script, self.step_s = script, step_s
        self.tokenizer = FakeTokenizer() if tokenizer else None
        self.config = SimpleNamespace(vocab_size=256, num_experts=0)
        self.engine = SimpleNamespace(
            stats=Stats(),
            scheduler=SimpleNamespace(running=[], waiting=[]),
            pool=SimpleNamespace(num_pages=10, available=10),
        )
        self.open_streams = 0
        self.steps = 0
        self.num_cached_tokens = 0
        self.error: Exception | None = None
        self.failure: Exception | None = None
        self.error_after = 0
        self.params: list = []
        self.terms: list = []
        self.variables: dict = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """There is nothing to keep."""

    def render(self, messages, tools=None, add_generation_prompt=True, **variables) -> str:
        self.variables = variables
        text = "".join(f"<{m['role']}>{m['content']}" for m in messages)
        return text + ("<assistant>" if add_generation_prompt else "")

    def text_stream(self, params) -> FakeText:
        return FakeText()

    def submit(self, submissions) -> list[FakeHandle]:
        """A thread for each request sends what it gets, chunk by chunk."""
        handles = [FakeHandle(s) for s in submissions]
        for submission, handle in zip(submissions, handles, strict=True):
            with self._lock:
                self.open_streams += 1
            self.terms.append(submission)
            if submission.params.prompt_logprobs is None:
                self.params.append(submission.params)
            work = threading.Thread(target=self._run, args=(submission, handle), daemon=True)
            work.start()
        return handles

    def output(self, prompt, request, texts) -> SimpleNamespace:
        """What scoring a prompt gives."""
        k = request.params.prompt_logprobs
        marks = [None] + [candidates(i, k) for i in request.tokens[1:]]
        answers = [text.chunks[0] for text in texts]
        return SimpleNamespace(
            prompt_token_ids=request.tokens, prompt_logprobs=marks, outputs=answers
        )

    def _run(self, submission, handle) -> None:
        events = self._stream(submission.params)
        last: StreamChunk | Exception | None = None
        while not handle.aborted.is_set():
            if last is not None:
                submission.sink([Update(handle, last)])
            try:
                last = next(events)
            except Exception as error:
                last = error
            if isinstance(last, Exception) or last.finish_reason is not None:
                break
        with self._lock:
            self.open_streams -= 1
        if not handle.aborted.is_set():
            submission.sink([Update(handle, last)])

    def _stream(self, params) -> Iterator[StreamChunk]:
        seed = "" if params.seed is None else str(params.seed)
        ids = list((self.script + seed).encode())
        decoder = codecs.getincrementaldecoder("utf-8")()
        ids = ids if params.max_tokens >= len(ids) else ids[: params.max_tokens]
        reason = "length" if params.max_tokens <= len(ids) else "stop"
        for i, token in enumerate(ids):
            if self.error is not None and i >= self.error_after:
                raise self.error
            time.sleep(self.step_s)
            self.steps += 1
            is_last = i == len(ids) - 1
            k = params.logprobs
            yield StreamChunk(
                decoder.decode(bytes([token])),
                [token],
                None if k is None else [candidates(token, k)],
                reason if is_last else None,
                None,
                None if k is None else [len(bytes(ids[:i]).decode("utf-8", "ignore"))],
                self.num_cached_tokens,
            )


class FakeHandle:
    """A submitted request."""

    def __init__(self, submission) -> None:
        self.context = submission.context
        self.request = SimpleNamespace(tokens=submission.token_ids, params=submission.params)
        self.aborted = threading.Event()

    def abort(self, reason: str = "abort") -> None:
        self.aborted.set()


class FakeText:
    """What `IncrementalText` is to a server, where every event is a chunk or an exception."""

    def __init__(self) -> None:
        self.finished, self.error, self.chunks = False, None, []

    def feed(self, event) -> StreamChunk:
        if isinstance(event, Exception):
            raise event
        self.finished = event.finish_reason is not None
        self.chunks.append(dataclasses.replace(event, token_ids=list(event.token_ids)))
        return event


def candidates(token: int, k: int) -> dict[int, SimpleNamespace]:
    """The chosen token at log probability -0.5, then `k` - 1 less likely ones."""
    ids = [token] + [(token + 1 + i) % 128 for i in range(max(k - 1, 0))]
    return {
        t: SimpleNamespace(
            logprob=-0.5 - i,
            rank=i + 1,
            decoded_token=chr(t) if t < 128 else "\ufffd",
            token_bytes=bytes([t]),
        )
        for i, t in enumerate(ids)
    }


def wait_until(condition, limit_s: float = 5.0) -> None:
    """Poll `condition`; fails the test when it does not come true."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
