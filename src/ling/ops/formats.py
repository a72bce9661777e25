"""The table of number formats of packed weights, one row each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .fp8 import BLOCK

TILE = 16


LAYOUT_VERSION = 1


# Lloyd-Max levels for normal weights whose group scale minimises the squared error; lopsided, since
# a group's largest magnitude may be given either sign of the scale (docs/concepts/formats.md).
INT4_LEVELS = (-127, -98, -77, -61, -46, -33, -21, -9, 2, 13, 24, 36, 49, 64, 82, 105)


# Where the largest magnitude of a group may come to lie, in units of the levels
# (docs/concepts/formats.md).
INT4_CLIPS = (-140, -133, -130, -124, -118, -105, 114, 108, 105, 100)


@dataclass(frozen=True)
class Format:
    """How a weight matrix is stored.

    `kind` is the number of ling_kernels.h; `bits` per weight include the scales; `max_nrmse` bounds
    the error on normal weights, relative to their root mean square. `head` names another format
    for the output matrix: small, and the one whose errors cost most (docs/concepts/formats.md).
    Released FP8 models leave it in bfloat16.
    """

    name: str
    kind: int
    group: int
    bits: float
    max_nrmse: float
    head: str | None = None

    @property
    def integer(self) -> bool:
        """Whether weights are integers with scales."""
        return self.kind in (1, 2)

    @property
    def scale_dtype(self) -> torch.dtype:
        """Of `Packed.scales`."""
        return torch.float32 if self.kind == 4 else torch.bfloat16


FORMATS = {
    f.name: f
    for f in (
        Format("int4", 1, 64, 4.25, 0.085),
        Format("int4_g32", 1, 32, 4.5, 0.078, head="int8"),
        Format("int8", 2, 64, 8.25, 0.008),
        Format("bf16", 3, 2, 16.0, 0.003),
        Format("fp8", 4, BLOCK, 8 + 32 / (TILE * BLOCK), 0.04, head="bf16"),
    )
}
