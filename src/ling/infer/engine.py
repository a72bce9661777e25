"""The engine: schedule → run → choose → draft, over one flat token axis of all running requests."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..config.engine import DEFAULTS, EngineConfig
from ..errors import RequestError, UsageError
from .drafting import Drafter
from .limits import Limits
from .logprobs import score_prompt
from .memory import default_pages
from .page_store import open_store
from .pages import PagePool
from .request import Request, SamplingParams, whole_numbers
from .routed import RoutedExperts, StepRouting, wants_routing
from .runner import HasId, Runner
from .sampler import check_finite, next_token
from .scheduler import ScheduledRequest, Scheduler
from .stats import Stats


class Engine:
    """Continuous batching on token ids; results do not depend on what shares the batch.

    `has_id(i)` says which ids may be produced; not `adaptive`, every step drafts the most tokens.
    Raises `UsageError` for a context or a way of drafting that the model does not have.
    """

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig = DEFAULTS,
        *,
        stop_token_ids: Sequence[int] = (),
        has_id: HasId | None = None,
        adaptive: bool = True,
    ) -> None:
        model = runner.config
        if config.speculative == "mtp" and not model.num_nextn_predict_layers:
            raise UsageError(
                "`speculative` is `mtp`, but the model has no MTP layer "
                "(`num_nextn_predict_layers` = 0)"
            )
        longest, wanted = model.context_length, config.max_model_len
        if wanted is not None and not 1 <= wanted <= longest:
            raise UsageError(f"`max_model_len` is {wanted}, the model allows 1 to {longest}")
        self.runner, self.config, self.seed = runner, model, config.seed
        self.max_model_len = wanted or longest
        self.num_drafts = config.most_drafts
        self.stop_token_ids = frozenset(stop_token_ids)
        most = self.max_model_len + self.num_drafts + 1
        size = runner.page_bytes()
        self.pool = PagePool(config.num_pages or default_pages(most, size, runner.mapped_bytes))
        runner.allocate(self.pool.num_pages)
        runner.ban_ids(has_id)
        self.scheduler = Scheduler(self.pool, runner.max_step_tokens, config)
        self.store = self.scheduler.store = open_store(runner, self.pool, config)
        self.drafter = Drafter(self.num_drafts, adaptive, self.stop_token_ids)
        self.limits = Limits(
            model.vocab_size, self.max_model_len, self.pool.num_pages, self.num_drafts
        )
        self.routing = StepRouting(model)
        self.stats, self._numbers = Stats(), itertools.count(1)

    # ---- requests ------------------------------------------------------------------------------

    def request(
        self,
        token_ids: Sequence[int],
        params: SamplingParams,
        seed_offset: int = 0,
        cache_salt: str = "",
    ) -> Request:
        """Check and number a request, without queueing it; any thread may, also during a step.

        Without `params.seed` the seed is the engine's plus the request's number. Cached prefixes
        are shared only between requests of one `cache_salt`. Raises `RequestError` for ids outside
        the vocabulary or no room.
        """
        ids = whole_numbers(token_ids)
        if ids is None:
            raise RequestError("token ids are a list of whole numbers", param="prompt")
        max_tokens = self.limits.max_tokens(ids, params.max_tokens, params.min_tokens)
        if params.return_routed_experts and not self.config.num_experts:
            raise RequestError("this model has no experts", param="return_routed_experts")
        number = next(self._numbers)
        seed = self.seed * 1_000_003 + number if params.seed is None else params.seed
        request = Request(number, ids, params, seed + seed_offset, max_tokens, cache_salt)
        if params.return_routed_experts:
            request.routed_experts = RoutedExperts(self.config, len(ids), max_tokens)
        return request

    def add(
        self,
        token_ids: Sequence[int],
        params: SamplingParams,
        seed_offset: int = 0,
        cache_salt: str = "",
    ) -> Request:
        """Queue a request; raises what `request` does."""
        request = self.request(token_ids, params, seed_offset, cache_salt)
        self.scheduler.add(request)
        return request

    def abort(self, request: Request) -> None:
        """Drop a request and free its pages; a finished one is left alone."""
        self.scheduler.abort(request)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return self.scheduler.has_work

    # ---- one step ------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Advance the batch by one forward pass; returns the requests that got tokens or failed."""
        begin = time.perf_counter()
        step = self.scheduler.schedule()
        if not step:
            return []
        traced = wants_routing(step)
        if traced:
            self.routing.begin(sum(len(s.ids) for s in step))
            self.runner.trace_experts(self.routing)
        hidden = self.runner.forward([i for s in step for i in s.ids], [s.segment() for s in step])
        for s in step:
            _alone(s.request, partial(score_prompt, self.runner, s, hidden))
        verified = self._advance(step, hidden)
        if traced:
            self.routing.keep(step, verified)
        if self.num_drafts:
            self.drafter.draft(self.runner, step, verified, hidden)
        self.scheduler.end_step(step)
        self.runner.step_done()
        seconds = time.perf_counter() - begin
        self.stats.seconds += seconds
        if self.num_drafts:
            self.drafter.observe(step, verified, seconds)
        return [s.request for s in step if s.reaches_end or s.request.error]

    def _advance(self, step: list[ScheduledRequest], hidden: Tensor) -> list[int]:
        """Choose tokens; returns how many rows of each request are now verified."""
        rows = [
            s.start + len(s.ids) - 1 - s.num_drafts + i
            for s in step
            if s.reaches_end
            for i in range(s.num_drafts + 1)
        ]
        if rows:
            whole = len(rows) == len(hidden)
            logits, best = self.runner.logits(hidden if whole else hidden[rows])
        banned, verified, at = self.runner.banned_ids(), [], 0
        for s in step:
            if not s.reaches_end:
                s.request.num_computed_tokens += len(s.ids)
                verified.append(len(s.ids))
                continue
            stop = at + s.num_drafts + 1
            verified.append(self._accept(s, logits[at:stop], best[at:stop], banned))
            at = stop
        return verified

    def _accept(
        self, s: ScheduledRequest, logits: Tensor, best: list[int], banned: Tensor | None
    ) -> int:
        """Emit tokens as long as the drafts are what the model itself chooses."""
        request, num_accepted = s.request, 0
        for i in range(s.num_drafts + 1):
            if request.finish_reason is None:
                _alone(request, partial(self._emit, request, logits[i], best[i], banned))
            if request.finish_reason is not None or i == s.num_drafts:
                break
            if not self.agrees(request, request.drafts[i]):
                break
            num_accepted += 1
        if s.num_drafts:
            request.num_drafted += s.num_drafts
            request.num_accepted += num_accepted
            self.stats.drafted += s.num_drafts
            self.stats.accepted += num_accepted
        verified = len(s.ids) - s.num_drafts + num_accepted
        request.num_computed_tokens += verified
        request.drafts = []
        return verified

    def agrees(self, request: Request, draft: int) -> bool:
        """Whether the model's own token is the drafted one."""
        return request.tokens[-1] == draft

    def _emit(self, request: Request, logits_V: Tensor, best: int, banned: Tensor | None) -> None:
        params, tokens = request.params, request.tokens
        check_finite(logits_V, len(tokens))
        token = next_token(request, logits_V, best, tokens, banned, self.stop_token_ids)
        if params.logprobs is not None:
            request.logprobs.append(logits_V.log_softmax(-1))
        tokens.append(token)
        self.stats.generated += 1
        done = len(tokens) - request.num_prompt_tokens
        if done >= max(params.min_tokens, 1) and self._stops(params, token):
            request.finish_reason, request.stop_reason = "stop", token
        elif done >= request.max_tokens:
            request.finish_reason = "length"

    def _stops(self, params: SamplingParams, token: int) -> bool:
        if token in (params.stop_token_ids or ()):
            return True
        return not params.ignore_eos and token in self.stop_token_ids


def _alone(request: Request, work: Callable[[], None]) -> None:
    """Do work for one request of a step; where it cannot be done, this request fails alone."""
    try:
        work()
    except RequestError as error:
        request.fail(error)
