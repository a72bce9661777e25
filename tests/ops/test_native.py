"""The native kernels against their torch definition, and against wrong calls."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from ling.errors import KernelError
from ling.ops import fp8, native, packing
from ling.ops.formats import FORMATS, TILE
from ling.ops.fp8 import quantise_fp8_block
from ling.ops.packing import Packed, interleave

pytestmark = pytest.mark.skipif(
    native.library() is None, reason="the kernel library is not built (no C++ compiler)"
)
WITH_KERNEL = [f for f in FORMATS.values() if f.kernel is not None]
ALL = pytest.mark.parametrize("fmt", WITH_KERNEL, ids=lambda f: f.name)
INTEGER = pytest.mark.parametrize(
    "fmt", [f for f in WITH_KERNEL if f.integer], ids=lambda f: f.name
)
INT4 = pytest.mark.parametrize("fmt", [f for f in WITH_KERNEL if f.levels], ids=lambda f: f.name)
ISAS = ("generic", "avx2", "avx512vnni", "avx512bf16", "avx512amx")
# Ragged and whole: tails of tiles, of tile pairs, of groups, of blocks of columns.
SHAPES = [(1, 1), (16, 64), (15, 63), (17, 65), (33, 130), (100, 256), (31, 1000)]
# Around the borders of the kernels' blocks of rows.
ROWS = (1, 2, 5, 6, 7, 8, 13, 33, 40)


def laid_out(values_NK, block_scales):
    packed = packing.pack(torch.zeros(values_NK.shape), FORMATS["fp8"])
    native.lay_out_fp8(values_NK, block_scales, packed)
    return packed


def same_bits(a, b):
    return torch.equal(torch.nan_to_num(a, nan=12345.0), torch.nan_to_num(b, nan=12345.0))


# ---- packing -----------------------------------------------------------------------------------


def students(shape):
    """Heavy tails: a few weights far beyond the rest."""
    return torch.distributions.StudentT(2.5).sample(shape)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("draw", [torch.randn, students])
@pytest.mark.parametrize("shape", SHAPES)
def test_packing_equals_the_oracle_bit_for_bit(fmt, shape, draw, dtype):
    w = draw(shape).to(dtype)
    got, want = native.pack(w, fmt), packing.pack(w, fmt)
    assert torch.equal(got.data, want.data)
    assert want.scales is None or torch.equal(got.scales, want.scales)


@pytest.mark.parametrize("bits", [3, 4])
def test_levels_are_those_of_the_core(bits):
    levels = getattr(native.required(), f"ling_int{bits}_levels")
    levels.restype = ctypes.POINTER(ctypes.c_int8)
    assert tuple(levels()[: 2**bits]) == FORMATS[f"int{bits}"].levels


@INT4
def test_importance_is_used_as_the_oracle_uses_it(fmt):
    w, h = torch.randn(64, 500), torch.rand(500).exp().pow(4)
    plain, got, want = native.pack(w, fmt), native.pack(w, fmt, h), packing.pack(w, fmt, h)

    def error(p):
        return float((h * (packing.unpack(p) - w) ** 2).sum())

    # Sums of floats round differently, so that ties between two clips may fall either way.
    assert (got.data == want.data).float().mean() >= 0.998
    assert error(got) < 0.99 * error(plain)


@ALL
@pytest.mark.parametrize("shape", SHAPES)
def test_unpacking_equals_the_oracle_bit_for_bit(fmt, shape):
    packed = packing.pack(torch.randn(shape), fmt)
    assert torch.equal(native.unpack(packed), packing.unpack(packed))


def with_every_code(fmt, rows, cols):
    """Any bytes, and scales from nothing to infinity, NaN among them."""
    packed = packing.empty(fmt, rows, cols)
    packed.data.random_(256)
    if packed.scales is not None:
        scales = torch.randn(packed.scales.shape) * 10.0 ** torch.randint(
            -38, 38, packed.scales.shape
        )
        odd = torch.tensor([float("nan"), float("inf"), 0.0])
        scales.view(-1)[:3] = odd[: scales.numel()]
        packed.scales.copy_(scales)
    return packed


@ALL
@pytest.mark.parametrize("shape", [*SHAPES, (20, 300), (48, 512)])
def test_unpacking_to_bfloat16_is_the_oracles_rounded(fmt, shape):
    for packed in (packing.pack(torch.randn(shape), fmt), with_every_code(fmt, *shape)):
        want = packing.unpack(packed).bfloat16()
        assert same_bits(native.unpack_bf16(packed), want)
        place = torch.empty(shape, dtype=torch.bfloat16)
        assert native.unpack_bf16(packed, place) is place
        assert same_bits(place, want)


@pytest.mark.parametrize(
    "place",
    [torch.empty(64, 32, dtype=torch.bfloat16), torch.empty(32, 64),
     torch.empty(64, 32, dtype=torch.bfloat16).t(),
     torch.empty(32, 64, dtype=torch.bfloat16, device="meta")],
    ids=["shape", "dtype", "strides", "device"],
)  # fmt: skip
def test_unpacking_to_a_place_that_does_not_fit_is_refused(place):
    with pytest.raises(KernelError, match="place"):
        native.unpack_bf16(packed_of("int4", 32, 64), place)


@ALL
def test_packing_does_not_depend_on_threads_or_strides(fmt):
    wide = torch.randn(70, 400)
    w = wide[:, 33:333]
    torch.set_num_threads(1)
    want = native.pack(w.contiguous(), fmt)
    torch.set_num_threads(2)
    for got in (native.pack(w, fmt), native.pack(w.t().contiguous().t(), fmt)):
        assert torch.equal(got.data, want.data)
        assert want.scales is None or torch.equal(got.scales, want.scales)


ODD_WEIGHTS = {
    "zeros": lambda w, g: w[5, :g].zero_(),
    "all zeros": lambda w, g: w.zero_(),
    "NaN": lambda w, g: w[5, 3].fill_(float("nan")),
    "inf": lambda w, g: w[5, 3].fill_(float("-inf")),
    "denormal": lambda w, g: w[5, :g].mul_(1e-40),
    "tiny": lambda w, g: w[5, :g].mul_(1e-36),
    "tinier": lambda w, g: w[5, :g].mul_(1e-37),
    "nearly denormal": lambda w, g: w[5, :g].mul_(1e-38),
    "smallest": lambda w, g: w[5, :g].copy_(torch.full((g,), 1e-45)),
    "huge": lambda w, g: w[5, :g].mul_(1e37),
    "an outlier": lambda w, g: w[5, 3].fill_(3e38),
    "one value": lambda w, g: w[5, :g].fill_(-0.7),
}


@INTEGER
@pytest.mark.parametrize("odd", ODD_WEIGHTS)
def test_odd_weights_pack_as_the_oracle_packs_them(fmt, odd):
    w = torch.randn(20, 3 * fmt.group - 7)
    ODD_WEIGHTS[odd](w, fmt.group)
    got, want = (packing.unpack(m.pack(w, fmt)) for m in (native, packing))
    assert torch.equal(got.isnan(), want.isnan())
    # NaN appears only where the weight, or one of its group, was not finite.
    bad = torch.zeros_like(w, dtype=torch.bool)
    if not w.isfinite().all():
        bad[5, : fmt.group] = True
    assert torch.equal(got.isnan(), bad)
    got, want, w = (x[5, : fmt.group] for x in (got, want, w))
    if not bad.any():
        largest = w.abs().max().clamp(min=1e-35)
        assert ((got - want).abs() <= 0.02 * largest).all()
        # 3 bits may cut a third off the largest, for the sake of the others.
        bound = 0.35 if fmt.value_bits == 3 else 0.15
        assert ((got - w).abs() <= bound * largest).all()


@pytest.mark.parametrize(
    "fmt",
    [f for f in WITH_KERNEL if f.scale_rows == 1],
    ids=lambda f: f.name,  # fp8 is laid out
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [16, 48])
def test_a_pair_is_packed_as_its_interleaved_rows(fmt, rows, dtype):
    a, b = torch.randn(2, rows, 130).to(dtype)
    want = native.pack(interleave(a, b), fmt)
    got = native.pack(torch.zeros(2 * rows, 130), fmt)
    native.pack_pair(a, b, out=got)
    assert torch.equal(got.data, want.data)
    assert fmt.scale_dtype is None or torch.equal(got.scales, want.scales)


def test_unequal_pairs_are_refused():
    out = packed_of("int4", 32, 64)
    a = torch.randn(16, 64)
    for b in (torch.randn(16, 65), a.bfloat16(), torch.randn(16, 70)[:, :64], torch.randn(8, 64)):
        with pytest.raises(KernelError):
            native.pack_pair(a, b, out=out)
    with pytest.raises(KernelError, match="place"):
        native.pack_pair(a, a, out=packed_of("int4", 48, 64))


@pytest.mark.parametrize("scale", [1.0, 1e-40, 3e-3, 1e38])
def test_widened_fp8_equals_the_oracle_for_every_value(scale):
    q = torch.arange(256, dtype=torch.uint8).repeat(130, 2)[:, :300].contiguous()
    q, scales = q.view(torch.float8_e4m3fn), (torch.rand(2, 3) + 0.1) * scale
    got = native.widen_fp8(q, scales)
    assert same_bits(got, fp8.dequantise_fp8_block(q, scales).to(torch.bfloat16))
    assert got.isnan().sum() > 0


def test_fp8_with_scales_that_do_not_fit_is_refused():
    q = torch.zeros(130, 300).to(torch.float8_e4m3fn)
    for values, scales in ((q, torch.ones(1, 3)), (q.float(), torch.ones(2, 3)),
                           (q, torch.ones(2, 3).double())):  # fmt: skip
        with pytest.raises(KernelError):
            native.widen_fp8(values, scales)


# ---- products ----------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_the_oracle(fmt, shape):
    N, K = shape
    packed = packing.pack(torch.randn(N, K), fmt)
    x = torch.randn(max(ROWS), K)
    want = packing.matmul(packed, x)
    for T in ROWS:
        got = native.matmul(packed, x[:T])
        if fmt.integer:
            assert torch.equal(got, want[:T])
        else:  # the sums of bfloat16 pairs have their own order
            assert torch.allclose(got, want[:T], rtol=1e-5, atol=1e-4 * K**0.5)


@ALL
def test_a_row_depends_on_nothing_but_itself(fmt):
    packed, x = packing.pack(torch.randn(200, 300), fmt), torch.randn(33, 300)
    whole = native.matmul(packed, x)
    torch.set_num_threads(1)
    assert torch.equal(native.matmul(packed, x), whole)
    for T in ROWS:
        for first in (0, 33 - T):
            assert torch.equal(
                native.matmul(packed, x[first : first + T]), whole[first : first + T]
            )


@ALL
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_spoils_only_its_own_row(fmt, bad):
    packed, x = packing.pack(torch.randn(50, 130), fmt), torch.randn(9, 130)
    want = native.matmul(packed, x)
    x[4, 77] = bad
    got = native.matmul(packed, x)
    assert not got[4].isfinite().any()
    assert torch.equal(got[[0, 1, 2, 3, 5, 6, 7, 8]], want[[0, 1, 2, 3, 5, 6, 7, 8]])


@ALL
def test_a_weight_that_is_not_finite_spoils_only_its_own_column(fmt):
    w, x = torch.randn(50, 130), torch.randn(9, 130)
    if fmt.scale_rows > 1:  # quantising would spoil the block: a checkpoint with such a byte
        values, scales = quantise_fp8_block(w)
        want = native.matmul(laid_out(values, scales), x)
        values.view(torch.uint8)[20, 100] = 0xFF
        got = native.matmul(laid_out(values, scales), x)
    else:
        want = native.matmul(native.pack(w, fmt), x)
        w[20, 100] = float("nan")
        got = native.matmul(native.pack(w, fmt), x)
    assert got[:, 20].isnan().all()
    keep = [i for i in range(50) if i != 20]
    assert torch.equal(got[:, keep], want[:, keep])


ODD_INPUTS = {
    "zeros": lambda x: x.zero_(),
    "denormal": lambda x: x.mul_(1e-40),
    "tiny": lambda x: x.mul_(1e-37),
    "smallest": lambda x: x.copy_(torch.where(torch.arange(x.numel()) % 3 == 0, 1e-45, 0.0)),
    "huge": lambda x: x.mul_(1e36),
    "mixed": lambda x: x[::2].mul_(1e-38),
}


@INTEGER
@pytest.mark.parametrize("odd", ODD_INPUTS)
def test_odd_activations_give_what_the_oracle_gives(fmt, odd):
    packed, x = packing.pack(torch.randn(50, 130), fmt), torch.randn(9, 130)
    ODD_INPUTS[odd](x[4])
    got, want = native.matmul(packed, x), packing.matmul(packed, x)
    assert torch.equal(got, want)
    exact = x.double() @ packing.unpack(packed).double().t()
    assert ((got - exact).abs() <= 0.05 * exact.abs().amax(1, keepdim=True) + 1e-33).all()


FP8_EVERYWHERE = """
import torch
from ling.ops import formats, fp8, native, packing
f8, fmt = torch.float8_e4m3fn, formats.FORMATS["fp8"]

def packed(values, scales):
    p = packing.pack(torch.zeros(values.shape), fmt)
    native.lay_out_fp8(values, scales, p)
    return p

# One column at a time: what every byte is worth, subnormals, 448 and NaN among them.
every = torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, 6).contiguous().view(f8)
p = packed(every, torch.full((2, 1), 0.5))
for column in range(6):
    x = torch.zeros(20, 6)
    x[:, column] = 1
    for T in (1, 20):
        y, want = native.matmul(p, x[:T]), every.float()[:, column] / 2
        assert torch.equal(y.nan_to_num(7e9), want.nan_to_num(7e9).expand(T, -1)), column
# Tails of tiles, groups and blocks.
for N, K in ((1, 1), (17, 127), (100, 129), (150, 300), (272, 640)):
    g = torch.Generator().manual_seed(N)
    w = torch.randint(256, (N, K), generator=g, dtype=torch.uint8)
    w[(w & 127) == 127] = 1
    scales = torch.rand(-(-N // 128), -(-K // 128), generator=g) + 0.1
    p, x = packed(w.view(f8), scales), torch.randn(33, K, generator=g)
    got, want = native.matmul(p, x), packing.matmul(p, x)
    assert (got - want).norm() < 1e-6 * want.norm(), (N, K)
    exact = x.bfloat16().double() @ fp8.dequantise_fp8_block(w.view(f8), scales).double().t()
    assert (got - exact).norm() < 1e-6 * exact.norm(), (N, K)
    for T in (1, 2, 6, 12, 13):
        assert torch.equal(native.matmul(p, x[:T]), got[:T]), (N, K, T)
print("isa", native.isa())
"""


@pytest.mark.parametrize("isa", ISAS)
def test_fp8_products_are_those_of_the_stored_bytes(isa):
    done = run_at(isa, FP8_EVERYWHERE)
    assert done.returncode == 0, done.stderr


def test_fp8_bytes_and_scales_are_laid_out_as_the_oracle_has_them():
    for N, K in [*SHAPES, (150, 300)]:
        wide = torch.randint(256, (N, K + 3), dtype=torch.uint8).view(torch.float8_e4m3fn)
        scales = torch.rand(-(-N // 128), -(-K // 128))
        got, want = (laid_out(wide[:, :K], scales), packing.lay_out_fp8(wide[:, :K], scales))
        assert torch.equal(got.data, want.data)
        assert torch.equal(got.scales, want.scales)


def test_fp8_gate_and_up_alternate_and_keep_blocks_of_their_own():
    """144 rows each: a block that begins in the middle of the joined matrix."""
    parts = [quantise_fp8_block(torch.randn(144, 200) * (1 + i)) for i in range(2)]
    packed = packing.pack(torch.zeros(288, 200), FORMATS["fp8"])
    for i, (values, scales) in enumerate(parts):
        native.lay_out_fp8(values, scales, packed, i, 2)
    got = native.unpack(packed).unflatten(0, (-1, 2, TILE))
    for i, (values, scales) in enumerate(parts):
        want = fp8.dequantise_fp8_block(values, scales)
        assert torch.equal(got[:, i].flatten(0, 1), want)


@pytest.mark.parametrize(
    ("values", "scales", "turn"),
    [
        ((32, 64), (1, 1), (0, 1)),
        ((10, 200), (1, 2), (0, 2)),
        ((20, 200), (1, 2), (1, 1)),
        ((20, 200), (1, 2), (-1, 1)),
        ((20, 200), (1, 1), (0, 1)),
        ((20, 200), (2, 2), (0, 1)),
    ],
)
def test_fp8_tensors_of_another_shape_are_refused(values, scales, turn):
    packed = packing.pack(torch.zeros(20, 200), FORMATS["fp8"])
    with pytest.raises(KernelError, match="FP8 weights"):
        native.lay_out_fp8(
            torch.zeros(values).to(torch.float8_e4m3fn), torch.ones(scales), packed, *turn
        )
    with pytest.raises(KernelError, match="float8_e4m3fn"):
        native.lay_out_fp8(torch.zeros(20, 200), torch.ones(1, 2), packed)


def test_no_rows_give_no_rows():
    assert native.matmul(
        packing.pack(torch.randn(3, 40), FORMATS["int4"]), torch.zeros(0, 40)
    ).shape == (0, 3)


# ---- rows of bfloat16 --------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("pairs", [False, True])
def test_rows_of_bfloat16_times_a_stack_are_those_in_float32_rounded(fmt, pairs):
    alone = [packing.pack(torch.randn(96, 100), fmt) for _ in range(5)]
    stack = packing.empty(fmt, 96, 100, 5)
    for e, one in enumerate(alone):
        stack.data[e] = one.data
        if one.scales is not None:
            stack.scales[e] = one.scales
    ends = [0, 0, 3, 103, 103, 110]
    x = torch.randn(110, 100).bfloat16()
    got = native.matmul_bf16(stack, x, ends, pairs=pairs)
    want = torch.cat(
        [native.matmul(p, x[a:b].float()) for p, a, b in zip(alone, ends, ends[1:], strict=False)]
    ).bfloat16()
    assert torch.equal(got, packing.side_by_side(want) if pairs else want)


def test_a_wide_matrix_is_multiplied_in_parts():
    packed, x = packed_of("int4", 5000, 64), torch.randn(70, 64).bfloat16()
    got = native.matmul_bf16(packed, x, [0, 70])
    assert torch.equal(got, native.matmul(packed, x.float()).bfloat16())


@pytest.mark.parametrize(
    ("x", "ends"),
    [(torch.randn(2, 64), [0, 2]), (torch.randn(2, 65).bfloat16(), [0, 2]),
     (torch.randn(2, 64).bfloat16(), [0, 1]), (torch.randn(2, 64).bfloat16(), [0, 1, 2]),
     (torch.randn(64).bfloat16(), [0, 2]), (torch.randn(2, 64).bfloat16(), [1, 2])],
    ids=["float32", "too wide", "rows left", "two matrices", "flat", "not from 0"],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(x, ends):
    with pytest.raises(KernelError):
        native.matmul_bf16(packed_of("int8"), x, ends)


# ---- instruction sets ----------------------------------------------------------------------------

DIGEST = """
import hashlib, torch
from ling.ops import native, packing
from ling.ops.formats import FORMATS
for f in (f for f in FORMATS.values() if f.kernel is not None):
    h = hashlib.sha256()
    for n, k, seed in ((1, 1, 0), (37, 130, 1), (64, 513, 2)):
        g = torch.Generator().manual_seed(seed)
        w, x = torch.randn(n, k, generator=g), torch.randn(9, k, generator=g)
        w[0, 0] = 0
        p = packing.pack(w, f)
        x[3].mul_(1e-40)
        x[5, 0] = float("nan")
        y = native.matmul(p, x)
        h.update(y.nan_to_num(7).numpy().tobytes())
        h.update(native.unpack_bf16(p).float().numpy().tobytes())
        y = native.matmul_bf16(p, x.bfloat16(), [0, 9])
        h.update(y.float().nan_to_num(7).numpy().tobytes())
        q = native.pack(w, f)
        if f.scale_dtype:
            i = torch.rand(k, generator=g) if f.levels else None
            for q in (q, native.pack(w.bfloat16(), f), native.pack(w, f, i)):
                h.update(q.data.numpy().tobytes())
                h.update(q.scales.float().numpy().tobytes())
    print(f.name, h.hexdigest())
print("isa", native.isa())
"""


def run_at(isa, code=DIGEST):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LING_ISA": isa},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def digests():
    out = {}
    for isa in ISAS:
        done = run_at(isa)
        assert done.returncode == 0, done.stderr
        out[isa] = dict(line.split() for line in done.stdout.splitlines())
    return out


@INTEGER
def test_every_instruction_set_gives_the_same_bits_for_integer_formats(digests, fmt):
    assert len({d[fmt.name] for d in digests.values()}) == 1


@pytest.mark.parametrize("fmt", ["bf16", "fp8"])
def test_instruction_sets_without_bfloat16_instructions_agree_on_bfloat16(digests, fmt):
    assert len({digests[n][fmt] for n in ISAS[:3]}) == 1


def test_an_asked_instruction_set_is_the_highest_that_is_used(digests):
    for asked, found in digests.items():
        assert ISAS.index(found["isa"]) <= ISAS.index(asked)
    assert digests["generic"]["isa"] == "generic"


@pytest.mark.parametrize("word", ["mmx", "AVX2", "avx2 ", "avx512"])
def test_unknown_instruction_set_is_an_error(word):
    code = f"""
import ctypes
lib = ctypes.CDLL({native.required()._name!r})
lib.ling_last_error.restype = ctypes.c_char_p
x = ctypes.create_string_buffer(4096)
print(lib.ling_isa(ctypes.byref(ctypes.c_char_p())), lib.ling_matmul(x, x, x, ctypes.c_int64(1)))
print(lib.ling_last_error().decode())
"""
    done = run_at(word, code)
    assert done.stdout.splitlines() == [
        "2 2",
        "LING_ISA must be generic, avx2, avx512vnni, avx512bf16 or avx512amx",
    ]


def test_a_forked_process_can_multiply():
    """A pool of OpenMP threads does not survive a fork; the child must not wait for it."""
    code = """
import os, signal, torch
from ling.ops import formats, fp8, native, packing
torch.set_num_threads(2)
p, x = packing.pack(torch.randn(100, 256), formats.FORMATS["int8"]), torch.randn(9, 256)
want = native.matmul(p, x)
child = os.fork()
if not child:
    signal.alarm(10)
    os._exit(0 if torch.equal(native.matmul(p, x), want) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stdout + done.stderr


# ---- wrong calls -------------------------------------------------------------------------------


def packed_of(fmt, n=4, k=64):
    return packing.pack(torch.randn(n, k), FORMATS[fmt])


@pytest.mark.parametrize(
    "x",
    [torch.randn(64), torch.randn(2, 65), torch.randn(2, 64).double(), torch.ones(2, 64).long(),
     torch.randn(2, 64, device="meta")],
    ids=["flat", "too wide", "float64", "integers", "no memory"],
)  # fmt: skip
def test_wrong_activations_raise(x):
    with pytest.raises(KernelError):
        native.matmul(packed_of("int8"), x)


def test_strided_activations_are_read_as_they_are_meant():
    packed, x = packed_of("int8"), torch.randn(64, 5).t()
    assert torch.equal(native.matmul(packed, x), native.matmul(packed, x.contiguous()))
    assert torch.equal(native.matmul(packed, x.flip(0)), native.matmul(packed, x).flip(0))


def broken(**changes):
    p = packed_of("int8", 20, 100)
    values = {
        "format": p.format,
        "rows": p.rows,
        "cols": p.cols,
        "data": p.data,
        "scales": p.scales,
    }
    return Packed(**{**values, **changes})


@pytest.mark.parametrize(
    "make",
    [
        lambda: broken(scales=None),
        lambda: broken(rows=40),
        lambda: broken(cols=200),
        lambda: broken(rows=0),
        lambda: broken(format=FORMATS["int4"]),
        lambda: broken(data=torch.zeros(2, 2048, dtype=torch.int8)),
        lambda: broken(data=torch.zeros(2, 4096, dtype=torch.uint8)[:, ::2]),
        lambda: broken(data=torch.zeros(2, 2048, dtype=torch.uint8, device="meta")),
        lambda: broken(scales=torch.zeros(2, 2, 16)),
    ],
)
def test_packed_data_that_does_not_fit_raises(make):
    packed = make()
    with pytest.raises(KernelError):
        native.matmul(packed, torch.randn(2, packed.cols))
    with pytest.raises(KernelError):
        native.unpack(packed)
    with pytest.raises(KernelError):
        native.unpack_bf16(packed)


@pytest.mark.parametrize(
    ("w", "importance"),
    [(torch.randn(4, 64).half(), None), (torch.randn(64), None), (torch.randn(2, 4, 64), None),
     (torch.randn(4, 64, device="meta"), None), (torch.randn(0, 64), None),
     (torch.randn(4, 0), None),
     (torch.randn(4, 64), torch.ones(63))],
)  # fmt: skip
def test_wrong_weights_raise(w, importance):
    with pytest.raises(KernelError):
        native.pack(w, FORMATS["int4"], importance)


def test_a_place_of_another_shape_is_refused():
    with pytest.raises(KernelError, match="place"):
        native.pack(torch.randn(32, 64), FORMATS["int8"], out=packed_of("int8", 16, 64))


def test_matrices_of_a_stack_are_those_packed_alone():
    w, fmt = torch.randn(3, 32, 64), FORMATS["int4"]
    alone = [native.pack(m, fmt) for m in w]
    stack = Packed(
        fmt, 32, 64, torch.stack([p.data for p in alone]), torch.stack([p.scales for p in alone])
    )
    x = torch.randn(2, 64)
    for i, p in enumerate(alone):
        assert torch.equal(native.matmul(stack[i], x), native.matmul(p, x))
