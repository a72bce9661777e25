"""What a recipe trains of a network: frozen parts, and the modules that a method puts in.

`adapt` is called on a network without storage, before it is spread over ranks; `start` once it has
its weights.
"""

from __future__ import annotations

import torch

from ..checkpoint.adapter.read import read_adapter
from ..config.kinds import Recipe
from ..config.model import ModelConfig
from ..config.sft import SFTConfig
from ..errors import UsageError
from ..model.ling import Ling
from ..model.moe import Router
from .forward import LingForTraining
from .lora import table
from .lora.adapter import put
from .lora.rule import add_adapters, start_adapters
from .packed.place import check_packed, place_packed


def adapt(network: LingForTraining, recipe: Recipe) -> None:
    """Freeze what `recipe` does not train; what is frozen has no gradient and no moments.

    MTP layers whose loss has no weight are kept, but not computed.
    """
    network.uses_mtp = recipe.train.mtp_loss_weight > 0
    if isinstance(recipe, SFTConfig) and recipe.method != "full":
        _check_frozen(recipe)
        network.ling.requires_grad_(False)
        if recipe.method == "qlora":
            check_packed(recipe)
            place_packed(network.ling, mtp=network.uses_mtp)
        add_adapters(network.ling, recipe.lora, network.token_numbers, recipe.train.seed)
        return
    if isinstance(recipe, SFTConfig):
        for module in network.ling.modules():
            if isinstance(module, Router):
                module.requires_grad_(recipe.train.train_router)
    if not network.uses_mtp:
        cfg = network.ling.config
        network.ling.model.layers[cfg.num_hidden_layers :].requires_grad_(False)


def _check_frozen(recipe: SFTConfig) -> None:
    """Raise `UsageError` for what an adapter cannot hold, or is not made for."""
    train, method = recipe.train, f"`method: {recipe.method}`"
    for key, is_set, what in (
        ("bias_update_rate", train.bias_update_rate > 0, "the expert bias"),
        ("train_router", train.train_router, "the router"),
    ):
        if is_set:
            raise UsageError(
                f"`train.{key}` needs `method: full`: an adapter of {method} cannot hold {what}"
            )
    if train.fp8 != "off":
        raise UsageError(
            f"`train.fp8: {train.fp8}` is not made for {method}, whose weights are frozen: set "
            "`train.fp8: off`"
        )


def start(network: LingForTraining, recipe: Recipe) -> None:
    """First values of what `adapt` put in, of a sharded network this rank's part."""
    if not isinstance(recipe, SFTConfig) or recipe.method == "full":
        return
    folder = recipe.lora.adapter
    if folder is None:
        start_adapters(network.ling, recipe.train.seed)
    else:
        put(network.ling, read_adapter(folder, network.ling.config))


def trained_table(recipe: Recipe, cfg: ModelConfig) -> list[str]:
    """What `recipe` trains of such a model, by kind of matrix, without making it."""
    with torch.device("meta"):
        network = LingForTraining(Ling(cfg))
    adapt(network, recipe)
    return table.lines(network.ling)


def keeps_base(recipe: Recipe) -> bool:
    """Whether the weights that a run begins from stay as they are: its checkpoints then hold what
    is trained only."""
    return isinstance(recipe, SFTConfig) and recipe.method != "full"
