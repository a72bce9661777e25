from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ling.config.recipe import OptimConfig, TrainConfig
from ling.data.samples import sample_of
from ling.errors import UsageError
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.balance import updated_bias
from ling.train.batches import Batch, make_batch
from ling.train.forward import LingForTraining
from ling.train.loss import RoutingLoss, cross_entropy, roll_left
from ling.train.objectives.pretrain import Pretraining
from ling.train.optim import build_optimizer, learning_rate, merge_weights
from ling.train.state import Ranks, TrainState
from ling.train.step import train_step

CPU = torch.device("cpu")
OBJECTIVE = Pretraining(mtp_weight=0.1, z_coef=3.5e-6)


def losses_of(model, batch):
    named = OBJECTIVE.losses(LingForTraining(model), batch).named
    return {name: float(value.detach()) for name, value in named.items()}


def test_chunked_cross_entropy_equals_torch_with_gradients(monkeypatch):
    monkeypatch.setattr("ling.train.loss.CHUNK_TOKENS", 7)
    torch.manual_seed(0)
    h = torch.randn(25, 8, requires_grad=True)
    w = torch.randn(30, 8, requires_grad=True)
    targets, mask = torch.randint(0, 30, (25,)), (torch.rand(25) > 0.3).float()
    head = torch.nn.Linear(8, 30, bias=False)
    head.weight = torch.nn.Parameter(w)
    loss, count = cross_entropy(h, head, targets, mask)
    each = torch.nn.functional.cross_entropy(h @ w.t(), targets, reduction="none")
    want = (each * mask).sum() / mask.sum()
    assert count == mask.sum()
    torch.testing.assert_close(loss, want)
    got = torch.autograd.grad(3 * loss, [h, head.weight])
    for a, b in zip(got, torch.autograd.grad(3 * want, [h, w]), strict=True):
        torch.testing.assert_close(a, b)


def test_empty_mask_gives_zero():
    loss, _ = cross_entropy(
        torch.randn(3, 4), torch.nn.Linear(4, 5), torch.zeros(3).long(), torch.zeros(3)
    )
    assert loss == 0


def test_mtp_rolling_and_loss_equal_megatron(fixtures):
    want = json.loads((fixtures / "training" / "mtp_loss.json").read_text())
    tokens, labels = torch.tensor(want["tokens"]), torch.tensor(want["labels"])
    mask, logits = torch.tensor(want["loss_mask"]), torch.tensor(want["mtp_logits"])
    assert roll_left(tokens).tolist() == want["rolled_input_ids"]
    assert roll_left(labels).tolist() == want["rolled_labels"]
    assert roll_left(mask).tolist() == want["rolled_loss_mask"]
    V = logits.shape[-1]
    flat = (
        logits.reshape(-1, V)
        if logits.shape[:2] == tokens.shape
        else logits.transpose(0, 1).reshape(-1, V)
    )
    # With the identity as head, hidden states are the logits themselves.
    head = torch.nn.Linear(V, V, bias=False)
    torch.nn.init.eye_(head.weight)
    loss, _ = cross_entropy(flat, head, roll_left(labels).flatten(), roll_left(mask).flatten())
    each = torch.nn.functional.cross_entropy(flat, roll_left(labels).flatten(), reduction="none")
    given = torch.tensor(want["mtp_loss"])
    if given.ndim:
        assert torch.allclose(
            (each * roll_left(mask).flatten()).view(tokens.shape), given, atol=1e-5
        )
    else:
        assert torch.allclose(loss, given, atol=1e-5)


def test_bias_update_equals_megatron(fixtures):
    for case in json.loads((fixtures / "training" / "bias_update.json").read_text()):
        for step in case["steps"]:
            rows = zip(
                step["bias_before"], step["tokens_per_expert"], step["bias_after"], strict=True
            )
            for before, counts, after in rows:
                got = updated_bias(
                    torch.tensor(before),
                    torch.tensor(counts),
                    case["update_rate"],
                    zero_mean=case["zero_mean"],
                )
                assert torch.allclose(got, torch.tensor(after), atol=1e-7)


def test_z_loss_equals_megatron(fixtures):
    want = json.loads((fixtures / "training" / "router.json").read_text())
    trace = RoutingLoss(len(want["expert_bias"]), train=True)
    logits = torch.tensor(want["logits"])
    trace.record(0, logits, torch.zeros(len(logits), 1, dtype=torch.long))
    assert float(trace.z_loss()) * 3.5e-6 == pytest.approx(
        want["z_loss_times_coeff_3p5e6"], rel=1e-5
    )


def test_merge_weights_equal_the_formula(fixtures):
    names = {"linear_to_zero": "linear", "one_minus_sqrt": "one-minus-sqrt"}
    cases = json.loads((fixtures / "training" / "wsm_weights.json").read_text())
    for case in cases:
        schedule = names.get(case["gradient_weights"], case["gradient_weights"])
        assert merge_weights(case["k"], schedule) == pytest.approx(case["c"])
    with pytest.raises(UsageError):
        merge_weights(2, "magic")


def test_cosine_follows_the_published_log():
    cfg = OptimConfig(lr=3e-5, lr_min=3e-6)
    assert learning_rate(cfg, 1, 2000) == pytest.approx(2.999998e-5, abs=1e-11)
    assert learning_rate(cfg, 10, 2000) == pytest.approx(2.999833e-5, abs=1e-11)
    assert learning_rate(cfg, 2000, 2000) == pytest.approx(3e-6)


def test_losses_of_a_batch_equal_upstream_without_the_row_leak(fixtures):
    from safetensors.torch import load_file

    from ling.checkpoint.load import load_model

    path = fixtures / "model" / "tiny_fp32"
    ids = load_file(path / "io.safetensors")["batch2.input_ids"]
    want = json.loads((path / "expected.json").read_text())["case_batch2_labels_are_input_ids"]
    labels = roll_left(ids)
    mask = torch.ones_like(ids).float()
    mask[:, -1] = 0
    losses = losses_of(load_model(path), Batch(ids, labels, mask))
    assert losses["loss"] == pytest.approx(want["main_loss"], abs=5e-5)
    assert losses["mtp_loss"] == pytest.approx(want["mtp_loss_without_row_leak"], abs=5e-5)


def test_rows_and_isolated_documents_do_not_see_each_other():
    model = from_config(preset("ling-tiny"), seed=0)
    eod, tail = 9, [5, 6, 7, 8, 1, 2]
    losses = []
    for head in ([1, 2, 3, 4], [7, 7, 7, 7]):
        row = sample_of(np.array([*head, eod, *tail]), eod, eod_mask_loss=True)
        batch = make_batch([row], isolate_documents=True)
        assert batch.cu_seqlens == [0, 5, 10]
        batch.mask_BS[:, :5] = 0  # only the second document counts
        losses.append(losses_of(model, batch))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_batch_of_isolated_documents_equals_a_scan_for_the_end_of_document():
    rng, eod = np.random.RandomState(0), 3
    ids = rng.randint(0, 6, (4, 33))
    ids[0, 32], ids[1, 31], ids[2, 0] = eod, eod, eod  # at both edges of a row
    rows = [sample_of(row, eod, eod_mask_loss=False) for row in ids]
    batch = make_batch(rows, isolate_documents=True)
    ended = (batch.tokens_BS == eod).long()
    assert torch.equal(batch.documents_BS, ended.cumsum(1) - ended)
    assert torch.equal(batch.mask_BS, 1.0 - ended)


def test_a_step_of_several_micro_batches_has_the_losses_of_its_rows():
    model = from_config(preset("ling-tiny"), seed=0)
    ids = torch.randint(0, 300, (4, 17), generator=torch.Generator().manual_seed(1))
    batches = [Batch(b[:, :-1], b[:, 1:], torch.ones(2, 16)) for b in ids.split(2)]
    want = [losses_of(model, b) for b in batches]
    state = TrainState(LingForTraining(model), build_optimizer(model, OptimConfig()), CPU)
    train = TrainConfig(global_batch_size=4, micro_batch_size=2, steps=3)
    seen = []
    done = train_step(state, OBJECTIVE, batches, train, OptimConfig(), seen.append)
    for name in ("loss", "mtp_loss"):
        assert done.losses[name] == (want[0][name] + want[1][name]) / 2
    assert (state.step, state.rows, state.tokens) == (1, 4, 64)
    assert len(seen) == 1  # sums are reduced once a step
    assert seen[0].tokens == 64
    assert all(int(c.sum()) == 64 * 2 for c in done.counts.values())


def test_ranks_together_read_the_micro_batches_of_one_process():
    train = TrainConfig(global_batch_size=12, micro_batch_size=2)
    model = LingForTraining(from_config(preset("ling-tiny"), seed=0))
    optimizer = build_optimizer(model.ling, OptimConfig())

    def rows(rank, size):
        state = TrainState(model, optimizer, CPU, Ranks(rank, rank, size), rows=24)
        return state.first_rows(train)

    assert rows(0, 1) == [24, 26, 28, 30, 32, 34]
    assert [x for both in zip(rows(0, 2), rows(1, 2), strict=True) for x in both] == rows(0, 1)
