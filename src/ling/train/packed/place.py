"""Putting the packed weights of a folder into a network (`method: qlora`).

Called on a network without storage. An integer folder is mapped: its pages count as free memory
until they are read, and are shared by all processes that train or serve it. Norms, router and
biases stay parameters, which the run fills as those of any checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ...checkpoint.hf.names import has_fp8
from ...checkpoint.hf.source import HFSource
from ...checkpoint.load import packed_weights
from ...checkpoint.open import open_source
from ...checkpoint.packed.load import PackedWeights
from ...checkpoint.packed.names import EMBEDDING, PackedSpec, packed_specs
from ...checkpoint.packed.source import PackedSource
from ...checkpoint.source import Source
from ...errors import UsageError
from ...model.layers import Linear
from ...model.ling import Ling
from ...model.moe import Experts
from ...model.swap import swap
from ...ops.packing import Packed
from .modules import PackedEmbedding, PackedExperts, PackedLinear


def place_packed(ling: Ling, folder: Path, name: str, *, mtp: bool) -> None:
    """Replace, in place, every matrix of `ling` by that of the folder; without `mtp` its MTP layers
    are taken out and stay on disk.

    Raises `UsageError` where the folder, called `name`, holds float weights.
    """
    if not mtp:
        for n in range(ling.config.num_hidden_layers, len(ling.model.layers)):
            ling.model.layers[n] = None
    with contextlib.closing(open_source(folder)) as source:
        _check(source, name)
        weights = packed_weights(source)
        swap(ling, _rule(weights, packed_specs(ling.config)))
        ling.model.word_embeddings = PackedEmbedding(*weights.embedding())


def _check(source: Source, name: str) -> None:
    if isinstance(source, PackedSource):
        return
    if isinstance(source, HFSource) and has_fp8(source.tensors):
        return
    raise UsageError(
        f"`method: qlora` trains over weights in integers or FP8, and {name} has others: convert "
        f"them with `ling convert {name} {Path(name).name}-int4 --to int4`, or set `method: lora`"
    )


class _Place(NamedTuple):
    """Where the weights of a tensor are: `part` 1 is the second of two whose tiles take turns."""

    spec: PackedSpec
    part: int


def _rule(
    weights: PackedWeights, specs: dict[str, PackedSpec]
) -> Callable[[str, nn.Module], nn.Module | None]:
    places = {
        source: _Place(spec, part)
        for spec in specs.values()
        for part, source in enumerate(spec.sources)
    }

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, Experts):
            stacks = (weights.matrix(specs[f"{name}.{m}"]) for m in ("gate_up_proj", "down_proj"))
            return PackedExperts(module, *stacks)
        if isinstance(module, Linear):
            return PackedLinear(module, _matrix(weights, _place(name, places)))
        return None

    return rule


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
