"""The objective of pairs against its formula, written plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from ling.config.sft import DPOConfig
from ling.data.samples import Sample
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.batches import make_batch
from ling.train.forward import LingForTraining
from ling.train.objectives.dpo import Preferences
from ling.train.reference import Reference

TINY = preset("ling-tiny")
# Lengths of the prompt and of both answers.
PAIRS = [(5, 4, 9), (3, 12, 2), (8, 1, 1), (2, 7, 7)]
ALL = tuple(range(len(PAIRS)))
REFERENCE = np.random.RandomState(9).randn(len(PAIRS), 2).astype(np.float32) - 40


def pair(number):
    prompt, *answers = PAIRS[number]
    rng = np.random.RandomState(number)
    asked = rng.randint(4, TINY.vocab_size, prompt)
    both = [np.concatenate([asked, rng.randint(4, TINY.vocab_size, n)]) for n in answers]
    ids = np.concatenate(both)
    mask, borders = np.zeros(len(ids), "f4"), np.cumsum([len(x) for x in both])
    for end, n in zip(borders, answers, strict=True):
        mask[end - n - 1 : end - 1] = 1
    extra = {"pair": np.array([number])}
    return Sample(ids, np.append(ids[1:], 0), mask, borders, extra)


def network():
    net = LingForTraining(from_config(TINY, seed=0))
    net.uses_mtp = False
    return net


def ours(micro, numbers=ALL, **cfg):
    """Gradients of a step in micro-batches of `micro` pairs, and what it logs."""
    net, objective = network(), Preferences(DPOConfig(**cfg), {})
    objective.references["train"] = Reference(REFERENCE)
    rows = [pair(n) for n in numbers]
    batches = [
        make_batch(rows[i : i + micro], isolate_documents=True) for i in range(0, len(rows), micro)
    ]
    named = {}
    for batch in objective.batches(batches, len(batches), lambda counts: counts):
        found = objective.losses(net, batch)
        (found.total / len(batches)).backward()
        for name, value in found.named.items():
            named[name] = named.get(name, 0) + float(value) / len(batches)
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}, named


def plain(numbers=ALL, beta=0.1, label_smoothing=0.0, sft_weight=0.0):
    """The same from the formula: every answer in a pass of its own, torch's log_softmax."""
    net, losses, margins = network(), [], []
    for number in numbers:
        row, (prompt, *lengths), start, logps = pair(number), PAIRS[number], 0, []
        for end in row.borders:
            ids = torch.tensor(row.tokens[start:end])
            hidden = net.ling(ids, torch.arange(len(ids)), DenseAttend([0, len(ids)]))
            logp = net.ling.logits(hidden).float().log_softmax(-1)
            logps.append(logp[prompt - 1 : -1].gather(1, ids[prompt:, None]).sum())
            start = end
        (chosen, rejected), (at_chosen, at_rejected) = logps, REFERENCE[number].tolist()
        margin = beta * ((chosen - rejected) - (at_chosen - at_rejected))
        loss = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
        losses.append(loss - sft_weight * chosen / lengths[0])
        margins.append(float(margin.detach()))
    total = sum(losses) / len(losses)
    total.backward()
    grads = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    return grads, float(total.detach()), float(np.mean(margins))


def check_gradients(got, want):
    assert set(got) == set(want)
    size = max(float(g.abs().max()) for g in want.values())
    assert size > 0
    for name, g in want.items():
        assert (got[name] - g).abs().max() <= 2e-6 * max(size, 1), name


@pytest.mark.parametrize(
    "cfg", [{}, {"beta": 0.5, "label_smoothing": 0.2}, {"sft_weight": 0.3}], ids=str
)
def test_loss_and_gradient_are_those_of_the_formula(cfg):
    want, loss, margin = plain(**cfg)
    got, named = ours(2, **cfg)
    assert named["loss"] == pytest.approx(loss, rel=1e-6)
    assert named["reward_margin"] == pytest.approx(margin, rel=1e-5)
    check_gradients(got, want)
    assert ("sft_loss" in named) == ("sft_weight" in cfg)


def test_a_step_is_one_mean_over_its_pairs_however_it_is_cut():
    want, named = ours(4)
    for micro in (2, 1):
        got, other = ours(micro)
        assert other == pytest.approx(named, rel=1e-5)
        check_gradients(got, want)


def test_rewards_and_accuracy_are_of_what_was_gained_on_the_reference():
    _, named = ours(1, [0], beta=0.2)
    for k, name in enumerate(("chosen", "rejected")):
        gained = named[f"{name}_logp"] - REFERENCE[0, k]
        assert named[f"{name}_reward"] == pytest.approx(0.2 * gained, rel=1e-5)
    assert named["reward_accuracy"] == float(named["reward_margin"] > 0)
    right = [ours(1, [n])[1]["reward_margin"] > 0 for n in range(len(PAIRS))]
    assert 0 < sum(right) < len(PAIRS)
    assert ours(4)[1]["reward_accuracy"] == sum(right) / len(PAIRS)
