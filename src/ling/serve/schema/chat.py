"""`POST /v1/chat/completions`: messages, and how they become a prompt."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from ...errors import RequestError
from .. import published
from ..conversation import Conversation
from ..fields import say_ignored
from ..published import publish
from .common import MAX_LOGPROBS, Body, Sampling
from .history import MAX_MESSAGES, Message
from .structured import Structured
from .tools import Choice, Tools, chosen, for_template, settled
from .values import Effort, MaxTokens, Whole

MAX_BUDGET = 1 << 31
Budget = Annotated[Whole, Field(ge=0, lt=MAX_BUDGET)]


def _thinking(value: Any) -> Any:
    """Of a template's variables only these are taken from a request."""
    for name in value if isinstance(value, dict) else ():
        if name not in Thinking.model_fields:
            say_ignored(f"chat_template_kwargs.{name}")
    return value


class Thinking(BaseModel):
    """`chat_template_kwargs`: whether the model is asked to think first; either name will do."""

    enable_thinking: StrictBool | None = None
    thinking: StrictBool | None = None


class ChatPrompt(Body):
    """How messages become a prompt."""

    add_generation_prompt: StrictBool | None = None
    """Whether the assistant's turn is opened; by default it is, unless a message is continued."""
    continue_final_message: StrictBool | None = None
    chat_template_kwargs: Annotated[Thinking, BeforeValidator(_thinking)] | None = None
    reasoning_effort: Effort | None = None
    tools: Tools | None = None

    def check_continued(self, messages: list[Message] | None) -> None:
        """Raise `RequestError` for a last message that cannot be continued."""
        if not self.continue_final_message:
            return
        if self.add_generation_prompt:
            raise RequestError(
                "`continue_final_message` and `add_generation_prompt` cannot both be true",
                param="continue_final_message",
            )
        last = messages[-1] if messages else None
        if last is None or last.role != "assistant" or last.content is None:
            raise RequestError(
                "`continue_final_message` needs a last message of the assistant, with content",
                param="messages",
            )

    def transcript_fields(self, messages: list[Message]) -> dict[str, Any]:
        """Fields of `Transcript`."""
        return {
            "messages": [m.plain() for m in messages],
            "tools": for_template(self.tools) if self.tools else None,
            "template_options": self.template_options,
            "add_generation_prompt": self.add_generation_prompt,
            "continue_final_message": bool(self.continue_final_message),
        }

    @property
    def template_options(self) -> dict[str, bool]:
        """Variables for the template; templates have one name or the other for thinking."""
        given = self.chat_template_kwargs or Thinking()
        effort = None if self.reasoning_effort is None else self.reasoning_effort != "none"
        named = {"enable_thinking": given.enable_thinking, "thinking": given.thinking}
        either = next((v for v in (*named.values(), effort) if v is not None), None)
        if either is None:
            return {}
        return {name: either if value is None else value for name, value in named.items()}


class ChatRequest(Sampling, ChatPrompt, Structured):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(json_schema_extra=lambda s: publish(s, published.CHAT))
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: StrictBool | None = None
    thinking_token_budget: Budget | None = None
    """Most tokens of reasoning; then the model must answer."""
    thinking_budget: Budget | None = None
    """The same."""
    include_reasoning: StrictBool | None = None
    """False leaves reasoning out of the reply."""

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("`top_logprobs` needs `logprobs: true`", param="top_logprobs")
        for name in ("max_tokens", "max_completion_tokens"):
            if getattr(self, name) == 0:
                raise RequestError(
                    f"`{name}` is 0, expected at least 1, or -1 for the rest of the context",
                    param=name,
                )
        return self

    @property
    def num_top_logprobs(self) -> int | None:
        """Candidates beside each token; None for no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def conversation(self) -> Conversation:
        """The request in the form that all chat APIs share; raises `RequestError` for fields that
        do not go together."""
        self.check_continued(self.messages)
        choice, names = settled(self.tool_choice, self.tools)
        budgets = self.thinking_token_budget, self.thinking_budget
        param, structured = self.structured()
        return Conversation(
            **self.transcript_fields(self.messages),
            sampling=self,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            top_logprobs=self.num_top_logprobs,
            tool_choice=choice,
            callable_tools=chosen(self.tools or [], names),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            structured=structured,
            structured_param=param,
            thinking_budget=next((b for b in budgets if b is not None), None),
            include_reasoning=self.include_reasoning is not False,
        )
