"""What quantising loses, by kind of tensor and part of the model: logged now and then.

Underflow is the share of values that become 0; the cosine is that between a tensor and its
quantised copy (1: nothing is lost); scales are counted by their power of two.
Legend: M rows · K columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint.dcp.local import local_part
from ...ops import fp8_tiles
from ...ops.experts import Groups
from ...ops.fp8_tiles import Scales
from ..norms import PARTS
from .products import Products
from .weights import Fp8Weight

KINDS = ("activations", "weights", "gradients")
# A sample of rows of each tensor is enough, and costs a hundredth of a step.
ROWS = 512
# Exponents of scales that are told apart; beyond are counted with the last.
LOW, HIGH = -60, 20
_SUMS = ("values", "zeros", "product", "squares", "quantised_squares")


class Meter:
    """Adds up what products see while it is `active`; one for a network on a rank."""

    def __init__(self, scales: Scales) -> None:
        self.scales = scales
        self.begin(False)

    def begin(self, active: bool) -> None:
        """From nothing: a step that could not be finished leaves nothing to the next."""
        self.active, self._sums = active, self._nothing()

    def _nothing(self) -> Tensor:
        width = len(_SUMS) + HIGH - LOW + 1
        return torch.zeros((len(KINDS), len(PARTS), width), dtype=torch.float64)

    @torch.no_grad()
    def rows(self, kind: str, part: str, x_MK: Tensor) -> None:
        """A sample of the rows of activations or gradients, in tiles of 1 × 128."""
        if self.active and len(x_MK):
            x = x_MK[:: max(1, len(x_MK) // ROWS)][:ROWS]
            q, inverse = fp8_tiles.quantise_rows(x, self.scales)
            self._add(kind, part, x.float(), fp8_tiles.dequantise_rows(q, inverse), inverse)

    @torch.no_grad()
    def weight(self, part: str, w_NK: Tensor) -> None:
        """The first rows of a weight, or the first of its experts, in blocks."""
        if w_NK.numel():
            w = w_NK[:ROWS] if w_NK.ndim == 2 else w_NK[: max(1, ROWS // w_NK.shape[1])]
            q, inverse = fp8_tiles.quantise_blocks(w, self.scales)
            self._add("weights", part, w.float(), fp8_tiles.dequantise_blocks(q, inverse), inverse)

    def _add(self, kind: str, part: str, x: Tensor, quantised: Tensor, inverse: Tensor) -> None:
        found = self._sums[KINDS.index(kind), PARTS.index(part)]
        zeros = (quantised == 0) & (x != 0)
        pairs = ((x, quantised), (x, x), (quantised, quantised))
        sums = torch.stack([(a * b).sum(dtype=torch.float64) for a, b in pairs])
        counts = torch.tensor([x.numel(), int(zeros.sum())], dtype=torch.float64)
        found[: len(_SUMS)] += torch.cat((counts, sums.cpu()))
        exponents = inverse.log2().floor().clamp(LOW, HIGH).long().flatten() - LOW
        found[len(_SUMS) :] += torch.bincount(exponents, minlength=HIGH - LOW + 1).cpu()

    def take(self, added: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Columns of the log since `begin`, and the end of measuring: held-out text is no part of a
        step. `added` sums over ranks, which all call this.
        """
        sums = added(self._sums)
        self.begin(False)
        found: dict[str, Any] = {"fp8_underflow": {}, "fp8_cosine": {}, "fp8_scales": {}}
        for k, kind in enumerate(KINDS):
            for p, part in enumerate(PARTS):
                if sums[k, p, 0]:
                    _columns(f"{kind}/{part}", sums[k, p].tolist(), found)
        return found


def _columns(name: str, sums: list[float], found: dict[str, Any]) -> None:
    values, zeros, product, squares, quantised_squares = sums[: len(_SUMS)]
    found["fp8_underflow"][name] = zeros / values
    norm = math.sqrt(squares * quantised_squares)
    if norm > 0 and math.isfinite(product / norm):
        found["fp8_cosine"][name] = product / norm
    scales = sums[len(_SUMS) :]
    total = sum(scales)
    found["fp8_scales"][name] = {str(LOW + i): n / total for i, n in enumerate(scales) if n}


class Watched:
    """Products of one part of a model, seen by a meter."""

    def __init__(self, products: Products, part: str, meter: Meter) -> None:
        self.name, self.scales = products.name, products.scales
        self.products, self.part, self.meter = products, part, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.products, name)  # what a backend says of itself

    def linear(self, x_MK: Tensor, w: Fp8Weight) -> Tensor:
        self.meter.rows("activations", self.part, x_MK)
        return self.products.linear(x_MK, w)

    def linear_dgrad(self, dy_MN: Tensor, w: Fp8Weight) -> Tensor:
        self.meter.rows("gradients", self.part, dy_MN)
        return self.products.linear_dgrad(dy_MN, w)

    def linear_wgrad(self, dy_MN: Tensor, x_MK: Tensor) -> Tensor:
        return self.products.linear_wgrad(dy_MN, x_MK)

    def grouped(self, x_RK: Tensor, w: Fp8Weight, groups: Groups) -> Tensor:
        self.meter.rows("activations", self.part, x_RK)
        return self.products.grouped(x_RK, w, groups)

    def grouped_dgrad(self, dy_RN: Tensor, w: Fp8Weight, groups: Groups) -> Tensor:
        self.meter.rows("gradients", self.part, dy_RN)
        return self.products.grouped_dgrad(dy_RN, w, groups)

    def grouped_wgrad(self, dy_RN: Tensor, x_RK: Tensor, groups: Groups) -> Tensor:
        return self.products.grouped_wgrad(dy_RN, x_RK, groups)


class Health:
    """The meter of a network, for its log; without FP8 products there is nothing to measure."""

    def __init__(self, network: nn.Module, added: Callable[[Tensor], Tensor]) -> None:
        self._added = added
        self._watched: dict[str, Watched] = {}
        self._meter: Meter | None = None
        self._network = network
        for name, module in network.named_modules():
            products = getattr(module, "products", None)
            if isinstance(products, Watched):
                self._watched[name.removesuffix(".multiply")] = products
                self._meter = products.meter

    def watch(self, is_logged: bool) -> None:
        """The next step is measured, or not."""
        if self._meter is not None:
            self._meter.begin(is_logged)

    def measure(self) -> dict[str, Any]:
        """Columns of the log for the step that was measured; all ranks call this."""
        if self._meter is None:
            return {}
        modules = dict(self._network.named_modules())
        for name, products in self._watched.items():
            for parameter in modules[name].parameters(recurse=False):
                if parameter.ndim > 1:
                    self._meter.weight(products.part, local_part(parameter))
        return self._meter.take(self._added)
