"""Moving tokens to their experts and back: rows sorted by expert, without a product.

Legend: T tokens · A experts per token · N = T·A routed rows · E experts · D hidden.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def place_by_expert(ids_TA: Tensor, num_experts: int, block: int) -> tuple[Tensor, list[int]]:
    """Where each of the N routed rows goes, and each expert's first row (E + 1 offsets).

    An expert's rows stay in token order and are padded to a multiple of `block`: oneDNN compiles a
    kernel per row count, so free row counts would compile anew at every step.
    """
    flat_N = ids_TA.flatten()
    counts_E = torch.bincount(flat_N, minlength=num_experts)
    ends_E = ((counts_E + block - 1) // block * block).cumsum(0)
    order_N = flat_N.sort(stable=True).indices
    sorted_N = flat_N[order_N]
    rank_N = (
        torch.arange(len(flat_N), device=flat_N.device) - (counts_E.cumsum(0) - counts_E)[sorted_N]
    )
    starts_E = torch.cat((ends_E.new_zeros(1), ends_E))
    position_N = torch.empty_like(flat_N)
    position_N[order_N] = starts_E[sorted_N] + rank_N
    return position_N, starts_E.tolist()


def scatter_rows(x_TD: Tensor, position_N: Tensor, rows: int) -> Tensor:
    """Copy each token's row to its A places among `rows` rows; the others are zero."""
    T, D = x_TD.shape
    x_ND = x_TD[:, None].expand(T, len(position_N) // max(T, 1), D).reshape(-1, D)
    return x_TD.new_zeros((rows, D)).index_copy_(0, position_N, x_ND)


def experts_with_rows(offsets: list[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) for each expert that has any."""
    return [(e, slice(a, b)) for e, (a, b) in enumerate(pairwise(offsets)) if b > a]
