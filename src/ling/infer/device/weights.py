"""Weights straight to a device: from a checkpoint, one tensor at a time, or random ones."""

from __future__ import annotations

import re

import torch

from ...checkpoint.dtypes import DTYPES
from ...checkpoint.hf.names import fp8_tensor
from ...checkpoint.hf.source import HFSource
from ...checkpoint.source import DirectSource, Source
from ...config.model import ModelConfig
from ...model.ling import Ling, to_dtype
from ...model.names import in_module, tensor_specs
from ...model.swap import swap
from ...ops.formats import FP8
from .modules import IsFP8, Stored, device_modules, stored_tensors

_EXPERT_NUMBER = re.compile(r"\.experts\.\d+\.")


def load_on_device(source: Source, dtype: str, device: torch.device) -> Ling:
    """The network with a checkpoint's weights in a device's memory, in `dtype` ("auto": their own).

    What a folder has in FP8 stays in FP8. Of the weights no copy is made in the CPU's memory but
    for the tensor that is on its way. Errors as reading the source.
    """
    name = source.config.dtype if dtype == "auto" else dtype
    with torch.device("meta"):
        network = to_dtype(Ling(source.config), DTYPES[name])
        swap(network, device_modules(fp8_modules(source)))
    network.to_empty(device=device)
    _fill(network, source)
    return network.eval()


def fp8_modules(source: Source) -> IsFP8:
    """Which modules have their weights in FP8 alone: of experts all three matrices of each."""
    if not isinstance(source, HFSource):
        return lambda name: False
    types: dict[str, set[torch.dtype]] = {}
    for name in tensor_specs(source.config):
        layer, *expert = _EXPERT_NUMBER.split(name)
        module = f"{layer}.experts" if expert else name.removesuffix(".weight")
        types.setdefault(module, set()).add(source.tensors.dtype(name))
    return lambda name: types.get(name) == {torch.float8_e4m3fn}


@torch.no_grad()
def random_on_device(
    cfg: ModelConfig, dtype: torch.dtype, device: torch.device, *, fp8: bool = False, seed: int = 0
) -> Ling:
    """A network of random weights that are made on the device, for measuring; `fp8` as a released
    FP8 folder has them."""
    with torch.device("meta"):
        network = to_dtype(Ling(cfg), dtype)
        swap(network, device_modules(_released_fp8 if fp8 else lambda name: False))
    network.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, target in stored_tensors(network).items():
        _randomise(name, target, cfg.initializer_range, generator)
    return network.eval()


def _released_fp8(module: str) -> bool:
    return not module.endswith(FP8.head_matrices)


def _randomise(name: str, target: Stored, std: float, generator: torch.Generator) -> None:
    values, scales = target
    if scales is not None:
        scales.fill_(std)
        for row in values.view(-1, *values.shape[-2:]):
            row.copy_(torch.empty(row.shape, device=row.device).normal_(generator=generator))
    elif values.ndim > 1:
        values.normal_(0, std, generator=generator)
    elif name.endswith(("expert_bias", ".bias")):
        values.zero_()
    else:
        values.fill_(1)


@torch.no_grad()
def _fill(network: Ling, source: Source) -> None:
    targets = stored_tensors(network)
    for name in tensor_specs(network.config):
        key, expert = in_module(name)
        target = targets[key]
        if expert is not None:
            scales = target.scales
            target = Stored(target.values[expert], None if scales is None else scales[expert])
        _read(source, name, target)


def _read(source: Source, name: str, target: Stored) -> None:
    if target.scales is not None:
        assert isinstance(source, HFSource)
        values, scales = fp8_tensor(source.tensors, name)
        target.values.copy_(values)
        target.scales.copy_(scales)
        return
    on_cpu = target.values.device.type == "cpu"
    if isinstance(source, DirectSource) and on_cpu and source.read_into(name, target.values):
        return
    target.values.copy_(source.values(name))
