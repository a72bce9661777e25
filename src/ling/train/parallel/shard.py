"""FSDP2: weights, gradients and optimizer state in parts, gathered block by block.

Gradients are added over ranks, not averaged: a loss is divided by all micro-batches of the step
(`train/step.py`), which also gives experts the right scale, whatever their mesh.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import Shard

from ...model.ling import Block, MTPBlock
from ...model.moe import Experts
from ..forward import LingForTraining
from ..fp8.gather import mark_gathered
from ..fp8.weights import kept_weights
from .experts import ParallelExperts
from .gloo import ExchangeAndAdd
from .mesh import Meshes
from .stage import Stage


def shard(network: LingForTraining | Stage, meshes: Meshes) -> None:
    """A unit per block; the root's is embedding, final norm and head; parallel experts are their
    own, on their mesh, where that has several ranks. The root is the network, or a stage of the
    pipeline.

    Weights are gathered in float32 and cast where they are used, as one process does it. Experts
    of a network that computes in bfloat16 are gathered in that: they are most of the weights, and
    all that is done with them is a product. Norms and router keep float32 this way, and what is
    quantised to FP8, of which this is done once.
    """
    dtype, whole = network.ling.compute_dtype, set[nn.Parameter]()
    for module in network.modules():
        if isinstance(module, ParallelExperts) and meshes.expert_shards.size() == 1:
            # Nothing to gather and nothing to add up: FSDP would copy their weights and gradients.
            whole.update(module.parameters())
        elif isinstance(module, Experts) and (dtype or isinstance(module, ParallelExperts)):
            _shard_experts(module, meshes, None if kept_weights(module) else dtype)
    for block in [m for m in network.modules() if isinstance(m, Block)]:
        fully_shard(block, mesh=meshes.dense_shards, ignored_params=whole)
        if isinstance(block, MTPBlock):
            register_fsdp_forward_method(block, "predict")
    fully_shard(network, mesh=meshes.dense_shards, ignored_params=whole)
    mark_gathered(network, whole)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # gloo has no product inside a sum, which is how torch would divide.
            module.set_force_sum_reduction_for_comms(True)
            if dist.get_backend() == "gloo":
                module.set_custom_reduce_scatter(cast(Any, ExchangeAndAdd()))
            if isinstance(network, Stage):
                # Several micro-batches are under way: weights are gathered once for all of them.
                module.set_reshard_after_forward(False)


def _shard_experts(module: Experts, meshes: Meshes, dtype: torch.dtype | None) -> None:
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    if isinstance(module, ParallelExperts):
        # Their first dimension is spread over ranks already.
        second = meshes.expert_shards
        fully_shard(module, mesh=second, shard_placement_fn=lambda _: Shard(1), mp_policy=policy)
    else:
        fully_shard(module, mesh=meshes.dense_shards, mp_policy=policy)


def release(network: nn.Module) -> None:
    """Give back weights that a forward pass without a backward pass has left gathered."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
