"""The parameters of a model by where they are and how they are used, counted once for a plan.

Legend: D hidden · W width of an MLP · F expert width · V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..config.model import ModelConfig
from ..model.names import tensor_specs
from ..model.size import flops_per_token, layer_flops_per_token
from .stages import cut, layer_costs

FP32, BF16, FP8 = 4, 2, 1
"""Bytes of a number."""


@dataclass(frozen=True)
class Weight:
    """One tensor as training holds it, by its name in its layer; experts are one stack.

    `cast` tells that a product in bfloat16 needs a copy of it, `fp8` that it can be in FP8, `item`
    how many bytes a number takes as it is stored; a `frozen` one has no gradient and no moments.
    """

    name: str
    shape: tuple[int, ...]
    cast: bool = False
    fp8: bool = False
    item: float = FP32
    frozen: bool = False

    @property
    def is_adapter(self) -> bool:
        """Whether it is a low-rank matrix beside another."""
        return self.name.endswith((".lora_A", ".lora_B"))

    @property
    def is_experts(self) -> bool:
        """Whether it is a stack of a layer's routed experts."""
        return len(self.shape) == 3

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layer:
    """One decoder layer; an MTP layer is one that looks ahead. `mlp_width` is that of the dense MLP
    or of the shared experts together. An `unused` one is kept, but not computed."""

    weights: tuple[Weight, ...]
    is_moe: bool
    is_mtp: bool
    mlp_width: int
    unused: bool = False

    def size(self, experts: bool | None = None) -> int:
        """Its parameters: all, or the routed experts', or the rest."""
        return sum(w.size for w in self.weights if experts is None or w.is_experts == experts)


@dataclass(frozen=True)
class Shape:
    """A model for counting, with rows of `seq_length` tokens; `flops` are those of each layer's
    forward pass, by `model.size.layer_flops_per_token`."""

    config: ModelConfig
    seq_length: int
    layers: tuple[Layer, ...]
    embedding: Weight
    norm: Weight
    head: Weight | None
    """None where the embedding is the head too."""
    flops: list[dict[str, int]]
    flops_per_token: int
    _costs: tuple[list[float], float]
    _cuts: dict[int, list[range]] = field(default_factory=dict)

    def stages(self, count: int) -> list[range]:
        """Main layers of each stage, as `stages.stage_layers` cuts them."""
        if count not in self._cuts:
            self._cuts[count] = cut(*self._costs, count)
        return self._cuts[count]

    @property
    def parameters(self) -> int:
        """All of them, MTP layers included."""
        ends = (self.embedding, self.norm, *([self.head] if self.head else []))
        return sum(layer.size() for layer in self.layers) + sum(w.size for w in ends)

    @property
    def num_main(self) -> int:
        """Layers that are no MTP layers."""
        return self.config.num_hidden_layers

    @property
    def predictions(self) -> int:
        """How often the head is used on a token."""
        return 1 + sum(layer.is_mtp and not layer.unused for layer in self.layers)


def shape_of(cfg: ModelConfig, seq_length: int) -> Shape:
    """Count the parameters and operations of a configuration."""
    small = min(cfg.num_experts, 1)
    one = {"num_experts": small, "num_experts_per_tok": small, "n_group": 1, "topk_group": 1}
    found: list[list[Weight]] = [[] for _ in range(cfg.num_cache_layers)]
    ends = {}
    for name, spec in tensor_specs(cfg.replace(**one)).items():
        if name.endswith("expert_bias"):
            continue
        weight = _weight(cfg, name, spec.shape)
        if name.startswith(_LAYERS):
            found[int(name.split(".")[2])].append(weight)
        else:
            ends[name] = weight
    kinds: dict[Layer, Layer] = {}  # equal layers are one object
    made = (_layer(cfg, n, weights) for n, weights in enumerate(found))
    layers = tuple(kinds.setdefault(layer, layer) for layer in made)
    embedding, norm = ends["model.word_embeddings.weight"], ends["model.norm.weight"]
    flops = layer_flops_per_token(cfg, seq_length)
    each, costs = flops_per_token(cfg, seq_length), layer_costs(cfg, seq_length)
    head = ends.get("lm_head.weight")
    return Shape(cfg, seq_length, layers, embedding, norm, head, flops, each, costs)


_LAYERS = "model.layers."


def _weight(cfg: ModelConfig, name: str, shape: tuple[int, ...]) -> Weight:
    if ".experts." in name:
        return Weight(_short(name), (cfg.num_experts, *shape), cast=True, fp8=True)
    if name.endswith("mlp.gate.weight"):
        return Weight(_short(name), (cfg.num_experts, *shape[1:]))
    product = len(shape) == 2 and name.startswith(_LAYERS)
    return Weight(_short(name), shape, cast=product, fp8=product and "eh_proj" not in name)


def _short(name: str) -> str:
    """A name without its layer."""
    return name.split(".", 3)[3] if name.startswith(_LAYERS) else name


def _layer(cfg: ModelConfig, n: int, weights: Iterable[Weight]) -> Layer:
    is_moe = cfg.is_moe_layer(n)
    width = cfg.shared_expert_width if is_moe else cfg.intermediate_size
    return Layer(tuple(weights), is_moe, n >= cfg.num_hidden_layers, width)
