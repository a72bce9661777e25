"""The endpoints."""

from __future__ import annotations

import time
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from ..errors import RequestError
from ..serve import prompts
from .echo import echoes_of, scores_prompts
from .reply import Prepared, reply
from .schema import (
    ChatCompletion,
    ChatRequest,
    Completion,
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
from .service import Generation, Job, Service, Terms
from .stream import ChatShape, CompletionShape

if TYPE_CHECKING:
    from ..llm import LLM

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemReply} for status in (400, 401, 404, 413, 415, 429, 500, 503, 504)
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
        ids = await service.call_text(work)
        return Tokens(count=len(ids), max_model_len=llm.max_model_len, tokens=ids)

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Detokenized:
        """Text of token ids, control tokens included."""
        llm = service.require()
        _check_model(service, body.model)
        work = partial(prompts.decode, llm, body.tokens)
        return Detokenized(prompt=await service.call_text(work))


def _add_generation(router: APIRouter, service: Service, keep_alive_s: float) -> None:
    @router.post("/v1/chat/completions", response_model=ChatCompletion)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        llm = service.require()
        _check_model(service, body.model)
        generation = service.admit(body.n or 1, _terms(body, request, is_chat_turn=True))
        work = _prepare_chat(service, llm, body, generation)
        return await reply(request, body, generation, work, keep_alive_s)

    @router.post("/v1/completions", response_model=Completion)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue one or more prompts."""
        llm = service.require()
        _check_model(service, body.model)
        count = len(body.prompt) * (body.n or 1)
        generation = service.admit(count, _terms(body, request, is_chat_turn=False))
        work = _prepare_completion(service, llm, body, generation)
        return await reply(request, body, generation, work, keep_alive_s)


async def _prepare_chat(
    service: Service, llm: LLM, body: ChatRequest, generation: Generation
) -> Prepared:
    def queue() -> int:
        jobs, prompt_tokens = _chat_jobs(llm, body)
        generation.start(llm, jobs)
        return prompt_tokens

    top = (body.top_logprobs or 0) if body.logprobs else None
    return Prepared(ChatShape(service.name, top), await service.call(queue))


async def _prepare_completion(
    service: Service, llm: LLM, body: CompletionRequest, generation: Generation
) -> Prepared:
    # Scoring is a pass of its own before the choices, within their admission.
    scoring = service.part_of(generation, len(body.prompt)) if scores_prompts(body) else None
    jobs, prompt_tokens = await service.call(partial(_completion_jobs, llm, body))
    echoes, answers = await echoes_of(service, llm, body, jobs, scoring)
    if answers is None:
        await service.call(partial(generation.start, llm, jobs))
    shape = CompletionShape(service.name, body.logprobs is not None, echoes, body.n or 1)
    return Prepared(shape, prompt_tokens, answers)


def _terms(body: Sampling, request: Request, *, is_chat_turn: bool) -> Terms:
    """Requests share the engine by API key and salt."""
    from ..infer.request import SchedulingParams

    salt = body.cache_salt or ""
    scheduling = SchedulingParams(
        priority=body.priority or 0,
        share_key=f"{request.headers.get('authorization', '')} {salt}",
        deadline=None if body.timeout_s is None else time.monotonic() + body.timeout_s,
        is_chat_turn=is_chat_turn,
    )
    return Terms(scheduling, salt)


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
