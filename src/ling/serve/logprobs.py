"""The engine's log probabilities in the two forms OpenAI has for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .schema.replies import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob

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
    for token_id, given in zip(token_ids, logprobs, strict=True):
        candidates = dict(given.items())  # made once: the engine's are made as they are read
        best = [_entry(i, candidates) for i in _by_rank(candidates)[:top]]
        content.append(TokenLogprob(**_entry(token_id, candidates).model_dump(), top_logprobs=best))
    return ChatLogprobs(content=content)


def completion_logprobs(
    token_ids: Sequence[int],
    logprobs: Sequence[Candidates | None],
    offsets: Sequence[int],
    first_text: str | None = None,
) -> CompletionLogprobs:
    """One entry a token; the first token of a prompt has no candidates and gets null.

    `offsets` are the places of the tokens in the text, `first_text` is the text of a first token
    that has no candidates.
    """
    reply = CompletionLogprobs(
        tokens=[], token_logprobs=[], top_logprobs=[], text_offset=list(offsets)
    )
    for token_id, given in zip(token_ids, logprobs, strict=True):
        if given is None:
            reply.tokens.append(f"token_id:{token_id}" if first_text is None else first_text)
            reply.token_logprobs.append(None)
            reply.top_logprobs.append(None)
            continue
        candidates = dict(given.items())
        names = _names(token_id, candidates)
        reply.tokens.append(names[token_id])
        reply.token_logprobs.append(_finite(candidates[token_id].logprob))
        best = {names[i]: _finite(candidates[i].logprob) for i in _by_rank(candidates)}
        reply.top_logprobs.append(best)
    return reply


def _names(token_id: int, candidates: Candidates) -> dict[int, str]:
    """A name for every candidate, no two alike; the chosen token has the first say."""
    names: dict[int, str] = {}
    for i in dict.fromkeys([token_id, *_by_rank(candidates)]):
        name = token_name(i, candidates[i].decoded_token, candidates[i].token_bytes)
        names[i] = f"token_id:{i}" if name in names.values() else name
    return names


def token_name(token_id: int, text: str | None, data: bytes | None) -> str:
    """Text of a token; `bytes:\\xe4\\xbd` for part of a character, as OpenAI has it.

    `token_id:N` where there is no tokenizer to tell.
    """
    if text is None:
        return f"token_id:{token_id}"
    whole = data is None or text.encode() == data
    return text if whole else "bytes:" + "".join(f"\\x{b:02x}" for b in data or b"")


def _by_rank(candidates: Candidates) -> list[int]:
    """Ids, most likely first; ties go to the lowest id, as in the sampler."""
    return sorted(candidates, key=lambda i: (-candidates[i].logprob, i))


def _entry(token_id: int, candidates: Candidates) -> TopLogprob:
    candidate = candidates[token_id]
    text, data = candidate.decoded_token, candidate.token_bytes
    return TopLogprob(
        token=f"token_id:{token_id}" if text is None else text,
        logprob=_finite(candidate.logprob),
        bytes=None if data is None else list(data),
    )


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
