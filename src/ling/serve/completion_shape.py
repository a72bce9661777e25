"""Replies of `/v1/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .logprobs import completion_logprobs
from .routed import traced
from .schema.common import StreamOptions, Usage
from .schema.replies import Completion, CompletionChoice, CompletionLogprobs
from .stream import DONE, KEEP_ALIVE, openai_failure, openai_line, with_cached
from .timings import When, timings_of

if TYPE_CHECKING:
    from ..infer.request import Request
    from ..outputs import StreamChunk


@dataclass(kw_only=True)
class Echo:
    """What `echo: true` puts before one choice: the prompt, and its log probabilities if asked."""

    text: str = ""
    logprobs: CompletionLogprobs | None = None


class CompletionShape:
    """One reply; `echoes` has one entry for each choice, empty without `echo`; `n` choices in a row
    are of one prompt. With `prompts`, of each choice, the reply has token ids; `requests`
    are those of the choices, for their `timings`."""

    done, keep_alive = DONE, KEEP_ALIVE

    def __init__(
        self,
        model: str,
        with_logprobs: bool,
        echoes: Sequence[Echo],
        n: int = 1,
        options: StreamOptions | None = None,
        *,
        prompts: Sequence[list[int]] | None = None,
        timings: When = "never",
        requests: Sequence[Request] = (),
    ) -> None:
        self._id, self._created, self._model = f"cmpl-{uuid.uuid4().hex}", int(time.time()), model
        self._with_logprobs, self._echoes, self._n = with_logprobs, echoes, n
        self._options = options or StreamOptions()
        self._cached = [0] * len(echoes)
        self._prompts, self._when, self._requests = prompts, timings, requests

    def whole(self, answers: Sequence[StreamChunk], usage: Usage) -> Completion:
        """The reply in one piece."""
        choices = []
        for i, (answer, echo) in enumerate(zip(answers, self._echoes, strict=True)):
            self._cached[i] = answer.num_cached_tokens
            choices.append(
                CompletionChoice(
                    index=i,
                    text=echo.text + answer.text,
                    logprobs=_joined(echo.logprobs, self._logprobs(i, answer)),
                    finish_reason=answer.finish_reason,
                    prompt_token_ids=self._prompt(i),
                    token_ids=self._ids(answer),
                    **traced(answer),
                )
            )
        reply = self._chunk(choices, self._detailed(usage))
        if self._when != "never" and self._requests:
            reply.timings = timings_of(self._requests, len(self._requests) // self._n)
        return reply

    def opening(self, index: int) -> list[Completion]:
        """The prompt, if it is to be echoed."""
        echo = self._echoes[index]
        prompt = self._prompt(index)
        if not echo.text and echo.logprobs is None and prompt is None:
            return []
        choice = CompletionChoice(
            index=index, text=echo.text, logprobs=echo.logprobs, prompt_token_ids=prompt
        )
        return [self._chunk([choice])]

    def step(self, index: int, chunk: StreamChunk) -> list[Completion]:
        """One event for what is new, if anything is."""
        self._cached[index] = chunk.num_cached_tokens
        logprobs = self._logprobs(index, chunk)
        experts = traced(chunk)
        told = (logprobs is not None and logprobs.tokens) or self._ids(chunk) or experts
        if not (chunk.text or chunk.finish_reason or told):
            return []
        choice = CompletionChoice(
            index=index,
            text=chunk.text,
            logprobs=logprobs,
            finish_reason=chunk.finish_reason,
            token_ids=self._ids(chunk),
            **experts,
        )
        event = self._chunk([choice])
        if self._when == "always" or (self._when == "end" and chunk.finish_reason is not None):
            event.timings = timings_of([self._requests[index]])
        return [event]

    def closing(self, usage: Usage) -> list[Completion]:
        """The usage, where it was asked for."""
        return [self._chunk([], self._detailed(usage))] if self._options.include_usage else []

    def line(self, event: Completion, spent: Usage) -> str:
        """Text of an event, with the usage up to it where that was asked for."""
        return openai_line(event, spent, self._options)

    failure = staticmethod(openai_failure)

    def _chunk(self, choices: list[CompletionChoice], usage: Usage | None = None) -> Completion:
        return Completion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )

    def _detailed(self, usage: Usage) -> Usage:
        return with_cached(usage, self._cached, self._n)

    def _prompt(self, index: int) -> list[int] | None:
        return None if self._prompts is None else self._prompts[index]

    def _ids(self, chunk: StreamChunk) -> list[int] | None:
        return None if self._prompts is None else chunk.token_ids

    def _logprobs(self, index: int, chunk: StreamChunk) -> CompletionLogprobs | None:
        if not self._with_logprobs:
            return None
        start = len(self._echoes[index].text)
        places = [start + i for i in chunk.text_offsets or []]
        return completion_logprobs(chunk.token_ids, chunk.logprobs or [], places)


def _joined(
    first: CompletionLogprobs | None, second: CompletionLogprobs | None
) -> CompletionLogprobs | None:
    if first is None or second is None:
        return second if first is None else first
    return CompletionLogprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )
