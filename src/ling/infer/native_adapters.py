"""Adapters for the C++ core: bfloat16 values in its layout, and structures of their addresses.

Legend: E experts (absent of a single matrix) · r rank · K columns · N rows of the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import c_float
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.model import ModelConfig
from ..model.adapter import Adapter, LowRank
from ..ops import native_abi
from ..ops.formats import TILE

_PLAIN = {"qkv": "attention.query_key_value", "dense": "attention.dense"}


class NativeAdapters:
    """Structures for `ling_model_adapters`. Keeps every tensor alive that they point to."""

    def __init__(self, adapters: Sequence[Adapter], cfg: ModelConfig) -> None:
        self._tensors: list[Tensor] = []
        layers = [
            self._layer(adapter.matrices, cfg, n)
            for adapter in adapters
            for n in range(cfg.num_hidden_layers)
        ]
        self.count = len(adapters)
        self.layers: Any = (native_abi.LayerAdapterC * len(layers))(*layers)

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return sum(tensor.nbytes for tensor in self._tensors)

    def _layer(
        self, matrices: Mapping[str, LowRank], cfg: ModelConfig, n: int
    ) -> native_abi.LayerAdapterC:
        prefix = f"model.layers.{n}."
        made = {
            field: self._low_rank([matrices.get(prefix + name)]) for field, name in _PLAIN.items()
        }
        dense = "mlp.shared_experts." if cfg.is_moe_layer(n) else "mlp."
        for field, mlp in (("", dense), ("expert_", "mlp.experts.")):
            gate_up = [matrices.get(f"{prefix}{mlp}{name}_proj") for name in ("gate", "up")]
            made[f"{field}gate_up"] = self._low_rank(gate_up)
            made[f"{field}down"] = self._low_rank([matrices.get(f"{prefix}{mlp}down_proj")])
        return native_abi.LayerAdapterC(**made)

    def _low_rank(self, parts: Sequence[LowRank | None]) -> native_abi.LowRankC:
        """Of one matrix, or of gate and up, of which one may have none."""
        there = [part for part in parts if part is not None]
        if not there:
            return native_abi.LowRankC()
        rank = max(part.rank for part in there)
        whole = [part or _nothing_like(there[0]) for part in parts]
        # The rows of A of both; the tiles of B take turns.
        a = torch.cat([_padded(part.a, rank, -2) for part in whole], -2)
        b = torch.stack([_tiles(_padded(part.b, rank, -1)) for part in whole], -3)
        self._tensors += (a, b)
        scales = [part.scale for part in whole]
        pair = (c_float * 2)(scales[0], scales[-1])
        return native_abi.LowRankC(rank, pair, a.data_ptr(), b.data_ptr())


def _nothing_like(other: LowRank) -> LowRank:
    return LowRank(torch.zeros_like(other.a), torch.zeros_like(other.b), 0.0)


def _padded(x: Tensor, rank: int, dim: int) -> Tensor:
    """bfloat16, with zeros up to `rank` in one of the last two dims."""
    missing = rank - x.shape[dim]
    padding = (0, missing) if dim == -1 else (0, 0, 0, missing)
    return F.pad(x.to(torch.bfloat16), padding)


def _tiles(b_NR: Tensor) -> Tensor:
    """[..., N / 16, r, 16]."""
    return b_NR.unflatten(-2, (-1, TILE)).transpose(-1, -2)
