"""What a run folder survives: bad recipes, full disks, signals, damage, foreign files."""

from __future__ import annotations

import signal

import pytest
import torch
from runs import logged_losses as losses
from runs import quiet, write_tokens
from small_runs import recipes, stop_after

from ling.checkpoint import run_folder
from ling.checkpoint.run_folder import step_folder
from ling.errors import UsageError
from ling.train import loop
from ling.train.batches import BatchReader
from ling.train.log import read_metrics
from ling.train.saving import Saver
from ling.train.setup import setup
from ling.train.state import load


@pytest.fixture
def recipe(tmp_path):
    return recipes(tmp_path)


def steps(out):
    return [p.name for p in run_folder.checkpoints(out)]


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
        ({"prefix": "other"}, "the files of .*other changed"),
        ({"seed": 7}, r"`train\.seed` was 42 in this run and is now 7"),
        ({"batch": 4}, r"`train\.global_batch_size` was 2 in this run and is now 4"),
        ({"seq_length": 16}, r"`data\.seq_length` was 32 in this run and is now 16"),
    ],
    ids=str,
)
def test_other_data_is_refused_by_name_or_starts_again(
    recipe, tmp_path, monkeypatch, change, named
):
    out, said, first_rows = tmp_path / "run", [], []
    monkeypatch.setattr(loop.Loop, "_catch_signals", stop_after(3))
    assert loop.run(recipe(), out, quiet) == 128 + signal.SIGTERM
    monkeypatch.undo()
    weights = (out / "checkpoints/step-3/manifest.json").read_text()
    if change == "content":
        rewrite_one_token(tmp_path / "text")
    elif change == "size":
        write_tokens(tmp_path / "text", tokens=4400)
    write_tokens(tmp_path / "other", seed=1)
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
    assert sum("the data starts again" in line for line in said) == 1
    assert any(line.endswith("after step 3") for line in said)
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
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_generators_of_gpus_are_kept_and_need_not_be_there(recipe, tmp_path, monkeypatch):
    """A checkpoint of GPUs goes on on CPUs, one of CPUs, and one of today, on GPUs."""
    at, found = torch.arange(16, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: at)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: found.append(state))
    state = setup(recipe(), tmp_path / "run", quiet).state
    cpu, gpu = state.device, torch.device("cuda", 0)
    for name, device in (("cpu", cpu), ("gpu", gpu)):
        state.device = device
        Saver(tmp_path / name, state, 1, background=False).save()
    load(step_folder(tmp_path / "cpu", 0), state)
    assert found == [at]  # as it was
    kept, at = at, at + 1
    load(step_folder(tmp_path / "gpu", 0), state)
    assert torch.equal(found[1], kept)
    state.device = cpu
    load(step_folder(tmp_path / "gpu", 0), state)
    assert len(found) == 2
