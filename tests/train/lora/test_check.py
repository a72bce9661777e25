from __future__ import annotations

import torch

from ling.model.attention import DenseAttend
from ling.train.lora.check import FirstStep, lines
from ling.train.loss import RoutingLoss

TOKENS = torch.arange(40)


def after_a_step(network, tokens=TOKENS):
    """The counts of each layer's experts, with gradients in place."""
    trace = RoutingLoss(8, train=True)
    out = network.ling(tokens, torch.arange(len(tokens)), DenseAttend([0, len(tokens)]), trace)
    out.square().sum().backward()
    return trace.counts


def seen(network, counts):
    found = FirstStep()
    found.look(network.ling, counts)
    return found


def test_every_adapter_learns_in_the_first_step(made):
    network = made()
    found = seen(network, after_a_step(network))
    assert found.silent == []
    assert lines([found]) == []


def test_experts_without_a_token_are_counted_and_are_no_fault(made):
    network = made()
    found = seen(network, after_a_step(network, torch.tensor([5])))
    assert (found.silent, found.idle) == ([], {1: 6, 2: 6})
    # Of two ranks that have the same layers.
    (text,) = lines([found, found])
    assert text == "12 experts had no token in the first step (that is no fault)"


def test_what_does_not_learn_is_named(made):
    network = made()
    counts = after_a_step(network)
    own = dict(network.ling.named_parameters())
    own["model.layers.0.attention.dense.lora_B"].grad = None
    own["model.layers.0.mlp.up_proj.lora_B"].grad.zero_()
    own["model.layers.1.mlp.experts.up_proj_lora_B"].grad[3] = 0
    own["model.layers.2.mlp.experts.gate_proj_lora_B"].grad = None
    found = seen(network, counts)
    assert found.silent == [
        "model.layers.0.attention.dense",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.experts.up_proj[3]",
        *[f"model.layers.2.mlp.experts.gate_proj[{e}]" for e in range(8)],
    ]
    (text,) = lines([found, FirstStep()])
    assert "11 adapters have no gradient" in text
    assert "model.layers.0.attention.dense, " in text
    assert text.endswith("…")
