"""The endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from ..errors import RequestError
from ..serve import prompts
from .guard import TOKENS
from .logprobs import completion_logprobs, token_name
from .routed import traced
from .schema import (
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionLogprobs,
    CompletionRequest,
    Detokenized,
    DetokenizeRequest,
    Model,
    ModelList,
    ProblemReply,
    Sampling,
    TokenizeRequest,
    Tokens,
)
from .service import Generation, Job, Service
from .stream import (
    Answer,
    ChatShape,
    CompletionShape,
    Echo,
    EventStream,
    Shape,
    collect,
    events,
    usage_of,
)

if TYPE_CHECKING:
    from ..llm import LLM
    from ..outputs import CompletionOutput, RequestOutput

# How long a stream waits for its first token before it commits itself to status 200.
SETTLE_S = 1.0
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemReply} for status in (400, 401, 404, 413, 415, 429, 500, 503)
}


def make_router(service: Service, keep_alive_s: float) -> APIRouter:
    """All endpoints on `service`."""
    router = APIRouter(responses=_PROBLEMS)
    _add_status(router, service)
    _add_text(router, service)
    _add_generation(router, service, keep_alive_s)
    return router


def has_endpoint(app: FastAPI, scope: Scope) -> bool:
    """Whether path and method are those of an endpoint."""
    return any(route.matches(scope)[0] is Match.FULL for route in app.routes)


def _add_status(router: APIRouter, service: Service) -> None:
    @router.get("/health")
    async def health() -> dict[str, str]:
        """200 while the model can answer, 503 while it loads, drains or when it has died."""
        service.require()
        return {"status": "ok"}

    @router.get("/version")
    async def version() -> dict[str, str]:
        """The package's version."""
        try:
            return {"version": metadata.version("ling")}
        except metadata.PackageNotFoundError:  # run from a source folder
            return {"version": "unknown"}

    @router.get("/v1/models")
    async def models() -> ModelList:
        """The one model this server has."""
        return ModelList(data=[_model(service)])

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> Model:
        """The model by its name."""
        _check_model(service, name)
        return _model(service)


def _add_text(router: APIRouter, service: Service) -> None:
    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Tokens:
        """Token ids of a text or of rendered messages."""
        llm = service.require()
        _check_model(service, body.model)
        if body.messages is None:
            work = partial(prompts.encode_text, llm, body.prompt or "")
        else:
            work = partial(prompts.encode_chat, llm, body, body.messages)
        ids = await service.call(work)
        return Tokens(count=len(ids), max_model_len=llm.max_model_len, tokens=ids)

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Detokenized:
        """Text of token ids, control tokens included."""
        llm = service.require()
        _check_model(service, body.model)
        return Detokenized(prompt=await service.call(partial(prompts.decode, llm, body.tokens)))


def _add_generation(router: APIRouter, service: Service, keep_alive_s: float) -> None:
    @router.post("/v1/chat/completions", response_model=ChatCompletion)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        llm = service.require()
        _check_model(service, body.model)
        jobs, prompt_tokens = await service.call(partial(_chat_jobs, llm, body))
        top = (body.top_logprobs or 0) if body.logprobs else None
        shape = ChatShape(service.name, top)
        generation = service.generate(jobs)
        return await _reply(request, body, generation, shape, prompt_tokens, keep_alive_s)

    @router.post("/v1/completions", response_model=Completion)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue one or more prompts."""
        llm = service.require()
        _check_model(service, body.model)
        jobs, prompt_tokens = await service.call(partial(_completion_jobs, llm, body))
        echoes, answers = await service.call(partial(_echo, llm, body, jobs))
        shape = CompletionShape(service.name, body.logprobs is not None, echoes, body.n or 1)
        if answers is not None:
            spent = sum(len(a.token_ids) for a in answers)
            request.scope[TOKENS] = lambda: (prompt_tokens, spent)
            return _json(shape.whole(answers, usage_of(prompt_tokens, spent)))
        generation = service.generate(jobs)
        return await _reply(request, body, generation, shape, prompt_tokens, keep_alive_s)


def _model(service: Service) -> Model:
    llm = service.require()
    return Model(id=service.name, created=service.created, max_model_len=llm.max_model_len)


def _check_model(service: Service, name: str | None) -> None:
    if name is not None and name != service.name:
        raise RequestError(
            f"the model `{name[:200]}` is not here; this server has `{service.name}`",
            status=404,
            code="model_not_found",
            param="model",
        )


def _chat_jobs(llm: LLM, body: ChatRequest) -> tuple[list[Job], int]:
    ids = prompts.encode_chat(llm, body, body.messages)
    return [Job(ids, p) for p in prompts.chat_params(llm, body, ids)], len(ids)


def _completion_jobs(llm: LLM, body: CompletionRequest) -> tuple[list[Job], int]:
    """Jobs in the order of `choices`: all of the first prompt, then all of the second."""
    jobs, prompt_tokens = [], 0
    for ids in prompts.completion_prompts(llm, body):
        jobs += [Job(ids, p) for p in prompts.completion_params(llm, body, ids)]
        prompt_tokens += len(ids)
    return jobs, prompt_tokens


def _echo(
    llm: LLM, body: CompletionRequest, jobs: Sequence[Job]
) -> tuple[list[Echo], list[Answer] | None]:
    """What `echo` puts before each choice, and the answers if scoring the prompts gave them too.

    Evaluation harnesses ask for `echo`, `logprobs` and at most one new token: that is one pass.
    """
    n = body.n or 1
    if not body.echo:
        return [Echo() for _ in jobs], None
    texts = [
        given if isinstance(given, str) else prompts.text_of(llm, job.prompt_token_ids)
        for given, job in zip(body.prompt, jobs[::n], strict=True)
    ]
    outputs = None if body.logprobs is None else prompts.score(llm, jobs[::n], body.logprobs)
    marks = [None] * len(texts) if outputs is None else [_prompt_logprobs(llm, o) for o in outputs]
    echoes = [Echo(text=t, logprobs=m) for t, m in zip(texts, marks, strict=True) for _ in range(n)]
    if body.max_tokens == 0:
        return echoes, [Answer(finish_reason="length") for _ in jobs]
    if outputs is None or body.stream or n > 1 or body.max_tokens != 1:
        return echoes, None
    return echoes, [_answer(output.outputs[0]) for output in outputs]


def _prompt_logprobs(llm: LLM, output: RequestOutput) -> CompletionLogprobs:
    ids = output.prompt_token_ids
    assert output.prompt_logprobs is not None
    # The first token has no candidates, yet its text is known.
    tok, one = llm.tokenizer, ids[:1]
    first = token_name(one[0], prompts.text_of(llm, one), tok.token_bytes(one[0])) if tok else None
    return completion_logprobs(ids, output.prompt_logprobs, prompts.offsets(llm, ids), first)


def _answer(output: CompletionOutput) -> Answer:
    return Answer(
        text=output.text,
        token_ids=list(output.token_ids),
        logprobs=list(output.logprobs or []),
        text_offsets=list(output.text_offsets or []),
        finish_reason=output.finish_reason,
        routed=traced(output),
    )


async def _reply(
    request: Request,
    body: Sampling,
    generation: Generation,
    shape: Shape,
    prompt_tokens: int,
    keep_alive_s: float,
) -> Response:
    num_choices = generation.num_open
    request.scope[TOKENS] = lambda: (prompt_tokens, generation.num_tokens)
    try:
        if not body.stream:
            answers = await _unless_gone(request, generation, num_choices)
            spent = sum(len(a.token_ids) for a in answers)
            return _json(shape.whole(answers, usage_of(prompt_tokens, spent)))
        await generation.settle(SETTLE_S)
    except BaseException:
        generation.close()
        raise
    text = events(
        generation,
        shape,
        num_choices=num_choices,
        prompt_tokens=prompt_tokens,
        options=body.stream_options,
        keep_alive_s=keep_alive_s,
    )
    return EventStream(text, generation.close)


async def _unless_gone(request: Request, generation: Generation, num_choices: int) -> list[Answer]:
    """Collect the answers; a client that leaves meanwhile stops the work."""
    work = asyncio.create_task(collect(generation, num_choices))
    gone = asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise RequestError("the client has left", status=499)
    finally:
        work.cancel()
        gone.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(reply: ChatCompletion | Completion) -> Response:
    return Response(reply.model_dump_json(), media_type="application/json")
