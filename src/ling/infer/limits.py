"""What an engine can take: refusals of requests that could never run."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RequestError
from .pages import pages_for
from .request import SamplingParams

MAX_LOGPROB_ENTRIES = 1 << 27
"""Log-probabilities that a request may collect, of 8 bytes each: 1 GiB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that do not change while an engine runs, so any thread may check a request."""

    vocab_size: int
    max_model_len: int
    num_pages: int
    num_drafts: int

    def max_tokens(self, token_ids: list[int], wanted: int | None, min_tokens: int = 0) -> int:
        """Most tokens to generate behind a prompt, at most `wanted`.

        Raises `RequestError` for ids outside the vocabulary, a full context, no room for
        `min_tokens` or too few pages.
        """
        num_tokens = len(token_ids)
        if not token_ids:
            raise RequestError("the prompt is empty", param="prompt")
        bad = [i for i in token_ids if not 0 <= i < self.vocab_size]
        if bad:
            raise RequestError(
                f"token id {bad[0]} is outside the vocabulary of {self.vocab_size}", param="prompt"
            )
        room = self.max_model_len - num_tokens
        if room < 1:
            raise RequestError(
                f"the prompt has {num_tokens} tokens, the context holds {self.max_model_len} with "
                "at least one to generate",
                code="context_length_exceeded",
                param="prompt",
            )
        if min_tokens > room:
            raise RequestError(
                f"`min_tokens` is {min_tokens}, but behind the prompt's {num_tokens} tokens the "
                f"context has room for {room}",
                code="context_length_exceeded",
                param="min_tokens",
            )
        length = min(room, wanted or room)
        need = pages_for(num_tokens + length + self.num_drafts)
        if need > self.num_pages:
            raise RequestError(
                f"{num_tokens + length} tokens need {need} pages, the KV cache has "
                f"{self.num_pages}",
                code="context_length_exceeded",
                param="max_tokens",
            )
        return length

    def check_results(self, params: SamplingParams, num_prompt: int, max_tokens: int) -> None:
        """Refuse log-probabilities that memory could not hold, and a bias of ids that are not
        there."""
        outside = [i for i in params.logit_bias or () if i >= self.vocab_size]
        if outside:
            raise RequestError(
                f"`logit_bias` names token {outside[0]}, outside the vocabulary of "
                f"{self.vocab_size}",
                param="logit_bias",
            )
        for name, num_tokens in (("logprobs", max_tokens), ("prompt_logprobs", num_prompt)):
            k = getattr(params, name)
            if k is None:
                continue
            entries = 1 + (self.vocab_size if k < 0 else min(k, self.vocab_size))
            if entries * num_tokens > MAX_LOGPROB_ENTRIES:
                raise RequestError(
                    f"`{name}` is {k}: {entries} log-probabilities for each of {num_tokens} tokens "
                    f"are above {MAX_LOGPROB_ENTRIES}; ask for fewer",
                    param=name,
                )
