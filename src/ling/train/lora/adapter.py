"""The adapter of a network as a value: taken out, put in, merged, switched off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint.dcp.local import fill_part, mesh_of
from ...config.model import ModelConfig
from ...config.sft import LoRAConfig
from ...errors import UsageError
from ...model.adapter import Adapter, LowRank, Target, adapter_targets
from ...model.ling import Ling
from ...model.moe import Experts
from ...model.swap import swap
from .modules import MATRICES, LoRAExperts, LoRALinear, LowRankProducts
from .rule import scale


def parameter_names(name: str, target: Target) -> tuple[str, str]:
    """Names of A and B, in a network, of the matrix `name` of `adapter_targets`."""
    join = "_" if target.experts else "."
    return f"{name}{join}lora_A", f"{name}{join}lora_B"


def adapter_in(tensors: Mapping[str, Tensor], cfg: ModelConfig, lora: LoRAConfig) -> Adapter:
    """The adapter among tensors by their parameters' names, as a network or a checkpoint has."""
    found = {}
    for name, target in adapter_targets(cfg).items():
        a, b = parameter_names(name, target)
        if a in tensors:
            found[name] = LowRank(tensors[a], tensors[b], scale(lora, target.kind))
    return Adapter(found)


def adapter_of(ling: Ling, lora: LoRAConfig) -> Adapter:
    """The adapter of `ling`, copied; all ranks of a sharded network call this and get all of it.

    A pipeline stage gives that of its layers.
    """
    parts = {name: p for name, p in ling.named_parameters() if _is_low_rank(name)}
    return adapter_in({name: _whole(p) for name, p in parts.items()}, ling.config, lora)


def _is_low_rank(name: str) -> bool:
    return name.endswith(("lora_A", "lora_B"))


def _whole(p: Any) -> Tensor:
    values: Tensor = p.detach() if mesh_of(p) is None else p.detach().full_tensor()
    return values.clone()


@torch.no_grad()
def put(ling: Ling, adapter: Adapter) -> None:
    """Go on from `adapter`, which must have the matrices, ranks and scale of `ling`'s own.

    `UsageError` names the first that differs.
    """
    own, targets = dict(ling.named_parameters()), adapter_targets(ling.config)
    scales = _scales(ling)
    for name in adapter.matrices:
        if name not in targets:
            raise UsageError(f"the adapter has `{name}`, which this model has not")
    for name, target in targets.items():
        a, b = parameter_names(name, target)
        there, here = adapter.matrices.get(name), name in scales
        if not here and (there is None or ling.model.layers[int(name.split(".")[2])] is None):
            continue  # neither has it, or it is in another pipeline stage
        if there is None or not here:
            who = "the recipe trains" if here else "the adapter has"
            raise UsageError(f"{who} `{name}`, the other does not: set `lora.targets`")
        _check(name, "lora_A", there.a, own[a])
        _check(name, "lora_B", there.b, own[b])
        if there.scale != scales[name]:
            raise UsageError(
                f"`{name}` of the adapter is scaled by {there.scale:g}, the recipe scales by "
                f"{scales[name]:g}: set `lora.alpha` or `lora.rslora`"
            )
        fill_part(own[a], there.a)
        fill_part(own[b], there.b)


def _check(name: str, which: str, there: Tensor, here: Tensor) -> None:
    if there.shape != here.shape:
        raise UsageError(
            f"`{name}` of the adapter has a {which} of shape {list(there.shape)}, the recipe's is "
            f"{list(here.shape)}: set `lora.rank` or `lora.expert_rank`"
        )


def _scales(ling: Ling) -> dict[str, float]:
    """The scale of each matrix with an adapter in `ling`."""
    found: dict[str, float] = {}
    for name, part in _with_adapter(ling):
        names = [name] if isinstance(part, LoRALinear) else [f"{name}.{m}" for m in MATRICES]
        found |= dict.fromkeys(names, part.scale)
    return found


def _with_adapter(network: nn.Module) -> Iterator[tuple[str, LoRALinear | LowRankProducts]]:
    """What adds an adapter's product, by the name of its module."""
    for name, module in network.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module
        elif isinstance(module, Experts) and isinstance(module.multiply, LowRankProducts):
            yield name, module.multiply


# ---- merging -------------------------------------------------------------------------------------


@torch.no_grad()
def merge(ling: Ling) -> None:
    """Add adapters to the weights of a whole network, in place, and take their modules out.

    W + scale · B·A in float32, rounded once to the dtype of W.
    """
    swap(ling, _merged)


def _merged(name: str, module: nn.Module) -> nn.Module | None:
    if isinstance(module, LoRALinear):
        _add(name, module, "weight", "", module.scale)
    elif isinstance(module, Experts) and isinstance(module.multiply, LowRankProducts):
        if not isinstance(module, LoRAExperts):
            raise UsageError(_SPREAD.format(name))
        for m in MATRICES:
            _add(name, module, m, f"{m}_", module.multiply.scale)
    else:
        return None
    base: nn.Module = module.base
    return base


_SPREAD = "`{}` is spread over ranks: merge the adapter that the run has written instead"


def _add(name: str, module: nn.Module, key: str, prefix: str, scale: float) -> None:
    weight = module._parameters.get(key)
    if weight is None or not weight.is_floating_point():
        raise UsageError(f"`{name}` has no float weights to merge an adapter into")
    if mesh_of(weight) is not None:
        raise UsageError(_SPREAD.format(name))
    a, b = (module._parameters.pop(f"{prefix}lora_{which}") for which in "AB")
    assert a is not None
    assert b is not None
    for w_NK, a_rK, b_Nr in _each(weight, a, b):
        w_NK.copy_(torch.addmm(w_NK.float(), b_Nr.float(), a_rK.float(), alpha=scale))


def _each(weight: Tensor, a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The matrices one by one: a stack in float32 would take as much memory again."""
    if weight.ndim == 2:
        return iter([(weight, a, b)])
    return iter(zip(weight, a, b, strict=True))


# ---- the frozen model ----------------------------------------------------------------------------


@contextlib.contextmanager
def adapter_off(network: nn.Module) -> Iterator[None]:
    """Compute with the frozen weights alone: results are to the bit those of the base."""
    parts = [part for _, part in _with_adapter(network)]
    was = [part.is_on for part in parts]
    for part in parts:
        part.is_on = False
    try:
        yield
    finally:
        for part, value in zip(parts, was, strict=True):
            part.is_on = value
