"""What a step adds up over ranks, in two collectives: losses, expert counts; and the norms."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ..step import Sums
from .mesh import Meshes


class OverRanks:
    """The `Reduce` of several ranks: all end with the sums and the norm of the global batch."""

    def __init__(self, meshes: Meshes) -> None:
        self._meshes = meshes

    def sums(self, sums: Sums) -> None:
        """Losses and tokens in one collective, the counts of all layers in another."""
        tokens = torch.tensor(float(sums.tokens), dtype=torch.float64, device=sums.z_loss.device)
        flat = _summed(torch.stack([*sums.losses.values(), sums.z_loss, tokens]))
        sums.losses = dict(zip(sums.losses, flat, strict=False))
        sums.z_loss, sums.tokens = flat[-2], round(float(flat[-1]))
        if sums.counts:
            counts = _summed(torch.stack(list(sums.counts.values())))
            sums.counts = dict(zip(sums.counts, counts, strict=True))

    def over_rows(self, counts: Tensor) -> Tensor:
        """The sum over all ranks; what ranks count that share rows, divided by their number."""
        shared = 1 if self._meshes.rows is None else self._meshes.rows.size()
        if self._meshes.pipeline is not None:
            shared *= dist.get_world_size(self._meshes.pipeline)
        return _summed(counts.to(self._meshes.dense.device_type)) / shared

    def norm(self, norm: Tensor) -> Tensor:
        """Norms of a gradient from those of this rank's part; each copy counts once.

        Over all ranks, copies too: a value that is not finite on any makes all skip the step.
        """
        square = _summed(norm.double().square()) / self._meshes.dense["replicate"].size()
        return square.sqrt().to(norm.dtype)


def _summed(tensor: Tensor) -> Tensor:
    """Added up over all ranks, in place."""
    dist.all_reduce(tensor)
    return tensor
