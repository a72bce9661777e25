"""What a recipe trains of a network: frozen parts, and the modules that a method puts in.

`adapt` is called on a network without storage, before it is spread over ranks; `start` once it has
its weights.
"""

from __future__ import annotations

import torch

from ..config.kinds import Recipe
from ..config.sft import SFTConfig
from ..errors import UsageError
from ..model.moe import Router
from .forward import LingForTraining


def adapt(network: LingForTraining, recipe: Recipe) -> None:
    """Freeze what `recipe` does not train; what is frozen has no gradient and no moments."""
    if not isinstance(recipe, SFTConfig):
        return
    network.uses_mtp = recipe.train.mtp_loss_weight > 0
    if recipe.method != "full":
        if recipe.train.bias_update_rate:
            raise UsageError(
                f"`train.bias_update_rate` needs `method: full`: an adapter of `method: "
                f"{recipe.method}` cannot hold the expert bias"
            )
        network.ling.requires_grad_(False)
        return
    for module in network.ling.modules():
        if isinstance(module, Router):
            module.requires_grad_(recipe.train.train_router)
    if not network.uses_mtp:
        cfg = network.ling.config
        network.ling.model.layers[cfg.num_hidden_layers :].requires_grad_(False)


def start(network: LingForTraining, recipe: Recipe, generator: torch.Generator) -> None:
    """First values of what `adapt` put in, of a sharded network this rank's part."""


def keeps_base(recipe: Recipe) -> bool:
    """Whether the weights that a run begins from stay as they are: its checkpoints then hold what
    is trained only."""
    return isinstance(recipe, SFTConfig) and recipe.method != "full"
