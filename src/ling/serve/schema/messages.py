"""`POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from .. import published
from ..conversation import Conversation, ToolName, Transcript, thinking_options
from ..published import publish
from ..transcript_builder import TranscriptBuilder
from .common import Body, Options
from .history import MAX_MESSAGES
from .items import MAX_PARTS, Refused, bounded
from .messages_blocks import Message, Texts, text_of
from .messages_options import (
    AnyChoice,
    Metadata,
    NamedChoice,
    OutputOptions,
    Thinking,
    ToolChoiceObject,
    Tools,
)
from .structured import spec_of
from .tools import chosen, for_template, settled
from .values import MAX_STOP_LENGTH, MAX_STOPS, Text, Whole

if TYPE_CHECKING:
    from ...grammar.spec import StructuredOutputs

FORM = "output_config.format"
_SERVER = "tools that a server runs are not here: give `tools` that the client runs"


class MessagesPrompt(Body):
    """What becomes a prompt."""

    messages: Annotated[
        list[Message], Field(min_length=1, max_length=MAX_MESSAGES), BeforeValidator(bounded)
    ]
    system: Annotated[Texts, Field(max_length=MAX_PARTS)] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoiceObject | None = None
    thinking: Thinking | None = None
    output_config: OutputOptions | None = None
    mcp_servers: Annotated[Any, Refused(_SERVER, ([],))] = None
    container: Annotated[Any, Refused(_SERVER)] = None

    def transcript(self) -> Transcript:
        """What becomes the prompt, in the form that all chat APIs share."""
        return Transcript(**self._transcript_fields())

    def _chat_tools(self) -> list[dict[str, Any]]:
        return [tool.as_chat() for tool in self.tools or []]

    def _transcript_fields(self) -> dict[str, Any]:
        made = TranscriptBuilder()
        if self.system:
            made.say("system", text_of(self.system))
        for message in self.messages:
            message.add_to(made)
        wanted = None if self.thinking is None else self.thinking.type != "disabled"
        return {
            "messages": made.messages,
            "tools": for_template(self._chat_tools()) or None,
            "template_options": thinking_options(wanted),
            "continue_final_message": made.ends_in_answer,
        }


class MessagesRequest(Options, MessagesPrompt):
    """`POST /v1/messages`."""

    model_config = ConfigDict(json_schema_extra=lambda s: publish(s, published.MESSAGES))

    max_tokens: Annotated[Whole, Field(ge=1, le=2**63)]
    stop_sequences: (
        Annotated[
            list[Annotated[Text, Field(min_length=1, max_length=MAX_STOP_LENGTH)]],
            Field(max_length=MAX_STOPS),
        ]
        | None
    ) = None
    metadata: Metadata | None = None

    def conversation(self) -> Conversation:
        """The request in the form that all chat APIs share; raises `RequestError` for a choice of
        tools that are not there."""
        tools = self._chat_tools()
        choice, names = settled(self._choice(), tools)
        alone = self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use
        return Conversation(
            **self._transcript_fields(),
            sampling=self.as_sampling(stop=self.stop_sequences),
            max_tokens=self.max_tokens,
            tool_choice=choice,
            callable_tools=chosen(tools, names),
            parallel_tool_calls=not alone,
            structured=self._structured(),
            structured_param=FORM,
            thinking_budget=None if self.thinking is None else self.thinking.budget_tokens,
        )

    def _choice(self) -> Any:
        """The choice as that of a chat would be."""
        match self.tool_choice:
            case NamedChoice(name=name):
                return ToolName(name)
            case AnyChoice(type=kind):
                return "required" if kind == "any" else kind
        return None

    def _structured(self) -> StructuredOutputs | None:
        wanted = None if self.output_config is None else self.output_config.format
        return None if wanted is None else spec_of(FORM, {"json": wanted.schema_})


class CountTokensRequest(MessagesPrompt):
    """`POST /v1/messages/count_tokens`."""

    model_config = ConfigDict(json_schema_extra=lambda s: publish(s, published.MESSAGES))

    model: Text
