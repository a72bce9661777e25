"""The engine: schedule → run → choose → draft, over one flat token axis of all running requests."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from ..config.engine import DEFAULTS, EngineConfig
from ..config.model import ModelConfig
from ..errors import RequestError, UsageError
from ..text import size
from .choice import Chosen, RowChoice, next_choices
from .constraint import Constraint, TimedConstraint, draft_forced
from .drafting import Drafter
from .failures import alone, run_step
from .limits import Limits
from .page_store import open_store
from .pages import PAGE, PagePool
from .request import DEFAULT_SCHEDULING, Request, SamplingParams, SchedulingParams, whole_numbers
from .routed import RoutedExperts, StepRouting, first_position, wants_routing
from .runner import HasId, Runner
from .scheduler import ScheduledRequest, Scheduler
from .scoring import score_prompt
from .step_cost import StepCost


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
        if config.speculative == "auto" and not model.num_nextn_predict_layers:
            config = dataclasses.replace(config, speculative="ngram")
        longest, wanted = model.context_length, config.max_model_len
        if wanted is not None and not 1 <= wanted <= longest:
            raise UsageError(f"`max_model_len` is {wanted}, the model allows 1 to {longest}")
        self.runner, self.config, self.seed = runner, model, config.seed
        self.max_model_len = wanted or longest
        self.num_drafts = config.most_drafts
        self.stop_token_ids = frozenset(stop_token_ids)
        most = self.max_model_len + self.num_drafts + 1
        page_bytes = runner.page_bytes()
        self.pool = PagePool(config.num_pages or _num_pages(config, most, page_bytes, runner))
        runner.allocate(self.pool.num_pages)
        if config.uses_mtp:
            self.pool.clear = runner.clear_mtp
        runner.ban_ids(has_id)
        self.scheduler = Scheduler(
            self.pool, runner.max_step_tokens, config, StepCost(_expert_share(model))
        )
        self.store = self.scheduler.store = open_store(runner, self.pool, config)
        self.drafter = Drafter(
            self.num_drafts,
            adaptive,
            self.stop_token_ids,
            uses_mtp=config.uses_mtp,
            uses_ngrams=config.uses_ngrams,
        )
        self.limits = Limits(
            model.vocab_size, self.max_model_len, self.pool.num_pages, self.num_drafts
        )
        self.routing = StepRouting(model)
        self.stats, self._numbers = self.scheduler.stats, itertools.count(1)

    # ---- requests ------------------------------------------------------------------------------

    def request(
        self,
        token_ids: Sequence[int],
        params: SamplingParams,
        seed_offset: int = 0,
        cache_salt: str = "",
        scheduling: SchedulingParams = DEFAULT_SCHEDULING,
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> Request:
        """Check and number a request, without queueing it; any thread may, also during a step.

        `constraint` is this request's alone, at its beginning. Without `params.seed` the seed is
        the engine's plus the request's number. Cached prefixes are shared only between requests of
        one `cache_salt` and one `adapter`, which is a name among those of the runner, None for the
        weights as they are. Raises `RequestError` for ids outside the vocabulary, no room or no
        such adapter.
        """
        ids = whole_numbers(token_ids)
        if ids is None:
            raise RequestError("token ids are a list of whole numbers", param="prompt")
        max_tokens = self.limits.max_tokens(ids, params.max_tokens, params.min_tokens)
        self.limits.check_results(params, len(ids), max_tokens)
        if params.return_routed_experts and not self.config.num_experts:
            raise RequestError("this model has no experts", param="return_routed_experts")
        adapter_number = self.runner.adapters.number(adapter)
        number = next(self._numbers)
        seed = self.seed * 1_000_003 + number if params.seed is None else params.seed
        request = Request(
            number,
            ids,
            params,
            seed + seed_offset,
            max_tokens,
            cache_salt,
            scheduling,
            adapter=adapter_number,
        )
        if constraint is not None:
            request.constraint = TimedConstraint(constraint, self.stats.grammar_mask.observe)
        if params.return_routed_experts:
            start = first_position(params.routed_experts_start_len, len(ids))
            request.routed_experts = RoutedExperts(self.config, len(ids), max_tokens, start)
        return request

    def add(
        self,
        token_ids: Sequence[int],
        params: SamplingParams,
        seed_offset: int = 0,
        cache_salt: str = "",
        scheduling: SchedulingParams = DEFAULT_SCHEDULING,
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> Request:
        """Queue a request; raises what `request` does."""
        request = self.request(
            token_ids, params, seed_offset, cache_salt, scheduling, constraint, adapter
        )
        self.scheduler.add(request)
        return request

    def abort(self, request: Request, reason: str = "abort") -> None:
        """Drop a request and free its pages; a finished one is left alone, and keeps its reason."""
        self.scheduler.abort(request, reason)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return self.scheduler.has_work

    # ---- one step ------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Advance the batch by one forward pass; returns the requests that got tokens or failed."""
        begin = time.perf_counter()
        late = self.scheduler.expire(time.monotonic())
        step = self.scheduler.schedule()
        if not step:
            return late
        self.stats.begin_step(step)
        step, failed, hidden = run_step(self.runner, step, self.routing)
        for request in failed:
            self.scheduler.drop(request)
        for s in step:
            alone(s.request, partial(score_prompt, self.runner, s, hidden))
        verified = self._advance(step, hidden)
        if wants_routing(step):
            self.routing.keep(step, verified)
        for s in step:
            if s.reaches_end:
                alone(s.request, partial(draft_forced, s.request))
        if self.num_drafts:
            self.drafter.draft(self.runner, step, verified, hidden)
        seconds = time.perf_counter() - begin
        self.stats.seconds += seconds
        if self.store is not None:  # what was read is not what these rows cost
            seconds -= self.store.seconds
        self.stats.end_step(step)
        self.scheduler.end_step(step, seconds)
        self.runner.step_done()
        if self.num_drafts:
            self.drafter.observe(step, verified, seconds)
        return late + failed + [s.request for s in step if s.reaches_end or s.request.error]

    def _advance(self, step: list[ScheduledRequest], hidden: Tensor) -> list[int]:
        """Choose tokens; returns how many rows of each request are now verified."""
        rows = [
            s.start + len(s.ids) - 1 - s.num_drafts + i
            for s in step
            if s.reaches_end
            for i in range(s.num_drafts + 1)
        ]
        chosen: Iterator[Chosen] = iter(())
        if rows:
            whole = len(rows) == len(hidden)
            at = torch.tensor(rows).to(hidden.device)
            scores = self.runner.logits(hidden if whole else hidden.index_select(0, at))
            choices = [choice for s in step if s.reaches_end for choice in self._choices(s, scores)]
            chosen = iter(self.runner.choose(scores, choices))
        verified = []
        for s in step:
            if s.reaches_end:
                verified.append(self._accept(s, list(islice(chosen, s.num_drafts + 1))))
            else:
                s.request.num_computed_tokens += len(s.ids)
                verified.append(len(s.ids))
        return verified

    def _choices(self, s: ScheduledRequest, scores: Tensor) -> list[RowChoice]:
        made: list[RowChoice] = []
        vocab = scores.shape[1]
        alone(
            s.request,
            lambda: made.extend(next_choices(s.request, s.num_drafts, self.stop_token_ids, vocab)),
        )
        # Of a request that failed, what is chosen is not looked at.
        return made or [RowChoice()] * (s.num_drafts + 1)

    def _accept(self, s: ScheduledRequest, chosen: Sequence[Chosen]) -> int:
        """Emit tokens as long as the drafts are what the model itself chooses."""
        request, num_accepted = s.request, 0
        s.num_forced = min(request.num_forced, s.num_drafts)
        for i in range(s.num_drafts + 1):
            if request.finish_reason is None:
                alone(request, partial(self._emit, request, chosen[i]))
            if request.finish_reason is not None or i == s.num_drafts:
                break
            if not self.agrees(request, request.drafts[i]):
                break
            num_accepted += 1
        if s.num_forced:
            self.stats.forced += num_accepted
        elif s.num_drafts:
            request.num_drafted += s.num_drafts
            request.num_accepted += num_accepted
            self.stats.drafted += s.num_drafts
            self.stats.accepted += num_accepted
        verified = len(s.ids) - s.num_drafts + num_accepted
        request.num_computed_tokens += verified
        request.drafts, request.num_forced = [], 0
        return verified

    def agrees(self, request: Request, draft: int) -> bool:
        """Whether the model's own token is the drafted one."""
        return request.tokens[-1] == draft

    def _emit(self, request: Request, chosen: Chosen) -> None:
        params, tokens, token = request.params, request.tokens, chosen.token()
        if params.logprobs is not None:
            request.logprobs.append(chosen)
        tokens.append(token)
        self.stats.generated += 1
        done, constraint = len(tokens) - request.num_prompt_tokens, request.constraint
        if constraint is not None:
            constraint.accept(token)
        is_complete = constraint is not None and constraint.is_done
        if is_complete or (done >= max(params.min_tokens, 1) and self._stops(params, token)):
            request.finish_reason, request.stop_reason = "stop", token
        elif done >= request.max_tokens:
            request.finish_reason = "length"

    def _stops(self, params: SamplingParams, token: int) -> bool:
        if token in (params.stop_token_ids or ()):
            return True
        return not params.ignore_eos and token in self.stop_token_ids


def _num_pages(config: EngineConfig, most: int, page_bytes: int, runner: Runner) -> int:
    """Pages of the KV cache for requests of at most `most` positions."""
    given = config.kv_cache_memory_bytes
    if given is None:
        return runner.default_pages(most)
    if given < page_bytes:
        raise UsageError(
            f"`kv_cache_memory` is {size(given)}, and a page of {PAGE} positions takes "
            f"{size(page_bytes)}"
        )
    return given // page_bytes


def _expert_share(model: ModelConfig) -> float:
    """The share of a layer's experts that one token reaches."""
    return model.num_experts_per_tok / model.num_experts if model.num_experts else 1.0
