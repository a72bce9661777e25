"""Which requests run in a step, with how many tokens each, and on which pages of the KV cache."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.engine import EngineConfig
from ..errors import RequestError
from .allowance import Allowance
from .pages import PAGE, PagePool, Segment, pages_for
from .prompt_parts import PromptParts
from .request import Request
from .stats import Stats
from .step_cost import StepCost, StepLoad
from .turns import ShareKey, Turns

if TYPE_CHECKING:
    from .page_store import PageStore


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
    num_forced: int = 0
    """Of the drafts: those that a constraint forced; known once they are verified."""

    def segment(self) -> Segment:
        """Where its rows are, and its pages."""
        pages = self.request.block_table.pages
        stop = self.start + len(self.ids)
        return Segment(pages, self.first, self.start, stop, self.request.adapter)


def assign_rows(step: list[ScheduledRequest]) -> None:
    """Let the rows of a step follow each other on one axis."""
    start = 0
    for scheduled in step:
        scheduled.start, start = start, start + len(scheduled.ids)


def load_of(step: list[ScheduledRequest]) -> StepLoad:
    """What a step has to compute."""
    return StepLoad(
        sum(len(s.ids) for s in step),
        sum(len(s.ids) * (s.first + len(s.ids) / 2) for s in step),
        sum(s.num_drafts + 1 for s in step if s.reaches_end),
    )


class Scheduler:
    """Continuous batching: all decodes first, then prompts in turns (`turns.py`), in parts that let
    the step end within `max_step_ms` while another caller waits (`prompt_parts.py`,
    `allowance.py`).

    `max_step_tokens` is the most rows of a step. Every scheduled request has room in its pages for
    the drafts of a step. A request starts when there is room for all of its tokens. Where pages run
    out later the youngest of the worst priority is preempted: its pages are freed, and it is
    computed again, with the same tokens. So is one whose key has two more than that of a request
    that finds no room, or one of a worse priority.
    """

    def __init__(
        self,
        pool: PagePool,
        max_step_tokens: int,
        config: EngineConfig,
        cost: StepCost | None = None,
    ) -> None:
        self.pool, self.max_step_tokens = pool, max_step_tokens
        self.num_drafts = config.most_drafts
        self.max_num_seqs = config.max_num_seqs
        self.allowance = Allowance(config.max_step_ms / 1000, cost or StepCost())
        self.store: PageStore | None = None
        """Where to look for pages that are no longer, or not yet, in the pool."""
        self.waiting, self.stats = Turns(), Stats()
        self.running: list[Request] = []
        self._parts = PromptParts(self.waiting, self.allowance, self._start, self._is_open)
        self._with_deadline: set[Request] = set()
        self._first_decode = 0
        # Of the step that is being made: its rows, those that were preempted for it, who do not
        # take the room again that they made, those that wait for more of their pages from the
        # store, for whom there is room, and the number of running requests from which on a key may
        # start no more.
        self._step: list[ScheduledRequest] = []
        self._preempted: set[Request] = set()
        self._loading: set[Request] = set()
        self._closed_from = sys.maxsize

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.add(request)
        if request.scheduling.deadline is not None:
            self._with_deadline.add(request)

    def abort(self, request: Request, reason: str = "abort") -> None:
        """Drop a request and free its pages; one that was dropped is left alone. In a step that
        failed as a whole requests may have ended and still have their pages."""
        request.finish_reason = request.finish_reason or reason
        if request in self.running or request in self.waiting:
            self.drop(request)

    def drop(self, request: Request) -> None:
        """Free a finished request's pages, and forget it."""
        was_running = request in self.running
        self.stats.end(request)
        self.free(request)
        self.waiting.end(request, was_running)
        self._with_deadline.discard(request)

    def expire(self, now: float) -> list[Request]:
        """Fail and return the requests whose deadline is over (`time.monotonic()`)."""
        late = [r for r in self._with_deadline if now > (r.scheduling.deadline or now)]
        for request in late:
            request.fail(RequestError.timed_out())
            self.drop(request)
        return late

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.running) or len(self.waiting) > 0

    # ---- one step ------------------------------------------------------------------------------

    def schedule(self) -> list[ScheduledRequest]:
        """The rows of the next step."""
        self._step, self._preempted, self._closed_from = [], set(), sys.maxsize
        self._loading = set()
        if self.store is not None:
            self.store.begin_step()
        self._schedule_decodes()
        rows = self.max_step_tokens - sum(len(s.ids) for s in self._step)
        if rows > 0 and self._has_prompts():
            load = load_of(self._step)
            self.allowance.begin(load, rows, self.waiting.has_several_callers)
            self._schedule_prompts()
        assign_rows(self._step)
        return self._step

    def _has_prompts(self) -> bool:
        return len(self.waiting) > 0 or not all(r.is_decoding for r in self.running)

    def _schedule_decodes(self) -> None:
        decodes = [r for r in self.running if r.is_decoding]
        at = self._first_decode % max(len(decodes), 1)
        self._first_decode, rows = 0, self.max_step_tokens
        for i, request in enumerate(decodes[at:] + decodes[:at]):
            if rows <= 0:  # the next step begins with those that found no row
                self._first_decode = at + i
                return
            if request not in self._preempted:
                rows -= self._schedule(request, rows)

    def _schedule_prompts(self) -> None:
        """Plan the parts of prompts, best priority first, then schedule them."""
        parts = self._parts
        parts.begin(self.running)
        for priority in self.waiting.priorities():
            if self.allowance.is_used:
                break
            parts.plan(priority)
            if self._closed_from < sys.maxsize:  # room that comes free is for this priority
                self._closed_from = 0
        for request, num_tokens in parts.tokens.items():
            if request not in self._preempted:
                self._schedule(request, num_tokens)

    # ---- room ----------------------------------------------------------------------------------

    def _is_open(self, key: ShareKey) -> bool:
        """Whether requests of this key may start: where one found no room, only those of keys with
        fewer running ones do, so that the room that comes free is kept for it."""
        return key.running < self._closed_from

    def _start(self, request: Request) -> bool:
        """Let a waiting request run, if there is room or can be made; its pages are the cached ones
        of its prefix. While more of them are to be read than a step may, it keeps its turn."""
        key = self.waiting.key(request)
        if request in self._preempted:
            self._closed_from = min(self._closed_from, key.running)
        if request in self._loading or not self._is_open(key):
            return False
        seats = self.max_num_seqs
        while len(self.running) + len(self._loading) >= seats or not self._has_room(request):
            self._forget(request)
            victim = self._victim(request, key)
            if victim is None:
                self._closed_from = min(self._closed_from, key.running)
                return False
            self.preempt(victim)
            self._step = [s for s in self._step if s.request is not victim]
        if not self._load_prefix(request):
            self._forget(request)
            self._loading.add(request)
            return False
        self.waiting.start(request)
        self.running.append(request)
        return True

    def _has_room(self, request: Request) -> bool:
        """Whether all tokens of a waiting request fit beside those that run, or will soon; it has
        its cached pages then."""
        self._reuse_prefix(request)
        taken = (*self.running, *self._loading)
        free = self.pool.available - sum(map(self._num_missing_pages, taken))
        return self._num_missing_pages(request) <= free

    def _num_missing_pages(self, request: Request) -> int:
        need = pages_for(len(request.tokens) + self.num_drafts)
        return max(0, need - len(request.block_table.pages))

    def _victim(self, request: Request, key: ShareKey) -> Request | None:
        """The running request that gives way to a waiting one: of a worse priority, or of a key
        with at least two more; the youngest of those with the most."""

        def rank(at: int) -> tuple[int, int, int]:
            other = self.running[at]
            return other.priority, self.waiting.key(other).running, at

        def gives_way(other: Request) -> bool:
            if other in self._parts.tokens or other.priority < request.priority:
                return False
            return (
                other.priority > request.priority
                or self.waiting.key(other).running >= key.running + 2
            )

        found = [i for i, other in enumerate(self.running) if gives_way(other)]
        return self.running[max(found, key=rank)] if found else None

    def _reuse_prefix(self, request: Request) -> None:
        """Start with the pool's cached pages, unless all of the prompt is to be computed."""
        if not request.params.computes_prompt:
            self.pool.reuse(request.block_table, _reusable(request), request.cache_salt)
            _note_prefix(request)

    def _load_prefix(self, request: Request) -> bool:
        """Continue the cached pages with the store's; False while there are more."""
        if self.store is None or request.params.computes_prompt:
            return True
        table = request.block_table
        is_whole = self.store.load(table, _reusable(request), request.cache_salt)
        _note_prefix(request)
        return is_whole

    def _schedule(self, request: Request, rows: int) -> int:
        """Add a running request to the step; returns its tokens, 0 when it must wait for pages."""
        first = request.num_computed_tokens
        left = len(request.tokens) - first
        drafts = request.drafts if left + len(request.drafts) <= rows else []
        ids = (request.tokens[first : first + rows] + drafts)[:rows]
        positions = first + len(ids) + self.num_drafts
        while not self.pool.allocate(request.block_table, positions):
            at = max(range(len(self.running)), key=lambda i: (self.running[i].priority, i))
            victim = self.running[at]
            if any(s.request is victim for s in self._step):  # runs already; wait for the next step
                return 0
            self.preempt(victim)
            if victim is request:
                return 0
        self._step.append(ScheduledRequest(request, ids, first, len(drafts), len(ids) >= left))
        return len(ids)

    def preempt(self, request: Request) -> None:
        """Free a running request's pages and let it wait in its old position."""
        self.free(request)
        self.stats.preemptions += 1
        self.waiting.stop(request)
        self._preempted.add(request)

    def free(self, request: Request) -> None:
        """Free a request's pages and forget what was computed in them."""
        if request.scheduling.is_chat_turn and request.finish_reason in ("stop", "length"):
            self.pool.free_turn(request.block_table)
        self._forget(request)
        if request in self.running:
            self.running.remove(request)

    def _forget(self, request: Request) -> None:
        self.pool.free(request.block_table)
        request.num_computed_tokens, request.drafts, request.backlogs = 0, [], []

    def end_step(self, step: list[ScheduledRequest], seconds: float) -> None:
        """Offer full pages to others, free those of finished requests, learn what a step takes."""
        self.allowance.cost.observe(load_of(step), seconds)
        for scheduled in step:
            request = scheduled.request
            if request.error is not None:  # what it computed is of use to nobody
                self.drop(request)
                continue
            done = request.num_computed_tokens
            self.pool.publish(request.block_table, request.tokens, request.cache_salt, done)
            if request.finish_reason is not None:
                self.drop(request)


def _reusable(request: Request) -> list[int]:
    """Tokens whose cached pages a request may use: those whose experts it asks for are computed,
    once, and so are those that score the next. The last of these tokens is computed in any case."""
    routed, params, stop = request.routed_experts, request.params, len(request.tokens)
    if routed is not None:
        stop = routed.stop + 1
    if params.prompt_logprobs is not None:
        stop = min(stop, params.first_scored + len(request.prompt_logprobs))
    return request.tokens[:stop]


def _note_prefix(request: Request) -> None:
    """The pages that a request has before it runs are computed."""
    cached = len(request.block_table.pages) * PAGE
    request.num_computed_tokens = cached
    if not request.num_output_tokens:  # a preempted one finds what it computed itself
        request.num_cached_tokens = max(request.num_cached_tokens, cached)
