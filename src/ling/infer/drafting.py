"""Drafting with the MTP layers: tokens that the next step verifies.

At position t an MTP layer gets token t + 1 and the final hidden state of t, and proposes token
t + 2; further drafts feed it its own output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .choice import next_choice
from .pages import Segment
from .request import Request
from .runner import Runner
from .scheduler import ScheduledRequest
from .speculative import DraftPolicy


@dataclass
class _Head:
    """Where a request's next draft comes from: an MTP layer's output row at a position."""

    request: Request
    hidden: Tensor
    position: int


class Drafter:
    """Keeps the MTP layers' cache aligned with the requests, and drafts while that pays.

    At most `num_drafts` tokens a step, always that many when not `adaptive`.
    """

    def __init__(self, num_drafts: int, adaptive: bool, stop_token_ids: frozenset[int]) -> None:
        self.num_drafts, self.stop_token_ids = num_drafts, stop_token_ids
        self.policy = DraftPolicy(num_drafts, adaptive)

    def draft(
        self, runner: Runner, step: list[ScheduledRequest], verified: list[int], hidden: Tensor
    ) -> None:
        """Run MTP over the verified rows of a step (`verified` of each request), and draft from the
        last ones."""
        live = [
            (s, n) for s, n in zip(step, verified, strict=True) if s.request.finish_reason is None
        ]
        if not live:
            return
        wanted = self.policy.num_drafts(len(live))
        if not wanted and all(n == 1 and not s.num_drafts for s, n in live):
            # The layer's cache falls behind; what it missed goes first when drafting resumes.
            for s, _ in live:
                s.request.backlog.append(hidden[s.start : s.start + 1].clone())
            return
        heads = self._catch_up(runner, live, hidden)
        for k in range(wanted):
            # Drafting past the end would be work for nothing.
            heads = [h for h in heads if _has_room(h.request)]
            if not heads:
                return
            self._choose(runner, heads)
            if heads and k + 1 < wanted:
                heads = self._next(runner, heads, k + 1)

    def _catch_up(
        self, runner: Runner, live: Sequence[tuple[ScheduledRequest, int]], hidden: Tensor
    ) -> list[_Head]:
        """Show the first MTP layer all rows that it has not seen."""
        rows: list[Tensor] = []
        tokens: list[int] = []
        segments: list[Segment] = []
        start = 0
        for s, n in live:
            request = s.request
            first, until = s.first - len(request.backlog), s.first + n
            rows += [*request.backlog, hidden[s.start : s.start + n]]
            tokens += request.tokens[first + 1 : until + 1]
            pages = request.block_table.pages
            segments.append(Segment(pages, first, start, start + until - first))
            start += until - first
            request.backlog, request.num_mtp_computed_tokens = [], until
        out = runner.mtp(0, tokens, rows[0] if len(rows) == 1 else torch.cat(rows), segments)
        return [
            _Head(s.request, out[g.stop - 1 : g.stop], g.first + g.stop - g.start - 1)
            for (s, _), g in zip(live, segments, strict=True)
            if s.reaches_end
        ]

    def _choose(self, runner: Runner, heads: list[_Head]) -> None:
        """Add a draft to each request; a head that gives none is removed."""
        scores = runner.logits(torch.cat([h.hidden for h in heads]), runner.draft_vocab)
        # Chosen as the model will: the same noise, mask and penalties.
        choices = [
            next_choice(h.request, h.request.drafts, self.stop_token_ids, num_best=None)
            for h in heads
        ]
        for head, chosen in zip(list(heads), runner.choose(scores, choices), strict=True):
            if chosen.error is not None:  # the model's own scores decide about the request
                heads.remove(head)
            else:
                head.request.drafts.append(chosen.token_id)

    def _next(self, runner: Runner, heads: list[_Head], k: int) -> list[_Head]:
        """Feed the drafts to the MTP layer of draft `k`, the last one again where there are
        fewer."""
        layers = runner.config.num_nextn_predict_layers
        tokens = [h.request.drafts[-1] for h in heads]
        segments = [
            Segment(h.request.block_table.pages, h.position + 1, i, i + 1)
            for i, h in enumerate(heads)
        ]
        hidden = torch.cat([h.hidden for h in heads])
        out = runner.mtp(min(k, layers - 1), tokens, hidden, segments)
        return [_Head(h.request, out[i : i + 1], h.position + 1) for i, h in enumerate(heads)]

    def observe(self, step: list[ScheduledRequest], verified: list[int], seconds: float) -> None:
        """Tell the policy what a pure decode step cost and brought."""
        if any(not s.reaches_end for s in step):
            return
        prompt = sum(len(s.ids) - s.num_drafts for s in step) > len(step)
        if not prompt:
            drafted = max(s.num_drafts for s in step)
            self.policy.observe(len(step), drafted, sum(verified) / len(step), seconds)


def _has_room(request: Request) -> bool:
    return len(request.drafts) < request.max_tokens - request.num_output_tokens - 1
