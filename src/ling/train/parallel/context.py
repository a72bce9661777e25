"""Context parallelism: a row's tokens spread over ranks, keys and values gathered for attention.

Each rank has two of the row's 2·cp chunks, one from the front and the one as far from the end:
queries late in a row see more keys, so this gives all ranks the same work. Everything but
attention works token by token.
Legend: B rows · S positions · T = B·S tokens, t of them here · G kv heads · H query heads ·
K head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ...ops.causal import causal_attention
from ..batches import Batch


class CutRows:
    """The `Context` of several ranks of `mesh` that read the same rows."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.group: Any = mesh.get_group()
        self.parts, self.part = mesh.size(), mesh.get_local_rank()

    def cut(self, x_BS: Tensor) -> Tensor:
        """x_t: this rank's tokens, row by row."""
        chunks = x_BS.unflatten(1, (2 * self.parts, -1))
        return chunks[:, list(own_chunks(self.part, self.parts))].flatten()

    def whole(self, x_t: Tensor, rows: int) -> Tensor:
        """x_T of all tokens in order from every rank's; without gradient."""
        places = _Places.of(rows, len(x_t) * self.parts, self.parts, x_t.device)
        return _gathered(x_t, places, self.group)

    def attend(self, batch: Batch) -> GatheredAttend:
        """Causal attention inside rows, or documents when isolated."""
        rows, length = batch.tokens_BS.shape
        places = _Places.of(rows, rows * length, self.parts, batch.tokens_BS.device)
        spans = own_spans(batch.cu_seqlens, rows, length, self.part, self.parts)
        return GatheredAttend(spans, places, self.group)


def own_chunks(part: int, parts: int) -> tuple[int, int]:
    """The two chunks of a row that rank `part` of `parts` has."""
    return part, 2 * parts - 1 - part


@dataclass(frozen=True)
class Span:
    """Queries `start` to `stop` of the micro-batch see the keys from `first` on, and none later."""

    first: int
    start: int
    stop: int

    @property
    def seen(self) -> slice:
        """The keys."""
        return slice(self.first, self.stop)


def own_spans(cu_seqlens: list[int], rows: int, length: int, part: int, parts: int) -> list[Span]:
    """What this rank's queries see, in the order in which it holds them."""
    size, found = length // (2 * parts), []
    for row in range(rows):
        for chunk in own_chunks(part, parts):
            a = row * length + chunk * size
            for first, end in pairwise(cu_seqlens):
                start, stop = max(a, first), min(a + size, end)
                if start < stop:
                    found.append(Span(first, start, stop))
    return found


@dataclass(frozen=True)
class _Places:
    """Token `order_T[i]` of the micro-batch is the i-th of all ranks' one after the other."""

    order_T: Tensor
    inverse_T: Tensor

    @staticmethod
    def of(rows: int, tokens: int, parts: int, device: torch.device) -> _Places:
        chunks = torch.arange(tokens, device=device).view(rows, 2 * parts, -1)
        each = (chunks[:, list(own_chunks(part, parts))].flatten() for part in range(parts))
        order_T = torch.cat(tuple(each))
        return _Places(order_T, order_T.argsort())


class GatheredAttend:
    """Attention of own queries over the keys and values of all ranks (GQA makes these small)."""

    def __init__(self, spans: list[Span], places: _Places, group: Any) -> None:
        self.spans, self._places, self._group = spans, places, group

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        own = torch.cat((k_TGK, v_TGK), dim=1)
        keys, values = _Gather.apply(own, self._places, self._group).chunk(2, dim=1)
        sizes = [span.stop - span.start for span in self.spans]
        return torch.cat(
            [
                causal_attention(
                    q, keys[s.seen], values[s.seen], [0, len(q)], [0, s.stop - s.first]
                )
                for s, q in zip(self.spans, q_THK.split(sizes), strict=True)
            ]
        )


class _Gather(torch.autograd.Function):
    """x_TGK in the order of the micro-batch; gradients are added over ranks."""

    @staticmethod
    def forward(ctx: Any, x_tGK: Tensor, places: _Places, group: Any) -> Tensor:
        ctx.places, ctx.group = places, group
        return _gathered(x_tGK, places, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dx_TGK,) = grads
        sent = dx_TGK.index_select(0, ctx.places.order_T)
        parts = torch.empty_like(sent)
        # What a reduce-scatter would move, but added in float32; and gloo has none of its own.
        dist.all_to_all_single(parts, sent, group=ctx.group)
        added = parts.unflatten(0, (dist.get_world_size(ctx.group), -1)).float().sum(0)
        return added.to(dx_TGK.dtype), None, None


def _gathered(x_t: Tensor, places: _Places, group: Any) -> Tensor:
    ranks = dist.get_world_size(group)
    parts = x_t.new_empty((ranks * len(x_t), *x_t.shape[1:]))
    # Newer releases of torch have another name for it. Looked up here: the clock wraps it.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(parts, x_t.contiguous(), group=group)
    return parts.index_select(0, places.inverse_T)
