"""Drafting: tokens that the next step verifies, from the MTP layers and from the text so far.

MTP layer j proposes token t + j + 2 at position t; the last layer drafts further, fed with its own
output one position later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .choice import RowChoice, next_choice
from .constraint import allowed_drafts, is_single
from .failures import alone
from .mtp_rows import Head, catch_up, next_heads, postpone, waiting_rows
from .ngram import NgramIndex
from .request import Guess, Request
from .runner import Runner
from .scheduler import ScheduledRequest
from .speculative import DraftPolicy, Plan


class Drafter:
    """Drafts at most `num_drafts` tokens a request and step, while that pays; always this many when
    not `adaptive`. Keeps the MTP layers' cache aligned with the requests.
    """

    def __init__(
        self,
        num_drafts: int,
        adaptive: bool,
        stop_token_ids: frozenset[int],
        *,
        uses_mtp: bool = True,
        uses_ngrams: bool = False,
    ) -> None:
        self.num_drafts, self.stop_token_ids = num_drafts, stop_token_ids
        self.uses_mtp, self.uses_ngrams = uses_mtp, uses_ngrams
        self.policy = DraftPolicy(num_drafts, adaptive, uses_mtp, uses_ngrams)
        self.is_right = is_right
        """How a guess is judged once its position has a token."""
        self.seconds = 0.0
        """What drafting took in the last step."""

    def draft(
        self, runner: Runner, step: list[ScheduledRequest], verified: list[int], hidden: Tensor
    ) -> None:
        """Draft for the requests of a step, of which `verified` rows each are known to stay."""
        begin = time.perf_counter()
        for s in step:
            if s.request.guesses:
                self._learn(s.request)
        live = [
            (s, n) for s, n in zip(step, verified, strict=True) if s.request.finish_reason is None
        ]
        if live:
            plan = self.policy.plan(sum(s.reaches_end for s, _ in live) or 1)
            if self.uses_ngrams:
                self._draft_ngrams(plan, live)
            if self.uses_mtp:
                self._draft_mtp(runner, plan, live, hidden, begin)
        self.seconds = time.perf_counter() - begin

    def _learn(self, request: Request) -> None:
        """Compare what was drafted, verified or not, with the tokens that the request has got."""
        failed = None
        for g in request.guesses:
            if g.position < len(request.tokens) and g.acceptance is not failed:
                right = self.is_right(request, g)
                g.acceptance.learn(g.depth, g.bin, right, self.policy.step)
                failed = failed if right else g.acceptance
        request.guesses = []

    def observe(self, step: list[ScheduledRequest], verified: list[int], seconds: float) -> None:
        """Tell the policy what a pure decode step cost and brought."""
        if self.policy.skips_step():
            return
        if any(not s.reaches_end for s in step):
            return
        prompt = sum(len(s.ids) - s.num_drafts for s in step) > len(step)
        rows = sum(len(s.ids) for s in step)
        if any(s.num_forced for s in step):
            # What forced tokens bring says nothing about drafts.
            self.policy.observe_rows(rows, seconds, self.seconds)
        elif not prompt:
            self.policy.observe(len(step), rows, sum(verified), seconds, self.seconds)

    # ---- n-grams -------------------------------------------------------------------------------

    def _draft_ngrams(self, plan: Plan, live: Sequence[tuple[ScheduledRequest, int]]) -> None:
        for s, _ in live:
            request = s.request
            if request.ngrams is None:
                request.ngrams = NgramIndex()
            if not s.reaches_end:
                request.ngrams.extend(request.tokens, request.num_computed_tokens)
                continue
            if not request.num_forced:
                alone(request, partial(self._draft_ngram, plan, request, request.ngrams))

    def _draft_ngram(self, plan: Plan, request: Request, ngrams: NgramIndex) -> None:
        most = min(self.num_drafts, _room(request))
        tokens, match = ngrams.draft(request.tokens, most)
        self._offer(plan, request, allowed_drafts(request.constraint, tokens), match)

    def _offer(self, plan: Plan, request: Request, tokens: list[int], match: int) -> None:
        """Draft as many of the tokens as pay, unless the MTP layer promises more; the next one is
        only judged."""
        acceptance, start = self.policy.ngram, len(request.tokens)
        bin = acceptance.bin(match)
        chances = [acceptance.chance(depth, bin) for depth in range(1, len(tokens) + 1)]
        count, saved = plan.ngrams_kept(chances)
        if saved <= plan.gain and plan.keeps_mtp:
            count = 0
        request.drafts = tokens[:count]
        request.guesses = [
            Guess(start + i, token, acceptance, i + 1, bin, i < count)
            for i, token in enumerate(tokens[: count + 1])
        ]

    # ---- MTP layers ----------------------------------------------------------------------------

    def _draft_mtp(
        self,
        runner: Runner,
        plan: Plan,
        live: Sequence[tuple[ScheduledRequest, int]],
        hidden: Tensor,
        begin: float,
    ) -> None:
        rows = 0
        reading: list[tuple[ScheduledRequest, int]] = []
        for s, n in live:
            drafts = plan.runs_mtp and s.reaches_end and not s.request.drafts
            prompt = len(s.ids) - s.num_drafts > 1
            if not s.request.follows_mtp:
                continue
            if drafts or prompt:
                reading.append((s, n))
                rows += n + waiting_rows(s.request)
            else:
                postpone(s.request, hidden, s.start, n)
        if not reading:
            return
        heads = catch_up(runner, reading, hidden)
        heads = [h for h in heads if plan.runs_mtp and not h.request.drafts]
        usual = rows <= len(heads) * (self.num_drafts + 1)
        for depth in range(1, self.num_drafts + 1):
            # Drafting past the end would be work for nothing.
            heads = [h for h in heads if _room(h.request) > 0]
            if not heads:
                return
            count = len(heads)
            self._choose(runner, heads)
            heads = [h for h in heads if self._keep(plan, h, depth)]
            now = time.perf_counter()
            if usual or depth > 1:
                self.policy.costs.observe_pass(depth, count, now - begin, self.policy.step)
            begin = now
            heads = [h for h in heads if self.policy.goes_deeper(plan, depth + 1, h.reach)]
            if heads:
                heads = next_heads(runner, heads, depth)

    def _keep(self, plan: Plan, head: Head, depth: int) -> bool:
        """Whether the draft that was chosen last is worth its row; if not, it is taken back."""
        request, acceptance = head.request, self.policy.mtp
        if head.is_forced:  # says nothing about the layer
            kept = plan.keeps(depth, head.reach)
            if not kept:
                request.drafts.pop()
            return kept
        bin = acceptance.bin(head.probability)
        head.reach *= acceptance.chance(depth, bin)
        position = len(request.tokens) + len(request.drafts) - 1
        kept, draft = plan.keeps(depth, head.reach), request.drafts[-1]
        request.guesses.append(Guess(position, draft, acceptance, depth, bin, kept))
        if not kept:
            request.drafts.pop()
        return kept

    def _choose(self, runner: Runner, heads: list[Head]) -> None:
        """Add a draft to each request; a head that gives none is removed."""
        scores = runner.logits(torch.cat([h.hidden for h in heads]), runner.draft_vocab)
        # Chosen as the model will: the same noise, mask and penalties.
        choices = [self._choice(h) for h in heads]
        for head, chosen in zip(list(heads), runner.choose(scores, choices), strict=True):
            # The model's own scores decide about the request.
            if chosen.error is not None or head.request.error is not None:
                heads.remove(head)
            else:
                head.request.drafts.append(chosen.token_id)
                head.probability = math.exp(chosen.logprob)

    def _choice(self, head: Head) -> RowChoice:
        request, made = head.request, [RowChoice()]

        def make() -> None:
            made.append(next_choice(request, request.drafts, self.stop_token_ids, num_best=0))

        alone(request, make)
        head.is_forced = is_single(made[-1].mask)
        return made[-1]


def is_right(request: Request, guess: Guess) -> bool:
    """Whether a request's token is the one that was guessed."""
    return request.tokens[guess.position] == guess.token


def _room(request: Request) -> int:
    """Drafts that the next step could still verify; it gives one token more than it has drafts."""
    return request.max_tokens - request.num_output_tokens - 1 - len(request.drafts)
