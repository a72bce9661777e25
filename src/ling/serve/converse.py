"""From a conversation to its reply, whichever API asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fastapi import Request
from fastapi.responses import Response

from ..data.assistant import AssistantParser
from ..data.chat import ChatPrompt
from ..data.reasoning import ReasoningMode, reasoning_mode
from . import prompts
from .admission import adapter_of, model_for, terms_of
from .constrained import check_bounds, compiled, constraint_of, ignored_header
from .conversation import Conversation
from .reply import Prepared, reply
from .service import Generation, Job, Service
from .stream import Shape
from .turn import Turn

if TYPE_CHECKING:
    from ..grammar.spec import StructuredOutputs
    from ..infer.request import Request as EngineRequest
    from ..llm import LLM

THINKING_OFF = "detailed thinking off"
"""How Ling's template asks for an answer without reasoning."""

ShapeOf = Callable[[Sequence[Turn]], Shape[Any]]


class ChatBody(Protocol):
    """A request of a chat API."""

    model: str

    def conversation(self) -> Conversation: ...


async def converse(
    service: Service,
    request: Request,
    body: ChatBody,
    shape_of: ShapeOf,
    keep_alive_s: float,
) -> Response:
    """Admit, queue and answer; `shape_of` makes the replies' shape of the turns that its `n`
    choices will be."""
    llm = model_for(service, body.model)
    conversation = body.conversation()
    sampling = conversation.sampling
    adapter = adapter_of(service, body.model)
    terms = terms_of(sampling, request, adapter=adapter, is_chat_turn=True)
    generation = service.admit(sampling.n or 1, terms)
    work = _prepare(service, llm, conversation, generation, shape_of)
    stream = bool(sampling.stream)
    return await reply(request, generation, work, stream=stream, keep_alive_s=keep_alive_s)


async def _prepare(
    service: Service,
    llm: LLM,
    conversation: Conversation,
    generation: Generation,
    shape_of: ShapeOf,
) -> Prepared:
    asked = await service.call(partial(_asked, llm, conversation))
    ignored: Sequence[str] = ()
    if asked.spec is not None:
        check = partial(compiled, llm, asked.spec, asked.before, conversation.structured_param)
        ignored = await service.call_compiler(check)
    await service.call(partial(_queue, llm, conversation, asked, generation))
    turns = [_turn(llm, conversation, asked, made) for made in generation.requests]
    return Prepared(shape_of(turns), len(asked.prompt.ids), headers=ignored_header(ignored))


class Asked(NamedTuple):
    """A conversation as the engine is to have it."""

    prompt: ChatPrompt
    reasoning: ReasoningMode
    """How the reply is read."""
    spec: StructuredOutputs | None
    before: ReasoningMode
    """Which reasoning may come before what is enforced."""


def _asked(llm: LLM, conversation: Conversation) -> Asked:
    spec = constraint_of(conversation)
    if spec is not None:
        check_bounds(spec, conversation.structured_param)
    prompt = prompts.conversation_prompt(llm, conversation)
    mode = _reasoning_mode(conversation, prompt.text)
    # A model that was told not to think must not be led into it by what it may not say.
    before = "none" if mode == "auto" and THINKING_OFF in prompt.text else mode
    return Asked(prompt, mode, spec, before)


def _queue(llm: LLM, conversation: Conversation, asked: Asked, generation: Generation) -> None:
    ids = asked.prompt.ids
    params = prompts.chat_params(llm, conversation, ids, asked.spec, asked.before)
    generation.start(llm, [Job(ids, p) for p in params])


def _reasoning_mode(conversation: Conversation, prompt: str) -> ReasoningMode:
    continued = None
    if conversation.continue_final_message:
        continued = conversation.messages[-1]["content"] or ""
    wanted = any(conversation.template_options.values())
    return reasoning_mode(prompt, thinking=wanted, continued=continued)


def _turn(llm: LLM, conversation: Conversation, asked: Asked, made: EngineRequest) -> Turn:
    calls = bool(conversation.tools) and conversation.tool_choice != "none"
    tokenizer = llm.tokenizer
    assert tokenizer is not None  # there would be no prompt
    return Turn(
        AssistantParser(parse_tools=calls, reasoning=asked.reasoning),
        conversation.tool_choice,
        tokenizer.token_bytes,
        include_reasoning=conversation.include_reasoning,
        prompt_token_ids=asked.prompt.ids,
        request=made,
    )
