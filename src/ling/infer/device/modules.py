"""The model's modules as a device runs them, made by a rule of `model.swap`.

Names of parameters stay those of the checkpoint, except that gate and up of the experts are one
stack: `stored` says where each tensor of a checkpoint goes.
Legend: E experts · D hidden · F expert width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.layers import Linear
from ...model.moe import Experts, Router
from ...model.swap import Rule
from ...ops.chosen import FP8Stack, PlainStack, chosen_swiglu
from ...ops.formats import FP8_BLOCK
from ...ops.fp8 import widen_blocks

IsFP8 = Callable[[str], bool]
"""Whether a checkpoint has this module's weights in FP8, of experts all of them."""


class Stored(NamedTuple):
    """Memory of one tensor of a checkpoint: values, and the scales of their blocks for FP8."""

    values: Tensor
    scales: Tensor | None = None


class DeviceExperts(nn.Module):
    """All routed experts of a layer, gate and up in one stack."""

    def __init__(self, base: Experts) -> None:
        super().__init__()
        self.gate_up = _kept(torch.cat((base.gate_proj, base.up_proj), 1))
        self.down_proj = base.down_proj

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        stacks = PlainStack(self.gate_up), PlainStack(self.down_proj)
        return chosen_swiglu(x_TD, ids_TA, weights_TA, *stacks)

    def stored(self) -> Iterator[tuple[str, Stored]]:
        """Stacks by the names that the network has for them."""
        gate, up = self.gate_up.chunk(2, 1)
        for name, values in (("gate_proj", gate), ("up_proj", up), ("down_proj", self.down_proj)):
            yield name, Stored(values)


class FP8Experts(nn.Module):
    """The same in FP8, with a scale for each block of 128 x 128; widened where they are used."""

    def __init__(self, base: Experts) -> None:
        super().__init__()
        E, F, D = base.gate_proj.shape
        self.gate_up, self.gate_up_scales = _codes(E, 2 * F, D)
        self.down_proj, self.down_scales = _codes(E, D, F)

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        gate_up = FP8Stack(self.gate_up, self.gate_up_scales)
        down = FP8Stack(self.down_proj, self.down_scales)
        return chosen_swiglu(x_TD, ids_TA, weights_TA, gate_up, down)

    def stored(self) -> Iterator[tuple[str, Stored]]:
        """Stacks by the names that the network has for them."""
        halves = (x.chunk(2, 1) for x in (self.gate_up, self.gate_up_scales))
        for name, values, scales in zip(("gate_proj", "up_proj"), *halves, strict=True):
            yield name, Stored(values, scales)
        yield "down_proj", Stored(self.down_proj, self.down_scales)


class FP8Linear(nn.Module):
    """A linear map whose weight stays in FP8 and is widened to the rows' type at each use."""

    def __init__(self, base: Linear) -> None:
        super().__init__()
        self.weight, self.weight_scales = _codes(*base.weight.shape)
        self.bias = base.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = widen_blocks(self.weight, self.weight_scales, x.dtype)
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))

    def stored(self) -> Iterator[tuple[str, Stored]]:
        """The weight, and the bias if there is one."""
        yield "weight", Stored(self.weight, self.weight_scales)
        if self.bias is not None:
            yield "bias", Stored(self.bias)


def device_modules(is_fp8: IsFP8 = lambda name: False) -> Rule:
    """The rule; `is_fp8` says by a module's name what stays in FP8."""

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, Router):
            module.weight = _kept(module.weight.detach().float())  # as wide as its product
        if isinstance(module, Experts):
            # The stack of gate and up has one grid of blocks where both are whole blocks.
            whole = module.gate_proj.shape[1] % FP8_BLOCK == 0
            return FP8Experts(module) if whole and is_fp8(name) else DeviceExperts(module)
        if isinstance(module, Linear) and is_fp8(name):
            return FP8Linear(module)
        return None

    return rule


def stored_tensors(model: nn.Module) -> dict[str, Stored]:
    """Where the tensors of a checkpoint go, by the names of the network (`in_module`)."""
    found = {name: Stored(t) for name, t in (*model.named_parameters(), *model.named_buffers())}
    for name, module in model.named_modules():
        if isinstance(module, (DeviceExperts, FP8Experts, FP8Linear)):
            found |= {f"{name}.{part}": stored for part, stored in module.stored()}
    return found


def _kept(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _codes(*shape: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A matrix or stack of FP8 values and their scales, without storage."""
    *stack, rows, columns = shape
    blocks = (*stack, -(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK))
    values = torch.empty(shape, dtype=torch.float8_e4m3fn, device="meta")
    return _kept(values), _kept(torch.empty(blocks, dtype=torch.float32, device="meta"))
