"""Which rank does what: degrees checked against model and batch, and the device meshes."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ...config.model import ModelConfig
from ...config.parallel import ParallelConfig
from ...config.recipe import TrainConfig
from ...errors import UsageError
from .cut import check_stages
from .group import World


def check_layout(
    parallel: ParallelConfig, train: TrainConfig, model: ModelConfig, ranks: int
) -> None:
    """Raise `UsageError`, with the fix, unless ranks, batch and model fit the degrees."""
    if parallel.world != ranks:
        raise UsageError(_other_ranks(parallel, ranks))
    rows = train.micro_batch_size * parallel.dp
    if train.global_batch_size % rows:
        raise UsageError(
            f"`train.global_batch_size` = {train.global_batch_size} is not a multiple of "
            f"`train.micro_batch_size` × data-parallel ranks = {train.micro_batch_size} × "
            f"{parallel.dp}; set it to {math.ceil(train.global_batch_size / rows) * rows}"
        )
    if parallel.ep > 1:
        _check_experts(parallel, model)
    if parallel.pp > 1:
        check_stages(parallel, train, model)


def _other_ranks(parallel: ParallelConfig, ranks: int) -> str:
    degrees = ("dp_replicate", "dp_shard", "cp", "pp")
    product = " × ".join(f"{name} {getattr(parallel, name)}" for name in degrees)
    rest = parallel.world // parallel.dp_shard
    fix = f"start {parallel.world} (torchrun --nproc-per-node {parallel.world} -m ling pretrain …)"
    if ranks % rest == 0 and ranks // rest % parallel.ep == 0:
        fix = f"set `parallel.dp_shard: {ranks // rest}`, or {fix}"
    started = "1 rank was" if ranks == 1 else f"{ranks} ranks were"
    return f"{started} started, but `parallel` makes {product} = {parallel.world}; {fix}"


def _check_experts(parallel: ParallelConfig, model: ModelConfig) -> None:
    if model.num_experts % parallel.ep:
        raise UsageError(
            f"`parallel.ep` = {parallel.ep} does not divide the model's {model.num_experts} "
            "experts; set it to a divisor of them"
        )
    shards = parallel.expert_shards
    for name in ("hidden_size", "moe_intermediate_size"):
        if getattr(model, name) % shards:
            raise UsageError(
                f"`parallel.dp_shard` × `cp` / `ep` = {shards} does not divide the model's "
                f"`{name}` = {getattr(model, name)}; set another `parallel.ep`"
            )


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
