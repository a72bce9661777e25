"""The events of `/v1/responses`, in OpenAI's order; the whole reply is what they add up to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

from ..data.assistant import (
    AssistantEvent,
    ContentDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from .schema.responses_reply import (
    IncompleteDetails,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    ResponseError,
    ResponseReply,
    ResponsesUsage,
)
from .turn import new_id

Event = dict[str, Any]
Ending = Literal["completed", "incomplete"]


class ResponseEvents:
    """Turns what the model says into events, and keeps `response` as they have told it.

    One item is open at a time: a text or reasoning until something else comes, a call until its
    end.
    """

    def __init__(self, response: ResponseReply) -> None:
        self.response = response
        self._number = 0
        self._open: OutputItem | None = None

    def begin(self) -> Iterator[Event]:
        """What comes first."""
        yield self._of_response("response.created")
        yield self._of_response("response.in_progress")

    def add(self, event: AssistantEvent) -> Iterator[Event]:
        """Events for one thing that the model said."""
        match event:
            case ReasoningDelta(text):
                if not isinstance(self._open, OutputReasoning):
                    yield from self._start(OutputReasoning(id=new_id("rs_")))
                yield from self._say(text)
            case ContentDelta(text):
                if not isinstance(self._open, OutputMessage):
                    yield from self._start(OutputMessage(id=new_id("msg_")))
                yield from self._say(text)
            case ToolCallStart(_, name):
                call = OutputCall(id=new_id("fc_"), call_id=new_id("call_"), name=name)
                yield from self._start(call)
            case ToolCallArguments(_, text):
                yield from self._say(text)
            case ToolCallEnd(_, is_whole):
                yield from self._end("completed" if is_whole else "incomplete")

    def finish(self, *, is_cut: bool, usage: ResponsesUsage) -> Iterator[Event]:
        """What comes last; `is_cut` when the limit of tokens ended the answer."""
        if all(isinstance(item, OutputReasoning) for item in self.response.output):
            # Clients look for an answer, be it empty.
            yield from self._start(OutputMessage(id=new_id("msg_")))
        ending: Ending = "incomplete" if is_cut else "completed"
        yield from self._end(ending)
        self.response.usage = usage
        self.response.status = ending
        self.response.completed_at = int(time.time())
        if is_cut:
            self.response.incomplete_details = IncompleteDetails()
        yield self._of_response(f"response.{ending}")

    def fail(self, error: ResponseError, param: str | None = None) -> Iterator[Event]:
        """What comes last when the answer cannot be continued."""
        yield self._event("error", code=error.code, message=error.message, param=param)
        if self._open is not None:
            self._open.status = "incomplete"
        self.response.status, self.response.error = "failed", error
        yield self._of_response("response.failed")

    def _start(self, item: OutputItem) -> Iterator[Event]:
        yield from self._end("completed")
        self._open = item
        self.response.output.append(item)
        yield self._of_item("response.output_item.added")
        if not isinstance(item, OutputCall):
            item.content.append(_empty_part(item))
            yield self._of_part("response.content_part.added")

    def _say(self, text: str) -> Iterator[Event]:
        item = self._open
        assert item is not None
        if isinstance(item, OutputCall):
            item.arguments += text
            yield self._inside("response.function_call_arguments.delta", delta=text)
            return
        item.content[0].text += text
        yield self._of_text(item, "delta", delta=text)

    def _end(self, status: Ending) -> Iterator[Event]:
        item = self._open
        if item is None:
            return
        if isinstance(item, OutputCall):
            done = "response.function_call_arguments.done"
            yield self._inside(done, name=item.name, arguments=item.arguments)
        else:
            yield self._of_text(item, "done", text=item.content[0].text)
            yield self._of_part("response.content_part.done")
        item.status = status
        yield self._of_item("response.output_item.done")
        self._open = None

    def _of_text(
        self, item: OutputMessage | OutputReasoning, what: Literal["delta", "done"], **text: str
    ) -> Event:
        if isinstance(item, OutputMessage):
            return self._inside(
                f"response.output_text.{what}", content_index=0, logprobs=[], **text
            )
        return self._inside(f"response.reasoning_text.{what}", content_index=0, **text)

    def _of_part(self, kind: str) -> Event:
        assert isinstance(self._open, OutputMessage | OutputReasoning)
        part = self._open.content[0].model_copy()
        return self._inside(kind, content_index=0, part=part)

    def _of_item(self, kind: str) -> Event:
        assert self._open is not None
        item = self._open.model_copy(deep=True)
        return self._event(kind, output_index=len(self.response.output) - 1, item=item)

    def _inside(self, kind: str, **fields: Any) -> Event:
        assert self._open is not None
        place = len(self.response.output) - 1
        return self._event(kind, item_id=self._open.id, output_index=place, **fields)

    def _of_response(self, kind: str) -> Event:
        return self._event(kind, response=self.response.model_copy(deep=True))

    def _event(self, kind: str, **fields: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}


def _empty_part(item: OutputMessage | OutputReasoning) -> Any:
    return OutputText() if isinstance(item, OutputMessage) else ReasoningText()
