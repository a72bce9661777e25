"""One call of transformers as our model takes it: flat tokens, positions, documents, attention.

Legend: B rows · S positions · T = B·S tokens · D hidden · A top_k · E experts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .hf_attend import CacheAttend

IGNORED = -100


class Batch:
    """Shape, positions, documents and attention of one call.

    `cache` is what the caller passed; a `new_cache` is filled but holds nothing yet.
    """

    def __init__(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cu_seq_lens: Tensor | None,
        cache: Any,
        new_cache: Any,
        cache_layers: int,
    ) -> None:
        first = input_ids if input_ids is not None else inputs_embeds
        if first is None or (input_ids is not None and inputs_embeds is not None):
            raise UsageError("give either `input_ids` or `inputs_embeds`")
        self.input_ids, self.inputs_embeds = input_ids, inputs_embeds
        self.shape = B, S = first.shape[:2]
        self.device = first.device
        self.whole = cache is None
        self.cache = new_cache if self.whole else cache
        # A mask says where padding is, and positions start again behind it: no documents then.
        self.documents_BS = None
        if self.whole and attention_mask is None:
            self.documents_BS = _documents((B, S), position_ids, cu_seq_lens)
        borders = None if self.documents_BS is None else _borders(self.documents_BS)
        self.attend = CacheAttend((B, S), attention_mask, self.cache, cache_layers, borders)
        if position_ids is None:
            past = self.attend.past
            position_ids = torch.arange(past, past + S, device=first.device)[None]
        self.positions_T = position_ids.expand(B, S).flatten()

    def rows(self, x_TD: Tensor) -> Tensor:
        """[B, S, ...] of flat tokens."""
        return x_TD.unflatten(0, self.shape)


class Trace:
    """Collects routing for `output_router_logits`."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def record(self, layer: int, logits_TE: Tensor, ids_TA: Tensor) -> None:
        """Called by every MoE layer; again when the layer is recomputed."""
        self.seen[layer] = (logits_TE.unflatten(0, self.shape), ids_TA.unflatten(0, self.shape))

    def per_layer(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """In layer order, MTP layers last."""
        return tuple(self.seen[layer] for layer in sorted(self.seen))


def _documents(
    shape: tuple[int, int], position_ids: Tensor | None, cu_seq_lens: Tensor | None
) -> Tensor | None:
    """A number per token that changes where a document begins; None for one document per row.

    `cu_seq_lens`, which collators make for flash attention, holds the borders in the flat tokens;
    without it a document begins where positions start again.
    """
    if cu_seq_lens is not None:
        tokens = shape[0] * shape[1]
        if int(cu_seq_lens[-1]) != tokens:
            raise UsageError(
                f"`cu_seq_lens_q` ends at {int(cu_seq_lens[-1])}, the batch has {tokens} tokens"
            )
        starts_T = torch.zeros(tokens, dtype=torch.bool, device=cu_seq_lens.device)
        starts_T[cu_seq_lens[:-1].long()] = True
        starts_BS = starts_T.view(shape)
    elif position_ids is not None:
        starts_BS = F.pad(position_ids.expand(shape).diff(dim=1) != 1, (1, 0), value=False)
    else:
        return None
    return starts_BS.cumsum(1) if bool(starts_BS[:, 1:].any()) else None


def _borders(documents_BS: Tensor) -> list[int]:
    """Where documents begin in the flat tokens, and their end; a row begins one too."""
    starts_BS = F.pad(documents_BS.diff(dim=1) != 0, (1, 0), value=True)
    return [*starts_BS.flatten().nonzero().flatten().tolist(), documents_BS.numel()]


def shift_left(x_BS: Tensor, distance: int, fill: int) -> Tensor:
    """Every row shifted by itself, so that none sees another."""
    return F.pad(x_BS[:, distance:], (0, min(distance, x_BS.shape[1])), value=fill)


def targets(labels_BS: Tensor, documents_BS: Tensor | None, distance: int) -> Tensor:
    """The label `distance` tokens ahead; ignored beyond the row or the document."""
    ahead = shift_left(labels_BS, distance, IGNORED)
    if documents_BS is None:
        return ahead
    documents_BS = documents_BS.to(ahead.device)
    same = shift_left(documents_BS, distance, -1) == documents_BS
    return ahead.where(same, ahead.new_tensor(IGNORED))
