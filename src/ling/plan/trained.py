"""The parameters of a model as a fine-tuning recipe has them: what is frozen, and adapters.

What `train/adapt.py` does to a network is counted here without one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ..config.kinds import Recipe
from ..config.sft import SFTConfig
from ..model.adapter import Target, adapter_targets
from .shape import BF16, FP32, Layer, Shape, Weight


def trained_shape(shape: Shape, recipe: Recipe) -> Shape:
    """`shape` with frozen weights told from trained ones, and with the adapters of the recipe."""
    if not isinstance(recipe, SFTConfig):
        return shape
    adapters = _adapters(shape, recipe)
    kinds: dict[Layer, Layer] = {}  # equal layers are one object
    layers = (_layer(layer, adapters[n], recipe) for n, layer in enumerate(shape.layers))
    head = None if shape.head is None else _base(shape.head, recipe)
    return dataclasses.replace(
        shape,
        layers=tuple(kinds.setdefault(layer, layer) for layer in layers),
        embedding=_base(shape.embedding, recipe),
        norm=_base(shape.norm, recipe),
        head=head,
    )


def _layer(layer: Layer, adapters: list[Weight], recipe: SFTConfig) -> Layer:
    unused = layer.is_mtp and recipe.train.mtp_loss_weight == 0
    weights = (_base(w, recipe, unused=unused) for w in layer.weights)
    return dataclasses.replace(layer, weights=(*weights, *adapters))


def _base(weight: Weight, recipe: SFTConfig, *, unused: bool = False) -> Weight:
    """A weight of the model: in the dtype of products where an adapter leaves it as it is."""
    is_router = weight.name.endswith("mlp.gate.weight")
    if recipe.method == "full":
        frozen = unused or (is_router and not recipe.train.train_router)
        return dataclasses.replace(weight, frozen=frozen)
    narrow = recipe.train.dtype == "bfloat16" and len(weight.shape) > 1 and not is_router
    cast = weight.cast and not narrow
    item = BF16 if narrow else FP32
    return dataclasses.replace(weight, frozen=True, cast=cast, item=item)


def _adapters(shape: Shape, recipe: SFTConfig) -> list[list[Weight]]:
    """A and B of each layer's matrices."""
    found: list[list[Weight]] = [[] for _ in shape.layers]
    if recipe.method != "full":
        for name, target in adapter_targets(shape.config).items():
            if target.kind in recipe.lora.targets:
                _, _, layer, short = name.split(".", 3)
                found[int(layer)] += _pair(short, target, recipe.lora.rank_of(target.kind))
    return found


def _pair(name: str, target: Target, rank: int) -> Iterator[Weight]:
    stack = (target.experts,) if target.experts else ()
    yield Weight(f"{name}.lora_A", (*stack, rank, target.in_features), cast=True)
    yield Weight(f"{name}.lora_B", (*stack, target.out_features, rank), cast=True)
