"""`POST /v1/responses`: OpenAI's newer API, without anything stored between requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from ...errors import RequestError
from .. import published
from ..conversation import Conversation, ToolName, thinking_options
from ..published import publish
from ..transcript_builder import TranscriptBuilder
from .chat import Budget
from .common import Options
from .history import MAX_MESSAGES
from .items import OrText, Refused, bounded
from .responses_items import CallItem, CallOutputItem, Item, MessageItem, ReasoningItem, text_of
from .responses_options import (
    AllowedTools,
    Choice,
    EventOptions,
    Format,
    ModeChoice,
    NamedChoice,
    ObjectFormat,
    Reasoning,
    SchemaFormat,
    TextFormat,
    TextOptions,
    Tools,
)
from .structured import spec_of
from .tools import AllowedTools as SomeTools
from .tools import chosen, for_template, settled
from .values import Text, Whole

if TYPE_CHECKING:
    from ...grammar.spec import StructuredOutputs

Include = Literal[
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
FORM = "text.format"
_STORED = "this server stores nothing between requests: send the whole conversation as `input`"


class ResponsesRequest(Options):
    """`POST /v1/responses`."""

    model_config = ConfigDict(json_schema_extra=lambda s: publish(s, published.RESPONSES))

    input: Annotated[
        list[Item],
        Field(min_length=1, max_length=MAX_MESSAGES),
        BeforeValidator(bounded),
        OrText(lambda text: [{"role": "user", "content": text}]),
    ]
    instructions: Text | None = None
    max_output_tokens: Annotated[Whole, Field(ge=-1, le=2**63)] | None = None
    """-1 goes to the end of the context, as null does."""
    text: TextOptions | None = None
    tools: Tools | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: StrictBool | None = None
    reasoning: Reasoning | None = None
    thinking_budget: Budget | None = None
    include: list[Include] | None = None
    """Asks for nothing here: reasoning is given in plain text anyway."""
    max_tool_calls: Annotated[Whole, Field(ge=1)] | None = None
    """Limits tools that a server runs, of which there are none."""
    metadata: Annotated[dict[Text, Text], Field(max_length=16)] | None = None
    user: Text | None = None
    stream_options: EventOptions | None = None
    store: StrictBool | None = None
    """Nothing is stored, whatever this says; the reply says false."""
    previous_response_id: Annotated[Any, Refused(_STORED)] = None
    conversation_: Annotated[Any, Refused(_STORED), Field(alias="conversation")] = None
    prompt: Annotated[Any, Refused(_STORED)] = None
    background: Annotated[Any, Refused("replies are given at once or streamed", (False,))] = None
    truncation: Annotated[
        Any, Refused("nothing of a conversation is left out: shorten `input`", ("disabled",))
    ] = None
    top_logprobs: Annotated[
        Any, Refused("`/v1/chat/completions` gives log probabilities", (0,))
    ] = None
    moderation: Annotated[Any, Refused("nothing is moderated by this server")] = None

    @model_validator(mode="after")
    def _check_pairs(self) -> ResponsesRequest:
        if self.max_output_tokens == 0:
            raise RequestError(
                "`max_output_tokens` is 0, expected at least 1, or -1 for the rest of the context",
                param="max_output_tokens",
            )
        return self

    def conversation(self) -> Conversation:
        """The request in the form that all chat APIs share; raises `RequestError` for a choice of
        tools that are not there."""
        tools = [tool.as_chat() for tool in self.tools or []]
        choice, names = settled(self._choice(), tools)
        effort = None if self.reasoning is None else self.reasoning.effort
        return Conversation(
            messages=self._messages(),
            param="input",
            tools=for_template(tools) or None,
            template_options=thinking_options(None if effort is None else effort != "none"),
            sampling=self.as_sampling(),
            max_tokens=self.max_output_tokens,
            tool_choice=choice,
            callable_tools=chosen(tools, names),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            structured=self._structured(),
            structured_param=FORM,
            thinking_budget=self.thinking_budget,
        )

    @property
    def format(self) -> Format:
        """The form of the answer."""
        return (self.text and self.text.format) or TextFormat()

    def _messages(self) -> list[dict[str, Any]]:
        made = TranscriptBuilder()
        if self.instructions is not None:
            made.say("system", self.instructions)
        for item in self.input:
            match item:
                case MessageItem(role="assistant"):
                    made.answer(text_of(item.content))
                case MessageItem(role=role):
                    made.say(role, text_of(item.content))
                case ReasoningItem():
                    made.think(item.text)
                case CallItem():
                    made.call(item.call_id, item.name, item.arguments)
                case CallOutputItem():
                    made.result(item.call_id, text_of(item.output))
        return made.messages

    def _choice(self) -> Any:
        """The choice as that of a chat would be."""
        match self.tool_choice:
            case NamedChoice(name=name):
                return ToolName(name)
            case AllowedTools(mode=mode, tools=tools):
                return SomeTools(mode, [tool.name for tool in tools])
            case ModeChoice(type=mode):
                return mode
        return None

    def _structured(self) -> StructuredOutputs | None:
        match self.format:
            case ObjectFormat():
                return spec_of(FORM, {"json_object": True})
            case SchemaFormat(schema_=schema, strict=strict):
                return spec_of(FORM, {"json": schema, "strict": bool(strict)})
        return None
