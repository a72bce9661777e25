"""Operations on packed weights: the same bits from the library and from the definition."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ling.ops import fp8, kernels, native, packing
from ling.ops.formats import FORMATS
from ling.ops.packing import empty, interleave, separate

ALL = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
PATHS = [
    "reference",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(native.library() is None, reason="no kernel library"),
    ),
]


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """Runs a test on each implementation."""
    if request.param == "reference":
        monkeypatch.setattr(native, "library", lambda: None)
    return request.param


def test_what_is_chosen_and_why(monkeypatch):
    toy = dataclasses.replace(FORMATS["int4"], name="toy", kernel=None)
    if native.library() is not None:
        assert kernels.why_no_kernels(FORMATS["int4"]) is None
        assert kernels.why_no_kernels(toy) == "no kernel reads the format `toy`"
    monkeypatch.setattr(native, "library", lambda: None)
    assert "not built" in kernels.why_no_kernels(FORMATS["int4"])


@ALL
def test_one_matrix_is_packed_as_defined(path, fmt):
    w = torch.randn(33, 130)
    want = packing.pack(w, fmt)
    out = empty(fmt, 33, 130)
    kernels.pack([w], out)
    for got in (out, kernels.packed(w, fmt)):
        assert torch.equal(got.data, want.data)
        assert want.scales is None or torch.equal(got.scales, want.scales)
    assert torch.equal(kernels.unpack(out), packing.unpack(want))
    rounded = packing.unpack(want).bfloat16()
    assert torch.equal(kernels.unpack_bf16(out), rounded)
    place = torch.empty_like(rounded)
    assert kernels.unpack_bf16(out, place) is place
    assert torch.equal(place, rounded)


@ALL
@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.bfloat16, torch.float32)])
def test_two_matrices_take_turns_tile_by_tile(path, fmt, dtypes):
    """Each is what it is alone; FP8 blocks, too, are those of each matrix: 144 rows end inside."""
    gate, up = (torch.randn(144, 130).to(dtype) for dtype in dtypes)
    out = empty(fmt, 288, 130)
    kernels.pack([gate, up], out)
    for got, w in zip(separate(kernels.unpack(out)), (gate, up), strict=True):
        assert torch.equal(got, packing.unpack(packing.pack(w, fmt)))


@pytest.mark.parametrize("name", [f.name for f in FORMATS.values() if f.levels])
def test_importance_reaches_both_matrices(path, name):
    fmt, (a, b), h = FORMATS[name], torch.randn(2, 32, 128), torch.rand(128).exp().pow(4)
    out = empty(fmt, 64, 128)
    kernels.pack([a, b], out, h)
    want = packing.unpack(packing.pack(interleave(a, b), fmt, h))
    # Sums of floats round differently, so that ties between two clips may fall either way.
    assert (kernels.unpack(out) == want).float().mean() > 0.99
    assert not torch.equal(want, packing.unpack(packing.pack(interleave(a, b), fmt)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_floats_are_packed_through_float32(path, dtype):
    w = torch.randn(16, 64).to(dtype)
    got = kernels.packed(w, FORMATS["int8"])
    assert torch.equal(got.data, packing.pack(w.float(), FORMATS["int8"]).data)


def test_released_fp8_keeps_its_bytes_and_widens_to_bfloat16(path):
    parts = [fp8.quantise_fp8_block(torch.randn(144, 200) * (1 + i)) for i in range(2)]
    out = empty(FORMATS["fp8"], 288, 200)
    kernels.lay_out_fp8(parts, out)
    for got, (values, scales) in zip(separate(kernels.unpack(out)), parts, strict=True):
        exact = fp8.dequantise_fp8_block(values, scales)
        assert torch.equal(got, exact)
        assert torch.equal(kernels.widen_fp8(values, scales), exact.to(torch.bfloat16))
