"""Attention over pages, held to the formula in float64."""

from __future__ import annotations

import pytest
import torch

from ling.infer.pages import PAGE, Segment
from ling.infer.torch_attention import PagedAttend, PageTensor, _weigh
from ling.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")

CFG = preset("ling-tiny").replace(num_attention_heads=6, num_key_value_heads=2)
H, G, K = CFG.num_attention_heads, CFG.num_key_value_heads, CFG.head_dim
LAYER = 1
# Three requests: one over three pages in no order, one at the border of two, one of a single token.
LENGTHS = {0: 150, 1: 65, 2: 1}
PAGES = {0: [5, 0, 3], 1: [1, 6], 2: [2]}


def cache(dtype="float32"):
    return PageTensor(CFG, 7, dtype), PageTensor(CFG, 7, dtype)


def by_formula(q_THK, k_TGK, v_TGK):
    T = len(k_TGK)
    k, v = (x.double().repeat_interleave(H // G, 1) for x in (k_TGK, v_TGK))
    scores = torch.einsum("thk,shk->hts", q_THK.double(), k) / K**0.5
    later = torch.ones(len(q_THK), T, dtype=torch.bool).triu(1 + T - len(q_THK))
    return torch.einsum("hts,shk->thk", scores.masked_fill(later, float("-inf")).softmax(-1), v)


@pytest.fixture
def rows():
    """Queries, keys and values of each request."""
    return {r: [torch.randn(n, heads, K) for heads in (H, G, G)] for r, n in LENGTHS.items()}


def attend(pages, rows, parts):
    """One call for `parts`, (request, first position, tokens) each; returns what each gets."""
    segments, start = [], 0
    for r, first, n in parts:
        segments.append(Segment(PAGES[r], first, start, start + n))
        start += n
    qkv = [torch.cat([rows[r][i][first : first + n] for r, first, n in parts]) for i in range(3)]
    out = PagedAttend(pages, segments)(LAYER, *qkv)
    return [out[s.start : s.stop] for s in segments]


# ---- pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 0), ("bf16", 2**-8), ("int8", 1 / 127), ("int4", 0.4)]
)
def test_what_is_written_is_read_within_the_rounding_of_its_type(dtype, tolerance):
    pages, x = PageTensor(CFG, 3, dtype), torch.randn(10, G, K)
    pages.write(LAYER, 2, 50, x)
    got = pages.read(LAYER, 2)
    assert got.dtype == torch.float32
    assert got.shape == (G, PAGE, K)
    error = (got[:, 50:60].transpose(0, 1) - x).abs()
    assert (error <= tolerance * x.abs().amax(-1, keepdim=True)).all()
    assert not got[:, :50].any()
    assert not got[:, 60:].any()
    assert not pages.read(LAYER, 1).any()
    assert not pages.read(0, 2).any()
    assert (pages.scales is None) == (dtype in ("float32", "bf16"))


def test_int8_has_a_scale_for_every_position_and_head():
    pages, x = PageTensor(CFG, 1, "int8"), torch.randn(4, G, K)
    x[2, 1] *= 1000
    pages.write(LAYER, 0, 0, x)
    want = x.abs().amax(-1) / 127
    torch.testing.assert_close(pages.scales[LAYER, 0, :, :4], want.T)


# ---- attention ---------------------------------------------------------------------------------


def test_each_request_attends_to_its_own_pages(rows):
    parts = [(r, 0, n) for r, n in LENGTHS.items()]
    for (r, *_), got in zip(parts, attend(cache(), rows, parts), strict=True):
        torch.testing.assert_close(got.double(), by_formula(*rows[r]), atol=1e-5, rtol=1e-5)


def test_pieces_and_company_do_not_change_a_bit(rows):
    (want,) = attend(cache(), rows, [(0, 0, 150)])
    pages, got = cache(), []
    for first, n, others in (
        (0, 1, []),
        (1, 62, [(1, 0, 33)]),
        (63, 2, [(1, 33, 32), (2, 0, 1)]),
        (65, 85, []),
    ):
        got.append(attend(pages, rows, [*others, (0, first, n)])[-1])
    assert torch.equal(torch.cat(got), want)


def test_what_another_request_left_in_a_page_adds_nothing(rows):
    pages = cache()
    for tensor in pages:
        tensor.values.fill_(float("nan"))
    (got,) = attend(pages, rows, [(0, 0, 150)])
    (want,) = attend(cache(), rows, [(0, 0, 150)])
    assert torch.equal(got, want)


def test_large_scores_do_not_overflow(rows):
    q, k, v = rows[1]
    rows[1] = [q * 100, k * 100, v]
    (got,) = attend(cache(), rows, [(1, 0, 65)])
    torch.testing.assert_close(got.double(), by_formula(*rows[1]), atol=1e-4, rtol=1e-3)


def test_output_has_the_dtype_of_the_queries(rows):
    half = {r: [x.bfloat16() for x in three] for r, three in rows.items()}
    (got,) = attend(cache("bf16"), half, [(0, 0, 150)])
    assert got.dtype == torch.bfloat16
    want = by_formula(*half[0])
    torch.testing.assert_close(got.double(), want, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_reaches_the_rows_that_see_it(bad):
    p, v = torch.rand(2, 3, 5), torch.randn(2, 5, 4)
    hidden = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    p = p.masked_fill(hidden, 0)
    want = _weigh(p, v, hidden)
    torch.testing.assert_close(want, p @ v)
    v[1, 3, 2] = bad
    got = _weigh(p, v, hidden)
    changed = torch.zeros_like(want, dtype=torch.bool)
    changed[1, 1:, 2] = True
    torch.testing.assert_close(got[~changed], want[~changed])
    assert not got[changed].isfinite().any()
