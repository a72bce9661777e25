"""The parameters of a model as a recipe has them: what is frozen, and adapters.

What `train/adapt.py` does to a network is counted here without one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path

from ..checkpoint.open import open_source
from ..config.kinds import Recipe
from ..config.sft import SFTConfig
from ..hub import resolve_model
from ..model.adapter import Target, adapter_targets
from ..model.names import tensor_specs
from ..ops.formats import INT4
from .shape import BF16, FP32, Layer, Shape, Weight


def trained_shape(shape: Shape, recipe: Recipe) -> Shape:
    """`shape` with frozen weights told from trained ones, and with the adapters of the recipe."""
    if not isinstance(recipe, SFTConfig):
        return shape if recipe.train.mtp_loss_weight else _without_mtp(shape)
    adapters, base = _adapters(shape, recipe), _Base(recipe)
    kinds: dict[Layer, Layer] = {}  # equal layers are one object
    layers = (base.layer(layer, adapters[n]) for n, layer in enumerate(shape.layers))
    return dataclasses.replace(
        shape,
        layers=tuple(kinds.setdefault(layer, layer) for layer in layers),
        embedding=base.weight(shape.embedding),
        norm=base.weight(shape.norm),
        head=None if shape.head is None else base.weight(shape.head),
    )


def longest_rows(recipe: Recipe) -> Recipe:
    """With rows as long as they can be: a row of `objective: dpo` has two answers."""
    if not isinstance(recipe, SFTConfig) or recipe.objective != "dpo":
        return recipe
    data = dataclasses.replace(recipe.data, seq_length=2 * recipe.data.seq_length)
    return dataclasses.replace(recipe, data=data)


def _without_mtp(shape: Shape) -> Shape:
    """With MTP layers that are kept as they are, and not computed."""
    frozen: dict[Layer, Layer] = {}
    for layer in shape.layers:
        if layer.is_mtp and layer not in frozen:
            weights = tuple(dataclasses.replace(w, frozen=True) for w in layer.weights)
            frozen[layer] = dataclasses.replace(layer, weights=weights, unused=True)
    return dataclasses.replace(shape, layers=tuple(frozen.get(la, la) for la in shape.layers))


class _Base:
    """The weights of the model, as a recipe keeps them."""

    def __init__(self, recipe: SFTConfig) -> None:
        self.recipe = recipe
        # What a matrix that an adapter leaves as it is takes: the dtype of products, or its format.
        self.item: float = BF16 if recipe.train.dtype == "bfloat16" else FP32
        if recipe.method == "qlora":
            self.item = packed_item(recipe.model)

    def layer(self, layer: Layer, adapters: list[Weight]) -> Layer:
        """With its adapters; an MTP layer without a loss is not computed, and of packed ones not
        read either."""
        unused = layer.is_mtp and self.recipe.train.mtp_loss_weight == 0
        found = [self.weight(w, unused=unused) for w in layer.weights]
        on_disk = unused and self.recipe.method == "qlora"
        weights = () if on_disk else (*found, *adapters)
        return dataclasses.replace(layer, weights=weights, unused=unused)

    def weight(self, weight: Weight, *, unused: bool = False) -> Weight:
        """One of them; the router keeps float32."""
        is_router = weight.name.endswith("mlp.gate.weight")
        if self.recipe.method == "full":
            frozen = unused or (is_router and not self.recipe.train.train_router)
            return dataclasses.replace(weight, frozen=frozen)
        is_matrix = len(weight.shape) > 1 and not is_router
        item = self.item if is_matrix else FP32
        # Products in bfloat16 cast float32 weights, and unpack packed ones at use.
        cast = weight.cast and item == FP32
        return dataclasses.replace(weight, frozen=True, cast=cast, item=item)


@functools.cache
def packed_item(model: str) -> float:
    """Bytes of a number of the matrices of a packed folder, on average; of int4 where there is
    none yet."""
    if not Path(model).exists():
        return (INT4.value_bits + 8 * BF16 / INT4.group) / 8
    with contextlib.closing(open_source(resolve_model(model))) as source:
        specs = tensor_specs(source.config)
        matrices = [name for name, spec in specs.items() if len(spec.shape) > 1]
        size = sum(map(source.stored_bytes, matrices))
    return size / sum(math.prod(specs[name].shape) for name in matrices)


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
