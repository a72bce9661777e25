"""Moving tokens to their experts and back, without a product: rows in, rows out.

A layer's experts are three steps: `dispatch` copies each token's row to its experts, the products
(`ops/grouped.py`) turn rows into rows, `combine` weighs and adds a token's rows. Expert
parallelism exchanges rows between the steps; low precision replaces the products only.
Legend: T tokens · A experts per token · N = T·A routed rows · R rows with padding · E experts ·
D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from . import native, native_moe, reference

# The borders of the experts among sorted rows: E + 1 numbers for a loop over experts, or, for one
# product of all, int32 ends of E experts on the device of the rows.
Groups = list[int] | Tensor


@dataclass(frozen=True)
class Slots:
    """Where routed rows go: `slot_N` is the row of each, expert e has `starts_E1[e]` to `[e + 1]`.

    `rows` counts all rows with padding, which is zero but for `added_P`: (slots, tokens in them).
    """

    slot_N: Tensor
    starts_E1: Tensor
    rows: int
    added_P: tuple[Tensor, Tensor] | None = None

    @property
    def offsets(self) -> list[int]:
        """The borders as numbers; on another device than the CPU this waits for it."""
        return self.starts_E1.tolist()

    @property
    def groups(self) -> Groups:
        """The borders as the device's products want them."""
        if self.starts_E1.device.type == "cpu":
            return self.offsets
        return self.starts_E1[1:].to(torch.int32)


def top_k(scores: Tensor, k: int) -> Tensor:
    """`reference.top_k_lowest_id`; in C++ where a kernel is."""
    if native.reads_float32(scores):
        return native_moe.top_k(scores, k)
    return reference.top_k_lowest_id(scores, k)


def expert_counts(ids_TA: Tensor, num_experts: int) -> Tensor:
    """Rows of each expert, int64; unlike `bincount` it does not wait for the device."""
    flat_N = ids_TA.flatten()
    return flat_N.new_zeros(num_experts).scatter_add_(0, flat_N, torch.ones_like(flat_N))


def sort_by_expert(ids_TA: Tensor, num_experts: int, block: int) -> Slots:
    """Assign each of the N routed rows its slot.

    An expert's rows stay in token order and on a CPU are padded to a multiple of `block`: oneDNN
    compiles a kernel per row count, so free row counts would compile again at every step.
    """
    flat_N = ids_TA.flatten()
    padded = flat_N.device.type == "cpu" and block > 1
    block = block if padded else 1
    counts_E = expert_counts(flat_N, num_experts)
    ends_E = ((counts_E + block - 1) // block * block).cumsum(0)
    slot_N, starts_E1 = slots_up_to(ends_E, counts_E, flat_N)
    return Slots(slot_N, starts_E1, int(starts_E1[-1]) if padded else len(flat_N))


def slots_up_to(ends_E: Tensor, counts_E: Tensor, flat_N: Tensor) -> tuple[Tensor, Tensor]:
    """slot_N of rows for the experts `flat_N`, of which expert e has the first `counts_E[e]` up to
    `ends_E[e]`; and starts_E1."""
    starts_E1 = torch.cat((ends_E.new_zeros(1), ends_E))
    if native.reads(flat_N):
        return native_moe.sorted_rows(flat_N, starts_E1[:-1]), starts_E1
    order_N = flat_N.sort(stable=True).indices
    sorted_N = flat_N[order_N]
    rank_N = (
        torch.arange(len(flat_N), device=flat_N.device) - (counts_E.cumsum(0) - counts_E)[sorted_N]
    )
    slot_N = torch.empty_like(flat_N)
    slot_N[order_N] = starts_E1[sorted_N] + rank_N
    return slot_N, starts_E1


def row_block(num_rows: int, num_experts: int) -> int:
    """Block that an expert's rows are padded to in training: 64, or 16 where there are few rows.

    `num_rows` is N, all routed rows.
    """
    return 64 if 64 * num_experts <= num_rows else 16


def experts_with_rows(offsets: list[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) for each expert that has any."""
    return [(e, slice(a, b)) for e, (a, b) in enumerate(pairwise(offsets)) if b > a]


def dispatch(x_TD: Tensor, slots: Slots) -> Tensor:
    """Copy each token's row to its A slots: x_RD, differentiable.

    Padding gives no gradient: it is zero, or weighs nothing.
    """
    return _Dispatch.apply(x_TD, slots)


def in_slots(x_ND: Tensor, x_TD: Tensor, slots: Slots) -> Tensor:
    """x_RD of the routed rows x_ND, padded with zeros or with rows of x_TD."""
    x_RD = x_ND.new_zeros((slots.rows, x_ND.shape[1])).index_copy_(0, slots.slot_N, x_ND)
    if slots.added_P is not None:
        slot_P, token_P = slots.added_P
        x_RD.index_copy_(0, slot_P, x_TD.index_select(0, token_P))
    return x_RD


def combine(y_RD: Tensor, slots: Slots, weights_TA: Tensor) -> Tensor:
    """Weighted sum of each token's rows: out_TD, differentiable in rows and weights.

    Added over A in float32 and cast back once, as `reference.moe` does.
    """
    return _Combine.apply(y_RD, slots, weights_TA)


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, slots: Slots) -> Tensor:
        T, D = x_TD.shape
        ctx.save_for_backward(slots.slot_N)
        ctx.shape = (T, len(slots.slot_N) // max(T, 1), D)
        return in_slots(x_TD[:, None].expand(ctx.shape).reshape(-1, D), x_TD, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slot_N,) = ctx.saved_tensors
        (dx_RD,) = grads
        return dx_RD.index_select(0, slot_N).view(ctx.shape).sum(1), None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_RD: Tensor, slots: Slots, weights_TA: Tensor) -> Tensor:
        ctx.native = native.reads_float32(y_RD, weights_TA)
        if ctx.native:
            ctx.save_for_backward(y_RD, weights_TA, slots.slot_N)
            return native_moe.combine(y_RD, slots.slot_N, weights_TA)
        y_TAD = y_RD.index_select(0, slots.slot_N).unflatten(0, weights_TA.shape)
        ctx.save_for_backward(y_TAD, weights_TA, slots.slot_N)
        ctx.rows = len(y_RD)
        return torch.bmm(weights_TA[:, None].float(), y_TAD.float())[:, 0].to(y_RD.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dout_TD,) = grads
        if ctx.native:
            y_RD, weights_TA, slot_N = ctx.saved_tensors
            dy_RD, dw_TA = native_moe.combine_gradient(y_RD, slot_N, weights_TA, dout_TD)
            return dy_RD, None, dw_TA
        y_TAD, weights_TA, slot_N = ctx.saved_tensors
        dweights_TA = torch.bmm(y_TAD.float(), dout_TD.float()[:, :, None])[:, :, 0]
        # The gradient of padding is zero and adds nothing.
        dy_TAD = dout_TD[:, None] * weights_TA[:, :, None].to(dout_TD.dtype)
        dy_RD = dout_TD.new_zeros((ctx.rows, dout_TD.shape[1]))
        return dy_RD.index_copy_(0, slot_N, dy_TAD.flatten(0, 1)), None, dweights_TA
