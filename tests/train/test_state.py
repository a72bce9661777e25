"""What a run folder survives: bad recipes, full disks, signals, damage, foreign files."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import losses, quiet, recipes, stop_after, write_tokens

from ling.checkpoint import run_folder
from ling.checkpoint.dcp import writer
from ling.errors import CheckpointError, DataError, RunError, UsageError
from ling.train import loop, state
from ling.train.batches import BatchReader
from ling.train.log import read_metrics
from ling.train.merge import merge
from ling.train.objectives.pretrain import Pretraining
from ling.train.setup import setup


@pytest.fixture
def recipe(tmp_path):
    return recipes(tmp_path)


def steps(out):
    return [p.name for p in run_folder.checkpoints(out)]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": "ling-tny"}, "did you mean `ling-tiny`"),
        ({"prefix": "nowhere"}, "nowhere"),
        ({"isolate_documents": True}, "data.tokenizer"),
        ({"valid_prefix": ["nowhere"]}, "nowhere"),
    ],
)
def test_recipe_that_cannot_start_leaves_no_folder(recipe, tmp_path, change, word):
    with pytest.raises((UsageError, DataError), match=word):
        loop.run(recipe(**change), tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_corrected_recipe_is_not_refused_for_the_wrong_one(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError):
        loop.run(recipe(model="ling-tny"), tmp_path / "run", quiet)
    assert loop.run(recipe(steps=1), tmp_path / "run", quiet) == 0


def test_ids_outside_the_vocabulary_are_found_before_the_first_step(recipe, tmp_path, monkeypatch):
    write_tokens(tmp_path / "late")
    with (tmp_path / "late.bin").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write((384).to_bytes(2, "little"))
    with pytest.raises(DataError, match="384 is outside the vocabulary of 384"):
        loop.run(recipe(prefix="late"), tmp_path / "run", quiet)
    # Files too large to be read first are checked batch by batch.
    monkeypatch.setattr("ling.train.batches.SCAN_TOKENS", 0)
    with pytest.raises(DataError, match="384 is outside the vocabulary of 384"):
        loop.run(recipe(steps=80, prefix="late"), tmp_path / "run", quiet)


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
    assert sum("the data starts anew" in line for line in said) == 1
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


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_step_that_is_not_finite_changes_nothing(recipe, tmp_path, monkeypatch, what):
    run = loop.Loop(setup(recipe(), tmp_path, quiet))
    run.peak = 1.0
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
    assert run._step()["skipped"] == 1
    for name, tensor in run.state.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(run.state.optimizer.state.values())
    monkeypatch.setattr(Pretraining, "losses", whole)
    assert run._step()["skipped"] == 0


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
    assert all(np.isfinite(loss) for _, loss, _ in losses(tmp_path / "run")[8:])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_the_step_and_tells_how_to_go_on(recipe, tmp_path, monkeypatch, number):
    assert loop.run(recipe(), tmp_path / "whole", quiet) == 0
    step, said = loop.Loop._step, []

    def kill_in_step_3(self):
        if self.state.step == 2:
            os.kill(os.getpid(), number)
        return step(self)

    monkeypatch.setattr(loop.Loop, "_step", kill_in_step_3)
    assert loop.run(recipe(), tmp_path / "run", said.append) == 128 + number
    assert steps(tmp_path / "run")[-1] == "step-3"
    assert "the same command goes on" in said[-1]
    monkeypatch.undo()
    assert loop.run(recipe(), tmp_path / "run", quiet) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_full_disk_keeps_the_last_checkpoint(recipe, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert loop.run(recipe(), tmp_path / "whole", quiet) == 0

    def full(state, checkpoint_id, **more):
        (Path(checkpoint_id) / "__0_0.distcp").write_bytes(b"half")
        cause = OSError(28, "No space left on device")
        raise writer.CheckpointException("save", {0: (cause, None)})

    save = writer.dcp.save
    saves = iter([save, full])
    monkeypatch.setattr(writer.dcp, "save", lambda *a, **k: next(saves)(*a, **k))
    with pytest.raises(RunError, match="could not save checkpoint step-4: No space left"):
        loop.run(recipe(), out, quiet)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-2"]
    monkeypatch.undo()
    assert loop.run(recipe(), out, quiet) == 0
    assert losses(out) == losses(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["truncated", "emptied", "deleted", "flipped", "manifest"])
def test_damaged_checkpoint_is_named_and_passed_over(recipe, tmp_path, damage):
    out, said = tmp_path / "run", []
    assert loop.run(recipe(), out, quiet) == 0
    folder, before = out / "checkpoints/step-6", losses(out)
    data = next(folder.glob("*.distcp"))
    raw = data.read_bytes()
    if damage == "manifest":
        (folder / "manifest.json").write_text("{")
    elif damage == "deleted":
        data.unlink()
    else:
        bad = {"truncated": raw[:-100], "emptied": b"", "flipped": bytes([raw[0] ^ 1]) + raw[1:]}
        data.write_bytes(bad[damage])
    assert loop.run(recipe(), out, said.append) == 0
    assert any("step-6 is damaged" in line for line in said)
    assert losses(out) == before
    for manifest in out.glob("checkpoints/*/manifest.json"):
        manifest.write_text("{}")
    with pytest.raises(CheckpointError, match="no checkpoint is intact"):
        loop.run(recipe(), out, quiet)


def test_leftovers_are_cleared_and_foreign_files_left_alone(recipe, tmp_path):
    out = tmp_path / "run"
    for name in ("step-4.tmp", "step-99", "mine"):
        (out / "checkpoints" / name).mkdir(parents=True)
        (out / "checkpoints" / name / "file").write_text("x")
    (out / "notes.txt").write_text("mine")
    assert loop.run(recipe(), out, quiet) == 0
    assert steps(out) == ["step-4", "step-6"]
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == [
        "mine", "step-4", "step-6", "step-99",
    ]  # fmt: skip
    assert (out / "notes.txt").read_text() == "mine"


def test_second_run_into_a_folder_is_refused(recipe, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run is writing here"):
            loop.run(recipe(), out, quiet)
    assert loop.run(recipe(steps=1), out, quiet) == 0


def test_run_killed_after_its_last_step_gets_its_picture(recipe, tmp_path):
    assert loop.run(recipe(), tmp_path / "run", quiet) == 0
    (tmp_path / "run/loss.png").unlink()
    assert loop.run(recipe(), tmp_path / "run", quiet) == 0
    assert (tmp_path / "run/loss.png").is_file()


def test_metrics_are_there_after_every_step_at_full_precision(recipe, tmp_path):
    out: Path = tmp_path / "run"
    seen: list[list[int]] = []

    class Watched(loop.Loop):
        def _step(self):
            lines = (out / "metrics.jsonl").read_text().splitlines()
            seen.append([json.loads(line)["step"] for line in lines])
            return super()._step()

    out.mkdir()
    Watched(setup(recipe(), out, quiet)).run()
    assert seen == [list(range(1, n)) for n in range(1, 7)]
    row = read_metrics(out / "metrics.jsonl")[0]
    assert row["loss"] == float(repr(row["loss"])) != round(row["loss"], 6)
    assert {"step", "loss", "mtp_loss", "tokens", "lr", "grad_norm", "tokens_per_s"} <= set(row)
    assert row["tokens"] == 64


def test_model_folder_is_the_start_and_overrides_may_not_change_its_shapes(recipe, tmp_path):
    from ling.convert.plan import convert

    assert loop.run(recipe(), tmp_path / "run", quiet) == 0
    convert(tmp_path / "run", tmp_path / "hf", to="float32")
    more = recipe(model=str(tmp_path / "hf"))
    again = setup(more, tmp_path / "more", quiet).state.model
    trained = setup(recipe(), tmp_path / "x", quiet).state
    state.load(tmp_path / "run/checkpoints/step-6", trained)
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    object.__setattr__(more, "model_overrides", {"moe_intermediate_size": 64})
    with pytest.raises(UsageError, match="shapes of the weights"):
        setup(more, tmp_path / "more", quiet)


def test_optimizer_moves_the_parameters_that_sharding_leaves(recipe, tmp_path):
    seen = []

    def replace(network):
        seen.extend(p.is_meta for p in network.parameters())
        norm = network.ling.model.norm
        norm.weight = torch.nn.Parameter(torch.empty_like(norm.weight))

    run = setup(recipe(), tmp_path, quiet, parallelise=replace).state
    assert seen
    assert all(seen)
    moved = [id(p) for group in run.optimizer.param_groups for p in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in run.model.parameters())
    alone = setup(recipe(), tmp_path, quiet).state.model.state_dict()
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, alone[name]), name


def test_rank_0_has_the_file_names_of_a_process_alone():
    assert run_folder.of_rank("manifest.json", 0) == "manifest.json"
    assert run_folder.of_rank("manifest.json", 2) == "manifest-2.json"
    assert run_folder.of_rank(".lock", 1) == ".lock-1"


def test_damaged_checkpoint_is_not_merged(recipe, tmp_path):
    out = tmp_path / "run"
    assert loop.run(recipe(), out, quiet) == 0
    data = next((out / "checkpoints/step-4").glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="step-4: damaged"):
        merge(out, tmp_path / "m", last=2)
    assert not (tmp_path / "m").exists()
