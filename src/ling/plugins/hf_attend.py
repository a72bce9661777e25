"""Attention over a transformers cache, or by document, as an `Attend` of our model.

Legend: B rows · S new tokens per row · T = B·S · U keys per row · H query heads · G kv heads ·
K head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.attention import DenseAttend


class CacheAttend:
    """Causal attention of B rows over what a cache holds of them and the new tokens.

    `attention_mask` is None, [B, U] with 0 at padding, or a ready mask [B, 1, S, U] (boolean, or
    added to the scores). `cu_seqlens`, the borders of packed documents in the flat tokens, goes
    without a mask and with an empty cache: each document attends to itself, and no mask is made.
    Layers from `cache_layers` on (MTP) see the new tokens only.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        attention_mask: Tensor | None = None,
        cache: Any = None,
        cache_layers: int = 0,
        cu_seqlens: Sequence[int] | None = None,
    ) -> None:
        self.rows, self.new = shape
        self.cache, self.cache_layers = cache, cache_layers
        self.past = int(cache.get_seq_length()) if cache is not None else 0
        self.by_document = None if cu_seqlens is None else DenseAttend(cu_seqlens)
        self.attention_mask = None if self._is_causal(attention_mask) else attention_mask
        self._masks: dict[tuple[torch.device, int], Tensor | None] = {}

    def _is_causal(self, mask: Tensor | None) -> bool:
        """Whether causal attention says what a mask says: no padding, or all of it at the end.

        Tokens do not see what follows them, and what padding computes is read by no one.
        """
        if mask is None or mask.dim() != 2:
            return mask is None
        if self.past:
            return bool(mask.all())
        return bool((mask[:, 1:] <= mask[:, :-1]).all())

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        q, k, v = (x.unflatten(0, (self.rows, -1)).transpose(1, 2) for x in (q_THK, k_TGK, v_TGK))
        if self.cache is not None and layer < self.cache_layers:
            places = torch.arange(self.past, self.past + self.new, device=k.device)
            k, v = self.cache.update(k, v, layer, {"cache_position": places})
        if self.by_document is not None:
            return self.by_document(layer, q_THK, k_TGK, v_TGK)
        gqa = q.shape[1] != k.shape[1]
        mask = self._mask(q.device, k.shape[2])
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q.dtype)
        plain = mask is None and self.new > 1
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=plain, enable_gqa=gqa)
        return out.transpose(1, 2).flatten(0, 1)

    def _mask(self, device: torch.device, keys: int) -> Tensor | None:
        """The mask for this many keys, made once per device; None where plain causal will do."""
        if (device, keys) not in self._masks:
            self._masks[device, keys] = self._make_mask(device, keys)
        return self._masks[device, keys]

    def _make_mask(self, device: torch.device, keys: int) -> Tensor | None:
        given = None if self.attention_mask is None else self.attention_mask.to(device)
        if given is not None and given.dim() == 4:
            return given[..., :keys]
        exact = keys == self.past + self.new  # a static cache has room behind the last token
        if given is None and exact and (self.past == 0 or self.new == 1):
            return None
        at_S = torch.arange(self.past, self.past + self.new, device=device)[:, None]
        at_U = torch.arange(keys, device=device)[None]
        allowed = (at_U <= at_S)[None]
        if given is not None:
            seen_BU = F.pad(given.bool(), (0, keys - given.shape[1]), value=False)
            # A padded token sees itself: a row that sees nothing would spread NaN to the router.
            allowed = allowed & (seen_BU[:, None] | (at_U == at_S)[None])
        return allowed[:, None]
