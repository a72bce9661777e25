"""The model's modules as a device runs them, made by a rule of `model.swap`.

Names of parameters stay those of the checkpoint, except that gate and up of the experts are one
stack: `stored` says where each tensor of a checkpoint goes.
Legend: T tokens · D hidden · H query heads · G kv heads · I all of these · K head dim · E experts ·
F expert width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...model.attention import Attend, Attention
from ...model.layers import Linear, RMSNorm
from ...model.moe import Experts, Router
from ...model.swap import Rule
from ...ops.chosen import FP8Stack, PlainStack, chosen_swiglu, fp8_linear
from ...ops.device_kernels import norm_rotate, rms_norm
from ...ops.formats import FP8_BLOCK

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
    """A linear map whose weight stays in FP8 and is multiplied at each use."""

    def __init__(self, base: Linear) -> None:
        super().__init__()
        self.weight, self.weight_scales = _codes(*base.weight.shape)
        self.bias = base.bias

    def forward(self, x: Tensor) -> Tensor:
        y = fp8_linear(x, self.weight, self.weight_scales)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def stored(self) -> Iterator[tuple[str, Stored]]:
        """The weight, and the bias if there is one."""
        yield "weight", Stored(self.weight, self.weight_scales)
        if self.bias is not None:
            yield "bias", Stored(self.bias)


class DeviceNorm(RMSNorm):
    """RMSNorm in one kernel, where there is one."""

    def __init__(self, base: RMSNorm) -> None:
        nn.Module.__init__(self)
        self.weight, self.eps = base.weight, base.eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class DeviceAttention(Attention):
    """Attention whose norm and rotation of queries and keys are one kernel, where there is one."""

    def __init__(self, base: Attention) -> None:
        nn.Module.__init__(self)
        self.head_dim, self.splits, self.use_qk_norm = base.head_dim, base.splits, base.use_qk_norm
        for name, module in base.named_children():
            setattr(self, name, module)

    def forward(
        self, x_TD: Tensor, rope: tuple[Tensor, Tensor], attend: Attend, layer: int
    ) -> Tensor:
        if not self.use_qk_norm:
            return super().forward(x_TD, rope, attend, layer)
        qkv_TIK = self.query_key_value(x_TD).unflatten(-1, (-1, self.head_dim))
        queries, keys, values = self.splits
        query, key = self.query_layernorm, self.key_layernorm
        qk_TIK = norm_rotate(
            qkv_TIK[:, :-values], (query.weight, key.weight), queries, query.eps, rope
        )
        q_THK, k_TGK = qk_TIK.split((queries, keys), dim=1)
        return self.dense(attend(layer, q_THK, k_TGK, qkv_TIK[:, -values:]).flatten(1))


def device_modules(is_fp8: IsFP8 = lambda name: False) -> Rule:
    """The rule; `is_fp8` says by a module's name what stays in FP8."""

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, Router):
            module.weight = _kept(module.weight.detach().float())  # as wide as its product
        if isinstance(module, Attention):
            return DeviceAttention(module)
        if isinstance(module, RMSNorm):
            return DeviceNorm(module)
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
    found: dict[str, Stored] = {}
    for prefix, module in model.named_modules():
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        tensors: Iterable[tuple[str, Stored]] = ((name, Stored(t)) for name, t in own)
        if isinstance(module, (DeviceExperts, FP8Experts, FP8Linear)):
            tensors = module.stored()
        found |= {f"{prefix}.{name}" if prefix else name: stored for name, stored in tensors}
    return found


def _kept(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _codes(*shape: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A matrix or stack of FP8 values and their scales, without storage."""
    *stack, rows, columns = shape
    blocks = (*stack, -(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK))
    values = torch.empty(shape, dtype=torch.float8_e4m3fn, device="meta")
    return _kept(values), _kept(torch.empty(blocks, dtype=torch.float32, device="meta"))
