"""What a recipe's `parallel` section does to a network without storage, in a fixed order.

experts → context → recompute → stages → shards: each later one works on what the one before left.
"""

from __future__ import annotations

import torch
from torch import nn

from ...config.parallel import ParallelConfig
from ...model.moe import Experts
from ...model.swap import swap
from ...plan.exchange import pays
from ...plan.stages import stage_layers
from ..forward import LingForTraining
from ..recompute import recompute
from .context import CutRows
from .copies import OneCopyExperts
from .experts import ParallelExperts
from .mesh import Meshes
from .pipeline import PipelinedLing
from .shard import shard


def parallelise(
    parallel: ParallelConfig, meshes: Meshes | None, seq_length: int, network: LingForTraining
) -> LingForTraining:
    """Spread `network` over the ranks of `meshes`; None is a process alone.

    Rows of `seq_length` tokens decide what a layer costs, and so which stage has it.
    """

    def spread(name: str, module: nn.Module) -> nn.Module | None:
        assert meshes is not None
        if not isinstance(module, Experts):
            return None
        dtype = network.ling.compute_dtype or torch.float32
        one_copy = pays(network.ling.config, parallel.ep, dtype.itemsize)
        return (OneCopyExperts if one_copy else ParallelExperts)(module, meshes.experts["ep"])

    if parallel.ep > 1:
        swap(network.ling, spread)
    if meshes is not None and meshes.rows is not None:
        network.context = CutRows(meshes.rows)
    recompute(network, parallel.recompute)
    if meshes is None:
        return network
    if meshes.pipeline is None:
        shard(network, meshes)
        return network
    stages = stage_layers(parallel, network.ling.config, seq_length)
    pipelined = PipelinedLing(network, stages, meshes.pipeline)
    if meshes.dense.size() > 1:
        for stage in pipelined.own_stages:
            shard(stage, meshes)
    return pipelined
