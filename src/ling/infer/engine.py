"""The engine: schedule → run → choose, over one flat token axis of all running requests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RequestError, UsageError
from .memory import free_pages
from .pages import PagePool, Segment, pages_for
from .request import Request, SamplingParams
from .runner import HasId, Runner
from .sampler import choose
from .speculative import DraftPolicy

# Beside running decodes a prefill goes in smaller pieces, so that nobody waits long for a token.
MIXED_STEP_TOKENS = 512
DEFAULT_CACHE_BYTES = 1 << 30
SCORE_ROWS = 64


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
        return Segment(self.request.held.pages, self.first, self.start, stop)


class Engine:
    """Continuous batching on token ids; results do not depend on what shares the batch.

    `has_id(i)` says which ids may be produced. `speculative="mtp"` drafts up to `num_drafts` tokens
    a step, as long as that pays (`adaptive`). Raises `UsageError` for speculation without MTP
    layers.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_model_len: int | None = None,
        num_pages: int | None = None,
        speculative: str = "off",
        num_drafts: int = 1,
        adaptive: bool = True,
        stop_token_ids: Sequence[int] = (),
        has_id: HasId | None = None,
        seed: int = 0,
    ) -> None:
        cfg = runner.config
        if speculative not in ("off", "mtp"):
            raise UsageError(f"`speculative` is `{speculative}`, expected mtp or off")
        if speculative == "mtp" and not cfg.num_nextn_predict_layers:
            raise UsageError(
                "`speculative` is `mtp`, but the model has no MTP layer "
                "(`num_nextn_predict_layers` = 0)"
            )
        longest = cfg.context_length
        if max_model_len is not None and not 1 <= max_model_len <= longest:
            raise UsageError(f"`max_model_len` is {max_model_len}, the model allows 1 to {longest}")
        if num_pages is not None and num_pages < 1:
            raise UsageError(f"`num_pages` is {num_pages}, expected at least 1")
        self.runner, self.config, self.seed = runner, cfg, seed
        self.max_model_len = max_model_len or longest
        self.num_drafts = num_drafts if speculative == "mtp" else 0
        self.policy = DraftPolicy(self.num_drafts, adaptive)
        self.stop_token_ids = frozenset(stop_token_ids)
        self.pool = PagePool(num_pages or self._default_pages())
        runner.allocate(self.pool.num_pages)
        runner.ban(has_id)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.stats, self._count = Stats(), 0

    def _default_pages(self) -> int:
        """Room for the longest request, and for as many more as a gigabyte holds, if it is free."""
        one, size = pages_for(self.max_model_len + self.num_drafts + 1), self.runner.page_bytes()
        more = min(DEFAULT_CACHE_BYTES // size, 16 * one)
        return max(one, min(more, free_pages(size, self.runner.mapped_bytes)))

    # ---- requests ------------------------------------------------------------------------------

    def add(
        self,
        token_ids: Sequence[int],
        params: SamplingParams,
        seed_offset: int = 0,
        cache_salt: str = "",
    ) -> Request:
        """Queue a request. Raises `RequestError` for ids outside the vocabulary or no room.

        Without `params.seed` the seed is the engine's plus the request's number. Cached prefixes
        are shared only between requests of one `cache_salt`.
        """
        ids, vocab = [int(i) for i in token_ids], self.config.vocab_size
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
        need = pages_for(len(ids) + length + self.num_drafts)
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
        request = Request(self._count, ids, params, seed, length, cache_salt)
        self.waiting.append(request)
        return request

    def abort(self, request: Request) -> None:
        """Drop a request and free its pages; a finished one is left alone."""
        if request.finish_reason is not None:
            return
        request.finish_reason = "abort"
        self._release(request)
        if request in self.waiting:
            self.waiting.remove(request)

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
        tokens = [i for w in work for i in w.ids]
        hidden = self.runner.forward(tokens, [w.segment() for w in work])
        for w in work:
            self._score_prompt(w, hidden)
        kept = self._advance(work, hidden)
        if self.num_drafts:
            self._draft(work, kept, hidden)
        for w in work:
            request = w.request
            # A page is whole once the MTP layer, too, has filled it.
            done = request.computed
            if self.num_drafts:
                done = min(done, request.mtp_computed)
            self.pool.publish(request.held, request.tokens, request.cache_salt, done)
            if request.finish_reason is not None:
                self._release(request)
        self.runner.step_done()
        seconds = time.perf_counter() - begin
        self.stats.seconds += seconds
        self._learn(work, kept, seconds)
        return [w.request for w in work if w.reaches_end]

    def _schedule(self) -> list[_Work]:
        """Decode first, then prefill chunks, within the token budget; oldest first."""
        work: list[_Work] = []
        decoding = any(r.computed and r.computed + 1 >= len(r.tokens) for r in self.running)
        longest = self.runner.max_step_tokens
        budget = min(longest, MIXED_STEP_TOKENS) if decoding else longest
        for request in list(self.running):
            if request in self.running and budget > 0:
                budget -= self._place(request, budget, work)
        while self.waiting and budget > 0:
            request = self.waiting[0]
            if request.params.prompt_logprobs is None:
                request.computed = self.pool.reuse(request.held, request.tokens, request.cache_salt)
                request.mtp_computed = request.computed
                request.cached = max(request.cached, request.computed)
            ahead = min(len(request.tokens) - request.computed, budget) + self.num_drafts
            if not self.pool.take(request.held, request.computed + ahead):
                self._release(request)
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
        while not self.pool.take(request.held, request.computed + len(ids) + self.num_drafts):
            victim = self.running[-1]
            if id(victim) in placed:  # already part of this step; wait for the next
                return 0
            self._preempt(victim)
            if victim is request:
                return 0
        work.append(_Work(request, ids, request.computed, len(drafts), len(ids) >= left))
        return len(ids)

    def _release(self, request: Request) -> None:
        self.pool.give_back(request.held)
        request.computed = request.mtp_computed = 0
        request.drafts, request.backlog = [], []
        if request in self.running:
            self.running.remove(request)

    def _preempt(self, request: Request) -> None:
        """Take back a request's pages; it will be computed anew, with the same tokens."""
        self._release(request)
        self.waiting.appendleft(request)

    def _advance(self, work: list[_Work], hidden: Tensor) -> list[int]:
        """Choose tokens; returns how many rows of each request are now verified."""
        ends = [w for w in work if w.reaches_end]
        rows = [w.start + len(w.ids) - 1 - w.drafts + i for w in ends for i in range(w.drafts + 1)]
        if rows:
            whole = len(rows) == len(hidden)
            logits, best = self.runner.logits(hidden if whole else hidden[rows])
        kept, at = [], 0
        for w in work:
            if not w.reaches_end:
                w.request.computed += len(w.ids)
                kept.append(len(w.ids))
                continue
            stop = at + w.drafts + 1
            kept.append(self._accept(w, logits[at:stop], best[at:stop]))
            at = stop
        return kept

    def _accept(self, w: _Work, logits: Tensor, best: list[int]) -> int:
        """Emit tokens as long as the drafts are what the model itself chooses."""
        request = w.request
        kept = len(w.ids) - w.drafts
        for i in range(w.drafts + 1):
            self._emit(request, logits[i], best[i])
            if request.finish_reason is not None or i == w.drafts:
                break
            if not self._agrees(request, request.drafts[i]):
                break
            kept += 1
        if w.drafts:
            accepted = kept - (len(w.ids) - w.drafts)
            for counter in (self.stats, request):
                counter.drafted += w.drafts
                counter.accepted += accepted
        request.computed += kept
        request.drafts = []
        return kept

    def _agrees(self, request: Request, draft: int) -> bool:
        """Whether the model's own token is the drafted one."""
        return request.tokens[-1] == draft

    def _emit(self, request: Request, logits_V: Tensor, best: int) -> None:
        params = request.params
        if params.logprobs is not None:
            request.logprobs.append(logits_V.log_softmax(-1))
        token = self._choose(request, logits_V, best, request.tokens)
        request.tokens.append(token)
        self.stats.generated += 1
        done = len(request.tokens) - request.num_prompt
        if done >= max(params.min_tokens, 1) and self._stops(request, token):
            request.finish_reason, request.stop_reason = "stop", token
        elif done >= request.max_tokens:
            request.finish_reason = "length"

    def _stops(self, request: Request, token: int) -> bool:
        params = request.params
        if token in (params.stop_token_ids or ()):
            return True
        return not params.ignore_eos and token in self.stop_token_ids

    def _choose(self, request: Request, logits_V: Tensor, best: int, tokens: list[int]) -> int:
        params, scores = request.params, logits_V
        early = len(tokens) - request.num_prompt < params.min_tokens
        if params.plain_greedy and not early:
            return best
        banned = self.runner.banned_ids()
        if banned is not None or early:
            scores = scores.clone()
            if banned is not None:
                scores[banned[banned < len(scores)]] = float("-inf")
            if early:
                stops = [*self.stop_token_ids, *(params.stop_token_ids or ())]
                scores[[i for i in stops if i < len(scores)]] = float("-inf")
        return choose(scores, params, request.seed, tokens, request.num_prompt)

    def _score_prompt(self, w: _Work, hidden: Tensor) -> None:
        """Log-probabilities of prompt tokens, each row scoring the token after it."""
        request = w.request
        if request.params.prompt_logprobs is None:
            return
        have = len(request.prompt_logprobs) + 1  # the first token has none
        first, last = max(w.first, have - 1), min(w.first + len(w.ids), request.num_prompt - 1)
        offset = w.start - w.first
        for a in range(first, last, SCORE_ROWS):
            rows = hidden[a + offset : min(a + SCORE_ROWS, last) + offset]
            request.prompt_logprobs += list(self.runner.logits(rows)[0].log_softmax(-1))

    # ---- drafting ------------------------------------------------------------------------------

    def _draft(self, work: list[_Work], kept: list[int], hidden: Tensor) -> None:
        """Run MTP over the verified rows, which keeps its cache aligned, and draft from the last.

        At position t the layer gets token t + 1 and the final hidden state of t, and proposes
        token t + 2; further drafts feed it its own output (spec: inference §6.1).
        """
        live = [(w, n) for w, n in zip(work, kept, strict=True) if w.request.finish_reason is None]
        if not live:
            return
        wanted = self.policy.num_drafts(len(live))
        if not wanted and all(n == 1 and not w.drafts for w, n in live):
            # The layer's cache falls behind; what it missed goes first when drafting goes on.
            for w, _ in live:
                w.request.backlog.append(hidden[w.start : w.start + 1].clone())
            return
        rows, tokens, segments, start = [], [], [], 0
        for w, n in live:
            request = w.request
            first, until = w.first - len(request.backlog), w.first + n
            rows += [*request.backlog, hidden[w.start : w.start + n]]
            tokens += request.tokens[first + 1 : until + 1]
            segments.append(Segment(request.held.pages, first, start, start + until - first))
            start += until - first
            request.backlog, request.mtp_computed = [], until
        out = self.runner.mtp(0, tokens, rows[0] if len(rows) == 1 else torch.cat(rows), segments)
        ends = [
            (w, out[s.stop - 1 : s.stop], s.first + s.stop - s.start - 1)
            for (w, _), s in zip(live, segments, strict=True)
            if w.reaches_end
        ]
        for step in range(wanted):
            # Drafting past the end would be work for nothing.
            ends = [e for e in ends if self._wants_draft(e[0].request)]
            if not ends:
                return
            scores, best = self.runner.logits(
                torch.cat([h for _, h, _ in ends]), self.runner.draft_vocab
            )
            for (w, _, _), row, top in zip(ends, scores, best, strict=True):
                request = w.request
                tokens = request.tokens + request.drafts
                request.drafts.append(self._choose(request, row, top, tokens))
            if step + 1 < wanted:
                ends = self._continue(ends, step + 1)

    def _wants_draft(self, request: Request) -> bool:
        done = len(request.tokens) - request.num_prompt
        return len(request.drafts) < request.max_tokens - done - 1

    def _continue(
        self, ends: list[tuple[_Work, Tensor, int]], step: int
    ) -> list[tuple[_Work, Tensor, int]]:
        layers = self.config.num_nextn_predict_layers
        tokens = [w.request.drafts[-1] for w, _, _ in ends]
        segments = [
            Segment(w.request.held.pages, p + 1, i, i + 1) for i, (w, _, p) in enumerate(ends)
        ]
        hidden = torch.cat([h for _, h, _ in ends])
        out = self.runner.mtp(min(step, layers - 1), tokens, hidden, segments)
        return [(w, out[i : i + 1], p + 1) for i, (w, _, p) in enumerate(ends)]

    def _learn(self, work: list[_Work], kept: list[int], seconds: float) -> None:
        """Tell the draft policy what a pure decode step cost and brought."""
        if not self.num_drafts or any(not w.reaches_end for w in work):
            return
        prompt = sum(len(w.ids) - w.drafts for w in work) > len(work)
        if not prompt:
            drafted = max(w.drafts for w in work)
            self.policy.observe(len(work), drafted, sum(kept) / len(work), seconds)
