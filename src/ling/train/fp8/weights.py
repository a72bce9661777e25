"""Weights of FP8 products: E4M3 values with a scale per 128 × 128, made from the parameters.

The parameters stay in float32, and optimizer and checkpoints know nothing else; a product reads
these copies, made once a step. Under FSDP a copy is made of the gathered weight and kept from a
forward pass to its backward pass only, or its bytes are gathered instead (`gather.py`).
Legend: N outputs · K inputs; leading dimensions are experts.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...config.recipe import TrainConfig
from ...model.moe import Experts
from ...ops.fp8_tiles import Scales, widened_blocks
from ...ops.fp8_weights import quantise_weight, transposed


class Fp8Weight:
    """A quantised weight: `codes` [..., N, K] float8_e4m3fn, `inverse` [..., N128, K128] float32.

    `codes * inverse` of each block is the weight.
    """

    def __init__(self, codes: Tensor, inverse: Tensor, *, keep_transposed: bool = False) -> None:
        self._codes, self._inverse = codes, inverse
        self._transposed = self._transpose() if keep_transposed else None

    @property
    def codes(self) -> Tensor:
        """The values."""
        return self._codes

    @property
    def inverse(self) -> Tensor:
        """What each block's values are multiplied by."""
        return self._inverse

    def widened(self) -> Tensor:
        """The weight in bfloat16: exactly, where scales are powers of two."""
        return widened_blocks(self.codes, self.inverse)

    def transposed(self) -> Fp8Weight:
        """The weight with its last two dimensions exchanged: kept, or made now.

        Square blocks make this exact: it is what quantising the transposed weight gives.
        """
        return self._transpose() if self._transposed is None else self._transposed

    def _transpose(self) -> Fp8Weight:
        return Fp8Weight(transposed(self.codes), self.inverse.transpose(-1, -2).contiguous())

    @property
    def nbytes(self) -> int:
        """Bytes of the copy, with the transposed one if it is kept."""
        other = 0 if self._transposed is None else self._transposed.nbytes
        return self.codes.nbytes + self.inverse.nbytes + other


def _nothing() -> Fp8Weight | None:
    return None


class KeptWeight:
    """The FP8 copy of parameters, one below the other; made once a step, not per micro-batch.

    `of_gathered`: the parameters are there for a pass only, and so is the copy. `gathered` replaces
    it by one whose bytes are gathered.
    """

    def __init__(self, scales: Scales) -> None:
        self.scales = scales
        self.keep_transposed = self.of_gathered = self.as_bytes = False
        self.gathered: Any = None
        self._weight: Callable[[], Fp8Weight | None] = _nothing
        self._made_of: list[tuple[int, int]] = []

    def of(self, *parts: Tensor) -> Fp8Weight:
        """The copy; the same one until a part changes or `renew` is called."""
        if self.gathered is not None:
            return self.gathered.ready()
        made_of = [(p.data_ptr(), p._version) for p in parts]
        weight = self._weight()
        if weight is None or made_of != self._made_of:
            weight = quantised(parts, self.scales, keep_transposed=self.keep_transposed)
            # What a backward pass needs it keeps itself.
            self._weight = weakref.ref(weight) if self.of_gathered else lambda: weight
            self._made_of = made_of
        return weight

    def renew(self) -> None:
        """The parameters have changed, perhaps by a kernel that autograd does not see."""
        self._weight = _nothing
        if self.gathered is not None:
            self.gathered.renew()

    @property
    def nbytes(self) -> int:
        """Bytes that this rank keeps from step to step."""
        kept = self.gathered if self.gathered is not None else self._weight()
        return 0 if kept is None else kept.nbytes


@torch.no_grad()
def quantised(
    parts: tuple[Tensor, ...], scales: Scales, *, keep_transposed: bool = False
) -> Fp8Weight:
    """The FP8 weight of matrices [..., N, K] one below the other (as Megatron-LM keeps gate and
    up)."""
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, -2)
    return Fp8Weight(*quantise_weight(whole, scales), keep_transposed=keep_transposed)


def kept_weights(network: nn.Module) -> list[KeptWeight]:
    """All of a network."""
    return [kept for module in network.modules() for kept in getattr(module, "kept_weights", ())]


def renew(network: nn.Module) -> None:
    """Have every FP8 weight of `network` made again from its parameters: a step was taken."""
    for kept in kept_weights(network):
        kept.renew()


def save_memory(network: nn.Module, train: TrainConfig, *, reads_transposed: bool) -> None:
    """What a recipe asks of FP8 weights and rows, in place.

    `reads_transposed`: the products read a transposed weight for the gradient of their input.
    """
    for kept in kept_weights(network):
        kept.keep_transposed = reads_transposed and not train.fp8_transpose_on_demand
        kept.as_bytes = train.fp8_param_gather
    for module in network.modules():
        if isinstance(module, Experts):
            module.pad_routing = train.fp8_pad_routing
