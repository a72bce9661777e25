"""FSDP2 gathers the bytes of FP8 weights: a byte for a value, and never a weight in float32.

Each rank quantises its part of the float32 parameters once a step and keeps the codes; FSDP gathers
these for a pass. Blocks of 128 × 128 end where parts end, so the scales of a part are those of the
whole; scales of all parts are gathered once a step and kept. What FSDP makes a parameter of for
autograd has the shape of the weight and no memory: products read the codes.

A weight whose parts do not end where blocks end (a shared expert of 512 rows over 8 ranks) is
gathered in float32 and quantised whole: the product is the same in any layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...checkpoint.dcp.local import mesh_of
from ...model.moe import Experts
from ...ops.fp8_tiles import Scales
from ...ops.fp8_weights import quantise_weight
from ...plan.weights import ends_with_blocks
from .weights import Fp8Weight, KeptWeight

FSDP_DIMS = ("shard", "expert_shard")
"""Names of mesh dimensions over which FSDP shards."""


class GatheredPart:
    """One parameter: this rank's codes, and those of all ranks while FSDP has gathered them.

    `local` is this rank's part in float32, `dim` the dimension along which parts follow another.
    """

    def __init__(self, local: Tensor, dim: int, scales: Scales) -> None:
        self.local, self.dim, self.scales = local, dim, scales
        self.own: Tensor | None = None
        self.codes = self.inverse = self._placeholder = local.new_empty(0)
        self._version = -1
        # FSDP looks for these two on the tensor itself, and takes what they return for its values.
        hooks: Any = local
        hooks.fsdp_pre_all_gather = self._before_gather
        hooks.fsdp_post_all_gather = self._after_gather

    def renew(self) -> None:
        """The parameter has changed."""
        self._version = -1

    def ready(self) -> None:
        """Free what autograd's parameter had to have when it was made."""
        self._placeholder.untyped_storage().resize_(0)

    @torch.no_grad()
    def _quantise(self, group: Any) -> None:
        """Own codes, and the scales of all; every rank of `group` does it at the same place."""
        codes, own = quantise_weight(self.local, self.scales)
        if self.own is None:
            self.own = torch.empty_like(self.local, dtype=torch.uint8)
        self.own.copy_(codes.view(torch.uint8))
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, own, group=group)
        self.inverse = torch.cat(parts, self.dim)

    def _before_gather(
        self, mesh: Any, outer_size: Any, outer_stride: Any, module: Any, mp_policy: Any
    ) -> tuple[tuple[Tensor, ...], Any]:
        version = self.local._version
        if version != self._version:
            self._quantise(mesh.get_group())
            self._version = version
        assert self.own is not None
        return (self.own,), outer_size

    def _after_gather(
        self, gathered: tuple[Tensor, ...], shape: Any, dtype: torch.dtype, *, out: Any = None
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        # Memory that FSDP frees after the pass and fills again before the next.
        self.codes = gathered[0].view(shape).view(torch.float8_e4m3fn)
        if out is not None:
            return None
        self._placeholder = torch.empty(shape, dtype=dtype, device=self.local.device)
        return self._placeholder, ()


class GatheredWeight(Fp8Weight):
    """The parts of a weight, one below the other; read during a pass only.

    It is transposed when needed: it is not there for longer.
    """

    def __init__(self, parts: list[GatheredPart]) -> None:
        self.parts = parts
        self._transposed = None

    @property
    def codes(self) -> Tensor:
        """The values, gathered."""
        if len(self.parts) == 1:
            return self.parts[0].codes
        whole = torch.cat([part.codes.view(torch.uint8) for part in self.parts], -2)
        return whole.view(torch.float8_e4m3fn)

    @property
    def inverse(self) -> Tensor:
        """What each block's values are multiplied by."""
        return torch.cat([part.inverse for part in self.parts], -2)

    def ready(self) -> GatheredWeight:
        """It, for a product."""
        for part in self.parts:
            part.ready()
        return self

    def renew(self) -> None:
        """The parameters have changed."""
        for part in self.parts:
            part.renew()

    @property
    def nbytes(self) -> int:
        """Bytes that stay between passes: this rank's codes and all scales."""
        return sum(part.inverse.nbytes for part in self.parts) + sum(
            part.own.nbytes for part in self.parts if part.own is not None
        )


def products_of(network: nn.Module) -> Iterator[tuple[KeptWeight, list[nn.Parameter]]]:
    """The FP8 weight of each product with the parameters that it is made of."""
    for module in network.modules():
        if isinstance(module, Experts):
            names: tuple[tuple[str, ...], ...] = (("gate_proj", "up_proj"), ("down_proj",))
            kept = getattr(module.multiply, "kept_weights", ())
        else:
            names, kept = (("weight",),), getattr(module, "kept_weights", ())
            if not hasattr(module, "weight"):
                continue
        for weight, parts in zip(kept, names, strict=False):
            yield weight, [module.get_parameter(part) for part in parts]


def mark_gathered(network: nn.Module, whole: set[nn.Parameter]) -> None:
    """Note which weights FSDP gathers: all but those of the parameters `whole`."""
    for kept, params in products_of(network):
        kept.of_gathered = not whole.intersection(params)


def gather_bytes(network: nn.Module) -> None:
    """Have FSDP gather the bytes of FP8 weights, where a recipe says so and their parts allow it.

    After `network` has got its storage, and before its first forward pass.
    """
    for kept, params in products_of(network):
        if not (kept.as_bytes and kept.of_gathered):
            continue
        dims = [whole_blocks(p, stacked=len(params) > 1) for p in params]
        if None not in dims:
            parts = zip(params, dims, strict=True)
            kept.gathered = GatheredWeight(
                [GatheredPart(p._local_tensor, dim, kept.scales) for p, dim in parts]  # type: ignore
            )


def whole_blocks(p: Any, *, stacked: bool) -> int | None:
    """The dimension along which FSDP cuts a parameter; None if it cuts through blocks, or if
    blocks go from this parameter into the one below it."""
    mesh = mesh_of(p)
    named = zip(mesh.mesh_dim_names, p.placements, strict=True)
    name, dim = next((name, placement.dim) for name, placement in named if name in FSDP_DIMS)
    return dim if ends_with_blocks(p.shape, dim, mesh[name].size(), stacked=stacked) else None
