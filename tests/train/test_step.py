"""One step: gradients over micro-batches, clipped, applied if finite; sums as they are logged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runs import logged_losses, quiet
from torch import nn

from ling.config.optim import OptimConfig
from ling.config.recipe import TrainConfig
from ling.errors import RunError
from ling.model.ling import from_config
from ling.presets import preset
from ling.train import loop
from ling.train.batches import Batch
from ling.train.forward import LingForTraining
from ling.train.objectives.base import Losses
from ling.train.objectives.pretrain import Pretraining
from ling.train.optim import build_optimizer
from ling.train.setup import setup
from ling.train.state import TrainState
from ling.train.step import OneRank, Sums, train_step

CPU = torch.device("cpu")


class Mean:
    """An objective of one weight: the mean of weight times token."""

    def batches(self, batches, micro_batches, over_rows):
        return batches

    def losses(self, network, batch):
        loss = (network.ling.weight * batch.tokens_BS).mean()
        return Losses(loss, {"loss": loss}, torch.tensor(0.5), {})


def plain_state(start=1.0):
    ling = nn.Module()
    ling.weight = nn.Parameter(torch.tensor([start]))
    return TrainState(LingForTraining(ling), torch.optim.SGD(ling.parameters(), lr=9.0), CPU)


def batches(*values):
    """Micro-batches of two equal rows."""
    return [Batch(*(torch.full((2, 3), float(v)) for _ in range(3))) for v in values]


def config(steps=10, **fields):
    return TrainConfig(global_batch_size=4, micro_batch_size=2, steps=steps, **fields)


@pytest.mark.parametrize(("clip", "moved"), [(0, 3.0), (100.0, 3.0), (1.5, 1.5)])
def test_a_step_moves_by_the_clipped_mean_of_its_micro_batches(clip, moved):
    state = plain_state()
    optim = OptimConfig(lr=0.1, schedule="constant")
    done = train_step(state, Mean(), batches(2, 4), config(grad_clip=clip), optim)
    assert float(state.model.weight.detach()) == pytest.approx(1 - 0.1 * moved)
    assert (done.grad_norm, done.lr) == (pytest.approx(3.0), 0.1)
    assert done.losses == {"loss": 3.0}
    assert done.z_loss == 0.5
    assert state.model.weight.grad is None
    assert (state.step, state.rows, state.tokens, done.tokens) == (1, 4, 12, 12)


def test_the_rate_is_that_of_the_step_to_come():
    state, optim = plain_state(), OptimConfig(lr=1.0, warmup_steps=4, schedule="constant")
    rates = [train_step(state, Mean(), batches(0, 0), config(), optim).lr for _ in range(5)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert (state.step, state.rows) == (5, 20)


def test_what_reduce_makes_of_the_sums_is_what_counts():
    class OtherRanks(OneRank):
        def sums(self, sums):
            sums.losses = {name: value * 10 for name, value in sums.losses.items()}
            sums.tokens *= 3

        def norm(self, norm):
            return norm * 2

    state = plain_state()
    done = train_step(state, Mean(), batches(2, 4), config(), OptimConfig(), OtherRanks())
    assert (done.losses, done.tokens, state.tokens) == ({"loss": 30.0}, 36, 36)
    assert done.grad_norm == pytest.approx(6.0)


def test_the_count_of_steps_that_are_not_finite_starts_again_after_a_good_one():
    state, optim = plain_state(), OptimConfig(lr=0.1)
    bad = float("nan")
    seen = []
    for values in ((bad, 1), (1, bad), (1, 1), (bad, bad)):
        train_step(state, Mean(), batches(*values), config(max_nonfinite=3), optim)
        seen.append(state.skipped)
    assert seen == [1, 2, 0, 1]
    before = float(state.model.weight.detach())
    train_step(state, Mean(), batches(bad, 1), config(max_nonfinite=3), optim)
    with pytest.raises(RunError, match=r"step 6: .* not finite 3 times in a row"):
        train_step(state, Mean(), batches(bad, 1), config(max_nonfinite=3), optim)
    assert float(state.model.weight.detach()) == before
    assert state.step == 5  # the step that ended the run is not done


def test_a_spike_is_skipped_once_a_hundred_norms_are_known():
    state, optim = plain_state(), OptimConfig(lr=1e-9)
    train = config(steps=200, spike_factor=3.0)

    def step(value):
        train_step(state, Mean(), batches(value, value), train, optim)
        return state.skipped

    assert [step(9), *(step(2) for _ in range(98)), step(2)] == [0] * 100
    assert step(7) == 1
    assert step(float("inf")) == 2
    assert step(5) == 0
    assert len(state.norms) == 100
    assert state.norms[-1] == pytest.approx(5.0)
    assert max(state.norms) == pytest.approx(5.0)  # the first is out, the spike never was in


def test_sums_are_means_of_losses_and_totals_of_counts():
    sums = Sums()
    for loss, mtp, counts in ((1.0, 3.0, [1, 2]), (2.0, 5.0, [10, 20])):
        named = {"loss": torch.tensor(loss), "mtp_loss": torch.tensor(mtp)}
        sums.add(
            Losses(torch.tensor(0.0), named, torch.tensor(loss), {1: torch.tensor(counts)}), 2, 7
        )
    assert {name: float(x) for name, x in sums.losses.items()} == {"loss": 1.5, "mtp_loss": 4.0}
    assert sums.losses["loss"].dtype == torch.float64
    assert (float(sums.z_loss), sums.tokens) == (1.5, 14)
    assert sums.counts[1].tolist() == [11, 22]


def test_the_bias_of_the_experts_moves_after_the_weights():
    model = from_config(preset("ling-tiny"), seed=0)
    state = TrainState(LingForTraining(model), build_optimizer(model, OptimConfig()), CPU)
    ids = torch.randint(384, (4, 17))
    parts = [Batch(b[:, :-1], b[:, 1:], torch.ones(2, 16)) for b in ids.split(2)]
    train = config(bias_update_rate=0.01, bias_zero_mean=False)
    done = train_step(state, Pretraining(0.1, 0), parts, train, OptimConfig())
    for layer, counts in done.counts.items():
        want = 0.01 * (counts.float().mean() - counts).sign()
        torch.testing.assert_close(model.model.layers[layer].mlp.gate.expert_bias, want)


# ---- of the model ------------------------------------------------------------------------------

OBJECTIVE = Pretraining(mtp_weight=0.1, z_coef=3.5e-6)


def losses_of(model, batch):
    named = OBJECTIVE.losses(LingForTraining(model), batch).named
    return {name: float(value.detach()) for name, value in named.items()}


def test_a_step_of_several_micro_batches_has_the_losses_of_its_rows():
    model = from_config(preset("ling-tiny"), seed=0)
    ids = torch.randint(0, 300, (4, 17), generator=torch.Generator().manual_seed(1))
    batches = [Batch(b[:, :-1], b[:, 1:], torch.ones(2, 16)) for b in ids.split(2)]
    want = [losses_of(model, b) for b in batches]
    state = TrainState(LingForTraining(model), build_optimizer(model, OptimConfig()), CPU)
    train = TrainConfig(global_batch_size=4, micro_batch_size=2, steps=3)
    seen = []

    class Seen(OneRank):
        def sums(self, sums):
            seen.append(sums)

    done = train_step(state, OBJECTIVE, batches, train, OptimConfig(), Seen())
    for name in ("loss", "mtp_loss"):
        assert done.losses[name] == (want[0][name] + want[1][name]) / 2
    assert (state.step, state.rows, state.tokens) == (1, 4, 64)
    assert len(seen) == 1  # sums are reduced once a step
    assert seen[0].tokens == 64
    assert all(int(c.sum()) == 64 * 2 for c in done.counts.values())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_step_that_is_not_finite_changes_nothing(recipe, tmp_path, monkeypatch, what):
    run = loop.Loop(setup(recipe(), tmp_path, quiet))
    before = {k: v.clone() for k, v in run.state.model.state_dict().items()}
    whole = Pretraining.losses

    def spoiled(self, network, batch):
        found = whole(self, network, batch)
        if what == "loss":
            found.named["loss"] = found.named["loss"] + float("inf")
        else:
            found.total.register_hook(lambda g: g * float("nan"))
        return found

    monkeypatch.setattr(Pretraining, "losses", spoiled)
    run._step()
    assert run.state.skipped == 1
    for name, tensor in run.state.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(run.state.optimizer.state.values())
    monkeypatch.setattr(Pretraining, "losses", whole)
    run._step()
    assert run.state.skipped == 0


def test_steps_without_finite_loss_end_the_run_with_a_clean_checkpoint(
    recipe, tmp_path, monkeypatch
):
    whole, calls = Pretraining.losses, []

    def spoiled(self, network, batch):
        found = whole(self, network, batch)
        calls.append(0)
        if len(calls) > 3:
            found.named["loss"] = found.named["loss"] * float("nan")
        return found

    monkeypatch.setattr(Pretraining, "losses", spoiled)
    with pytest.raises(RunError, match=r"step 8: .* not finite 5 times"):
        loop.run(recipe(steps=20), tmp_path / "run", quiet)
    monkeypatch.setattr(Pretraining, "losses", whole)
    assert loop.run(recipe(steps=20), tmp_path / "run", quiet) == 0
    assert all(np.isfinite(loss) for _, loss, _ in logged_losses(tmp_path / "run")[8:])
