"""AdamW with moments of one byte on a GPU: `ops.adam8.step_reference`, to the bit.

No multiplication is fused with an addition (`enable_fp_fusion`), quotients and roots are rounded to
the nearest number: otherwise the last bits differ from those of other devices.
"""

# mypy: disable-error-code=no-untyped-def
from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..adam8 import BLOCK, Moments, Scalars, num_blocks, rests, table

_BLOCKS = 4  # of a program


def step(p_N: Tensor, g_N: Tensor, moments: Moments, s: Scalars) -> None:
    """A step of a shard, in place."""
    n, (rest1, rest2) = len(p_N), rests(s)
    grid = (triton.cdiv(num_blocks(n), _BLOCKS),)
    _step[grid](
        *(p_N, g_N, *moments, _tables(p_N.device), n),
        *(s.beta1, rest1, s.beta2, rest2, s.step, s.eps, s.keep),
        BLOCK=BLOCK,
        BLOCKS=_BLOCKS,
        enable_fp_fusion=False,
    )


@functools.lru_cache(maxsize=16)
def _tables(device: torch.device) -> Tensor:
    return torch.cat((table(signed=True), table(signed=False))).to(device)


@triton.jit
def _code(share, limits):
    """How many of the 255 limits are below each value."""
    code = tl.zeros_like(share).to(tl.int32)
    for i in tl.static_range(8):
        some = 128 >> i
        limit = tl.load(limits + code + (some - 1))
        code = tl.where(share > limit, code + some, code)
    return code


@triton.jit
def _step(
    p_ptr,
    g_ptr,
    codes1_ptr,
    absmax1_ptr,
    codes2_ptr,
    absmax2_ptr,
    tables_ptr,
    n,
    beta1,
    rest1,
    beta2,
    rest2,
    step,
    eps,
    keep,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    at = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    is_block, is_element = block * BLOCK < n, at < n
    p = tl.load(p_ptr + at, mask=is_element, other=0.0)
    g = tl.load(g_ptr + at, mask=is_element, other=0.0)
    code1 = tl.load(codes1_ptr + at, mask=is_element, other=127).to(tl.int32)
    code2 = tl.load(codes2_ptr + at, mask=is_element, other=0).to(tl.int32)
    absmax1 = tl.load(absmax1_ptr + block, mask=is_block, other=0.0)
    absmax2 = tl.load(absmax2_ptr + block, mask=is_block, other=0.0)

    m = tl.load(tables_ptr + code1) * absmax1[:, None] * beta1 + g * rest1
    v = tl.load(tables_ptr + 512 + code2) * absmax2[:, None] * beta2 + g * rest2 * g
    moved = (p + tl.div_rn(m, tl.sqrt_rn(v) + eps) * step) * keep
    finite = v < float("inf")
    tl.store(p_ptr + at, tl.where(finite, moved, p), mask=is_element)
    m, v = tl.where(finite, m, 0.0), tl.where(finite, v, 0.0)

    absmax1, absmax2 = tl.max(tl.abs(m), axis=1), tl.max(v, axis=1)
    tl.store(absmax1_ptr + block, absmax1, mask=is_block)
    tl.store(absmax2_ptr + block, absmax2, mask=is_block)
    by1, by2 = tl.where(absmax1 > 0, absmax1, 1.0), tl.where(absmax2 > 0, absmax2, 1.0)
    code1 = _code(tl.div_rn(m, m * 0 + by1[:, None]), tables_ptr + 256)
    code2 = _code(tl.div_rn(v, v * 0 + by2[:, None]), tables_ptr + 768)
    code1 = tl.where((m < 0) & (code1 > 126), 126, code1)
    tl.store(codes1_ptr + at, code1.to(tl.uint8), mask=is_element)
    tl.store(codes2_ptr + at, code2.to(tl.uint8), mask=is_element)
