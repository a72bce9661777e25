"""From any checkpoint to a module with its weights, or to packed weights for the native engine."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from ..hub import resolve_model
from ..model.ling import Ling, to_dtype
from ..model.names import in_module, module_tensor, tensor_specs
from ..ops.formats import BF16, FP8, Format
from .dcp.local import local_box, local_part
from .dtypes import DTYPES
from .hf.names import has_fp8
from .hf.source import HFSource
from .open import open_source
from .packed.load import FP8Folder, PackedAtLoad, PackedWeights
from .packed.matrices import unpack_matrix
from .packed.names import packed_specs
from .packed.source import PackedSource
from .source import BoxSource, DirectSource, Source, cut


def load_model(model: str | Path, dtype: str | None = None) -> Ling:
    """Load any checkpoint that `ling convert` reads, or a model by name, downloaded where it is not
    a packaged one.

    `dtype` None or "auto" keeps the one of the weights. Names, shapes and types are checked before
    anything is allocated. `expert_bias` is float32 always.
    """
    with contextlib.closing(open_source(resolve_model(model))) as source:
        return load_module(source, dtype)


def load_module(source: Source, dtype: str | None = None) -> Ling:
    """`load_model` of a checkpoint that is open."""
    name = source.config.dtype if dtype in (None, "auto") else dtype
    if name not in DTYPES:
        raise UsageError(f"`dtype` is `{dtype}`, expected auto, bfloat16 or float32")
    with torch.device("meta"):
        network = Ling(source.config)
    network = to_dtype(network, DTYPES[name]).to_empty(device="cpu")
    fill(network, source)
    return network.eval()


@torch.no_grad()
def fill(model: Ling, source: Source) -> None:
    """Read the weights of `model`: the layers that it has, of sharded ones what this process holds.

    A source that cannot read a part alone is read a tensor at a time.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    direct = source if isinstance(source, DirectSource) else None
    for name, spec in tensor_specs(model.config).items():
        key, expert = in_module(name)
        if key not in own:
            continue
        target, (start, shape) = local_part(own[key]), local_box(own[key])
        if expert is not None:
            at = expert - start[0]
            if not 0 <= at < shape[0]:
                continue
            target, start, shape = target[at], start[1:], shape[1:]
        if shape == spec.shape:
            if direct is None or not direct.read_into(name, target):
                target.copy_(source.values(name))
        elif 0 not in shape:
            target.copy_(_box(source, name, start, shape))


def _box(source: Source, name: str, start: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    if isinstance(source, BoxSource):
        return source.box(name, start, shape)
    return cut(source.values(name), start, shape)


def packed_weights(source: Source, fmt: Format | None = None) -> PackedWeights:
    """Weights for the native engine: mapped from an integer folder, FP8 as released, and others
    packed to `fmt` (None: bfloat16) as they are read.
    """
    if isinstance(source, PackedSource):
        return source.folder
    if fmt in (None, FP8) and isinstance(source, HFSource) and has_fp8(source.tensors):
        return FP8Folder(source.config, source.tensors)
    return PackedAtLoad(source.config, fmt or BF16, source.values)


@torch.no_grad()
def rounded_module(source: Source, fmt: Format, dtype: str | None = None) -> Ling:
    """The module with the values that packing to `fmt` leaves of its matrices."""
    model, weights = load_module(source, dtype), packed_weights(source, fmt)
    state = model.state_dict()
    for spec in packed_specs(source.config).values():
        matrix = weights.matrix(spec)
        for e in range(max(spec.experts, 1)):
            for name, value in zip(spec.parts(e), unpack_matrix(spec, matrix, e), strict=True):
                module_tensor(state, name).copy_(value)
    return model
