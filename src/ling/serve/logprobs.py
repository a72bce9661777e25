"""The engine's log probabilities in the two forms OpenAI has for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .schema import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob

if TYPE_CHECKING:
    from ..outputs import Logprob

    Candidates = Mapping[int, Logprob]

# JSON has no infinity; other servers write the same number for "impossible".
LEAST = -9999.0


def chat_logprobs(
    token_ids: Sequence[int], logprobs: Sequence[Candidates], top: int
) -> ChatLogprobs:
    """Chosen token and the `top` best candidates for every token."""
    content = []
    for token_id, candidates in zip(token_ids, logprobs, strict=True):
        best = [_entry(i, candidates) for i in _by_rank(candidates)[:top]]
        content.append(TokenLogprob(**_entry(token_id, candidates).model_dump(), top_logprobs=best))
    return ChatLogprobs(content=content)


def completion_logprobs(
    token_ids: Sequence[int],
    logprobs: Sequence[Candidates | None],
    offset: int,
    first_text: str | None = None,
) -> CompletionLogprobs:
    """One entry a token; the first token of a prompt has no candidates and gets null.

    `offset` is the number of characters before the first token, `first_text` the text of a first
    token that has no candidates.
    """
    reply = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for token_id, candidates in zip(token_ids, logprobs, strict=True):
        text = token_text(token_id, candidates)
        if candidates is None and first_text is not None:
            text = first_text
        reply.tokens.append(text)
        reply.text_offset.append(offset)
        offset += len(text)
        if candidates is None:
            reply.token_logprobs.append(None)
            reply.top_logprobs.append(None)
            continue
        reply.token_logprobs.append(_finite(candidates[token_id].logprob))
        best: dict[str, float] = {}
        for i in _by_rank(candidates):  # different ids can share a text: the likelier one stays
            best.setdefault(token_text(i, candidates), _finite(candidates[i].logprob))
        reply.top_logprobs.append(best)
    return reply


def token_text(token_id: int, candidates: Candidates | None) -> str:
    """Text of one token, `token_id:N` where there is no tokenizer to tell."""
    text = None if candidates is None else candidates[token_id].decoded_token
    return f"token_id:{token_id}" if text is None else text


def _by_rank(candidates: Candidates) -> list[int]:
    """Ids, likeliest first; ties go to the lowest id, as in the sampler."""
    return sorted(candidates, key=lambda i: (-candidates[i].logprob, i))


def _entry(token_id: int, candidates: Candidates) -> TopLogprob:
    text = candidates[token_id].decoded_token
    return TopLogprob(
        token=token_text(token_id, candidates),
        logprob=_finite(candidates[token_id].logprob),
        bytes=None if text is None else list(text.encode()),
    )


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
