from __future__ import annotations

import torch

from ling.model.attention import DenseAttend
from ling.train.lora.check import FirstStep, lines

TOKENS = torch.arange(40)


def after_a_step(network, tokens=TOKENS):
    """`network` with gradients in place."""
    out = network.ling(tokens, torch.arange(len(tokens)), DenseAttend([0, len(tokens)]))
    out.square().sum().backward()
    return network


def seen(network):
    found = FirstStep()
    found.look(network.ling)
    return found


def test_every_adapter_learns_in_the_first_step(made):
    found = seen(after_a_step(made()))
    assert found.silent == []
    assert lines([found]) == []


def test_experts_without_a_token_are_counted_and_are_no_fault(made):
    found = seen(after_a_step(made(), torch.tensor([5])))
    assert (found.silent, found.idle) == ([], {1: 6, 2: 6})
    # Of two ranks that have the same layers.
    (text,) = lines([found, found])
    assert text == "12 experts had no trained token in the first step (that is no fault)"


def test_what_does_not_learn_is_named(made):
    network = after_a_step(made())
    own = dict(network.ling.named_parameters())
    own["model.layers.0.attention.dense.lora_B"].grad = None
    own["model.layers.0.mlp.up_proj.lora_B"].grad.zero_()
    own["model.layers.1.mlp.experts.up_proj_lora_B"].grad[3] = 0
    for matrix in ("gate_proj", "up_proj", "down_proj"):
        own[f"model.layers.2.mlp.experts.{matrix}_lora_B"].grad = None
    found = seen(network)
    assert found.silent == [
        "model.layers.0.attention.dense",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.experts.up_proj[3]",
        *[f"model.layers.2.mlp.experts.{m}" for m in ("gate_proj", "up_proj", "down_proj")],
    ]
    text, idle = lines([found, FirstStep()])
    assert idle.startswith("8 experts had no trained token")
    assert "6 adapters have no gradient" in text
    assert "model.layers.0.attention.dense, " in text
    assert text.endswith("…")
