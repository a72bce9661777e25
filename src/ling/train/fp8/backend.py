"""Which products FP8 training uses: chosen once, when the network is built."""

from __future__ import annotations

import torch

from ...ops import fp8_choice
from ...ops.fp8_choice import Wanted
from ...ops.fp8_tiles import POWER_OF_TWO, Scales
from ..device import CPU
from .emulation import RoundedProducts, ScaledProducts
from .products import Products


def choose(scales: Scales, device: torch.device = CPU, wanted: Wanted = "auto") -> Products:
    """The products for these scales on a device.

    Raises `UsageError` for a GPU that has none, unless the emulation is wanted.
    """
    name = fp8_choice.choose(device, wanted).name
    if name == "emulation":
        return RoundedProducts() if scales == POWER_OF_TWO else ScaledProducts()
    # Triton need not be installed where nothing asks for it.
    from ...ops.triton.backend import ScaledMMProducts, TritonProducts

    return (ScaledMMProducts if name == "scaled_mm" else TritonProducts)(scales)
