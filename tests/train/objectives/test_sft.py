"""The objective of fine-tuning: one mean over a step's trained tokens, only these at the head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ling.data.samples import Sample
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.batches import make_batch
from ling.train.forward import LingForTraining
from ling.train.loss import cross_entropy, trained_rows
from ling.train.objectives.sft import FineTuning

TINY = preset("ling-tiny")
LENGTH = 24
SFT = FineTuning(mtp_weight=0.0, z_coef=None)


def row(seed, *documents, trained=None):
    """Documents of these lengths, of which the last `trained` labels each count (default: half)."""
    rng = np.random.RandomState(seed)
    tokens, labels, mask = np.zeros(LENGTH, int), np.zeros(LENGTH, int), np.zeros(LENGTH, "f4")
    borders, at = [], 0
    for n in documents:
        ids = rng.randint(4, TINY.vocab_size, n)
        tokens[at : at + n], labels[at : at + n - 1] = ids, ids[1:]
        count = n // 2 if trained is None else min(trained, n - 1)
        mask[at + n - 1 - count : at + n - 1] = 1
        at += n
        borders.append(at)
    return Sample(tokens, labels, mask, np.array(borders))


def network(**changes):
    return LingForTraining(from_config(TINY.replace(**changes), seed=0))


def gradients(rows, micro, objective=SFT, add=lambda counts: counts):
    """Of a step in micro-batches of `micro` rows, and the loss it logs."""
    net = network()
    net.uses_mtp = False
    batches = [
        make_batch(rows[i : i + micro], isolate_documents=True) for i in range(0, len(rows), micro)
    ]
    scale = len(batches)
    loss = 0.0
    for batch in objective.batches(batches, scale, add):
        found = objective.losses(net, batch)
        (found.total / scale).backward()
        loss += float(found.named["loss"].detach()) / scale
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}, loss


UNEQUAL = [row(0, 24, trained=23), row(1, 12, 12, trained=1), row(2, 20, trained=0), row(3, 9, 8)]


def test_a_step_is_one_mean_over_its_trained_tokens_however_it_is_cut():
    (want, loss), (got, other) = (gradients(UNEQUAL, micro) for micro in (4, 1))
    assert other == pytest.approx(loss, rel=1e-6)
    assert list(got) == list(want)
    size = max(float(g.abs().max()) for g in want.values())
    for name, g in want.items():
        assert (got[name] - g).abs().max() <= 1e-6 * max(size, 1), name


def test_padding_is_no_load_of_an_expert_and_has_no_part_in_the_z_loss():
    long, whole = row(0, 24), row(1, 12)
    short = Sample(whole.tokens[:12], whole.labels[:12], whole.loss_mask[:12], np.array([12]))
    objective, found = FineTuning(mtp_weight=0.0, z_coef=1.0), []
    for rows in ([long, short], [long], [short]):
        net = network()
        net.uses_mtp = False
        batch = make_batch(rows, isolate_documents=True)
        (ready,) = objective.batches([batch], 1, lambda counts: counts)
        found.append(objective.losses(net, ready))
    both, first, second = found
    for layer, counts in both.counts.items():
        assert torch.equal(counts, first.counts[layer] + second.counts[layer])
    torch.testing.assert_close(both.z_loss * 36, first.z_loss * 24 + second.z_loss * 12)


def test_the_loss_is_that_of_the_trained_tokens_alone():
    net = network()
    net.uses_mtp = False
    batch = make_batch(UNEQUAL, isolate_documents=True)
    with torch.no_grad():
        logits = net.ling.logits(
            net([batch.tokens_BS.flatten()], batch.positions_T, net.context.attend(batch))[0]
        )
        kept = batch.mask_BS.flatten() > 0
        want = F.cross_entropy(logits[kept], batch.labels_BS.flatten()[kept])
    (ready,) = SFT.batches([batch], 1, lambda counts: counts)
    torch.testing.assert_close(SFT.losses(net, ready).named["loss"].detach(), want)


def test_a_step_without_a_trained_token_is_finite_and_changes_nothing():
    found, loss = gradients([row(2, 20, trained=0)], 1)
    assert loss == 0
    assert all(float(g.abs().max()) == 0 for g in found.values())


def test_only_trained_rows_meet_the_head_in_blocks():
    hidden, mask = torch.randn(200, 4), torch.zeros(200)
    mask[[3, 77, 150]] = 1
    x, y, m = trained_rows(hidden, torch.arange(200), mask)
    assert len(x) == 64
    assert torch.equal(x[:3], hidden[[3, 77, 150]])
    assert y[:3].tolist() == [3, 77, 150]
    assert m.tolist() == [1.0] * 3 + [0.0] * 61
    assert len(trained_rows(hidden, torch.arange(200), torch.zeros(200))[0]) == 0


# ---- packed documents --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_documents_loss_has_no_gradient_in_its_neighbours(dtype):
    """Exactly zero: not a small number."""
    sample = row(5, 10, 9)
    sample.loss_mask[:10] = 0  # only the second document is trained
    net = network()
    net.uses_mtp, net.ling.compute_dtype = False, dtype
    seen = {}

    def keep(module, args, out):
        out.retain_grad()
        seen["embeddings"] = out

    net.ling.model.word_embeddings.register_forward_hook(keep)
    batch = make_batch([sample], isolate_documents=True)
    (ready,) = SFT.batches([batch], 1, lambda counts: counts)
    SFT.losses(net, ready).total.backward()
    grad = seen["embeddings"].grad
    assert float(grad[:10].abs().max()) == 0
    assert float(grad[10:19].abs().min(1).values.max()) > 0


def test_packed_documents_have_the_loss_and_gradient_of_rows_of_their_own():
    lengths = [10, 9, 5]
    packed = row(6, *lengths)
    alone, at = [], 0
    for n in lengths:
        parts = [
            np.zeros(LENGTH, a.dtype) for a in (packed.tokens, packed.labels, packed.loss_mask)
        ]
        whole = (packed.tokens, packed.labels, packed.loss_mask)
        for part, array in zip(parts, whole, strict=True):
            part[:n] = array[at : at + n]
        alone.append(Sample(*parts, np.array([n])))
        at += n
    (want, loss), (got, other) = gradients(alone, 1), gradients([packed], 1)
    assert other == pytest.approx(loss, rel=1e-4)
    for name, g in want.items():
        torch.testing.assert_close(got[name], g, atol=1e-6, rtol=1e-4, msg=name)


# ---- what is frozen ----------------------------------------------------------------------------


def test_a_frozen_head_gets_no_gradient_and_the_others_the_same(monkeypatch):
    head = torch.nn.Linear(8, 50, bias=False)
    hidden, targets, mask = torch.randn(30, 8), torch.randint(50, (30,)), torch.ones(30)
    found = []
    for learns in (True, False):
        head.weight.requires_grad_(learns)
        x = hidden.clone().requires_grad_()
        cross_entropy(x, head, targets, mask)[0].backward()
        found.append(x.grad)
    assert torch.equal(*found)
    made = []
    zeros = torch.zeros_like
    monkeypatch.setattr(torch, "zeros_like", lambda t, **k: made.append(t.shape) or zeros(t, **k))
    cross_entropy(hidden.clone().requires_grad_(), head, targets, mask)[0].backward()
    assert head.weight.shape not in made


def test_mtp_counts_its_own_targets():
    net = network()
    objective = FineTuning(mtp_weight=0.5, z_coef=None, mtp_layers=1)
    batches = [make_batch([r], isolate_documents=True) for r in UNEQUAL]
    ready = objective.batches(batches, 4, lambda counts: counts)
    totals = [sum(float(b.mask_BS.sum()) for b in batches), float(ready[0].counts[1]) * 4]
    assert float(ready[0].counts[0]) * 4 == totals[0]
    assert 0 < totals[1] < totals[0]
    losses = objective.losses(net, ready[0])
    assert list(losses.named) == ["loss", "mtp_loss"]
    losses.total.backward()
    assert net.ling.model.layers[-1].eh_proj.weight.grad is not None
