"""The table of number formats of packed weights, one row each. Imports no torch.

A row is all that a format needs to be converted to, read, verified, listed and run in plain
PyTorch; `kernel` names the C++ code that makes it fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

TILE = 16
"""Rows that packed matrices keep together."""

FP8_BLOCK = 128
"""Rows and columns that share a scale in a released FP8 checkpoint."""

LAYOUT_VERSION = 1

Encoding = Literal["levels", "int8", "bf16", "e4m3"]
"""How a stored value stands for a number; `ops.packing` defines each."""

# Lloyd-Max levels for normal weights whose group scale minimises the squared error; lopsided, since
# a group's largest magnitude may be given either sign of the scale (docs/concepts/formats.md).
INT4_LEVELS = (-127, -98, -77, -61, -46, -33, -21, -9, 2, 13, 24, 36, 49, 64, 82, 105)

# What the largest magnitude of a group may be scaled to, in units of the levels
# (docs/concepts/formats.md).
INT4_CLIPS = (-140, -133, -130, -124, -118, -105, 114, 108, 105, 100)

# The same for 3 bits and groups of 128.
INT3_LEVELS = (-127, -77, -44, -17, 8, 34, 65, 106)
INT3_CLIPS = (-185, -170, -160, -150, -145, -135, -125, 155, 145, 135)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a weight matrix is stored."""

    name: str
    encoding: Encoding
    kernel: int | None
    """Number in csrc/ling_kernels.h; None: no kernel reads it, it runs in plain PyTorch."""
    value_bits: int
    group: int
    """Columns that share a scale; without scales, the multiple that columns are padded to."""
    max_nrmse: float
    """Bound of the error on normal weights, relative to their root mean square."""
    scale_dtype: str | None = None
    """Name of the dtype of `Packed.scales`; None: values have no scales."""
    scale_rows: int = 1
    """Rows of a checkpoint's tensor that share a scale."""
    levels: tuple[int, ...] = ()
    """Code points of `levels`, ascending whole numbers from -127 to 127."""
    clips: tuple[int, ...] = ()
    """What the largest magnitude of a group is scaled to when a scale for `levels` is searched."""
    embedding: Format | None = None
    """Of the embedding; None: its rows are looked up in bfloat16."""
    head: Format | None = None
    """Of `head_matrices`: small, and those whose errors cost most (docs/concepts/formats.md)."""
    head_matrices: tuple[str, ...] = ("lm_head",)
    shared: Format | None = None
    """Of the shared experts, where routed ones are narrower; of the same group, since one quantised
    input serves both."""

    @property
    def integer(self) -> bool:
        """Whether weights are whole numbers with scales, which folders of our own store."""
        return self.encoding in ("levels", "int8")

    @property
    def bits(self) -> float:
        """Bits per weight in memory, where scales that rows share are repeated in each tile."""
        return self.value_bits + self._scale_bits / (self.group * min(self.scale_rows, TILE))

    @property
    def stored_bytes(self) -> float:
        """Bytes per weight in a checkpoint."""
        return self.value_bits / 8 + self._scale_bits / (8 * self.group * self.scale_rows)

    @property
    def _scale_bits(self) -> int:
        return {None: 0, "bfloat16": 16, "float32": 32}[self.scale_dtype]

    def of_matrix(self, name: str) -> Format:
        """The format of one matrix, by its packed name, in a model of this format."""
        if self.shared and ".shared_experts." in name:
            return self.shared
        return self.head if self.head and name.endswith(self.head_matrices) else self


EMBEDDING_INT8 = Format(
    name="embedding",
    encoding="int8",
    kernel=2,
    value_bits=8,
    group=32,
    max_nrmse=0.01,
    scale_dtype="bfloat16",
)

BF16 = Format(name="bf16", encoding="bf16", kernel=3, value_bits=16, group=2, max_nrmse=0.003)

INT8 = replace(EMBEDDING_INT8, name="int8", group=64, max_nrmse=0.008, embedding=EMBEDDING_INT8)

INT4 = Format(
    name="int4",
    encoding="levels",
    kernel=1,
    value_bits=4,
    group=64,
    max_nrmse=0.085,
    scale_dtype="bfloat16",
    levels=INT4_LEVELS,
    clips=INT4_CLIPS,
    embedding=EMBEDDING_INT8,
)

INT4_G32 = replace(INT4, name="int4_g32", group=32, max_nrmse=0.078, head=INT8)

INT3 = replace(
    INT4,
    name="int3",
    kernel=5,
    value_bits=3,
    group=128,
    max_nrmse=0.18,
    levels=INT3_LEVELS,
    clips=INT3_CLIPS,
    # Nearly all bytes of a model are its routed experts', and their errors cost least
    # (docs/concepts/formats.md).
    head=INT4,
    head_matrices=(
        *("lm_head", ".query_key_value", ".attention.dense", ".eh_proj"),
        *(".mlp.gate_up_proj", ".mlp.down_proj"),
    ),
    shared=replace(INT4, group=128, max_nrmse=0.09),
)

FP8 = Format(
    name="fp8",
    encoding="e4m3",
    kernel=4,
    value_bits=8,
    group=FP8_BLOCK,
    max_nrmse=0.04,
    scale_dtype="float32",
    scale_rows=FP8_BLOCK,
    # Released FP8 models leave the output matrix and the MTP layers' projection in bfloat16
    # (docs/concepts/formats.md).
    head=BF16,
    head_matrices=("lm_head", ".eh_proj"),
)

FORMATS = {f.name: f for f in (INT3, INT4, INT4_G32, INT8, BF16, FP8)}


def integer_formats() -> list[Format]:
    """The formats of folders of our own."""
    return [f for f in FORMATS.values() if f.integer]


def by_size() -> list[Format]:
    """Integer formats and then floating-point ones, each kind from small to large."""
    return sorted(FORMATS.values(), key=lambda f: (not f.integer, f.bits))


def format_names() -> str:
    """For help texts."""
    return ", ".join(f.name for f in by_size())
