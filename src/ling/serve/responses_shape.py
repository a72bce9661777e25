"""Replies of `/v1/responses`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from ..errors import RequestError
from .problems import shown_message
from .responses_events import Event, ResponseEvents
from .schema.common import Usage
from .schema.responses import ResponsesRequest
from .schema.responses_options import ModeChoice, Reasoning
from .schema.responses_reply import (
    ErrorCode,
    InputTokens,
    OutputTokens,
    ResponseError,
    ResponseReply,
    ResponsesUsage,
)
from .stream import KEEP_ALIVE, sse_data
from .turn import Turn, new_id

if TYPE_CHECKING:
    from ..outputs import StreamChunk


class ResponsesShape:
    """The reply to a request that has one choice, `turn`; see `stream.Shape`.

    `defaults` are the model's own sampling parameters, of which the reply tells what was used.
    """

    # OpenAI ends this stream with the response itself.
    done, keep_alive = "", KEEP_ALIVE

    def __init__(
        self, model: str, body: ResponsesRequest, turn: Turn, defaults: Mapping[str, Any]
    ) -> None:
        self._turn = turn
        self._events = ResponseEvents(_opened(model, body, defaults))

    def whole(self, answers: Sequence[StreamChunk], usage: Usage) -> ResponseReply:
        """What the events of a stream add up to."""
        self.step(0, answers[0])
        self.closing(usage)
        return self._events.response

    def opening(self, index: int) -> list[Event]:
        """The response before anything is said."""
        return list(self._events.begin())

    def step(self, index: int, chunk: StreamChunk) -> list[Event]:
        """Events for what is new."""
        return [event for said in self._turn.add(chunk) for event in self._events.add(said)]

    def closing(self, usage: Usage) -> list[Event]:
        """The end of the last item, and the whole response."""
        is_cut = self._turn.finish_reason == "length"
        return list(self._events.finish(is_cut=is_cut, usage=_usage(usage, self._turn)))

    def line(self, event: Event, spent: Usage) -> str:
        """Text of an event."""
        return _line(event)

    def failure(self, error: RequestError) -> str:
        """An error event, and the response as it has become."""
        events = self._events.fail(_error(error), error.param)
        return "".join(map(_line, events))


def _line(event: Event) -> str:
    return sse_data(to_json(event, inf_nan_mode="null").decode(), event["type"])


def _error(error: RequestError) -> ResponseError:
    kind: ErrorCode = "server_error" if error.status >= 500 else "invalid_prompt"
    if error.status == 429:
        kind = "rate_limit_exceeded"
    return ResponseError(code=kind, message=shown_message(error))


def _usage(usage: Usage, turn: Turn) -> ResponsesUsage:
    return ResponsesUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokens(cached_tokens=turn.num_cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokens(reasoning_tokens=turn.num_reasoning_tokens),
        total_tokens=usage.total_tokens,
    )


def _opened(model: str, body: ResponsesRequest, defaults: Mapping[str, Any]) -> ResponseReply:
    """The response as it is before anything is said: what was asked, and what was taken for it."""
    text: dict[str, Any] = {"format": body.format.model_dump(by_alias=True)}
    if body.text is not None and body.text.verbosity is not None:
        text["verbosity"] = body.text.verbosity
    tools = [tool.model_dump() for tool in body.tools or []]
    choice = body.tool_choice or ModeChoice(type="auto")
    return ResponseReply(
        id=new_id("resp_"),
        created_at=int(time.time()),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        model=model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        reasoning=(body.reasoning or Reasoning()).model_dump(),
        temperature=_taken("temperature", body.temperature, defaults),
        text=text,
        tool_choice=choice.type if isinstance(choice, ModeChoice) else choice.model_dump(),
        tools=tools,
        top_p=_taken("top_p", body.top_p, defaults),
        user=body.user,
    )


def _taken(name: str, given: float | None, defaults: Mapping[str, Any]) -> float:
    return defaults.get(name, 1.0) if given is None else given
