"""FP8 products on a GPU, as `train.fp8` asks for them: cuBLAS where it can, else our kernels.

Legend: M tokens · R rows sorted by expert · K inputs · N outputs · E experts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..experts import Groups
from ..formats import FP8_BLOCK
from ..fp8_tiles import Scales
from .products import product, weight_gradient
from .quantise import quantise_columns, quantise_rows
from .tiles import Tiles, one_group, tiles_of

_ROWS = 16  # of which cuBLAS wants multiples
_SCALES = 4  # scales of a row of blocks, likewise


class Weight(Protocol):
    """Codes [..., N, K] and inverse scales [..., N/128, K/128] of blocks of 128 x 128."""

    @property
    def codes(self) -> Tensor: ...

    @property
    def inverse(self) -> Tensor: ...

    def transposed(self) -> Weight:
        """The last two dimensions exchanged."""


class TritonProducts:
    """All products by our kernels. Nothing here waits for the GPU."""

    name = "triton"
    reads_transposed = True

    def __init__(self, scales: Scales) -> None:
        self.scales = scales
        self._groups: Groups | None = None
        self._tiles: Tiles | None = None

    def linear(self, x_MK: Tensor, w: Weight) -> Tensor:
        """y_MN = x · wᵀ."""
        return self._dense(x_MK, w)

    def linear_dgrad(self, dy_MN: Tensor, w: Weight) -> Tensor:
        """dx_MK = dy · w."""
        return self._dense(dy_MN, w.transposed())

    def linear_wgrad(self, dy_MN: Tensor, x_MK: Tensor) -> Tensor:
        """dw_NK = dyᵀ · x."""
        dy, x = (quantise_columns(t, self.scales) for t in (dy_MN, x_MK))
        return weight_gradient(dy, x, _one_group(dy_MN), torch.bfloat16)[0]

    def grouped(self, x_RK: Tensor, w: Weight, groups: Groups) -> Tensor:
        """y_RN: each expert's rows times its weight, transposed."""
        return self._by_expert(x_RK, w, groups)

    def grouped_dgrad(self, dy_RN: Tensor, w: Weight, groups: Groups) -> Tensor:
        """dx_RK of `grouped`."""
        return self._by_expert(dy_RN, w.transposed(), groups)

    def grouped_wgrad(self, dy_RN: Tensor, x_RK: Tensor, groups: Groups) -> Tensor:
        """dw_ENK of `grouped`; 0 for an expert without rows."""
        tiles = self._tiles_of(groups, x_RK)
        dy, x = (quantise_columns(t, self.scales, tiles) for t in (dy_RN, x_RK))
        return weight_gradient(dy, x, tiles, torch.bfloat16)

    def _dense(self, x_MK: Tensor, w: Weight) -> Tensor:
        x, one = quantise_rows(x_MK, self.scales), (w.codes[None], w.inverse[None])
        return product(x, one, _one_group(x_MK), torch.bfloat16)

    def _by_expert(self, x_RK: Tensor, w: Weight, groups: Groups) -> Tensor:
        x, tiles = quantise_rows(x_RK, self.scales), self._tiles_of(groups, x_RK)
        return product(x, (w.codes, w.inverse), tiles, torch.bfloat16)

    def _tiles_of(self, groups: Groups, x_RK: Tensor) -> Tiles:
        """The tiles of `groups`, made once for the products of a layer that follow each other."""
        if self._groups is not groups or self._tiles is None:
            ends_E = groups if isinstance(groups, Tensor) else torch.tensor(groups[1:])
            self._tiles, self._groups = tiles_of(ends_E.to(x_RK.device), len(x_RK)), groups
        return self._tiles


class ScaledMMProducts(TritonProducts):
    """Products of one weight by `F.scaled_mm` (cuBLAS), where sizes are multiples of 128.

    cuBLAS has no such product of experts.
    """

    name = "scaled_mm"

    def linear_wgrad(self, dy_MN: Tensor, x_MK: Tensor) -> Tensor:
        """dw_NK = dyᵀ · x."""
        if not _whole_blocks(dy_MN.shape[1], x_MK.shape[1]) or not len(x_MK):
            return super().linear_wgrad(dy_MN, x_MK)
        (dy_NM, dy_inv), (x_KM, x_inv) = (quantise_columns(t, self.scales) for t in (dy_MN, x_MK))
        kind = F.ScalingType.BlockWise1x128
        return F.scaled_mm(dy_NM, x_KM.t(), dy_inv.t(), kind, x_inv.t(), kind)

    def _dense(self, x_MK: Tensor, w: Weight) -> Tensor:
        if not _whole_blocks(*w.codes.shape) or not len(x_MK):
            return super()._dense(x_MK, w)
        padded = F.pad(x_MK, (0, 0, 0, -len(x_MK) % _ROWS))
        x, x_inv = quantise_rows(padded, self.scales)
        kinds = F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128
        # Scales of blocks: [K/128 filled up to a multiple of 4, N/128], K innermost.
        blocks = F.pad(w.inverse, (0, -w.inverse.shape[1] % _SCALES)).contiguous().t()
        y_MN = F.scaled_mm(x, w.codes.t(), x_inv, kinds[0], blocks, kinds[1])
        return y_MN[: len(x_MK)]


def _whole_blocks(*sizes: int) -> bool:
    return all(size % FP8_BLOCK == 0 for size in sizes)


def _one_group(x_MK: Tensor) -> Tiles:
    return _cached_group(len(x_MK), x_MK.device)


@lru_cache(maxsize=64)
def _cached_group(rows: int, device: torch.device) -> Tiles:
    """A run has few numbers of tokens, and each product of a layer asks."""
    return one_group(rows, device)
