from __future__ import annotations

import pytest
import torch

from ling.model.ling import from_config
from ling.model.moe import Experts
from ling.model.rope import inverse_frequencies
from ling.model.swap import row_blocks, swap
from ling.ops import experts, grouped, reference
from ling.presets import preset


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_whoever_shares_the_batch(dtype):
    model = swap(from_config(preset("ling-tiny"), seed=0, dtype=dtype).eval(), row_blocks)
    block = model.model.layers[1]
    x = torch.randn(40, 64, dtype=dtype)
    with torch.no_grad():
        together = block.mlp(x, 1, None)
        for rows in (1, 2, 3, 17):
            assert torch.equal(block.mlp(x[:rows], 1, None), together[:rows])
            want = block.attention.query_key_value(x)[:rows]
            assert torch.equal(block.attention.query_key_value(x[:rows]), want)


def three_steps(x, ids, w, *weights):
    slots = experts.sort_by_expert(ids, len(weights[0]), 16)
    rows = grouped.swiglu(experts.dispatch(x, slots), slots.offsets, *weights)
    return experts.combine(rows, slots, w)


def test_experts_equal_the_reference_and_its_gradient():
    torch.manual_seed(0)
    E, F, D, T, A = 8, 16, 32, 40, 2
    x = torch.randn(T, D, requires_grad=True)
    weights = [torch.randn(s, requires_grad=True) for s in ((E, F, D), (E, F, D), (E, D, F))]
    ids = torch.rand(T, E).topk(A).indices
    w = torch.rand(T, A, requires_grad=True)
    grads = []
    for op in (three_steps, reference.moe):
        out = op(x, ids, w, *weights)
        grads.append([out, *torch.autograd.grad(out.square().sum(), [x, w, *weights])])
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-2)


def test_rows_that_skip_the_products_come_back_as_their_weighted_tokens():
    torch.manual_seed(0)
    x = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    w = torch.rand(10, 2, dtype=torch.float64, requires_grad=True)
    slots = experts.sort_by_expert(torch.rand(10, 8).topk(2).indices, 8, 16)
    out = experts.combine(experts.dispatch(x, slots), slots, w)
    want = x * w.sum(1, keepdim=True)
    torch.testing.assert_close(out, want, rtol=1e-6, atol=1e-6)
    got = torch.autograd.grad(out.square().sum(), [x, w])
    for a, b in zip(got, torch.autograd.grad(want.square().sum(), [x, w]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_rule_replaces_the_products_alone():
    class Halved(Experts):
        def products(self, x_RD, offsets):
            return super().products(x_RD, offsets) / 2

    def halve(name, module):
        if isinstance(module, Experts):
            module.__class__ = Halved
        return module

    model = from_config(preset("ling-tiny"), seed=0)
    layer = model.model.layers[1].mlp.experts
    x, ids, w = torch.randn(6, 64), torch.rand(6, 8).topk(2).indices, torch.rand(6, 2)
    before = layer(x, ids, w)
    swap(model, halve)
    assert torch.equal(layer(x, ids, w), before / 2)


def test_router_never_picks_from_dropped_groups_even_with_negative_scores():
    logits = torch.full((1, 8), -4.0)
    bias = torch.full((8,), -1.0)
    bias[:4] -= 0.5
    ids, weights = reference.route(
        logits, bias, num_experts_per_tok=4, n_group=2, topk_group=1, routed_scaling_factor=2.5
    )
    assert ids.tolist() == [[4, 5, 6, 7]]
    assert weights.sum().item() == pytest.approx(2.5)


def test_router_ties_go_to_the_lowest_id():
    ids, _ = reference.route(
        torch.zeros(3, 16),
        torch.zeros(16),
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=1.0,
    )
    assert ids.tolist() == [[0, 1, 2, 3]] * 3


def test_yarn_at_the_released_values_has_its_ramp_from_12_to_21():
    plain = preset("ling-mini-2.0")
    scaled = plain.replace(
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    )
    (a, _), (b, factor) = inverse_frequencies(plain), inverse_frequencies(scaled)
    ratio = a / b
    assert factor == pytest.approx(1.1386294)
    assert torch.allclose(ratio[:13], torch.ones(13))
    assert torch.allclose(ratio[21:], torch.full((11,), 4.0))
    assert ((ratio[13:21] > 1.0) & (ratio[13:21] < 4.0)).all()
