"""Which matrices of a network get an adapter, and the first values of these.

`add_adapters` is called on a network without storage, `start_adapters` once it has its weights.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from ...checkpoint.dcp.local import fill_part
from ...config.sft import LoRAConfig
from ...errors import UsageError
from ...model.adapter import KINDS, Kind, Target, adapter_targets, scale_of
from ...model.ling import Ling
from ...model.moe import Experts, Router
from ...model.swap import swap
from ..noise import Dropout, TokenNumbers
from .modules import MATRICES, LoRAExperts, LoRALinear


def add_adapters(
    ling: Ling, lora: LoRAConfig, tokens: TokenNumbers | None = None, seed: int = 0
) -> None:
    """Freeze `ling` and put adapters on the kinds of `lora.targets`, in place; with dropout if
    `tokens` says for which tokens, its noise by `seed`.

    Frozen matrices are stored in the dtype that products cast them to, which changes no result; the
    router computes in float32 and stays there. Raises `UsageError` for a kind that no matrix is of.
    """
    ling.requires_grad_(False)
    _store_as_computed(ling)
    targets = chosen_targets(ling, lora)

    def dropout(name: str) -> Dropout | None:
        if not lora.dropout or tokens is None:
            return None
        return Dropout(lora.dropout, f"{seed}:{name}", tokens)

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, Experts):
            parts = {m: targets[f"{name}.{m}"] for m in MATRICES if f"{name}.{m}" in targets}
            if not parts:
                return None
            shapes = {m: (t.out_features, t.in_features) for m, t in parts.items()}
            return LoRAExperts(module, shapes, lora.expert_rank, scale(lora, "experts"))
        if name not in targets:
            return None
        kind = targets[name].kind
        return LoRALinear(module, lora.rank_of(kind), scale(lora, kind), dropout(name))

    swap(ling, rule)


def scale(lora: LoRAConfig, kind: Kind) -> float:
    """What the product of an adapter of this kind is multiplied by."""
    return scale_of(lora.rank_of(kind), lora.alpha, rslora=lora.rslora)


def chosen_targets(ling: Ling, lora: LoRAConfig) -> dict[str, Target]:
    """The matrices that get an adapter by `lora.targets`; `UsageError` for what matches none."""
    found = adapter_targets(ling.config)
    kinds = {target.kind for target in found.values()}
    there = ", ".join(kind for kind in KINDS if kind in kinds)
    for kind in lora.targets:
        if kind not in kinds:
            raise UsageError(
                f"`lora.targets`: no matrix of this model is of kind `{kind}`; there are: {there}"
            )
    if lora.dropout and set(lora.targets) == {"experts"}:
        raise UsageError(
            f"`lora.dropout` is {lora.dropout:g}, but adapters of routed experts have no dropout "
            "and `lora.targets` has no other kind"
        )
    return {name: target for name, target in found.items() if target.kind in lora.targets}


def _store_as_computed(ling: Ling) -> None:
    dtype = ling.compute_dtype
    for module in ling.modules():
        if dtype is None or isinstance(module, Router):
            continue
        for name, p in module._parameters.items():
            if p is not None and p.ndim > 1:
                module._parameters[name] = nn.Parameter(p.to(dtype), requires_grad=False)
    ling.tie_weights()


# ---- first values --------------------------------------------------------------------------------


@torch.no_grad()
def start_adapters(ling: Ling, seed: int) -> None:
    """A uniform within 1/√in, as peft has it, and B zero; of a sharded network this rank's part.

    A matrix's values depend on the seed and its name only: not on ranks, nor on other targets.
    """
    for name, p in ling.named_parameters():
        if name.endswith("lora_A"):
            fill_part(p, _uniform(tuple(p.shape), f"{seed}:{name}"))
        elif name.endswith("lora_B"):
            p.zero_()


def _uniform(shape: tuple[int, ...], key: str) -> Tensor:
    """On the CPU, so that every device has the same values."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    bound = 1 / math.sqrt(shape[-1])
    generator = torch.Generator().manual_seed(number)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
