from __future__ import annotations

import pytest
import torch

from ling.config.optim import OptimConfig
from ling.errors import RunError
from ling.train.optim import build_optimizer, check_strides


def test_two_steps_are_those_of_the_formula_and_vectors_do_not_decay():
    cfg = OptimConfig(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.5)
    model = torch.nn.Linear(4, 3)
    optimizer = build_optimizer(model, cfg)
    want = {n: p.detach().double().clone() for n, p in model.named_parameters()}
    m, v = ({n: torch.zeros_like(p) for n, p in want.items()} for _ in range(2))
    for step in (1, 2):
        for name, p in model.named_parameters():
            g = torch.randn(p.shape)
            p.grad = g
            g = g.double()
            m[name] = 0.8 * m[name] + 0.2 * g
            v[name] = 0.9 * v[name] + 0.1 * g * g
            first, second = m[name] / (1 - 0.8**step), v[name] / (1 - 0.9**step)
            decay = 0.5 if p.ndim > 1 else 0.0
            want[name] *= 1 - 0.01 * decay
            want[name] -= 0.01 * first / (second.sqrt() + 1e-3)
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach().double(), want[name], atol=1e-6, rtol=1e-5)


def test_frozen_parameters_are_not_in_the_optimizer():
    model = torch.nn.Linear(4, 3)
    model.weight.requires_grad_(False)
    groups = build_optimizer(model, OptimConfig()).param_groups
    assert [len(g["params"]) for g in groups] == [0, 1]


def test_a_gradient_of_other_strides_than_its_parameter_is_refused():
    good, bad = (torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(2))
    good.grad = torch.zeros(3, 4)
    check_strides([good, bad])
    bad.grad = torch.zeros(3, 8)[:, ::2]
    with pytest.raises(RunError, match=r"shape \[3, 4\] has strides \(8, 2\) instead of \(4, 1\)"):
        check_strides([good, bad])
