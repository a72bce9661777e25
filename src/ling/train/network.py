"""The network of a run with its weights, each rank its part.

Without storage → parallelise → materialise → random weights or those of a checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.dcp.local import fill_part
from ..checkpoint.load import fill
from ..checkpoint.open import holds_weights, open_source
from ..checkpoint.packed.source import PackedSource
from ..config.kinds import Recipe
from ..config.model import ModelConfig
from ..config.sft import SFTConfig
from ..errors import UsageError
from ..hub import resolve_model
from ..model.ling import Ling, init_module
from ..model.names import tensor_specs
from ..presets import PRESETS
from .adapt import adapt, start
from .forward import LingForTraining
from .fp8.gather import gather_bytes
from .packed.place import load_packed

Parallelise = Callable[[LingForTraining], LingForTraining]


def build_network(
    recipe: Recipe, cfg: ModelConfig, device: torch.device, parallelise: Parallelise
) -> LingForTraining:
    """The network on `device`: random weights, or those of the checkpoint that `model` names."""
    with torch.device("meta"):
        network = LingForTraining(Ling(cfg))
    bfloat16 = recipe.train.dtype == "bfloat16"
    network.ling.compute_dtype = torch.bfloat16 if bfloat16 else None
    adapt(network, recipe)
    network = parallelise(network)
    network.to_empty(device=device)
    gather_bytes(network)
    name = recipe.model
    is_shape = name in PRESETS and not isinstance(recipe, SFTConfig)
    folder = None if is_shape else resolve_model(name)
    # On the CPU, so that a seed gives the same weights on every device.
    generator = torch.Generator().manual_seed(recipe.train.seed)
    if folder is not None and holds_weights(folder):
        packed = isinstance(recipe, SFTConfig) and recipe.method == "qlora"
        if isinstance(recipe, SFTConfig) and not packed:
            _check_floats(folder, recipe)
        _load_weights(network.ling, folder, name, packed=packed)
        start(network, recipe)
    else:
        init_parts(network.ling, generator)
    network.train()
    return network


def _check_floats(folder: Path, recipe: SFTConfig) -> None:
    with contextlib.closing(open_source(folder)) as source:
        if isinstance(source, PackedSource):
            raise UsageError(
                f"`method: {recipe.method}` trains over float weights, and {recipe.model} holds "
                "integers: name the folder that it was converted from, or one that `ling convert "
                f"{recipe.model} DIR` makes of it, or set `method: qlora`"
            )


def _load_weights(model: Ling, folder: Path, name: str, *, packed: bool) -> None:
    """This rank's part of the weights, which it reads alone; with `packed` matrices as they are."""
    with contextlib.closing(open_source(folder)) as source:
        found, own = (
            {name: spec.shape for name, spec in tensor_specs(cfg).items()}
            for cfg in (source.config, model.config)
        )
        if found != own:
            raise UsageError(
                f"`model_overrides` may not change the shapes of the weights in {name}"
            )
        fill(model, source)
        if packed:
            load_packed(model, source)


@torch.no_grad()
def init_parts(model: Ling, generator: torch.Generator) -> None:
    """The values that `Ling.init_weights` gives one process, of a sharded model this rank's part.

    Every rank makes all of them, a module at a time: values depend on those made before.
    """
    with torch.device("meta"):
        whole = Ling(model.config)
    tied = whole.lm_head if model.config.tie_word_embeddings else None
    targets = dict(model.named_modules())
    for name, module in whole.named_modules():
        if module is tied or not _own(module):
            continue
        module.to_empty(device=generator.device, recurse=False)
        init_module(module, model.config.initializer_range, generator)
        if name in targets:  # else it is in another pipeline stage
            target = _own(targets[name])
            for key, value in _own(module).items():
                fill_part(target[key], value)
        module.to("meta")


def _own(module: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module without those of the modules in it."""
    return {
        **dict(module.named_parameters(recurse=False)),
        **dict(module.named_buffers(recurse=False)),
    }
