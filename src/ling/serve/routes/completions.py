"""`/v1/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import Response

from .. import prompts
from ..admission import adapter_of, model_for, terms_of
from ..completion_shape import CompletionShape
from ..constrained import compiled, ignored_header
from ..echo import echoes_of, scores_prompts
from ..published import EVENTS
from ..reply import Prepared, reply
from ..schema.completion import CompletionRequest
from ..schema.replies import Completion
from ..service import Generation, Job, Service
from ..timings import when

if TYPE_CHECKING:
    from ...grammar.spec import StructuredOutputs
    from ...llm import LLM


def add_completions(router: APIRouter, service: Service, keep_alive_s: float) -> None:
    """`/v1/completions`."""

    @router.post("/v1/completions", response_model=Completion, responses=EVENTS)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue one or more prompts."""
        llm = model_for(service, body.model)
        count = len(body.prompt) * (body.n or 1)
        adapter = adapter_of(service, body.model)
        terms = terms_of(body, request, adapter=adapter, is_chat_turn=False)
        generation = service.admit(count, terms)
        work = _prepare(service, llm, body, generation)
        stream = bool(body.stream)
        return await reply(request, generation, work, stream=stream, keep_alive_s=keep_alive_s)


async def _prepare(
    service: Service, llm: LLM, body: CompletionRequest, generation: Generation
) -> Prepared:
    # Scoring is a pass of its own before the choices, within their admission.
    scoring = service.part_of(generation, len(body.prompt)) if scores_prompts(body) else None
    param, spec = body.structured()
    ignored: Sequence[str] = ()
    if spec is not None:
        ignored = await service.call_compiler(partial(compiled, llm, spec, "none", param))
    jobs = await service.call(partial(_jobs, llm, body, spec))
    echoes, answers = await echoes_of(service, llm, body, jobs, scoring)
    if answers is None:
        await service.call(partial(generation.start, llm, jobs))
    n = body.n or 1
    shape = CompletionShape(
        body.model,
        body.logprobs is not None,
        echoes,
        n,
        body.stream_options,
        prompts=[job.prompt_token_ids for job in jobs] if body.return_token_ids else None,
        timings=when(body),
        requests=generation.requests,
    )
    prompt_tokens = sum(len(job.prompt_token_ids) for job in jobs[::n])
    return Prepared(shape, prompt_tokens, answers, ignored_header(ignored))


def _jobs(llm: LLM, body: CompletionRequest, spec: StructuredOutputs | None) -> list[Job]:
    """Jobs in the order of `choices`: all of the first prompt, then all of the second."""
    given = prompts.completion_prompts(llm, body)
    params = ((ids, p) for ids in given for p in prompts.completion_params(llm, body, ids, spec))
    return [Job(ids, p) for ids, p in params]
