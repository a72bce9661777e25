"""Adapters in the reference runner: y = W x + scale · B (A x) for the rows of each.

In float32 whatever the module's dtype, and in row blocks, so that a row's bits are its own.
Legend: T tokens · R rows in slots · D hidden · E experts · F expert width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.adapter import Adapter, LowRank
from ..model.swap import RowBlockExperts, RowBlockLinear, Rule, in_row_blocks
from ..ops import experts, products
from .pages import Segment


class RowAdapters:
    """Which adapter each row of the running pass has; 0 is none."""

    def __init__(self) -> None:
        self.number_T: Tensor | None = None
        """None where no row has any."""

    def assign(self, segments: Sequence[Segment]) -> None:
        """Take the rows of a pass."""
        numbers = [s.adapter for s in segments for _ in range(s.stop - s.start)]
        self.number_T = torch.tensor(numbers) if any(numbers) else None

    def clear(self) -> None:
        """A pass of which no row has one."""
        self.number_T = None


class Part(NamedTuple):
    """What the adapter of that number has beside one matrix."""

    number: int
    matrix: LowRank


def parts_of(adapters: Sequence[Adapter], name: str) -> list[Part]:
    """Of all adapters that change the matrix `name`."""
    return [
        Part(k, adapter.matrices[name])
        for k, adapter in enumerate(adapters, 1)
        if name in adapter.matrices
    ]


def add_low_rank(
    y: Tensor, x: Tensor, number: Tensor, parts: Sequence[Part], expert: int | None = None
) -> Tensor:
    """y [rows, out] and what the adapters of its rows add to it for their inputs x [rows, in].

    `number` [rows] is the adapter of each row; of a stack the matrices of `expert` are used.
    """
    for k, (a, b, scale) in parts:
        at = (number == k).nonzero()[:, 0]
        if len(at):
            a, b = (a, b) if expert is None else (a[expert], b[expert])
            t = in_row_blocks(x[at].float(), partial(F.linear, weight=a.float()))
            added = in_row_blocks(scale * t, partial(F.linear, weight=b.float()))
            y = y.index_copy(0, at, (y[at].float() + added).to(y.dtype))
    return y


class AdaptedLinear(nn.Module):
    """A linear map in row blocks, with the adapters of its rows."""

    def __init__(self, base: RowBlockLinear, parts: Sequence[Part], rows: RowAdapters) -> None:
        super().__init__()
        self.base, self.parts, self.rows = base, parts, rows

    def forward(self, x: Tensor) -> Tensor:
        y, number_T = self.base(x), self.rows.number_T
        return y if number_T is None else add_low_rank(y, x, number_T, self.parts)


class AdaptedExperts(RowBlockExperts):
    """Routed experts in row blocks, with the adapters of their rows; `parts` are those of gate, up
    and down."""

    def __init__(
        self, base: RowBlockExperts, parts: Sequence[Sequence[Part]], rows: RowAdapters
    ) -> None:
        nn.Module.__init__(self)
        self.gate_proj, self.up_proj, self.down_proj = base.gate_proj, base.up_proj, base.down_proj
        self.parts, self.rows = parts, rows

    def products(self, x_RD: Tensor, slots: experts.Slots) -> Tensor:
        """SwiGLU of each expert on its rows; padding has no adapter."""
        if self.rows.number_T is None:
            return super().products(x_RD, slots)
        number_R = experts.dispatch(self.rows.number_T[:, None], slots)[:, 0]
        y_RD = torch.empty_like(x_RD)
        for e, rows in experts.experts_with_rows(slots.offsets):
            y_RD[rows] = self._swiglu(e, x_RD[rows], number_R[rows])
        return y_RD

    def _swiglu(self, e: int, x_RD: Tensor, number_R: Tensor) -> Tensor:
        def product(x: Tensor, weight_ENK: Tensor, parts: Sequence[Part]) -> Tensor:
            return add_low_rank(products.linear(x, weight_ENK[e]), x, number_R, parts, e)

        of_gate, of_up, of_down = self.parts
        h_RF = F.silu(product(x_RD, self.gate_proj, of_gate))
        h_RF = h_RF * product(x_RD, self.up_proj, of_up)
        return product(h_RF, self.down_proj, of_down)


def adapted(adapters: Sequence[Adapter], rows: RowAdapters) -> Rule:
    """The rule of `model.swap` that gives modules in row blocks the adapters, of `rows`."""

    def rule(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, RowBlockLinear):
            parts = parts_of(adapters, name)
            return AdaptedLinear(module, parts, rows) if parts else None
        if isinstance(module, RowBlockExperts):
            stacks = [parts_of(adapters, f"{name}.{p}_proj") for p in ("gate", "up", "down")]
            return AdaptedExperts(module, stacks, rows) if any(stacks) else None
        return None

    return rule
