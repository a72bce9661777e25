"""Expert parallelism with one copy of a token for each rank that has some of its experts.

That rank weighs and adds up what its experts make of the token, and sends the sum back in float32,
so that a token's sum over all experts is rounded once, as one process rounds it. In the backward
pass gradients of outputs go the same way, and sums of gradients of inputs come back.
Legend: T tokens · A experts per token · P ranks · R rows sent, or received · N routed rows of this
rank's experts · S the same with padding · D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import experts
from .experts import ParallelExperts, exchanged


class OneCopyExperts(ParallelExperts):
    """`ParallelExperts` whose rows travel once per rank, not once per expert."""

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        way, routed = self._way(ids_TA // self.own)
        arrived = self._arrived(way, routed, ids_TA, weights_TA.detach())
        x_SD = _There.apply(x_TD, way, arrived)
        y_SD = self.products(x_SD, arrived.slots.groups)
        return _Back.apply(y_SD, weights_TA, way, arrived)

    def _way(self, rank_TA: Tensor) -> tuple[Way, int]:
        """The way of tokens whose experts are on these ranks; the rows of this rank's experts."""
        goes_TP = torch.zeros((len(rank_TA), self.ranks), dtype=torch.bool, device=rank_TA.device)
        goes_TP.scatter_(1, rank_TA, True)
        counts_P2 = torch.stack((goes_TP.sum(0), experts.expert_counts(rank_TA, self.ranks)), 1)
        each = [1] * self.ranks
        theirs_P2 = exchanged(counts_P2, each, each, self.group)
        # All sizes at once: on a GPU this waits for it.
        (sent, _), (received, routed) = torch.stack((counts_P2.t(), theirs_P2.t())).tolist()
        token_R = _places(goes_TP.t(), sum(sent)) % len(rank_TA)
        sums = Sums(token_R.argsort(stable=True), _starts(goes_TP.sum(1)))
        return Way(self.group, sent, received, token_R, sums), sum(routed)

    def _arrived(self, way: Way, routed: int, ids_TA: Tensor, weights_TA: Tensor) -> Arrived:
        A = ids_TA.shape[1]
        # All ids of a token, of which the other rank finds its own; weights by their bits.
        about_RA = way.there(torch.cat((ids_TA.int(), weights_TA.view(torch.int32)), 1))
        ids_RA = about_RA[:, :A] - self.first
        here_RA = (ids_RA >= 0) & (ids_RA < self.own)
        place_N = _places(here_RA, routed)
        ids_N = ids_RA.flatten().index_select(0, place_N).long()
        weights_N = about_RA[:, A:].flatten().index_select(0, place_N).view(torch.float32)
        slots = self.slots(ids_N, place_N // A, len(ids_RA))
        sums = Sums(slots.slot_N, _starts(here_RA.sum(1)))
        return Arrived(place_N, A, weights_N, slots, sums)


@dataclass(frozen=True)
class Sums:
    """Sums of rows: number i adds rows `index_N[starts[i] : starts[i + 1]]`, in this order.

    `index_add_` has no fixed order on a GPU, and is five times slower on a CPU.
    """

    index_N: Tensor
    starts: Tensor

    def of(self, x_SD: Tensor, weights_N: Tensor | None = None) -> Tensor:
        """In float32; weighted where there are weights."""
        return F.embedding_bag(
            self.index_N,
            x_SD.float(),
            self.starts,
            mode="sum",
            include_last_offset=True,
            per_sample_weights=weights_N,
        )


@dataclass(frozen=True)
class Way:
    """Rows `token_R` go to the ranks of `group`, `sent` to each, and `received` come from each."""

    group: Any
    sent: list[int]
    received: list[int]
    token_R: Tensor
    sums: Sums

    def there(self, x_TD: Tensor) -> Tensor:
        """x_RD: the rows that this rank is sent."""
        x_RD = x_TD.index_select(0, self.token_R)
        return exchanged(x_RD, self.sent, self.received, self.group)

    def back(self, x_RD: Tensor) -> Tensor:
        """x_TD, float32: the sum of what the ranks have for each token."""
        return self.sums.of(exchanged(x_RD, self.received, self.sent, self.group))


@dataclass(frozen=True)
class Arrived:
    """Routed row n of this rank's experts is number `place_N[n]` of the R·A that arrived here.

    `sums` adds up slots by row that arrived.
    """

    place_N: Tensor
    experts_per_tok: int
    weights_N: Tensor
    slots: experts.Slots
    sums: Sums

    def each(self, x_RD: Tensor) -> Tensor:
        """x_ND: a row for each expert here."""
        return x_RD.index_select(0, self.place_N // self.experts_per_tok)

    def in_slots(self, x_ND: Tensor) -> Tensor:
        """x_SD of gradients; those of padding are zero."""
        x_SD = x_ND.new_zeros((self.slots.rows, x_ND.shape[1]))
        return x_SD.index_copy_(0, self.slots.slot_N, x_ND)

    def numbers(self, x_N: Tensor) -> Tensor:
        """x_RA: one number per routed row, 0 for experts of other ranks."""
        x_RA = x_N.new_zeros((len(self.sums.starts) - 1) * self.experts_per_tok)
        return x_RA.index_copy_(0, self.place_N, x_N).view(-1, self.experts_per_tok)


class _There(torch.autograd.Function):
    """Tokens to the slots of their experts."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, way: Way, arrived: Arrived) -> Tensor:
        ctx.way, ctx.arrived = way, arrived
        x_RD = way.there(x_TD)
        return experts.in_slots(arrived.each(x_RD), x_RD, arrived.slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dx_SD,) = grads
        return ctx.way.back(ctx.arrived.sums.of(dx_SD)).to(dx_SD.dtype), None, None


class _Back(torch.autograd.Function):
    """Weighted sums of each token's rows; gradients are rounded where `ops.experts` does it."""

    @staticmethod
    def forward(ctx: Any, y_SD: Tensor, weights_TA: Tensor, way: Way, arrived: Arrived) -> Tensor:
        ctx.way, ctx.arrived = way, arrived
        ctx.save_for_backward(y_SD)
        return way.back(arrived.sums.of(y_SD, arrived.weights_N)).to(y_SD.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (y_SD,), way, arrived = ctx.saved_tensors, ctx.way, ctx.arrived
        dout_ND = arrived.each(way.there(grads[0]))
        y_ND = y_SD.index_select(0, arrived.slots.slot_N)
        dweights_N = torch.bmm(y_ND[:, None].float(), dout_ND[:, :, None].float()).flatten()
        dy_ND = dout_ND * arrived.weights_N[:, None].to(dout_ND.dtype)
        dweights_TA = way.back(arrived.numbers(dweights_N))
        return arrived.in_slots(dy_ND), dweights_TA, None, None


def _places(where: Tensor, count: int) -> Tensor:
    """The `count` places of True in `where`, flattened; a known size needs no wait for a GPU."""
    return where.flatten().nonzero_static(size=count)[:, 0]


def _starts(counts: Tensor) -> Tensor:
    return torch.cat((counts.new_zeros(1), counts.cumsum(0)))
