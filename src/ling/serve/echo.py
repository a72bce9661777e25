"""`echo: true`: the prompt before each choice, and the log probabilities of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from . import prompts
from .completion_shape import Echo
from .logprobs import completion_logprobs, token_name
from .schema.completion import CompletionRequest
from .schema.replies import CompletionLogprobs
from .service import Generation, Job, Service

if TYPE_CHECKING:
    from ..llm import LLM
    from ..outputs import CompletionOutput, RequestOutput, StreamChunk


def scores_prompts(body: CompletionRequest) -> bool:
    """Whether log probabilities of the prompts are wanted."""
    return bool(body.echo) and body.logprobs is not None


def only_scores(body: CompletionRequest) -> bool:
    """Whether scoring the prompts gives the answers as well.

    Evaluation harnesses ask for `echo`, `logprobs` and at most one new token: that is one pass.
    """
    if body.max_tokens == 0:
        return True
    return scores_prompts(body) and not body.stream and body.max_tokens == 1 and body.n in (None, 1)


async def echoes_of(
    service: Service,
    llm: LLM,
    body: CompletionRequest,
    jobs: Sequence[Job],
    scoring: Generation | None,
) -> tuple[list[Echo], list[StreamChunk] | None]:
    """What goes before each choice, and the answers where `only_scores`; `scoring` is admitted
    for the prompts where their log probabilities are wanted, and is closed here."""
    n = body.n or 1
    if not body.echo:
        return [Echo() for _ in jobs], None
    asked = jobs[::n]
    texts = await service.call(partial(_texts, llm, body, asked))
    outputs: list[RequestOutput] | None = None
    marks: Sequence[CompletionLogprobs | None] = [None] * len(texts)
    if scoring is not None:
        outputs, marks = await _score(service, llm, scoring, asked, body.logprobs or 0)
    echoes = [Echo(text=t, logprobs=m) for t, m in zip(texts, marks, strict=True) for _ in range(n)]
    if body.max_tokens == 0:
        return echoes, [_answer() for _ in jobs]
    if outputs is None or not only_scores(body):
        return echoes, None
    return echoes, [_answer(output.outputs[0]) for output in outputs]


async def _score(
    service: Service, llm: LLM, scoring: Generation, jobs: Sequence[Job], top: int
) -> tuple[list[RequestOutput], list[CompletionLogprobs]]:
    """Score whole prompts; leaving this early stops the engine's work for them."""
    try:
        wanted = prompts.scoring_jobs(jobs, top)
        handles = await service.call(partial(scoring.start, llm, wanted))
        async for _ in scoring.pieces():
            pass
    finally:
        scoring.close()

    def told() -> tuple[list[RequestOutput], list[CompletionLogprobs]]:
        outputs = [llm.output(None, h.request, [h.context.text]) for h in handles]
        return outputs, [_prompt_logprobs(llm, output) for output in outputs]

    return await service.call(told)


def _texts(llm: LLM, body: CompletionRequest, jobs: Sequence[Job]) -> list[str]:
    return [
        given if isinstance(given, str) else prompts.text_of(llm, job.prompt_token_ids)
        for given, job in zip(body.prompt, jobs, strict=True)
    ]


def _prompt_logprobs(llm: LLM, output: RequestOutput) -> CompletionLogprobs:
    ids = output.prompt_token_ids
    assert output.prompt_logprobs is not None
    # The first token has no candidates, yet its text is known.
    tok, one = llm.tokenizer, ids[:1]
    first = token_name(one[0], prompts.text_of(llm, one), tok.token_bytes(one[0])) if tok else None
    return completion_logprobs(ids, output.prompt_logprobs, prompts.offsets(llm, ids), first)


def _answer(output: CompletionOutput | None = None) -> StreamChunk:
    """A finished answer as one chunk; without one, the empty answer to `max_tokens: 0`."""
    from ..outputs import StreamChunk

    if output is None:
        return StreamChunk("", finish_reason="length")
    return StreamChunk(
        output.text,
        list(output.token_ids),
        output.logprobs,
        output.finish_reason,
        output.stop_reason,
        output.text_offsets,
        routed_experts=output.routed_experts,
        routed_expert_weights=output.routed_expert_weights,
    )
