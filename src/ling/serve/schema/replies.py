"""Replies of `/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from ..routed import Traced
from .common import Timings, Usage
from .sparse import IfGiven, Sparse


class TopLogprob(BaseModel):
    """One candidate token; `bytes` are the UTF-8 bytes of `token`."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """The chosen token and the best candidates at its position."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log probabilities of a chat choice."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    """Log probabilities of a plain completion; lists have one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class FunctionCall(BaseModel):
    """A function's name, and its arguments as JSON text in the model's own words."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call that the client is to make."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(Sparse):
    """The answer; `content` is null where there is none beside calls."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: Annotated[str | None, IfGiven] = None
    tool_calls: Annotated[list[ToolCall] | None, IfGiven] = None


class ChatChoice(Traced):
    """One of the `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    token_ids: Annotated[list[int] | None, IfGiven] = None


class ChatCompletion(Sparse):
    """Reply to `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: Annotated[list[int] | None, IfGiven] = None
    timings: Annotated[Timings | None, IfGiven] = None


class FunctionDelta(Sparse):
    """The name comes once, with empty arguments, and then the arguments in pieces."""

    name: Annotated[str | None, IfGiven] = None
    arguments: str


class CallDelta(Sparse):
    """What is new of one call; id and type come with its name."""

    index: int
    id: Annotated[str | None, IfGiven] = None
    type: Annotated[Literal["function"] | None, IfGiven] = None
    function: FunctionDelta


class Delta(Sparse):
    """What is new of a message."""

    role: Annotated[Literal["assistant"] | None, IfGiven] = None
    content: Annotated[str | None, IfGiven] = None
    reasoning_content: Annotated[str | None, IfGiven] = None
    tool_calls: Annotated[list[CallDelta] | None, IfGiven] = None


class ChatDelta(Traced):
    """One choice in a streamed chunk; `delta` holds only what is new."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    token_ids: Annotated[list[int] | None, IfGiven] = None


class ChatChunk(Sparse):
    """One event of a streamed chat reply; `usage` is written only when it was asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatDelta]
    usage: Usage | None = None
    prompt_token_ids: Annotated[list[int] | None, IfGiven] = None
    timings: Annotated[Timings | None, IfGiven] = None


class CompletionChoice(Traced):
    """One of the `n` continuations of one prompt, whole or the new part of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    prompt_token_ids: Annotated[list[int] | None, IfGiven] = None
    token_ids: Annotated[list[int] | None, IfGiven] = None


class Completion(Sparse):
    """Reply to `POST /v1/completions`, and one event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    timings: Annotated[Timings | None, IfGiven] = None
