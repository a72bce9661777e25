"""Low-rank adapters (LoRA) of a model: which matrices have one, and what it is.

y = W·x + scale · B·(A·x). Of a stack of experts each expert has its own A and B. Training, files
and inference share these types. Legend: E experts · r rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from ..config.model import ModelConfig

Kind = Literal["attention", "dense", "shared", "experts"]
KINDS: tuple[Kind, ...] = ("attention", "dense", "shared", "experts")


class Target(NamedTuple):
    """A matrix [out, in] that can have an adapter; `experts` of them in a stack, 0 for one."""

    kind: Kind
    in_features: int
    out_features: int
    experts: int = 0


class LowRank(NamedTuple):
    """A [r, in] and B [out, r], of a stack [E, r, in] and [E, out, r]."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[-2]


@dataclass(frozen=True)
class Adapter:
    """All low-rank matrices of an adapter by the name of what they change.

    Names are those of `adapter_targets`: a module's (`model.layers.3.attention.dense`), or a
    stack's (`model.layers.3.mlp.experts.gate_proj`).
    """

    matrices: dict[str, LowRank]


def scale_of(rank: int, alpha: float, *, rslora: bool) -> float:
    """alpha / r, or alpha / √r with rank-stabilised LoRA."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def adapter_targets(cfg: ModelConfig) -> dict[str, Target]:
    """Every matrix that can have an adapter, in layer order; router, embedding, head and MTP layers
    have none.
    """
    return dict(_targets(cfg))


def _targets(cfg: ModelConfig) -> Iterator[tuple[str, Target]]:
    h, qkv = cfg.hidden_size, cfg.q_size + 2 * cfg.kv_size
    for n in range(cfg.num_hidden_layers):
        layer = f"model.layers.{n}."
        yield f"{layer}attention.query_key_value", Target("attention", h, qkv)
        yield f"{layer}attention.dense", Target("attention", cfg.q_size, h)
        if not cfg.is_moe_layer(n):
            yield from _mlp(f"{layer}mlp.", "dense", h, cfg.intermediate_size)
            continue
        width, experts = cfg.moe_intermediate_size, cfg.num_experts
        yield from _mlp(f"{layer}mlp.experts.", "experts", h, width, experts)
        if cfg.num_shared_experts:
            yield from _mlp(f"{layer}mlp.shared_experts.", "shared", h, cfg.shared_expert_width)


def _mlp(
    prefix: str, kind: Kind, hidden: int, width: int, experts: int = 0
) -> Iterator[tuple[str, Target]]:
    yield f"{prefix}gate_proj", Target(kind, hidden, width, experts)
    yield f"{prefix}up_proj", Target(kind, hidden, width, experts)
    yield f"{prefix}down_proj", Target(kind, width, hidden, experts)
