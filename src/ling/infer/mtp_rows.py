"""Which rows the MTP layers read, so that their cache follows the tokens of each request.

At position t layer j reads token t + j + 1 and what the layer before it gave at t (layer 0: the
final hidden state); its output scores token t + j + 2. Where the token is a draft the row is read
again once the token is known: a layer's cache counts up to there. What a layer has yet to read
waits in the request's backlogs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .pages import Segment
from .request import Backlog, Request
from .runner import Runner
from .scheduler import ScheduledRequest

MAX_BACKLOG = 1024
"""Rows that wait for a layer that does not draft; with more it no longer follows the request."""
FOLLOW_ROWS = 16
"""Rows that wait for a further layer before it reads them without drafting."""


@dataclass
class Head:
    """Where a request's next draft comes from: an MTP layer's output row at a position."""

    request: Request
    hidden: Tensor
    position: int
    on_drafts: list[Tensor] = field(default_factory=list)
    """The layer's outputs at the last positions, where it has read drafts."""
    probability: float = 0.0
    """What the layer gives to the draft that was chosen from it."""
    reach: float = 1.0
    """Chance that all drafts so far get accepted."""
    is_forced: bool = False
    """A constraint left one token only for the draft that was chosen last."""


@dataclass
class _Rows:
    """What a layer reads of a request: hidden states at the positions from `first` on."""

    request: Request
    first: int
    hidden: list[Tensor]


def catch_up(
    runner: Runner, reading: Sequence[tuple[ScheduledRequest, int]], hidden: Tensor
) -> list[Head]:
    """Show layer 0 all rows that it has not seen (of each request this many of this step's), and
    the other layers what has waited long. Returns heads of requests at their last token."""
    parts, layers = [], runner.config.num_nextn_predict_layers
    for s, n in reading:
        backlog = _backlog(s.request, 0)
        first = s.first - backlog.count
        parts.append(_Rows(s.request, first, [*backlog.take(), hidden[s.start : s.start + n]]))
    heads, untils = [], []
    for (s, n), out in zip(reading, _run(runner, 0, parts), strict=True):
        request, until = s.request, s.first + n
        if layers > 1:
            _backlog(request, 1).add(out)
            untils.append((request, until))
        _note_progress(request, until)
        if s.reaches_end:
            heads.append(Head(request, out[-1:], until - 1))
    for j in range(1, layers):
        _follow(runner, j, untils)
    return heads


def waiting_rows(request: Request) -> int:
    """Rows that layer 0 has yet to read."""
    return _backlog(request, 0).count


def postpone(request: Request, hidden: Tensor, start: int, n: int) -> None:
    """Keep rows of a step for later: layer 0 falls behind, and at last gives the request up."""
    backlog, rows = _backlog(request, 0), hidden[start : start + n]
    # A few rows of decodes are all kept by their requests; a prompt's would be kept for nothing.
    backlog.add(rows if len(hidden) <= FOLLOW_ROWS else rows.clone())
    if backlog.count > MAX_BACKLOG:
        request.backlogs, request.follows_mtp = [], False


def next_heads(runner: Runner, heads: list[Head], k: int) -> list[Head]:
    """Heads of the draft behind `k` others: of layer `k`, or of the last one again."""
    layers = runner.config.num_nextn_predict_layers
    if k < layers:
        return _next_layer(runner, heads, k)
    parts = [_Rows(h.request, h.position + 1, [h.hidden]) for h in heads]
    outs = _run(runner, layers - 1, parts)
    return [
        Head(h.request, out, h.position + 1, reach=h.reach)
        for h, out in zip(heads, outs, strict=True)
    ]


def _next_layer(runner: Runner, heads: list[Head], k: int) -> list[Head]:
    """Heads of layer `k`, which reads all that it has not seen, up to the same position."""
    layers, parts, known = runner.config.num_nextn_predict_layers, [], []
    for h in heads:
        backlog = _backlog(h.request, k)
        first = _first(h.request, k, h.position + 1)
        known.append(max(backlog.count - 1, 0))
        rows = backlog.take()
        if rows:
            # Its last row meets the first draft: it is read again with the token that gets chosen.
            backlog.add(rows[-1][-1:].clone())
        parts.append(_Rows(h.request, first, [*rows, *h.on_drafts]))
    after = []
    for h, n, out in zip(heads, known, _run(runner, k, parts), strict=True):
        if k + 1 < layers and n:
            _backlog(h.request, k + 1).add(out[:n].clone())
        _note_progress(h.request, h.position + 1)
        after.append(Head(h.request, out[-1:], h.position, [out[n:]], reach=h.reach))
    return after


def _follow(runner: Runner, j: int, requests: Sequence[tuple[Request, int]]) -> None:
    """Let layer `j` read what waits for it, where that is much and the tokens are known."""
    parts, untils = [], []
    for request, until in requests:
        backlog = _backlog(request, j)
        if backlog.count > FOLLOW_ROWS:
            first, rows = _first(request, j, until), torch.cat(backlog.take())
            backlog.add(rows[-1:].clone())
            parts.append(_Rows(request, first, [rows[:-1]]))
            untils.append(until)
    if not parts:
        return
    for p, until, out in zip(parts, untils, _run(runner, j, parts), strict=True):
        if j + 1 < runner.config.num_nextn_predict_layers:
            _backlog(p.request, j + 1).add(out)
        _note_progress(p.request, until)


def _run(runner: Runner, j: int, parts: Sequence[_Rows]) -> list[Tensor]:
    """Layer `j`'s output rows of each part."""
    tokens: list[int] = []
    segments: list[Segment] = []
    for p in parts:
        start, n = len(tokens), sum(map(len, p.hidden))
        tokens += _tokens(p.request, p.first + j + 1, n)
        segments.append(Segment(p.request.block_table.pages, p.first, start, start + n))
    rows = [r for p in parts for r in p.hidden]
    out = runner.mtp(j, tokens, rows[0] if len(rows) == 1 else torch.cat(rows), segments)
    return [out[g.start : g.stop] for g in segments]


def _tokens(request: Request, start: int, count: int) -> list[int]:
    """Tokens of a request from a position on, drafts behind the others."""
    known = request.tokens[start : start + count]
    drafts = max(start - len(request.tokens), 0)
    return known + request.drafts[drafts : drafts + count - len(known)]


def _backlog(request: Request, j: int) -> Backlog:
    while len(request.backlogs) <= j:
        request.backlogs.append(Backlog())
    return request.backlogs[j]


def _first(request: Request, j: int, until: int) -> int:
    """The first position that layer `j` has not seen, where layer 0 has seen those to `until`."""
    return until - sum(b.count for b in request.backlogs[1 : j + 1])


def _note_progress(request: Request, until: int) -> None:
    request.num_mtp_computed_tokens = _first(request, len(request.backlogs), until)
