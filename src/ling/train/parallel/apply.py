"""What a recipe does to a network without storage, in a fixed order: FP8, then `parallel`.

FP8 → experts → context → recompute → stages → shards: each later one works on what the one before
left.
"""

from __future__ import annotations

import torch
from torch import nn

from ...config.kinds import Recipe
from ...model.moe import Experts
from ...model.swap import swap
from ...plan.exchange import pays
from ...plan.stages import stage_layers
from ..forward import LingForTraining
from ..fp8.rule import fp8
from ..recompute import recompute
from .context import CutRows
from .copies import OneCopyExperts
from .experts import ParallelExperts
from .mesh import Meshes
from .pipeline import PipelinedLing
from .shard import shard


def parallelise(recipe: Recipe, meshes: Meshes | None, network: LingForTraining) -> LingForTraining:
    """Spread `network` over the ranks of `meshes`, its products in FP8 if `recipe` says so.

    Without meshes a process is alone.
    """
    parallel = recipe.parallel

    def spread(name: str, module: nn.Module) -> nn.Module | None:
        assert meshes is not None
        if not isinstance(module, Experts):
            return None
        dtype = network.ling.compute_dtype or torch.float32
        one_copy = pays(network.ling.config, parallel.ep, dtype.itemsize)
        return (OneCopyExperts if one_copy else ParallelExperts)(module, meshes.experts["ep"])

    fp8(network.ling, recipe.train)
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
    stages = stage_layers(parallel, network.ling.config, recipe.data.seq_length)
    pipelined = PipelinedLing(network, stages, meshes.pipeline)
    if meshes.dense.size() > 1:
        for stage in pipelined.own_stages:
            shard(stage, meshes)
    return pipelined
