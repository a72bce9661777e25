"""What a recipe's `parallel` section does to a network without storage, in a fixed order.

experts → context → recompute → shards: each later one works on what the one before left.
"""

from __future__ import annotations

from torch import nn

from ...config.parallel import ParallelConfig
from ...model.moe import Experts
from ...model.swap import swap
from ..forward import LingForTraining
from ..recompute import recompute
from .context import CutRows
from .experts import ParallelExperts
from .mesh import Meshes
from .shard import shard


def parallelise(parallel: ParallelConfig, meshes: Meshes | None, network: LingForTraining) -> None:
    """Spread `network` over the ranks of `meshes`; None is a process alone."""

    def spread(name: str, module: nn.Module) -> nn.Module | None:
        assert meshes is not None
        return (
            ParallelExperts(module, meshes.experts["ep"]) if isinstance(module, Experts) else None
        )

    if parallel.ep > 1:
        swap(network.ling, spread)
    if meshes is not None and meshes.rows is not None:
        network.context = CutRows(meshes.rows)
    recompute(network, parallel.recompute)
    if meshes is not None:
        shard(network, meshes)
