from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from ling.model.moe import MLP, MoE, Router
from ling.presets import preset

CFG = preset("ling-tiny")


@pytest.fixture
def moe():
    module = MoE(CFG)
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=0.2, generator=generator)
    nn.init.normal_(module.gate.expert_bias, std=0.1, generator=generator)
    return module


def expected_choice(module, x_TD):
    """Ids and weights of every token, one token at a time in plain Python."""
    groups, size = CFG.n_group, CFG.num_experts // CFG.n_group
    for x in x_TD.double():
        scores = (module.gate.weight.double() @ x).sigmoid().tolist()
        biased = [s + b for s, b in zip(scores, module.gate.expert_bias.tolist(), strict=True)]
        worth = {g: sum(sorted(biased[g * size : (g + 1) * size])[-2:]) for g in range(groups)}
        kept = sorted(worth, key=worth.get)[-CFG.topk_group :]
        allowed = [e for e in range(CFG.num_experts) if e // size in kept]
        ids = sorted(allowed, key=lambda e: -biased[e])[: CFG.num_experts_per_tok]
        total = sum(scores[e] for e in ids)
        yield ids, [CFG.routed_scaling_factor * scores[e] / total for e in ids]


def mlp(x, gate, up, down):
    return down.double() @ (nn.functional.silu(gate.double() @ x) * (up.double() @ x))


def test_output_is_the_weighed_sum_of_the_chosen_experts_and_the_shared_one(moe):
    x_TD = torch.randn(20, CFG.hidden_size)
    want = []
    for x, (ids, weights) in zip(x_TD.double(), expected_choice(moe, x_TD), strict=True):
        e, s = moe.experts, moe.shared_experts
        routed = sum(
            w * mlp(x, e.gate_proj[i], e.up_proj[i], e.down_proj[i])
            for i, w in zip(ids, weights, strict=True)
        )
        want.append(routed + mlp(x, s.gate_proj.weight, s.up_proj.weight, s.down_proj.weight))
    torch.testing.assert_close(moe(x_TD, 1, None).double(), torch.stack(want), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("names", [("up_proj",), ("gate_proj", "up_proj", "down_proj")])
def test_weights_may_be_parametrised(moe, names):
    """As peft does it while a layer with adapters runs."""

    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    x_TD = torch.randn(20, CFG.hidden_size)
    for name in names:
        register_parametrization(moe.experts, name, Doubled())
    seen = moe(x_TD, 1, None)
    for name in names:
        remove_parametrizations(moe.experts, name, leave_parametrized=True)
    torch.testing.assert_close(seen, moe(x_TD, 1, None))


def test_trace_sees_layer_logits_and_ids(moe):
    class Trace:
        def record(self, layer, logits_TE, ids_TA):
            self.seen = layer, logits_TE, ids_TA

    trace, x_TD = Trace(), torch.randn(7, CFG.hidden_size)
    assert torch.equal(moe(x_TD, 2, trace), moe(x_TD, 2, None))
    layer, logits, ids = trace.seen
    assert layer == 2
    torch.testing.assert_close(logits, x_TD @ moe.gate.weight.T)
    assert ids.tolist() == [ids for ids, _ in expected_choice(moe, x_TD)]


def test_bias_steers_the_choice_but_not_the_weights(moe):
    x_TD = torch.randn(9, CFG.hidden_size)
    moe.gate.expert_bias.zero_()
    moe.gate.expert_bias[5] = 10.0
    logits, ids, weights = moe.gate(x_TD)
    assert (ids[:, 0] == 5).all()
    scores = logits.sigmoid().gather(1, ids)
    want = CFG.routed_scaling_factor * scores / scores.sum(-1, keepdim=True)
    torch.testing.assert_close(weights, want)
    assert not moe.gate.expert_bias.requires_grad


def test_router_is_in_float32_whatever_the_input():
    router = Router(CFG)
    nn.init.normal_(router.weight)
    x = torch.randn(4, CFG.hidden_size).bfloat16()
    logits, _, weights = router(x)
    assert logits.dtype == weights.dtype == torch.float32
    assert torch.equal(logits, x.float() @ router.weight.T)


def test_model_without_a_shared_expert_has_the_routed_ones_alone(moe):
    x_TD = torch.randn(3, CFG.hidden_size)
    both, shared = moe(x_TD, 1, None), moe.shared_experts
    moe.shared_experts = None
    torch.testing.assert_close(moe(x_TD, 1, None) + shared(x_TD), both)
    assert MoE(CFG.replace(num_shared_experts=0)).shared_experts is None


def test_mlp_is_swiglu():
    module, x = MLP(8, 12), torch.randn(5, 8)
    want = [
        mlp(row, module.gate_proj.weight, module.up_proj.weight, module.down_proj.weight)
        for row in x.double()
    ]
    torch.testing.assert_close(module(x).double(), torch.stack(want), atol=1e-6, rtol=1e-5)
