"""What the kernels share: the scale of a tile, and rounding to E4M3.

The definition is that of `ops.fp8_tiles`, and results are equal to it bit for bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 128
# Whether kernels run on the CPU, as numpy.
INTERPRETED: bool = triton.knobs.runtime.interpret


def has_cast(device: torch.device) -> bool:
    """Whether the GPU rounds to E4M3 by an instruction (`cvt.rn.satfinite`, SM89 on).

    The interpreter's cast cuts digits off instead.
    """
    if INTERPRETED or device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device) >= (8, 9)


@triton.jit
def scale_of(largest: tl.tensor, POWER_OF_TWO: tl.constexpr) -> tl.tensor:
    """Factors that take tiles with these largest magnitudes to the range of E4M3."""
    # `/` on a GPU is not rounded to nearest.
    scale = tl.div_rn(tl.full(largest.shape, 448.0, tl.float32), largest)
    scale = tl.minimum(scale, 3.4028234663852886e38)
    # A tile of zeros, or with a value that is not finite, keeps its values.
    scale = tl.where((largest > 0) & (largest <= 3.4028234663852886e38), scale, 1.0)
    if POWER_OF_TWO:
        bits = scale.to(tl.int32, bitcast=True) & 0x7F800000
        scale = bits.to(tl.float32, bitcast=True)
    return scale


@triton.jit
def inverse(scale: tl.tensor) -> tl.tensor:
    """1 / scale, rounded to nearest."""
    return tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)


@triton.jit
def to_e4m3(x: tl.tensor, HAS_CAST: tl.constexpr) -> tl.tensor:
    """Nearest values of E4M3, ties to even; beyond 448 is 448, NaN stays."""
    if HAS_CAST:
        return x.to(tl.float8e4nv)
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    # Below 2^-6 all values are multiples of 2^-9: the last digit of a number near 2^14.
    small = magnitude.to(tl.float32, bitcast=True) + 16384.0
    small = small.to(tl.int32, bitcast=True) - 0x46800000
    # Above, three digits are kept of 23, and the exponent counts from another number.
    last = (magnitude >> 20) & 1
    large = tl.minimum(((magnitude + 0x7FFFF + last) >> 20) - (120 << 3), 0x7E)
    code = tl.where(magnitude < 0x3C800000, small, large)
    code = tl.where(magnitude > 0x7F800000, 0x7F, code)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8).to(tl.float8e4nv, bitcast=True)
