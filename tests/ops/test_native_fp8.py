"""The C++ kernels of FP8 training against the torch definition, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ling.errors import KernelError
from ling.ops import fp8_tiles, native, native_fp8

pytestmark = pytest.mark.skipif(native.library() is None, reason="no kernel library")

SHAPES = [(3, 128), (130, 300), (257, 16), (1, 1), (300, 272), (128, 257)]


def values(rows, columns, dtype):
    """Many magnitudes, tiles of zeros and of denormal numbers, and what is not finite."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    x *= torch.logspace(-8, 4, columns)
    x[:, :128] *= (torch.arange(rows) % 3 != 0)[:, None]
    x[-1] *= 1e-37
    if rows > 5:
        x[3, columns // 2], x[4, 0], x[5] = float("inf"), float("nan"), -0.0
    return x.to(dtype)


def same(a, b):
    """Also the signs of zeros; a NaN has none."""
    torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.signbit(a.float()) | a.isnan(), torch.signbit(b.float()) | b.isnan())


def compare(shape, dtype):
    """Every kind of tile, codes and rounded values."""
    x, (M, _) = values(*shape, dtype), shape
    groups = [0, 0, M // 3, min(M // 3 + 1, M), M]
    for scales in ("power-of-two", "float32"):
        power_of_two = scales == "power-of-two"
        for kind in ("rows", "columns", "blocks"):
            tiles = getattr(native_fp8, kind.upper())
            codes, inverse = native_fp8.quantised(x, tiles, power_of_two=power_of_two)
            wanted = getattr(fp8_tiles, f"quantise_{kind}")(x, scales)
            same(codes, wanted[0])
            assert torch.equal(inverse, wanted[1])
        codes, inverse = native_fp8.quantised(
            x, native_fp8.COLUMNS, power_of_two=power_of_two, ends=groups
        )
        wanted = fp8_tiles.quantise_columns(x, scales, groups)
        same(codes, wanted[0])
        assert torch.equal(inverse, wanted[1])
    rows = fp8_tiles.dequantise_rows(*fp8_tiles.quantise_rows(x))
    same(fp8_tiles.rounded_rows(x), rows.bfloat16())
    quantised = fp8_tiles.quantise_columns(x, "power-of-two", groups)
    columns = fp8_tiles.dequantise_columns(*quantised, groups)
    same(fp8_tiles.rounded_columns(x, groups), columns.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_scales_and_rounded_values_are_the_definitions(shape, dtype):
    compare(shape, dtype)


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512vnni"])
def test_every_instruction_set_gives_the_same(isa):
    code = (
        "import sys, torch; sys.path[:0] = sys.argv[1:]; import test_native_fp8 as t; "
        "[t.compare(s, d) for s in t.SHAPES for d in (torch.float32, torch.bfloat16)]"
    )
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", code, here],
        env={**os.environ, "LING_ISA": isa, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_bfloat16_value_is_rounded_as_torch_rounds_it():
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    x = bits.view(torch.bfloat16)
    x = x[x.isfinite()].view(-1, 256)
    same(fp8_tiles.rounded_rows(x), fp8_tiles.dequantise_rows(*fp8_tiles.quantise_rows(x)))


def test_every_code_is_widened_exactly():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)[None]
    for scale in (0.5, 3e-5):
        wanted = (codes.float() * torch.tensor(scale)).bfloat16()
        same(native.widen_fp8(codes, torch.full((1, 2), scale)), wanted)


@pytest.mark.parametrize("shape", [(3, 256, 144), (3, 144, 256), (272, 144)])
def test_weights_of_experts_are_those_of_each_alone(shape):
    w = values(shape[0] * shape[1] if len(shape) == 3 else shape[0], shape[-1], torch.float32)
    w = torch.nan_to_num(w, 1.0, 1.0).view(shape)
    codes, inverse = fp8_tiles.quantise_weight(w)
    wanted = fp8_tiles.quantise_blocks(w)
    same(codes, wanted[0])
    assert torch.equal(inverse, wanted[1])
    same(fp8_tiles.widened_blocks(codes, inverse), fp8_tiles.dequantise_blocks(*wanted).bfloat16())


def test_rows_with_gaps_and_repeated_rows_are_read_right():
    wide = values(40, 300, torch.bfloat16)
    part, repeated = wide[:, 7:200], wide[:1].expand(40, 300)
    for x in (part, repeated, wide.t()):
        same(fp8_tiles.rounded_rows(x), fp8_tiles.rounded_rows(x.contiguous()))
        same(fp8_tiles.rounded_columns(x), fp8_tiles.rounded_columns(x.contiguous()))


def test_no_rows_give_no_tiles():
    x = torch.empty(0, 48)
    assert fp8_tiles.rounded_rows(x).shape == (0, 48)
    assert fp8_tiles.rounded_columns(x, [0, 0, 0]).shape == (0, 48)


@pytest.mark.parametrize("ends", [[0, 5], [1, 8], [0, 6, 3, 8]])
def test_groups_that_do_not_divide_the_rows_are_refused(ends):
    with pytest.raises(KernelError, match="groups of rows must"):
        native_fp8.rounded(torch.ones(8, 16), native_fp8.COLUMNS, ends)


def test_another_type_is_refused():
    with pytest.raises(KernelError, match="bfloat16 or float32 matrix"):
        native_fp8.rounded(torch.ones(8, 16).half(), native_fp8.ROWS)
