"""What an engine can take: refusals of requests that could never run."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RequestError
from .pages import pages_for


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
