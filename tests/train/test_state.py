"""What a run remembers: its recipe, the order of its data, and every tensor of its state."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import torch
from runs import logged_losses, quiet, write_tokens

from ling.checkpoint.run_folder import intact
from ling.config.recipe import (
    OptimConfig,
    TrainConfig,
)
from ling.errors import UsageError
from ling.model.ling import from_config
from ling.presets import preset
from ling.train import loop, state
from ling.train.batches import BatchReader
from ling.train.forward import LingForTraining
from ling.train.log import read_metrics
from ling.train.optim import build_optimizer
from ling.train.state import Ranks, TrainState

CPU = torch.device("cpu")


def stop_after(count):
    """In place of `_catch_signals`: as if SIGTERM came during the `count`-th step."""

    def catch(self):
        step, left = self._step, iter(range(count))

        def counted():
            if next(left) == count - 1:
                self.caught = signal.SIGTERM
            return step()

        self._step = counted
        return lambda: None

    return catch


def rewrite_one_token(prefix):
    """In the middle of a file, which keeps its size."""
    with prefix.with_suffix(".bin").open("r+b") as file:
        file.seek(4000)
        token = file.read(2)
        file.seek(4000)
        file.write(bytes([token[0] ^ 1]) + token[1:])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("content", "the files of .*text changed"),
        ("size", "the files of .*text changed"),
        ({"prefix": "moved"}, r"`data\.prefix` was .*text.* is now .*moved"),
        ({"seed": 7}, r"`train\.seed` was 42 in this run and is now 7"),
        ({"batch": 4}, r"`train\.global_batch_size` was 2 in this run and is now 4"),
        ({"seq_length": 16}, r"`data\.seq_length` was 32 in this run and is now 16"),
        ("ranks", "`world size` was 1 in this run and is now 2"),
    ],
    ids=str,
)
def test_other_data_is_refused_by_name_or_starts_anew(recipe, tmp_path, monkeypatch, change, named):
    out, said, first_rows = tmp_path / "run", [], []
    monkeypatch.setattr(loop.Loop, "_catch_signals", stop_after(3))
    assert loop.run(recipe(), out, quiet) == 128 + signal.SIGTERM
    monkeypatch.undo()
    weights = (out / "checkpoints/step-3/manifest.json").read_text()
    if change == "content":
        rewrite_one_token(tmp_path / "text")
    elif change == "size":
        write_tokens(tmp_path / "text", tokens=4400)
    elif change == "ranks":
        two = {"is_available": lambda: True, "is_initialized": lambda: True}
        monkeypatch.setattr(state, "dist", SimpleNamespace(**two, get_world_size=lambda: 2))
    write_tokens(tmp_path / "moved")
    other = recipe(**change) if isinstance(change, dict) else recipe()
    config = (out / "config.yaml").read_text()
    with pytest.raises(UsageError, match=f"{named}.*--allow-data-reset"):
        loop.run(other, out, quiet)
    assert (out / "config.yaml").read_text() == config
    assert (out / "checkpoints/step-3/manifest.json").read_text() == weights

    read = BatchReader.read
    monkeypatch.setattr(
        BatchReader, "read", lambda self, n, rows: first_rows.append(n) or read(self, n, rows)
    )
    assert loop.run(other, out, said.append, allow_data_reset=True) == 0
    assert [line for line in said if "the data starts anew" in line] == said[:1]
    assert said[1].endswith("after step 3")
    assert first_rows[0] == 0
    rows = read_metrics(out / "metrics.jsonl")
    assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6]
    per_step = other.train.global_batch_size * other.data.seq_length
    assert [r["tokens"] for r in rows] == [64, 128, 192, *(192 + k * per_step for k in (1, 2, 3))]
    # From here on the new data is the run's own: the flag is neither needed nor does it reset.
    assert loop.run(other, out, said.append) == 0


def test_reset_data_resumes_where_it_was(recipe, tmp_path, monkeypatch):
    other = recipe(seed=7, steps=9)
    for name, stops in (("whole", [3]), ("killed", [3, 2])):
        monkeypatch.setattr(loop.Loop, "_catch_signals", stop_after(3))
        assert loop.run(recipe(steps=9), tmp_path / name, quiet) == 128 + signal.SIGTERM
        for steps_more in stops[1:]:
            monkeypatch.setattr(loop.Loop, "_catch_signals", stop_after(steps_more))
            code = loop.run(other, tmp_path / name, quiet, allow_data_reset=True)
            assert code == 128 + signal.SIGTERM
        monkeypatch.undo()
        assert loop.run(other, tmp_path / name, quiet, allow_data_reset=True) == 0
    assert logged_losses(tmp_path / "killed") == logged_losses(tmp_path / "whole")


def test_parts_of_a_large_data_file_stand_for_the_whole(tmp_path, monkeypatch):
    write_tokens(tmp_path / "text")
    monkeypatch.setattr(state, "_BLOCK_BYTES", 512)
    before = state._fingerprint(str(tmp_path / "text"))
    rewrite_one_token(tmp_path / "text")
    assert state._fingerprint(str(tmp_path / "text")) != before
    monkeypatch.setattr(state, "_MAX_BLOCKS", 2)
    edges = state._fingerprint(str(tmp_path / "text"))
    rewrite_one_token(tmp_path / "text")
    assert state._fingerprint(str(tmp_path / "text")) == edges
    write_tokens(tmp_path / "text", seed=1)
    assert state._fingerprint(str(tmp_path / "text")) != edges


def test_ranks_together_read_the_micro_batches_of_one_process():
    train = TrainConfig(global_batch_size=12, micro_batch_size=2)
    model = LingForTraining(from_config(preset("ling-tiny"), seed=0))
    optimizer = build_optimizer(model.ling, OptimConfig())

    def rows(rank, size):
        state = TrainState(model, optimizer, CPU, Ranks(rank, rank, size), rows=24)
        return state.first_rows(train)

    assert rows(0, 1) == [24, 26, 28, 30, 32, 34]
    assert [x for both in zip(rows(0, 2), rows(1, 2), strict=True) for x in both] == rows(0, 1)


# ---- checkpoints -------------------------------------------------------------------------------


def trained(steps, seed=0):
    """A state after some steps of AdamW on made-up gradients."""
    model = from_config(preset("ling-tiny"), seed=seed)
    made = TrainState(LingForTraining(model), build_optimizer(model, OptimConfig()), CPU)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        made.optimizer.step()
    made.step, made.rows, made.tokens, made.data = steps, 4 * steps, 9 * steps, {"files": ["x"]}
    return made


@pytest.mark.parametrize("steps", [0, 2])
def test_a_checkpoint_restores_every_tensor_counter_and_the_next_random_number(tmp_path, steps):
    before = trained(steps)
    with torch.no_grad():
        before.model.model.layers[1].mlp.gate.expert_bias.normal_()
    state.save(tmp_path / "step", before)
    number = torch.rand(3)
    after = trained(1, seed=1)
    assert state.load(tmp_path / "step", after) == {"files": ["x"]}
    assert torch.equal(torch.rand(3), number)
    assert (after.step, after.rows, after.tokens) == (steps, 4 * steps, 9 * steps)
    want, got = state.state_tensors(before), state.state_tensors(after)
    assert set(want) == set(got)
    assert "optimizer.exp_avg_sq.lm_head.weight" in want
    assert all(torch.equal(got[name], want[name]) for name in want if name != "rng")
    assert float(got["optimizer.step.lm_head.weight"]) == steps
    assert intact(tmp_path / "step")


def test_a_frozen_parameter_has_no_moments():
    model = from_config(preset("ling-tiny"), seed=0)
    model.lm_head.weight.requires_grad_(False)
    made = TrainState(LingForTraining(model), build_optimizer(model, OptimConfig()), CPU)
    names = state.state_tensors(made)
    assert "model.lm_head.weight" in names
    assert not [n for n in names if n.startswith("optimizer.") and "lm_head" in n]


def test_a_recipe_is_compared_key_by_key_except_what_orders_the_rows(recipe, tmp_path):
    state.check_recipe(recipe(), tmp_path)  # nothing to compare with yet
    state.save_recipe(recipe(), tmp_path)
    state.check_recipe(recipe(), tmp_path)
    state.check_recipe(recipe(seed=7, batch=4, prefix="other"), tmp_path)
    with pytest.raises(UsageError, match=r"`train\.steps` was 6 in this run and is now 7"):
        state.check_recipe(recipe(steps=7), tmp_path)
    (tmp_path / "config.yaml").write_text("a: [1")
    with pytest.raises(UsageError, match=r"config\.yaml: unreadable"):
        state.check_recipe(recipe(), tmp_path)
