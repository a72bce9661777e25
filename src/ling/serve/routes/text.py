"""Text to token ids and back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter

from .. import prompts
from ..admission import model_for
from ..schema.text import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens
from ..service import Service

if TYPE_CHECKING:
    from ...llm import LLM


def add_text(router: APIRouter, service: Service) -> None:
    """`/tokenize` and `/detokenize`."""

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Tokens:
        """Token ids of a text or of rendered messages."""
        llm = model_for(service, body.model)
        ids = await service.call_text(partial(_encode, llm, body))
        return Tokens(count=len(ids), max_model_len=llm.max_model_len, tokens=ids)

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Detokenized:
        """Text of token ids, control tokens included."""
        llm = model_for(service, body.model)
        work = partial(prompts.decode, llm, body.tokens)
        return Detokenized(prompt=await service.call_text(work))


def _encode(llm: LLM, body: TokenizeRequest) -> list[int]:
    transcript = body.transcript()
    if transcript is None:
        return prompts.encode_text(llm, body.prompt or "")
    return prompts.encode_chat(llm, transcript).ids
