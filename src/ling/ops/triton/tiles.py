"""Tiles of up to 128 rows that belong to one expert, made on the device without waiting for it.

Legend: R rows, sorted by expert · E experts · P tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .e4m3 import TILE


@dataclass(frozen=True)
class Tiles:
    """Tile p has the rows `start_P[p]` to `end_P[p]` (int32), all of expert `expert_P[p]`.

    Tiles are in the order of rows, and expert e has the tiles `first_E1[e]` to `[e + 1]`. How many
    there are depends on `rows` and E only: those left at the end are empty. Rows behind the last
    expert's have tiles, too, of an expert E.
    """

    start_P: Tensor
    end_P: Tensor
    expert_P: Tensor
    first_E1: Tensor

    def __len__(self) -> int:
        return len(self.start_P)

    @property
    def experts(self) -> int:
        """E."""
        return len(self.first_E1) - 1


def tiles_of(ends_E: Tensor, rows: int) -> Tiles:
    """Tiles of `rows` rows, of which expert e has those up to `ends_E[e]`."""
    ends = torch.cat((ends_E, ends_E.new_full((1,), rows)))
    starts = torch.cat((ends_E.new_zeros(1), ends_E))
    after = ((ends - starts + TILE - 1) // TILE).cumsum(0)  # tiles up to each expert
    before = torch.cat((after.new_zeros(1), after[:-1]))
    # Each expert's last tile, and that of the rows behind, may be part of one.
    count = -(-rows // TILE) + len(ends)
    tile_P = torch.arange(count, device=ends.device)
    group_P = torch.searchsorted(after, tile_P, right=True).clamp_(max=len(ends) - 1)
    start_P = starts[group_P] + (tile_P - before[group_P]) * TILE
    end_P = torch.minimum(start_P + TILE, ends[group_P])
    return Tiles(*(x.to(torch.int32) for x in (start_P, end_P, group_P, before)))


def one_group(rows: int, device: torch.device) -> Tiles:
    """Tiles of rows that belong together, as in a product without experts: `ceil(rows / 128)`."""
    count = -(-rows // TILE)
    start_P = torch.arange(0, rows, TILE, dtype=torch.int32, device=device)
    first = torch.arange(2, dtype=torch.int32, device=device) * count
    return Tiles(start_P, (start_P + TILE).clamp_(max=rows), torch.zeros_like(start_P), first)
