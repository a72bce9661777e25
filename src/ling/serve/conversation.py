"""What a chat API asks, in one form: each of them makes a `Conversation` of its requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..grammar.spec import StructuredOutputs
    from .schema.common import Sampling


@dataclass(frozen=True, slots=True)
class ToolName:
    """The one tool that the answer must call."""

    name: str


ToolChoice = Literal["none", "auto", "required"] | ToolName


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What becomes a prompt, as templates read it."""

    messages: list[dict[str, Any]]
    """`role`, `content` (None where there is none), and by role `reasoning_content`, `tool_calls`,
    `tool_call_id`, `name`."""
    tools: list[dict[str, Any]] | None = None
    """`{"type": "function", "function": {...}}` each, keys in the order they came in."""
    template_options: dict[str, bool] = field(default_factory=dict)
    """Further variables of the template (`thinking_options`)."""
    add_generation_prompt: bool | None = None
    """Whether the assistant's turn is opened; by default it is, unless a message is continued."""
    continue_final_message: bool = False
    param: str = "messages"
    """The field of the request that it was asked in, for errors."""


@dataclass(frozen=True, kw_only=True)
class Conversation(Transcript):
    """A transcript, and how it is to be answered."""

    sampling: Sampling
    """The fields that all APIs share; its `max_tokens` is not read."""
    max_tokens: int | None = None
    """None and -1 go to the end of the context."""
    top_logprobs: int | None = None
    """None for no log probabilities."""
    tool_choice: ToolChoice = "auto"
    callable_tools: list[dict[str, Any]] = field(default_factory=list)
    """Those of the tools that may be called, as the request has them."""
    parallel_tool_calls: bool = True
    structured: StructuredOutputs | None = None
    """The form that the answer must have where it is no tool call; None for any."""
    structured_param: str = "response_format"
    """The field of the request that asked for it, for errors."""
    thinking_budget: int | None = None
    """Most tokens of reasoning."""
    include_reasoning: bool = True


def thinking_options(wanted: bool | None) -> dict[str, bool]:
    """Variables that ask a template for reasoning, or for none; templates have one or the other."""
    return {} if wanted is None else {"enable_thinking": wanted, "thinking": wanted}
