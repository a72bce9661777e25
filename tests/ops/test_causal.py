"""Attention of packed sequences, on every path: the C++ core, and torch's own."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ling.ops import causal, native, native_causal
from ling.ops.causal import causal_attention
from ling.ops.reference import causal_attention as by_formula

# Queries and keys of each sequence: ragged with an empty one, of one length, and the last
# positions of documents whose first ones are elsewhere.
BORDERS = {
    "ragged": ([0, 1, 1, 70, 203], None),
    "rows": ([0, 96, 192], None),
    "later": ([0, 3, 67, 167], [0, 3, 137, 300]),
}
SHAPES = [(4, 2, 64), (3, 3, 32), (4, 1, 96)]
DTYPES = [torch.bfloat16, torch.float32]
NATIVE = pytest.mark.skipif(native.library() is None, reason="no kernel library")


def inputs(shape, ends, key_ends, dtype):
    H, G, K = shape
    T, S = ends[-1], (key_ends or ends)[-1]
    # Values come as a part of a wider row, as from a fused projection.
    wide = torch.randn(S, 2 * G, K)
    parts = (torch.randn(T, H, K), torch.randn(S, G, K), wide[:, G:])
    return [x.to(torch.bfloat16).to(dtype).requires_grad_() for x in parts]


def want(q, k, v, ends, key_ends):
    """The formula in float64: of each sequence a square problem, and its last rows."""
    parts = []
    for (a, b), (c, d) in zip(pairwise(ends), pairwise(key_ends or ends), strict=True):
        before = q.new_zeros((d - c - (b - a), *q.shape[1:]))
        parts.append(by_formula(torch.cat((before, q[a:b])), k[c:d], v[c:d])[len(before) :])
    return torch.cat(parts)


def with_gradients(attend, leaves, dout):
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, dout.to(out.dtype))]


@pytest.mark.parametrize("borders", BORDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", [pytest.param("native", marks=NATIVE), "torch"])
def test_equals_the_formula_with_gradients(path, dtype, shape, borders, monkeypatch):
    monkeypatch.setattr(causal, "has_kernel", lambda q: path == "native")
    ends, key_ends = BORDERS[borders]
    leaves = inputs(shape, ends, key_ends, dtype)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    dout = torch.randn_like(leaves[0]).double()
    got = with_gradients(lambda *x: causal_attention(*x, ends, key_ends), leaves, dout)
    expected = with_gradients(lambda *x: want(*x, ends, key_ends), exact, dout)
    # Weights and gradients of scores have 8 bits in bfloat16; torch's path also rounds sums of
    # gradients between blocks.
    bound = 1e-5 if dtype == torch.float32 else {"native": 4e-3, "torch": 8e-3}[path]
    for name, a, b in zip(("out", "dq", "dk", "dv"), got, expected, strict=True):
        assert (a.dtype, a.shape) == (dtype, b.shape)
        assert (a.double() - b).norm() <= bound * b.norm(), name


@NATIVE
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_threads_or_neighbours(dtype, monkeypatch):
    """A sequence has the same bits alone, packed, and with any number of threads."""
    monkeypatch.setattr(causal, "has_kernel", lambda q: True)
    leaves, dout = inputs((4, 2, 32), [0, 70, 203], None, dtype), torch.randn(203, 4, 32)
    packed = with_gradients(lambda *x: causal_attention(*x, [0, 70, 203]), leaves, dout)
    torch.set_num_threads(1)
    alone = [x.detach()[70:].requires_grad_() for x in leaves]
    last = with_gradients(lambda *x: causal_attention(*x, [0, 133]), alone, dout[70:])
    for a, b in zip(packed, last, strict=True):
        assert torch.equal(a[70:], b)


@NATIVE
@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_of_later_positions_have_the_bits_of_the_whole(dtype, monkeypatch):
    """What a rank computes that has a part of the positions and all keys before them."""
    monkeypatch.setattr(causal, "has_kernel", lambda q: True)
    q, k, v = inputs((4, 2, 64), [0, 200], None, dtype)
    whole = causal_attention(q, k, v, [0, 200])
    for a, b in ((0, 128), (128, 200)):
        assert torch.equal(causal_attention(q[a:b], k[:b], v[:b], [0, b - a], [0, b]), whole[a:b])


@NATIVE
def test_kernel_is_for_what_the_cpu_multiplies(monkeypatch):
    q = torch.randn(4, 2, 64, dtype=torch.bfloat16)
    for isa, of_each in {
        "avx512bf16": [True, True],
        "avx512amx": [False, True],
        "avx2": [False, True],
        "generic": [False, False],
    }.items():
        monkeypatch.setattr(native, "isa", lambda name=isa: name)
        assert [causal.has_kernel(x) for x in (q, q.float())] == of_each, isa
        for other in (q.double(), q.to("meta"), q[..., :48]):
            assert not causal.has_kernel(other)


@NATIVE
@pytest.mark.parametrize("tokens", [1, 20])
def test_tokens_may_lie_anywhere(tokens, monkeypatch):
    """A single token's stride is anything, and one row may stand for all tokens."""
    monkeypatch.setattr(causal, "has_kernel", lambda q: True)
    one = torch.randn(2, 1, 32).transpose(0, 1)
    many = one.expand(tokens, 2, 32)
    want = causal_attention(*[many.contiguous()] * 3, [0, tokens])
    assert torch.equal(causal_attention(many, many, many, [0, tokens]), want)


@NATIVE
def test_no_queries_have_no_result():
    q, kv = torch.zeros(0, 4, 32).bfloat16(), torch.zeros(3, 2, 32).bfloat16()
    assert causal_attention(q, kv, kv, [0, 0], [0, 3]).shape == q.shape


def test_wrong_arguments_are_refused():
    q, k, v = (torch.randn(5, 2, 32).bfloat16() for _ in range(3))
    for args, reason in (
        ((q, k, v[:, :1], [0, 5], [0, 5]), "shapes"),
        ((q, k, v, [0, 4], [0, 5]), "end at 4"),
        ((q.float(), k, v, [0, 5], [0, 5]), "bfloat16"),
        ((q, k, v, [0, 3, 5], [0, 2, 5]), "fewer keys"),
    ):
        with pytest.raises(native.KernelError, match=reason):
            native_causal.attention(*args)
