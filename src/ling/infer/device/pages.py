"""KV pages in the memory of a device: one tensor for all layers, keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from ...config.model import ModelConfig
from ..pages import PAGE


class DevicePages:
    """[layers, keys and values, pages, 64, G, K]; MTP layers included.

    The last page is `scratch`: rows that only fill a batch up write there, and nobody reads it.
    """

    def __init__(
        self, cfg: ModelConfig, num_pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (cfg.num_cache_layers, 2, num_pages + 1, PAGE, cfg.num_key_value_heads)
        self.values = torch.zeros(*shape, cfg.head_dim, dtype=dtype, device=device)
        self.scratch = num_pages

    def of_layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, [pages, 64, G, K] each."""
        keys, values = self.values[layer].unbind(0)
        return keys, values

    def write(self, layer: int, slots_T: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> None:
        """Keys and values of tokens; slot 64 · page + offset is a position of a page."""
        for part, x_TGK in zip(self.of_layer(layer), (k_TGK, v_TGK), strict=True):
            part.flatten(0, 1).index_copy_(0, slots_T, x_TGK.to(part.dtype))
