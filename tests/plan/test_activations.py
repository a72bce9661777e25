"""Activations counted by formula against the tensors that autograd keeps."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

from ling.model.ling import Ling
from ling.plan.activations import kept, padding_of
from ling.plan.shape import shape_of
from ling.presets import preset
from ling.train.batches import Batch
from ling.train.forward import LingForTraining
from ling.train.objectives.pretrain import Pretraining
from ling.train.recompute import recompute

ROWS, LENGTH = 4, 256
TOKENS = ROWS * LENGTH
TABLE = (TOKENS, 32)  # cos and sin of the rotation, one of each for all layers


def kept_by_autograd(cfg, what):
    """Bytes by layer, without weights, their casts, and what all layers use."""
    network = LingForTraining(Ling(cfg))
    network.ling.init_weights(torch.Generator().manual_seed(0))
    network.ling.compute_dtype = torch.bfloat16
    network.train()
    recompute(network, what)
    held = {p.untyped_storage().data_ptr() for p in network.parameters()}
    no_rows = {w.shape for layer in shape_of(cfg, LENGTH).layers for w in layer.weights}
    stack, alive, found = [], [], Counter()

    def pack(tensor):
        storage = tensor.untyped_storage()
        match = re.match(r"ling\.model\.layers\.(\d+)", stack[-1] if stack else "")
        shapes = {tuple(tensor.shape), tuple(tensor.shape[::-1])}
        # Tables of the rotation have the shape of experts' scores.
        shared = shapes & no_rows or (TABLE in shapes and stack[-1].endswith("attention"))
        if storage.data_ptr() not in held and match and not shared:
            held.add(storage.data_ptr())
            alive.append(storage)  # else its address may be taken again
            found[int(match[1])] += storage.nbytes()
        return tensor

    def leave(module, args, result):
        stack.pop()

    for name, module in network.named_modules():
        module.register_forward_pre_hook(lambda m, a, name=name: stack.append(name))
        module.register_forward_hook(leave)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, cfg.vocab_size, (ROWS, LENGTH), generator=generator)
    batch = Batch(tokens, tokens, torch.ones(ROWS, LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        Pretraining(0.1, 1e-6).losses(network, batch)
    return found


@pytest.mark.parametrize("what", ["none", "moe", "full"])
def test_activations_of_layers_are_what_autograd_keeps(what):
    cfg = preset("ling-nano").replace(num_hidden_layers=3)
    found, shape = kept_by_autograd(cfg, what), shape_of(cfg, LENGTH)
    padding = padding_of(cfg, TOKENS, 1, "cpu")
    for number, layer in enumerate(shape.layers[:3]):
        counted = TOKENS * kept(cfg, layer, 2, padding).after(what, layer.is_moe)
        assert counted == pytest.approx(found[number], rel=0.05), number


def test_padding_is_that_of_rows_on_a_cpu():
    cfg = preset("ling-nano")  # 32 experts, 4 of a token
    assert padding_of(cfg, 4096, 1, "cuda") == 1.0
    assert padding_of(cfg, 4096, 1, "cpu") == 1 + 32 * 31.5 / 16384
    assert padding_of(cfg, 64, 1, "cpu") == 1 + 32 * 7.5 / 256
