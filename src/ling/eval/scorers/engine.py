"""Our engine as a scorer: requests run together, and shared beginnings are computed once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...data.chat import encode_chat
from ...data.tokenizer import Tokenizer
from ...errors import RequestError, RunError
from ...infer.pages import PAGE
from ...infer.request import SamplingParams
from ...llm import LLM
from ...outputs import RequestOutput
from ..scorer import Ask, Messages, Row, Scored, fitted, with_room

GROUP = 64
"""Rows in the engine at once: all of a large text would keep all their scores."""


class EngineScorer:
    """A `Scorer` over a `ling.LLM`, or over its adapter `lora`; raises `RequestError` for a model
    without a tokenizer."""

    has_template = True

    def __init__(self, llm: LLM, lora: str | None = None) -> None:
        self._llm, self._tokenizer, self._lora = llm, tokenizer_of(llm), lora
        if self._tokenizer.eod_token_id is None:
            raise RequestError("the tokenizer has no token that ends a document")
        self.end_id = self._tokenizer.eod_token_id
        self.max_length = llm.max_model_len - 1  # the engine adds a token to what it has read

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self._tokenizer.encode(text, parse_special=special)

    def render(self, messages: Messages) -> str:
        return self._llm.render(messages)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        fit = [fitted(row, self.max_length) for row in rows]
        found = list[Scored]()
        for start in range(0, len(fit), GROUP):
            found += self._score(fit[start : start + GROUP])
        return found

    def _score(self, rows: Sequence[Row]) -> list[Scored]:
        found: dict[int, Scored] = {}
        for wave in waves(rows):
            asked = [rows[i] for i in wave]
            outputs = self._llm.generate(
                [{"prompt_token_ids": row.context + row.continuation} for row in asked],
                [_scores_from(len(row.context)) for row in asked],
                lora=self._lora,
            )
            found |= {i: _scored(rows[i], o) for i, o in zip(wave, outputs, strict=True)}
        return [found[i] for i in range(len(rows))]

    def generate(self, asks: Sequence[Ask]) -> list[str]:
        prompts, params = [], []
        for ask in asks:
            ids, room = with_room(self._prompt(ask.prompt), ask.max_tokens, self.max_length)
            prompts.append({"prompt_token_ids": ids})
            params.append(
                SamplingParams(
                    max_tokens=room,
                    stop=list(ask.stop),
                    temperature=ask.temperature,
                    top_p=ask.top_p,
                    seed=ask.sample,
                )
            )
        outputs = self._llm.generate(prompts, params, lora=self._lora)
        return [_answer(output) for output in outputs]

    def _prompt(self, prompt: str | Messages) -> list[int]:
        if isinstance(prompt, str):
            return self.encode(prompt, special=True) or [self.end_id]
        return encode_chat(self._llm.render, self._tokenizer, prompt).ids

    def close(self) -> None:
        self._llm.close()


def tokenizer_of(llm: LLM) -> Tokenizer:
    """A model's tokenizer; raises `RequestError` where it has none."""
    if llm.tokenizer is None:
        raise RequestError("an evaluation needs a model with a tokenizer")
    return llm.tokenizer


def waves(rows: Sequence[Row]) -> list[list[int]]:
    """Numbers of the rows in groups to run one after the other: pages of a context that several
    have are cached when the second of them begins, and requests of one step cannot share them."""
    first, known = list[list[int]](), set[tuple[int, ...]]()
    heads = [tuple(row.context[:PAGE]) for row in rows]
    if len(rows) > 2 and len(set(heads)) == 1 and len(heads[0]) == PAGE:
        first, known = [[0]], {_pages(rows[0])}
    new, again = list[int](), list[int]()
    for i in range(len(first), len(rows)):
        pages = _pages(rows[i])
        (again if pages and pages in known else new).append(i)
        known.add(pages)
    return [wave for wave in (*first, new, again) if wave]


def _pages(row: Row) -> tuple[int, ...]:
    """What of a context fills whole pages, of which the one with its last token is computed."""
    return tuple(row.context[: (len(row.context) - 1) // PAGE * PAGE])


def _scores_from(start: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=1, temperature=0.0, prompt_logprobs=0, prompt_logprobs_start_len=start
    )


def _scored(row: Row, output: RequestOutput) -> Scored:
    _check(output)
    maps = output.prompt_logprobs
    assert maps is not None
    own = [
        one[i]
        for one, i in zip(maps[len(row.context) :], row.continuation, strict=True)
        if one is not None
    ]
    return Scored(math.fsum(t.logprob for t in own), all(t.rank == 1 for t in own))


def _answer(output: RequestOutput) -> str:
    _check(output)
    return output.outputs[0].text


def _check(output: RequestOutput) -> None:
    if output.outputs[0].error is not None:
        raise RunError(f"the engine failed: {output.outputs[0].error}")
