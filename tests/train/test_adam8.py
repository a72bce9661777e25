from __future__ import annotations

import copy

import pytest
import torch

from ling.config.optim import OptimConfig
from ling.errors import RunError
from ling.ops import adam8
from ling.train.adam8 import LEAST, AdamW8bit
from ling.train.optim import build_optimizer

OPTIONS = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.5}


def updated(optimizer, params, steps=3):
    torch.manual_seed(0)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape)
        optimizer.step()


def test_shards_have_bytes_and_small_ones_floats():
    sizes = (LEAST, LEAST - 1, LEAST + 1)
    params = [torch.nn.Parameter(torch.randn(n)) for n in sizes]
    optimizer = AdamW8bit(params, **OPTIONS)
    updated(optimizer, params, steps=1)
    names = [set(optimizer.state[p]) for p in params]
    packed = {"step", *adam8.Moments._fields}
    assert names == [packed, {"step", "exp_avg", "exp_avg_sq"}, packed]
    moments = (t for t in optimizer.state[params[0]].values() if t.ndim)
    assert sum(t.nbytes for t in moments) == 2 * LEAST + 2 * 4 * LEAST // adam8.BLOCK


def test_updates_are_the_definition_of_large_and_small_shards():
    torch.manual_seed(1)
    large, small = (torch.nn.Parameter(torch.randn(n)) for n in (5000, 100))
    want = [large.detach().clone(), small.detach().clone()]
    optimizer = AdamW8bit(
        [{"params": [large]}, {"params": [small], "weight_decay": 0.0}], **OPTIONS
    )
    codes = [torch.full((5000,), code, dtype=torch.uint8) for code in adam8.ZERO_CODE]
    scales = [torch.zeros(20) for _ in range(2)]
    moments = adam8.Moments(codes[0], scales[0], codes[1], scales[1])
    m, v = torch.zeros(2, 100)
    for t, lr in enumerate((0.01, 0.02, 0.005), 1):
        for p in (large, small):
            p.grad = torch.randn(p.shape)
        for group in optimizer.param_groups:
            group["lr"] = lr
        numbers = [adam8.scalars(t, lr, (0.8, 0.9), 1e-3, decay) for decay in (0.5, 0.0)]
        adam8.step_reference(want[0], large.grad, moments, numbers[0])
        adam8.advance(want[1], small.grad, m, v, numbers[1])
        optimizer.step()
    assert torch.equal(large.detach(), want[0])
    assert torch.equal(small.detach(), want[1])


def test_it_is_near_plain_adamw():
    torch.manual_seed(2)
    start = torch.randn(64, 128)
    p, q = (torch.nn.Parameter(start.clone()) for _ in range(2))
    options = {**OPTIONS, "weight_decay": 0.0}
    updated(AdamW8bit([p], **options), [p], steps=20)
    updated(torch.optim.AdamW([q], **options), [q], steps=20)
    moved = (q - start).norm()
    assert (p - q).norm() < 0.02 * moved


def test_a_parameter_without_gradient_keeps_its_step():
    params = [torch.nn.Parameter(torch.ones(5000)) for _ in range(2)]
    optimizer = AdamW8bit(params, **OPTIONS)
    params[0].grad = torch.ones(5000)
    optimizer.step()
    assert not optimizer.state[params[1]]
    assert torch.equal(params[1].detach(), torch.ones(5000))


def test_its_state_dict_loads():
    p = torch.nn.Parameter(torch.randn(5000))
    optimizer = AdamW8bit([p], **OPTIONS)
    updated(optimizer, [p])
    q = torch.nn.Parameter(p.detach().clone())
    other = AdamW8bit([q], **OPTIONS)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    updated(optimizer, [p])
    updated(other, [q])
    assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (torch.zeros(8, 1024).t(), r"shape \[1024, 8\] .* strides \(1, 1024\)"),
        (torch.zeros(5000, dtype=torch.bfloat16), "bfloat16"),
    ],
)
def test_what_it_does_not_take_is_refused(p, said):
    p = torch.nn.Parameter(p)
    p.grad = torch.ones_like(p)
    with pytest.raises(RunError, match=f"8-bit AdamW takes float32 without gaps.*{said}"):
        AdamW8bit([p], **OPTIONS).step()


def test_a_recipe_names_it_and_vectors_do_not_decay():
    model = torch.nn.Linear(64, 128)
    cfg = OptimConfig(name="adamw8bit", lr=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9, eps=1e-3)
    optimizer = build_optimizer(model, cfg)
    assert isinstance(optimizer, AdamW8bit)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    # Behind a step of nothing only the decay is left.
    torch.testing.assert_close(model.weight.detach(), before["weight"] * 0.95)
    assert torch.equal(model.bias.detach(), before["bias"])
