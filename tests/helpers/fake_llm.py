"""A stand-in for `ling.LLM`: tokens are bytes and the answer is a script that tests know."""

from __future__ import annotations

import codecs
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import ClassVar

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

    `open_streams` counts requests that hold their place, `step_s` is the time of one token.
    """

    max_model_len = 200
    sampling_defaults: ClassVar = {}

    def __init__(self, script: str = SCRIPT, step_s: float = 0.0, tokenizer: bool = True) -> None:
        self.script, self.step_s = script, step_s
        self.tokenizer = FakeTokenizer() if tokenizer else None
        self.config = SimpleNamespace(vocab_size=256)
        self.open_streams = 0
        self.steps = 0
        self.num_cached_tokens = 0
        self.error: Exception | None = None
        self.error_after = 0
        self.params: list = []
        self.variables: dict = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """There is nothing to keep."""

    def render(self, messages, tools=None, add_generation_prompt=True, **variables) -> str:
        self.variables = variables
        text = "".join(f"<{m['role']}>{m['content']}" for m in messages)
        return text + ("<assistant>" if add_generation_prompt else "")

    def stream(self, prompt, params) -> Iterator[SimpleNamespace]:
        with self._lock:
            self.open_streams += 1
            self.params.append(params)
        try:
            yield from self._stream(params)
        finally:
            with self._lock:
                self.open_streams -= 1

    def _stream(self, params) -> Iterator[SimpleNamespace]:
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
            text = decoder.decode(bytes([token]))
            yield SimpleNamespace(
                text=text,
                token_ids=[token],
                logprobs=None if params.logprobs is None else [candidates(token, params.logprobs)],
                text_offsets=[len(bytes(ids[:i]).decode("utf-8", "ignore"))],
                finish_reason=reason if is_last else None,
                num_cached_tokens=self.num_cached_tokens,
                routed_experts=None,
                routed_expert_weights=None,
            )

    def generate(self, requests, params, use_tqdm=False) -> list[SimpleNamespace]:
        outputs = []
        for request, p in zip(requests, params, strict=True):
            ids = request["prompt_token_ids"]
            chunk = next(self._stream(p))
            marks = [None] + [candidates(i, p.prompt_logprobs) for i in ids[1:]]
            answer = SimpleNamespace(
                text=chunk.text,
                token_ids=chunk.token_ids,
                logprobs=chunk.logprobs,
                text_offsets=chunk.text_offsets,
                finish_reason="length",
                routed_experts=None,
                routed_expert_weights=None,
            )
            outputs.append(
                SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=marks, outputs=[answer])
            )
        return outputs


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
