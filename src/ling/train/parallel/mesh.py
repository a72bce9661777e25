"""Which rank does what: the device meshes of a layout."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ...config.parallel import ParallelConfig
from .group import World


@dataclass(frozen=True)
class Meshes:
    """The ranks of a run in three ways: `dense` is replicate × shard, `experts` replicate × shard ×
    ep, `rows` the ranks that share rows.

    Ranks that are next to each other share rows (cp) and experts; weights are sharded over both.
    All three are those of this rank's pipeline stages. `pipeline` is the group of the ranks that
    have the stages of the same rows; None without a pipeline.
    """

    dense: DeviceMesh
    experts: DeviceMesh
    rows: DeviceMesh | None
    pipeline: Any

    @property
    def expert_shards(self) -> DeviceMesh:
        """Over which FSDP shards the experts."""
        return _fsdp(self.experts, "expert_shard")

    @property
    def dense_shards(self) -> DeviceMesh:
        """Over which FSDP shards everything else."""
        return _fsdp(self.dense, "shard")


def _fsdp(mesh: DeviceMesh, shard: str) -> DeviceMesh:
    """The part of a mesh that FSDP uses; with a replicate dimension only where there are copies."""
    return mesh["replicate", shard] if mesh["replicate"].size() > 1 else mesh[shard]


def make_meshes(parallel: ParallelConfig, device: str, world: World) -> Meshes:
    """Groups for every dimension; all ranks call this."""
    timeout = world.step_timeout
    pp, copies = parallel.pp, parallel.dp_replicate
    ranks = torch.arange(world.size)
    dense = _mesh(ranks.view(pp, copies, -1), ("replicate", "shard"), device, timeout)
    shape = (pp, copies, parallel.expert_shards, parallel.ep)
    names = ("replicate", "expert_shard", "ep")
    experts = _mesh(ranks.view(shape), names, device, timeout)
    rows = None
    if parallel.cp > 1:
        rows = _mesh(ranks.view(pp, -1, parallel.cp), ("dp", "cp"), device, timeout)["cp"]
    pipeline = _group(ranks.view(pp, -1).t(), timeout) if pp > 1 else None
    return Meshes(dense, experts, rows, pipeline)


def _mesh(
    ranks: torch.Tensor, names: tuple[str, ...], device: str, timeout: datetime.timedelta
) -> DeviceMesh:
    """The mesh of this rank among those of `ranks` along its first dimension.

    Its groups have the time-out; those that torch makes itself would have 30 minutes.
    """
    dims = range(1, ranks.ndim)
    own = [_group(ranks.movedim(d, -1).reshape(-1, ranks.shape[d]), timeout) for d in dims]
    here = next(part for part in ranks if dist.get_rank() in part)
    return DeviceMesh.from_group(own, device, mesh=here, mesh_dim_names=names)


def _group(rows: torch.Tensor, timeout: datetime.timedelta) -> Any:
    """Of a group for each row of ranks that which this rank is in."""
    groups = {tuple(row): dist.new_group(row, timeout=timeout) for row in rows.tolist()}
    return next(group for row, group in groups.items() if dist.get_rank() in row)
