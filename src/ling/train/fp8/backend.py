"""Which products FP8 training uses: chosen once, when the network is built."""

from __future__ import annotations

from ...ops.fp8_tiles import POWER_OF_TWO, Scales
from .emulation import RoundedProducts, ScaledProducts
from .products import Products


def choose(scales: Scales) -> Products:
    """The products for these scales."""
    return RoundedProducts() if scales == POWER_OF_TWO else ScaledProducts()
