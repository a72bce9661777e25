"""The engine: schedule → run → choose, over one flat token axis of all running requests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RequestError, UsageError
from ..model.ling import Ling
from ..model.swap import row_blocks, swap
from .pages import PAGE, PagedAttend, PagePool, Segment
from .request import Request, SamplingParams
from .sampler import choose

MAX_STEP_TOKENS = 512
DEFAULT_CACHE_BYTES = 512 << 20


@dataclass
class Stats:
    """Totals since the engine was made."""

    generated: int = 0
    seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second of engine time, prefill included."""
        return self.generated / self.seconds if self.seconds else 0.0

    @property
    def acceptance(self) -> float | None:
        """Share of drafts that the model itself would have chosen; None without drafts."""
        return self.accepted / self.drafted if self.drafted else None


@dataclass
class _Work:
    """Rows of one request in this step: tokens from `first`, the last `drafts` of them drafted."""

    request: Request
    ids: list[int]
    first: int
    drafts: int
    reaches_end: bool
    start: int = 0

    def segment(self, rows: int | None = None) -> Segment:
        stop = self.start + (len(self.ids) if rows is None else rows)
        return Segment(self.request.pages, self.first, self.start, stop)


class Engine:
    """Continuous batching on token ids; results do not depend on what shares the batch.

    `has_id(i)` says which ids may be produced. `speculative="mtp"` drafts `num_drafts` tokens a
    step. Raises `UsageError` for speculation without MTP layers.
    """

    def __init__(
        self,
        model: Ling,
        *,
        max_model_len: int | None = None,
        num_pages: int | None = None,
        speculative: str = "off",
        num_drafts: int = 1,
        stop_token_ids: Sequence[int] = (),
        has_id: Callable[[int], bool] | None = None,
        seed: int = 0,
    ) -> None:
        cfg = model.config
        if speculative not in ("off", "mtp"):
            raise UsageError(f"`speculative` is `{speculative}`, expected mtp or off")
        if speculative == "mtp" and not cfg.num_nextn_predict_layers:
            raise UsageError(
                "`speculative` is `mtp`, but the model has no MTP layer "
                "(`num_nextn_predict_layers` = 0)"
            )
        longest = cfg.max_position_embeddings
        if max_model_len is not None and not 1 <= max_model_len <= longest:
            raise UsageError(f"`max_model_len` is {max_model_len}, the model allows 1 to {longest}")
        swap(model.eval(), row_blocks)
        self.model, self.seed = model, seed
        self.max_model_len = max_model_len or longest
        self.num_drafts = num_drafts if speculative == "mtp" else 0
        self.stop_token_ids = frozenset(stop_token_ids)
        dtype = model.model.norm.weight.dtype
        self.pool = PagePool(cfg, num_pages or self._default_pages(dtype), dtype)
        self.banned = None
        if has_id is not None:
            banned = [i for i in range(cfg.vocab_size) if not has_id(i)]
            self.banned = torch.tensor(banned) if banned else None
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.stats, self._count = Stats(), 0

    def _default_pages(self, dtype: torch.dtype) -> int:
        """Room for the longest request, and for as many more as half a gigabyte holds."""
        cfg = self.model.config
        per_page = cfg.num_cache_layers * 2 * cfg.kv_size * PAGE * dtype.itemsize
        one = -(-(self.max_model_len + self.num_drafts + 1) // PAGE)
        return max(one, min(DEFAULT_CACHE_BYTES // per_page, 16 * one))

    # ---- requests ------------------------------------------------------------------------------

    def add(
        self, token_ids: Sequence[int], params: SamplingParams, seed_offset: int = 0
    ) -> Request:
        """Queue a request. Raises `RequestError` for ids outside the vocabulary or no room.

        Without `params.seed` the seed is the engine's plus the request's number.
        """
        ids, vocab = [int(i) for i in token_ids], self.model.config.vocab_size
        if not ids:
            raise RequestError("the prompt is empty", param="prompt")
        bad = [i for i in ids if not 0 <= i < vocab]
        if bad:
            raise RequestError(
                f"token id {bad[0]} is outside the vocabulary of {vocab}", param="prompt"
            )
        room = self.max_model_len - len(ids)
        if room < 1:
            raise RequestError(
                f"the prompt has {len(ids)} tokens, the context holds {self.max_model_len} with at "
                "least one to generate",
                code="context_length_exceeded",
                param="prompt",
            )
        length = min(room, params.max_tokens or room)
        need = -(-(len(ids) + length + self.num_drafts) // PAGE)
        if need > self.pool.num_pages:
            raise RequestError(
                f"{len(ids) + length} tokens need {need} pages, the KV cache has "
                f"{self.pool.num_pages}",
                code="context_length_exceeded",
                param="max_tokens",
            )
        self._count += 1
        seed = (
            self.seed * 1_000_003 + self._count if params.seed is None else params.seed
        ) + seed_offset
        request = Request(self._count, ids, params, seed, length)
        self.waiting.append(request)
        return request

    def abort(self, request: Request) -> None:
        """Drop a request and free its pages; a finished one is left alone."""
        if request.finish_reason is None:
            self._finish(request, "abort")
        if request in self.waiting:
            self.waiting.remove(request)
        if request in self.running:
            self.running.remove(request)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.waiting or self.running)

    # ---- one step ------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Advance the batch by one forward pass; returns the requests that got tokens."""
        begin = time.perf_counter()
        work = self._schedule()
        if not work:
            return []
        rows = [i for w in work for i in w.ids]
        positions = torch.tensor([w.first + i for w in work for i in range(len(w.ids))])
        attend = PagedAttend(self.pool, [w.segment() for w in work])
        hidden_TD = self.model(torch.tensor(rows), positions, attend)
        kept = [self._advance(w, hidden_TD) for w in work]
        if self.num_drafts:
            self._draft(work, kept, hidden_TD, positions)
        for w in work:
            if w.request.finish_reason is not None:
                self.running.remove(w.request)
        self.stats.seconds += time.perf_counter() - begin
        return [w.request for w in work if w.reaches_end]

    def _schedule(self) -> list[_Work]:
        """Decode first, then prefill chunks, within the token budget; oldest first."""
        work: list[_Work] = []
        budget = MAX_STEP_TOKENS
        for request in list(self.running):
            if request in self.running and budget > 0:
                budget -= self._place(request, budget, work)
        while self.waiting and budget > 0:
            request = self.waiting[0]
            if not self.pool.take(
                request.pages, min(len(request.tokens), budget) + self.num_drafts
            ):
                break
            self.running.append(self.waiting.popleft())
            budget -= self._place(request, budget, work)
        start = 0
        for w in work:
            w.start, start = start, start + len(w.ids)
        return work

    def _place(self, request: Request, budget: int, work: list[_Work]) -> int:
        left = len(request.tokens) - request.computed
        drafts = request.drafts if left + len(request.drafts) <= budget else []
        ids = (request.tokens[request.computed :] + drafts)[:budget]
        placed = {id(w.request) for w in work}
        while not self.pool.take(request.pages, request.computed + len(ids) + self.num_drafts):
            victim = self.running[-1]
            if id(victim) in placed:  # already part of this step; wait for the next
                return 0
            self._preempt(victim)
            if victim is request:
                return 0
        work.append(_Work(request, ids, request.computed, len(drafts), len(ids) >= left))
        return len(ids)

    def _preempt(self, request: Request) -> None:
        """Take back a request's pages; it will be computed anew, with the same tokens."""
        self.pool.give_back(request.pages)
        request.computed, request.drafts = 0, []
        self.running.remove(request)
        self.waiting.appendleft(request)

    def _advance(self, w: _Work, hidden_TD: Tensor) -> int:
        """Choose tokens for one request; returns how many of its rows are now verified."""
        request, n = w.request, len(w.ids)
        self._score_prompt(w, hidden_TD)
        if not w.reaches_end:
            request.computed += n
            return n
        rows = hidden_TD[w.start + n - 1 - w.drafts : w.start + n]
        logits = self.model.logits(rows)
        kept = n - w.drafts
        for i in range(w.drafts + 1):
            self._emit(request, logits[i])
            if request.finish_reason is not None or i == w.drafts:
                break
            if request.tokens[-1] != request.drafts[i]:
                break
            kept += 1
        if w.drafts:
            accepted = kept - (n - w.drafts)
            for counter in (self.stats, request):
                counter.drafted += w.drafts
                counter.accepted += accepted
        request.computed += kept
        request.drafts = []
        return kept

    def _emit(self, request: Request, logits_V: Tensor) -> None:
        params = request.params
        if params.logprobs is not None:
            request.logprobs.append(logits_V.log_softmax(-1))
        token = self._choose(request, logits_V, request.tokens)
        request.tokens.append(token)
        self.stats.generated += 1
        done = len(request.output)
        if done >= max(params.min_tokens, 1) and self._stops(request, token):
            self._finish(request, "stop")
            request.stop_reason = token
        elif done >= request.max_tokens:
            self._finish(request, "length")

    def _stops(self, request: Request, token: int) -> bool:
        params = request.params
        if token in (params.stop_token_ids or ()):
            return True
        return not params.ignore_eos and token in self.stop_token_ids

    def _choose(self, request: Request, logits_V: Tensor, tokens: list[int]) -> int:
        params, scores = request.params, logits_V
        early = len(tokens) - request.num_prompt < params.min_tokens
        if self.banned is not None or early:
            scores = scores.clone()
            if self.banned is not None:
                scores[self.banned] = float("-inf")
            if early:
                stops = [*self.stop_token_ids, *(params.stop_token_ids or ())]
                scores[stops] = float("-inf")
        return choose(scores, params, request.seed, tokens, request.num_prompt)

    def _score_prompt(self, w: _Work, hidden_TD: Tensor) -> None:
        """Log-probabilities of prompt tokens, each row scoring the token after it."""
        request = w.request
        if request.params.prompt_logprobs is None:
            return
        have = len(request.prompt_logprobs) + 1  # the first token has none
        first, last = max(w.first, have - 1), min(w.first + len(w.ids), request.num_prompt - 1)
        if last > first:
            a = w.start + first - w.first
            logits = self.model.logits(hidden_TD[a : a + last - first])
            request.prompt_logprobs += list(logits.log_softmax(-1))

    def _finish(self, request: Request, reason: str) -> None:
        request.finish_reason = reason
        self.pool.give_back(request.pages)

    # ---- drafting ------------------------------------------------------------------------------

    def _draft(
        self, work: list[_Work], kept: list[int], hidden_TD: Tensor, positions_T: Tensor
    ) -> None:
        """Run MTP over the verified rows, which keeps its cache aligned, and draft from the last.

        At position t the layer gets token t + 1 and the final hidden state of t, and proposes
        token t + 2; further drafts feed it its own output (spec: inference §6.1).
        """
        live = [(w, n) for w, n in zip(work, kept, strict=True) if w.request.finish_reason is None]
        if not live:
            return
        index = torch.tensor([w.start + i for w, n in live for i in range(n)])
        tokens = [w.request.tokens[w.first + i + 1] for w, n in live for i in range(n)]
        segments, start = [], 0
        for w, n in live:
            segments.append(Segment(w.request.pages, w.first, start, start + n))
            start += n
        attend = PagedAttend(self.pool, segments)
        out = self.model.mtp(0, torch.tensor(tokens), hidden_TD[index], positions_T[index], attend)
        ends = [
            (w, out[s.stop - 1 : s.stop], s.first + s.stop - s.start - 1)
            for (w, _), s in zip(live, segments, strict=True)
            if w.reaches_end
        ]
        for step in range(self.num_drafts):
            if not ends:
                return
            scores = self.model.logits(torch.cat([h for _, h, _ in ends]))
            for (w, _, _), row in zip(ends, scores, strict=True):
                request = w.request
                request.drafts.append(self._choose(request, row, request.tokens + request.drafts))
            if step + 1 < self.num_drafts:
                ends = self._continue(ends, step + 1)
        for w, _, _ in ends:
            # Drafting past the end would be work for nothing.
            request = w.request
            request.drafts = request.drafts[: max(request.max_tokens - len(request.output) - 1, 0)]

    def _continue(
        self, ends: list[tuple[_Work, Tensor, int]], step: int
    ) -> list[tuple[_Work, Tensor, int]]:
        layers = self.model.config.num_nextn_predict_layers
        tokens = torch.tensor([w.request.drafts[-1] for w, _, _ in ends])
        positions = torch.tensor([p + 1 for _, _, p in ends])
        segments = [Segment(w.request.pages, p + 1, i, i + 1) for i, (w, _, p) in enumerate(ends)]
        hidden = torch.cat([h for _, h, _ in ends])
        out = self.model.mtp(
            min(step, layers - 1), tokens, hidden, positions, PagedAttend(self.pool, segments)
        )
        return [(w, out[i : i + 1], p + 1) for i, (w, _, p) in enumerate(ends)]
