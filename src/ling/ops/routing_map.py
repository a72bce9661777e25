"""Padding the routing map: rows of FP8 products come in multiples of 16 without rows of zeros.

A product in FP8 needs a multiple of 16 rows for each expert. Instead of padding the rows, the first
tokens that an expert does not have are sent to it as well, with weight 0, as in Megatron-LM
(docs/concepts/training.md#padded-routing-map): they add nothing to an output and get no gradient.
Loads for the balance of experts are counted before.
Legend: T tokens · E experts · N routed rows · P added rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .experts import Slots, sort_by_expert

FP8_ROWS = 16


def padded_map(map_TE: Tensor, block: int = FP8_ROWS) -> Tensor | None:
    """The map [T, E] (bool) with the first False of each column flipped until its count is a
    multiple of `block`; a column without any stays as it is.

    None if an expert has too few tokens left for that: rows must be padded with zeros then.
    """
    counts_E = map_TE.sum(0)
    missing_E = -counts_E % block
    if bool((counts_E + missing_E > len(map_TE)).any()):
        return None
    return map_TE | ((~map_TE).cumsum(0) <= missing_E)


def slots_of_padded_map(
    ids_N: Tensor, token_N: Tensor, num_tokens: int, num_experts: int, block: int = FP8_ROWS
) -> Slots:
    """Slots of routed rows, of token `token_N` for expert `ids_N` each, by the padded map.

    An expert's added rows follow its own. Where the map cannot be padded, rows of zeros do.
    """
    map_TE = torch.zeros((num_tokens, num_experts), dtype=torch.bool, device=ids_N.device)
    map_TE[token_N, ids_N] = True
    padded_TE = padded_map(map_TE, block)
    if padded_TE is None:
        return sort_by_expert(ids_N, num_experts, block, any_device=True)
    expert_P, token_P = (padded_TE & ~map_TE).t().nonzero(as_tuple=True)
    slots = sort_by_expert(torch.cat((ids_N, expert_P)), num_experts, 1)
    slot_N, slot_P = slots.slot_N.split((len(ids_N), len(expert_P)))
    return Slots(slot_N, slots.starts_E1, slots.rows, (slot_P, token_P))


def tokens_of(ids_TA: Tensor) -> Tensor:
    """token_N: the token of each entry of ids_TA."""
    T, A = ids_TA.shape
    return torch.arange(T, device=ids_TA.device).repeat_interleave(A, output_size=T * A)
