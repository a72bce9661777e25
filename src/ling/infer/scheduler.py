"""Which requests run in a step, with how many tokens each, and on which pages of the KV cache."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.engine import EngineConfig
from .pages import PAGE, PagePool, Segment
from .request import Request

if TYPE_CHECKING:
    from .page_store import PageStore

# Beside running decodes a prefill goes in smaller pieces, so that nobody waits long for a token.
MIXED_STEP_TOKENS = 512


@dataclass
class ScheduledRequest:
    """Rows of one request in a step: the tokens `ids` at positions from `first` on, of which the
    last `num_drafts` are drafts. `start` is its first row on the flat token axis."""

    request: Request
    ids: list[int]
    first: int
    num_drafts: int
    reaches_end: bool
    """Whether the last row's scores choose the request's next token."""
    start: int = 0

    def segment(self) -> Segment:
        """Where its rows are, and its pages."""
        pages = self.request.block_table.pages
        return Segment(pages, self.first, self.start, self.start + len(self.ids))


class Scheduler:
    """Continuous batching: decodes first, then prefills in chunks, the oldest request first.

    `max_step_tokens` is the token budget of a step. Every scheduled request has room in its pages
    for the drafts of a step. Where pages run out the youngest request is preempted: its
    pages are freed, and it is computed again later, with the same tokens.
    """

    def __init__(self, pool: PagePool, max_step_tokens: int, config: EngineConfig) -> None:
        self.pool, self.max_step_tokens = pool, max_step_tokens
        self.num_drafts = config.most_drafts
        self.store: PageStore | None = None
        """Where to look for pages that are no longer, or not yet, in the pool."""
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def add(self, request: Request) -> None:
        """Queue a request behind all others."""
        self.waiting.append(request)

    def abort(self, request: Request) -> None:
        """Drop a request and free its pages; a finished one is left alone."""
        if request.finish_reason is not None:
            return
        request.finish_reason = "abort"
        self.free(request)
        if request in self.waiting:
            self.waiting.remove(request)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.waiting or self.running)

    def schedule(self) -> list[ScheduledRequest]:
        """The rows of the next step, within its token budget."""
        step: list[ScheduledRequest] = []
        budget = self._budget()
        for request in list(self.running):
            if request in self.running and budget > 0:
                budget -= self._schedule(request, budget, step)
        while self.waiting and budget > 0:
            request = self.waiting[0]
            if not self._reuse_prefix(request):
                self.free(request)
                break
            ahead = min(len(request.tokens) - request.num_computed_tokens, budget)
            if not self._allocate(request, ahead):
                self.free(request)
                break
            self.running.append(self.waiting.popleft())
            budget -= self._schedule(request, budget, step)
        start = 0
        for scheduled in step:
            scheduled.start, start = start, start + len(scheduled.ids)
        return step

    def _budget(self) -> int:
        longest = self.max_step_tokens
        decoding = any(
            r.num_computed_tokens and r.num_computed_tokens + 1 >= len(r.tokens)
            for r in self.running
        )
        return min(longest, MIXED_STEP_TOKENS) if decoding else longest

    def _reuse_prefix(self, request: Request) -> bool:
        """Start with cached pages, unless all of the prompt is to be computed. False while more
        pages are to be read than a step should wait for."""
        if request.params.computes_prompt:
            return True
        table, whole = request.block_table, True
        cached = self.pool.reuse(table, request.tokens, request.cache_salt)
        if self.store is not None:
            whole = self.store.load(table, request.tokens, request.cache_salt)
            cached = len(table.pages) * PAGE
        request.num_computed_tokens = request.num_mtp_computed_tokens = cached
        request.num_cached_tokens = max(request.num_cached_tokens, cached)
        return whole

    def _allocate(self, request: Request, num_tokens: int) -> bool:
        positions = request.num_computed_tokens + num_tokens + self.num_drafts
        return self.pool.allocate(request.block_table, positions)

    def _schedule(self, request: Request, budget: int, step: list[ScheduledRequest]) -> int:
        """Add a running request to the step; returns its tokens, 0 when it must wait for pages."""
        first = request.num_computed_tokens
        left = len(request.tokens) - first
        drafts = request.drafts if left + len(request.drafts) <= budget else []
        ids = (request.tokens[first:] + drafts)[:budget]
        while not self._allocate(request, len(ids)):
            victim = self.running[-1]
            if any(s.request is victim for s in step):  # runs already; wait for the next step
                return 0
            self.preempt(victim)
            if victim is request:
                return 0
        step.append(ScheduledRequest(request, ids, first, len(drafts), len(ids) >= left))
        return len(ids)

    def preempt(self, request: Request) -> None:
        """Free a running request's pages and let it wait at the head of the queue."""
        self.free(request)
        self.waiting.appendleft(request)

    def free(self, request: Request) -> None:
        """Free a request's pages and forget what was computed in them."""
        self.pool.free(request.block_table)
        request.num_computed_tokens = request.num_mtp_computed_tokens = 0
        request.drafts, request.backlog = [], []
        if request in self.running:
            self.running.remove(request)

    def end_step(self, step: list[ScheduledRequest]) -> None:
        """Offer full pages to other requests, and free those of finished ones."""
        for scheduled in step:
            request = scheduled.request
            if request.error is not None:  # what it computed is of use to nobody
                self.free(request)
                continue
            # A page is whole once the MTP layer, too, has filled it.
            done = request.num_computed_tokens
            if self.num_drafts:
                done = min(done, request.num_mtp_computed_tokens)
            self.pool.publish(request.block_table, request.tokens, request.cache_salt, done)
            if request.finish_reason is not None:
                self.free(request)
