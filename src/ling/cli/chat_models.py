"""Who answers in `ling chat`: a model of this machine, or one of an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..config.engine import TEMPERATURES, SamplingFlags
from ..data.assistant import (
    AssistantEvent,
    AssistantParser,
    ContentDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from ..data.chat import ChatPrompt, encode_chat
from ..data.reasoning import reasoning_mode
from ..errors import RunError, UsageError
from ..text import shown
from .conversation import Conversation

if TYPE_CHECKING:
    from ..eval.serving.client import Client
    from ..llm import LLM


@dataclass
class Settings:
    """What can be changed while the chat goes on."""

    sampling: dict[str, Any] = field(default_factory=dict)
    """Fields of `SamplingParams` that were given; the model's, or server's, defaults otherwise."""
    thinking: bool | None = None
    tools: list[dict[str, Any]] | None = None

    @property
    def template_options(self) -> dict[str, bool]:
        """Variables of the template."""
        wanted = self.thinking
        return {} if wanted is None else {"enable_thinking": wanted, "thinking": wanted}


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is over; OpenAI's reason, None where the server gave none."""

    reason: str | None


class ChatModel(Protocol):
    """Both of them."""

    name: str

    def check(self, sampling: dict[str, Any]) -> None:
        """Raise `RequestError` for values that cannot be, as far as they are known here."""
        ...

    def make_room(self, conversation: Conversation, settings: Settings) -> int:
        """Drop the oldest questions until an answer has room; returns how many were dropped."""
        ...

    def answer(
        self, conversation: Conversation, settings: Settings
    ) -> Generator[AssistantEvent | Ended, None, None]:
        """The events of an answer; closing the iterator stops it. Raises `LingError`."""
        ...


class LocalModel:
    """A loaded model, or the adapter of that name on it."""

    def __init__(self, llm: LLM, name: str, adapter: str | None = None) -> None:
        self._llm, self._adapter = llm, adapter
        self.name = name if adapter is None else f"{name} with {adapter}"

    def check(self, sampling: dict[str, Any]) -> None:
        from ..infer.request import SamplingParams

        SamplingParams(**sampling)

    def make_room(self, conversation: Conversation, settings: Settings) -> int:
        """An answer gets `max_tokens`, but at most a quarter of the context."""
        quarter = self._llm.max_model_len // 4
        wanted = settings.sampling.get("max_tokens") or quarter
        room = self._llm.max_model_len - min(wanted if wanted > 0 else quarter, quarter)
        return conversation.fit(lambda turns: len(self._prompt(turns, settings).ids), room)

    def answer(
        self, conversation: Conversation, settings: Settings
    ) -> Generator[AssistantEvent | Ended, None, None]:
        from ..infer.request import SamplingParams

        defaults = {
            "temperature": TEMPERATURES["chat"],
            "max_tokens": SamplingFlags().max_new_tokens,
        }
        defaults |= self._llm.sampling_defaults
        params = SamplingParams(**{**defaults, **settings.sampling})
        prompt = self._prompt(conversation.messages, settings)
        mode = reasoning_mode(prompt.text, thinking=settings.thinking)
        parser = AssistantParser(parse_tools=bool(settings.tools), reasoning=mode)
        reason = None
        given = {"prompt": prompt.text, "prompt_token_ids": prompt.ids}
        for chunk in self._llm.stream(given, params, lora=self._adapter):
            yield from parser.push(chunk.text)
            reason = chunk.finish_reason
        yield from parser.finish()
        yield Ended(reason)

    def _prompt(self, messages: list[dict[str, Any]], settings: Settings) -> ChatPrompt:
        tokenizer = self._llm.tokenizer
        assert tokenizer is not None  # `ling chat` checks it
        options = settings.template_options
        return encode_chat(self._llm.render, tokenizer, messages, settings.tools, **options)


class RemoteModel:
    """A model of a server; how long conversations may be is its own affair."""

    def __init__(self, client: Client, name: str) -> None:
        self._client, self.name = client, name

    def check(self, sampling: dict[str, Any]) -> None:
        """The server does it."""

    def make_room(self, conversation: Conversation, settings: Settings) -> int:
        """Nothing is dropped."""
        return 0

    def answer(
        self, conversation: Conversation, settings: Settings
    ) -> Generator[AssistantEvent | Ended, None, None]:
        body: dict[str, Any] = {"model": self.name, "messages": conversation.messages}
        body |= {"stream": True, **settings.sampling}
        if settings.tools:
            body["tools"] = settings.tools
        if options := settings.template_options:
            body["chat_template_kwargs"] = options
        calls = _Calls()
        reason = None
        for event in self._client.events("/chat/completions", body):
            choice = _first(event.get("choices"))
            reason = choice.get("finish_reason") or reason
            delta = _dict(choice.get("delta"))
            reasoning = delta.get("reasoning_content") or delta.get("reasoning")
            if isinstance(reasoning, str):
                yield ReasoningDelta(reasoning)
            if isinstance(delta.get("content"), str) and delta["content"]:
                yield ContentDelta(delta["content"])
            parts = delta.get("tool_calls")
            for part in parts if isinstance(parts, list) else ():
                yield from calls.add(_dict(part))
        yield from calls.ends()
        yield Ended(reason)


class _Calls:
    """Calls of one answer, numbered as they come whatever the server calls them."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._arguments: list[str] = []

    def add(self, part: dict[str, Any]) -> Iterator[AssistantEvent]:
        """What a part of a call says."""
        function, index = _dict(part.get("function")), str(part.get("index"))
        if index not in self._numbers:
            self._numbers[index] = len(self._numbers)
            self._arguments.append("")
            yield ToolCallStart(self._numbers[index], str(function.get("name") or ""))
        if isinstance(text := function.get("arguments"), str):
            self._arguments[self._numbers[index]] += text
            yield ToolCallArguments(self._numbers[index], text)

    def ends(self) -> Iterator[AssistantEvent]:
        """The ends of all."""
        for number, text in enumerate(self._arguments):
            try:
                json.loads(text)
            except (ValueError, RecursionError):
                yield ToolCallEnd(number, False)
            else:
                yield ToolCallEnd(number, True)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(value: Any) -> dict[str, Any]:
    return _dict(value[0]) if isinstance(value, list) and value else {}


def connect(url: str, model: str | None, api_key: str | None) -> RemoteModel:
    """The model of a server: `model`, or its only or first one.

    Raises `UsageError` where no server answers, the key is refused, or it has no such model.
    """
    from ..eval.serving.client import Client

    client = Client(url, api_key, key_hint="`--api-key-file FILE`, LING_API_KEY or OPENAI_API_KEY")
    try:
        names = asyncio.run(client.models())
    except RunError as error:  # at the start a wrong URL is likelier than a failing server
        raise UsageError(str(error)) from None
    if model is not None and model not in names:
        listed = ", ".join(shown(name) for name in names[:20])
        raise UsageError(f"the server has no model {shown(model)}; it has {listed}")
    return RemoteModel(client, model or names[0])
