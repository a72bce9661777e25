"""Moments of one byte in checkpoints: a resumed run is the uninterrupted one, and plain AdamW and
8-bit AdamW go on from each other's."""

from __future__ import annotations

import dataclasses
import json
import math
import signal

import pytest
import torch
from runs import logged_losses, quiet
from small_runs import recipes, stop_after

from ling.checkpoint.dcp.folder import DCPFolder, read_tensors
from ling.checkpoint.dcp.parts import write_tensors
from ling.checkpoint.dcp.source import DCPSource
from ling.checkpoint.run_folder import step_folder
from ling.errors import DCPError
from ling.train import loop, moments
from ling.train.adam8 import AdamW8bit
from ling.train.merge import merge
from ling.train.moments import moment_tensors
from ling.train.saving import Saver, Work
from ling.train.setup import setup

PACKED = {"name": "adamw8bit"}


@pytest.fixture
def recipe(tmp_path):
    return recipes(tmp_path)


def in_background(recipe):
    checkpoint = dataclasses.replace(recipe.checkpoint, async_save=True)
    return dataclasses.replace(recipe, checkpoint=checkpoint)


def stopped_after(count, recipe, out, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_catch_signals", stop_after(count))
        assert loop.run(recipe, out, quiet) == 128 + signal.SIGTERM


def test_a_resumed_run_is_the_uninterrupted_one(recipe, tmp_path, monkeypatch):
    made = in_background(recipe(optim=PACKED))
    assert loop.run(made, tmp_path / "whole", quiet) == 0
    stopped_after(3, made, tmp_path / "parts", monkeypatch)
    assert loop.run(made, tmp_path / "parts", quiet) == 0
    assert logged_losses(tmp_path / "parts") == logged_losses(tmp_path / "whole")
    whole, parts = (DCPFolder(step_folder(tmp_path / run, 6)) for run in ("whole", "parts"))
    assert set(whole.tensors) == set(parts.tensors)
    for key in set(whole.tensors) - {"rng"}:  # of the process, which nothing draws from
        assert torch.equal(whole.tensor(key), parts.tensor(key)), key
    whole.close()
    parts.close()


@pytest.mark.parametrize("names", [("adamw", "adamw8bit"), ("adamw8bit", "adamw")], ids=" to ".join)
def test_the_other_optimizer_goes_on_and_says_so(recipe, tmp_path, monkeypatch, names):
    out, said = tmp_path / "run", []
    stopped_after(3, recipe(optim={"name": names[0]}), out, monkeypatch)
    assert loop.run(recipe(optim={"name": names[1]}), out, said.append) == 0
    (line,) = [line for line in said if "`optim.name`" in line]
    kinds = {"adamw": "float32", "adamw8bit": "8-bit in blocks of 256"}
    assert line.startswith(f"moments were {kinds[names[0]]} and are now {kinds[names[1]]}")
    # The same but for the rounding of moments.
    assert loop.run(recipe(optim={"name": names[0]}), tmp_path / "whole", quiet) == 0
    one, other = (logged_losses(tmp_path / run) for run in ("run", "whole"))
    assert one[:3] == other[:3]
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=2e-3)


def test_blocks_of_another_size_are_quantised_anew_and_the_log_says_so(
    recipe, tmp_path, monkeypatch
):
    out, said, made = tmp_path / "run", [], recipe(optim=PACKED)
    stopped_after(3, made, out, monkeypatch)
    before = json.loads((step_folder(out, 3) / "state.json").read_text())
    assert before["moments"] == "8-bit in blocks of 256"
    assert moments.change(before, setup(made, tmp_path / "other", quiet).state.optimizer) is None
    before["moments"] = "8-bit in blocks of 128"
    optimizer = setup(made, tmp_path / "other", quiet).state.optimizer
    line = moments.change(before, optimizer)
    assert "8-bit in blocks of 128 and are now 8-bit in blocks of 256" in line
    assert said == []


def test_checkpoints_have_the_names_of_plain_adamw_in_float32(recipe, tmp_path):
    tensors = {}
    for name in ("adamw", "adamw8bit"):
        made = recipe(steps=2, optim={"name": name})
        assert loop.run(made, tmp_path / name, quiet) == 0
        held = DCPFolder(step_folder(tmp_path / name, 2))
        tensors[name] = {k: (t.shape, t.dtype) for k, t in held.tensors.items()}
        held.close()
    scales = {k for k in tensors["adamw8bit"] if moments.is_scales(k)}
    plain = {k: v for k, v in tensors["adamw8bit"].items() if k not in scales}
    assert scales
    assert plain == tensors["adamw"]
    assert merge(tmp_path / "adamw8bit", tmp_path / "merged", last=1) == ["step-2"]
    source = DCPSource(step_folder(tmp_path / "adamw8bit", 2))  # as `ling convert` opens it
    assert source.tensor("lm_head.weight").shape == (384, 64)
    source.close()


def test_losses_are_those_of_plain_adamw_within_noise(recipe, tmp_path):
    losses = {}
    for name in ("adamw", "adamw8bit"):
        made = recipe(steps=40, interval=100, optim={"name": name})
        assert loop.run(made, tmp_path / name, quiet) == 0
        losses[name] = [loss for _, loss, _ in logged_losses(tmp_path / name)]
    means = [sum(found[-10:]) / 10 for found in losses.values()]
    assert means[0] < losses["adamw"][0] - 0.05
    assert means[1] == pytest.approx(means[0], rel=1e-3)


def test_moments_are_not_made_before_they_are_written(recipe, tmp_path):
    """What a checkpoint in the background copies are bytes."""
    state = setup(recipe(optim=PACKED), tmp_path / "run", quiet).state
    name, p = max(state.model.named_parameters(), key=lambda item: item[1].numel())
    found = moment_tensors(state.optimizer, name, p)
    sources = found[f"optimizer.exp_avg.{name}"].sources
    assert sum(s.nbytes for s in sources) == p.numel() + 4 * -(-p.numel() // 256)


def test_codes_and_scales_come_back(tmp_path):
    """All codes, in a block whose largest value is negative as well."""
    torch.manual_seed(0)
    p, q = (torch.nn.Parameter(torch.randn(64, 128)) for _ in range(2))
    p.grad = torch.randn(p.shape) * torch.exp(4 * torch.randn(p.shape))
    optimizers = [AdamW8bit([x]) for x in (p, q)]
    for _ in range(3):
        optimizers[0].step()
    write_tensors(tmp_path, moment_tensors(optimizers[0], "w", p))
    moments_of_q = moment_tensors(optimizers[1], "w", q)
    read_tensors(tmp_path, moments_of_q)
    for key, want in optimizers[0].state[p].items():
        assert torch.equal(want, optimizers[1].state[q][key]), key
    # Without scales, as from plain AdamW, or for another layout: near, and stable from then on.
    plain = {k: t for k, t in moments_of_q.items() if not moments.is_scales(k)}
    (tmp_path / "plain").mkdir()
    write_tensors(tmp_path / "plain", plain)
    third = AdamW8bit([torch.nn.Parameter(torch.randn(64, 128))])
    r = third.param_groups[0]["params"][0]
    taken = moment_tensors(third, "w", r)
    read_tensors(tmp_path / "plain", taken, may_lack=set(filter(moments.is_scales, taken)))
    assert torch.equal(third.state[r]["absmax2"], optimizers[0].state[p]["absmax2"])
    assert torch.equal(third.state[r]["codes2"], optimizers[0].state[p]["codes2"])


def written(state):
    """The moments as a checkpoint has them now."""
    return {
        key: t.make(*(source.clone() for source in t.sources))
        for name, p in state.model.named_parameters()
        for key, t in moment_tensors(state.optimizer, name, p).items()
    }


def test_a_step_behind_a_save_changes_nothing_that_is_written(recipe, tmp_path, monkeypatch):
    """As late as can be: nothing is written before the step is done."""
    state = setup(recipe(optim=PACKED), tmp_path / "run", quiet).state

    def step():
        for p in state.model.parameters():
            p.grad = torch.randn_like(p)
        state.optimizer.step()

    monkeypatch.setattr(Work, "start", lambda self: None)
    torch.manual_seed(0)
    step()
    saver = Saver(tmp_path / "run", state, 1, background=True)
    saver.save()
    kept = written(state)
    step()
    assert not any(torch.equal(t, kept[key]) for key, t in written(state).items())
    saver.finish()
    held = DCPFolder(step_folder(tmp_path / "run", 0))
    for key, want in kept.items():
        assert torch.equal(held.tensor(key), want), key
    held.close()


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("step", lambda x: x - 5, "has values below 0"),
        ("step", lambda x: x * math.nan, "has values that are not finite"),
        ("step", lambda x: x.long(), "has dtype int64, expected a float"),
        ("exp_avg", lambda x: x / 0, "has values that are not finite"),
        ("exp_avg_sq", lambda x: -x, "has values below 0"),
        ("exp_avg_sq", lambda x: 2 * x, "has values above the scales"),
        ("exp_avg", lambda x: x[:-1], "has shape [63, 128], expected [64, 128]"),
        ("exp_avg_absmax256", lambda x: -x, "has values below 0"),
        ("exp_avg_absmax256", lambda x: x * math.nan, "has values that are not finite"),
        ("exp_avg_sq_absmax256", lambda x: x[:5], "has shape [5], expected [32]"),
    ],
)
def test_states_that_no_run_has_are_refused_in_a_line(tmp_path, key, change, said):
    p = torch.nn.Parameter(torch.randn(64, 128))
    p.grad = torch.randn(p.shape)
    optimizer = AdamW8bit([p])
    optimizer.step()
    tensors = {k: t.make(*t.sources).clone() for k, t in moment_tensors(optimizer, "w", p).items()}
    (key,) = [k for k in tensors if k.split(".")[1] == key]
    tensors[key] = change(tensors[key])
    write_tensors(tmp_path, tensors)
    with pytest.raises(DCPError) as no:
        read_tensors(tmp_path, moment_tensors(optimizer, "w", p))
    assert str(no.value).startswith(f"{tmp_path}: tensor `{key}` {said}")
