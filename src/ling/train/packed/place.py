"""The packed weights of a folder in a network (`method: qlora`).

`place_packed` puts modules for them into a network without storage, `load_packed` gives them their
weights. An integer folder is mapped: its pages count as free memory until they are read, and are
shared by all processes that train or serve it. Norms, router and biases stay parameters, which the
run fills as those of any checkpoint.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ...checkpoint.hf.names import has_fp8
from ...checkpoint.hf.source import HFSource
from ...checkpoint.load import packed_weights
from ...checkpoint.open import open_source
from ...checkpoint.packed.load import PackedWeights
from ...checkpoint.packed.names import EMBEDDING, PackedSpec, packed_specs
from ...checkpoint.packed.source import PackedSource
from ...checkpoint.source import Source
from ...config.sft import SFTConfig
from ...errors import UsageError
from ...hub import resolve_model
from ...model.layers import Linear
from ...model.ling import Ling
from ...model.moe import Experts
from ...model.swap import swap
from ...ops.packed_products import PackedExperts as PackedStacks
from ...ops.packing import Packed
from ..device import device_type
from .modules import PackedEmbedding, PackedExperts, PackedLinear


def place_packed(ling: Ling, *, mtp: bool) -> None:
    """Replace, in place, every module with matrices by one for packed weights; without `mtp` the
    MTP layers are taken out, and stay on disk.
    """
    if not mtp:
        layers: Any = ling.model.layers
        for n in range(ling.config.num_hidden_layers, len(layers)):
            layers[n] = None
    swap(ling, _packed)


def _packed(name: str, module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.Embedding):
        return PackedEmbedding(module)
    if isinstance(module, Experts):
        return PackedExperts(module)
    return PackedLinear(module) if isinstance(module, Linear) else None


def check_packed(recipe: SFTConfig) -> None:
    """Of `method: qlora` raise `UsageError` where packed weights cannot be trained over, and for a
    model whose weights are not packed; reads headers only."""
    if recipe.method != "qlora":
        return
    name, parallel = recipe.model, recipe.parallel
    for key in ("ep", "pp"):
        if getattr(parallel, key) > 1:
            raise UsageError(
                f"`parallel.{key}` = {getattr(parallel, key)} does not spread packed weights over "
                f"ranks: set it to 1, or `method: lora` with float weights"
            )
    if device_type(recipe.train.device).type != "cpu":
        raise UsageError(
            "`method: qlora` multiplies packed weights on the CPU only: set `train.device: cpu`, "
            "or `method: lora` with float weights"
        )
    with contextlib.closing(open_source(resolve_model(name))) as source:
        if isinstance(source, PackedSource):
            return
        if isinstance(source, HFSource) and has_fp8(source.tensors):
            return
    raise UsageError(
        f"`method: qlora` trains over weights in integers or FP8, and those of {name} are not: "
        f"`ling convert {name} {Path(name).name}-int4 --to int4` makes such a folder; or set "
        "`method: lora`"
    )


def load_packed(ling: Ling, source: Source) -> None:
    """Give the modules of `place_packed`, with adapters around them or not, their weights."""
    weights, specs = packed_weights(source), packed_specs(ling.config)
    places = {
        name: _Place(spec, part)
        for spec in specs.values()
        for part, name in enumerate(spec.sources)
    }
    for name, found in ling.named_modules():
        module = getattr(found, "base", found)
        if isinstance(module, PackedLinear):
            module.w = _matrix(weights, _place(name, places))
        elif isinstance(module, PackedExperts):
            stacks = (weights.matrix(specs[f"{name}.{m}"]) for m in ("gate_up_proj", "down_proj"))
            module.weights = PackedStacks(*stacks)
        elif isinstance(module, PackedEmbedding):
            module.q_VD, module.scales = weights.embedding()


class _Place(NamedTuple):
    """Where the weights of a tensor are: `part` 1 is the second of two whose tiles take turns."""

    spec: PackedSpec
    part: int


def _place(name: str, places: dict[str, _Place]) -> _Place:
    """That of a linear layer; of a tied head the embedding's."""
    found = places.get(f"{name}.weight")
    return places[f"{EMBEDDING}.weight"] if found is None else found


def _matrix(weights: PackedWeights, place: _Place) -> Packed:
    """A whole matrix, mapped; one of two is copied out, for its tiles have others between them."""
    both, parts = weights.matrix(place.spec), len(place.spec.sources)
    if parts == 1:
        return both
    data = both.data[place.part :: parts].contiguous()
    scales = None if both.scales is None else both.scales[place.part :: parts].contiguous()
    return Packed(both.format, both.rows // parts, both.cols, data, scales)
