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

from .experts import Slots, slots_up_to, sort_by_expert

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
    if ids_N.device.type != "cpu" and num_tokens:
        return slots_without_waiting(map_TE, ids_N, block)
    padded_TE = padded_map(map_TE, block)
    if padded_TE is None:
        return sort_by_expert(ids_N, num_experts, block)
    expert_P, token_P = (padded_TE & ~map_TE).t().nonzero(as_tuple=True)
    slots = sort_by_expert(torch.cat((ids_N, expert_P)), num_experts, 1)
    slot_N, slot_P = slots.slot_N.split((len(ids_N), len(expert_P)))
    return Slots(slot_N, slots.starts_E1, slots.rows, (slot_P, token_P))


def slots_without_waiting(map_TE: Tensor, ids_N: Tensor, block: int) -> Slots:
    """The same slots in as many rows as there could be: nobody reads from the device how many.

    Rows behind the last expert's belong to none; one takes the places of rows that are not added.
    """
    T, E = map_TE.shape
    counts_E = map_TE.sum(0)
    missing_E = -counts_E % block
    slot_N, starts_E1 = slots_up_to((counts_E + missing_E).cumsum(0), counts_E, ids_N)
    rows = len(ids_N) + E * (block - 1) + 1
    rows += -rows % block
    # Number j + 1 of the tokens that each expert does not have: where that many have been counted.
    number_B = torch.arange(block - 1, device=ids_N.device)
    others_ET = (~map_TE).cumsum(0).t().contiguous()
    token_EB = torch.searchsorted(others_ET, (number_B + 1).expand(E, -1).contiguous())
    fits = (counts_E + missing_E <= T).all()
    added_EB = (number_B < missing_E[:, None]) & fits
    slot_EB = torch.where(added_EB, (starts_E1[:-1] + counts_E)[:, None] + number_B, rows - 1)
    added = slot_EB.flatten(), token_EB.clamp_(max=T - 1).flatten()
    return Slots(slot_N, starts_E1, rows, added)


def tokens_of(ids_TA: Tensor) -> Tensor:
    """token_N: the token of each entry of ids_TA."""
    T, A = ids_TA.shape
    return torch.arange(T, device=ids_TA.device).repeat_interleave(A, output_size=T * A)
