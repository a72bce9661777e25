"""What may differ between a run and its continuation."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import yaml
from runs import logged_losses as losses
from runs import quiet, write_tokens
from small_runs import recipes, stop_after

from ling.config.parallel import ParallelConfig
from ling.errors import UsageError
from ling.train import loop, resume
from ling.train.batches import BatchReader
from ling.train.log import read_metrics

CONSTANT = {"optim": {"schedule": "constant"}}


@pytest.fixture
def recipe(tmp_path):
    return recipes(tmp_path)


def begun(out, recipe, monkeypatch, steps=3):
    """A run that a signal stopped after `steps`."""
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_catch_signals", stop_after(steps))
        assert loop.run(recipe, out, quiet) > 128


@pytest.mark.parametrize("place", ["copied", "absolute", "linked"])
def test_the_same_data_under_another_path_is_the_same_data(recipe, tmp_path, monkeypatch, place):
    assert loop.run(recipe(), tmp_path / "whole", quiet) == 0
    monkeypatch.chdir(tmp_path)
    first = recipe()
    if place == "absolute":
        first = dataclasses.replace(first, data=dataclasses.replace(first.data, prefix=["text"]))
    begun(tmp_path / "run", first, monkeypatch)
    (tmp_path / "sub").mkdir()
    for end in ("bin", "idx"):
        here, there = tmp_path / f"text.{end}", tmp_path / f"sub/moved.{end}"
        there.symlink_to(here) if place == "linked" else shutil.copy(here, there)
    other = recipe() if place == "absolute" else recipe(prefix="sub/moved")
    assert loop.run(other, tmp_path / "run", quiet) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"threads": 2}},
        {"train": {"eval_interval_steps": 2, "eval_rows": 3, "max_nonfinite": 9}},
        {"interval": 5},
        {"valid_prefix": ["text"]},
        {"vocab_size": 300},
    ],
    ids=str,
)
def test_what_changes_no_loss_may_change(recipe, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    assert loop.run(recipe(), tmp_path / "whole", quiet) == 0
    begun(tmp_path / "run", recipe(), monkeypatch)
    assert loop.run(recipe(**change), tmp_path / "run", quiet) == 0
    for ours, whole in zip(losses(tmp_path / "run"), losses(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(whole, rel=1e-5)


def test_other_micro_batches_read_the_same_rows(recipe, tmp_path, monkeypatch):
    said: list[str] = []
    assert loop.run(recipe(batch=4), tmp_path / "whole", quiet) == 0
    begun(tmp_path / "run", recipe(batch=4), monkeypatch)
    smaller = recipe(batch=4, train={"micro_batch_size": 1})
    assert loop.run(smaller, tmp_path / "run", said.append) == 0
    assert sum("train.micro_batch_size" in line for line in said) == 1
    for ours, whole in zip(losses(tmp_path / "run"), losses(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(whole, rel=1e-4)


def test_savings_of_fp8_may_change_and_fp8_itself_with_a_word(recipe, tmp_path, monkeypatch):
    on, off = {"fp8": "blockwise", "dtype": "bfloat16"}, {"dtype": "bfloat16"}
    savings = {"fp8_param_gather": True, "fp8_transpose_on_demand": True, "fp8_pad_routing": True}
    assert loop.run(recipe(train=on), tmp_path / "whole", quiet) == 0
    begun(tmp_path / "run", recipe(train=on), monkeypatch)
    assert loop.run(recipe(train=on | savings), tmp_path / "run", quiet) == 0
    for ours, whole in zip(losses(tmp_path / "run"), losses(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(whole, rel=1e-3)
    said: list[str] = []
    begun(tmp_path / "other", recipe(train=off), monkeypatch)
    assert loop.run(recipe(train=on), tmp_path / "other", said.append) == 0
    assert sum("`train.fp8` was off and is now blockwise" in line for line in said) == 1


@pytest.mark.parametrize("steps", [9, 4])
def test_a_constant_schedule_may_have_other_steps(recipe, tmp_path, monkeypatch, steps):
    out = tmp_path / "run"
    assert loop.run(recipe(steps=steps, **CONSTANT), tmp_path / "whole", quiet) == 0
    begun(out, recipe(**CONSTANT), monkeypatch)
    assert loop.run(recipe(steps=steps, **CONSTANT), out, quiet) == 0
    # One pass over the data holds them all, so the order is that of a run with these steps.
    assert losses(out) == losses(tmp_path / "whole")
    assert loop.run(recipe(steps=steps + 2, **CONSTANT), out, quiet) == 0
    assert read_metrics(out / "metrics.jsonl")[-1]["step"] == steps + 2


def test_cosine_says_why_its_steps_cannot_change(recipe, tmp_path, monkeypatch):
    begun(tmp_path / "run", recipe(), monkeypatch)
    with pytest.raises(UsageError, match=r"`train.steps` was 6 .* now 9; a cosine schedule") as no:
        loop.run(recipe(steps=9), tmp_path / "run", quiet)
    assert "constant" in str(no.value)


WSD = {"schedule": "wsd", "decay_steps": 2}


@pytest.mark.parametrize(
    ("first", "then", "steps"),
    [
        (WSD, WSD, 9),
        (WSD, {**WSD, "decay_steps": 3, "decay_shape": "cosine", "lr_min": 1e-5}, 6),
        ({"schedule": "constant"}, WSD, 5),
        (WSD, {"schedule": "constant"}, 6),
    ],
    ids=["longer", "another decay", "constant, then wsd", "wsd, then constant"],
)
def test_a_decay_ahead_may_change(recipe, tmp_path, monkeypatch, first, then, steps):
    out, now = tmp_path / "run", recipe(steps=steps, optim=then)
    assert loop.run(now, tmp_path / "whole", quiet) == 0
    begun(out, recipe(optim=first), monkeypatch, steps=3)
    assert loop.run(now, out, quiet) == 0
    assert losses(out) == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("done", "steps", "optim"), [(5, 9, WSD), (3, 4, WSD), (3, 6, {"schedule": "cosine"})]
)
def test_a_decay_that_has_begun_may_not(recipe, tmp_path, monkeypatch, done, steps, optim):
    begun(tmp_path / "run", recipe(optim=WSD), monkeypatch, steps=done)
    with pytest.raises(UsageError, match="would have had other learning rates"):
        loop.run(recipe(steps=steps, optim=optim), tmp_path / "run", quiet)


def test_a_growing_batch_resumes_to_the_bit(recipe, tmp_path, monkeypatch):
    ramp = {"batch": 8, "steps": 8, "train": {"rampup_batch_size": [2, 2, 18]}}
    assert loop.run(recipe(**ramp), tmp_path / "whole", quiet) == 0
    rows = [r["tokens"] // 32 for r in read_metrics(tmp_path / "whole/metrics.jsonl")]
    assert rows == [2, 4, 6, 10, 14, 20, 28, 36]
    for stopped in (3, 4, 6):
        out = tmp_path / f"run {stopped}"
        begun(out, recipe(**ramp), monkeypatch, steps=stopped)
        assert loop.run(recipe(**ramp), out, quiet) == 0
        assert losses(out) == losses(tmp_path / "whole")
    other = recipe(**{**ramp, "train": {"rampup_batch_size": [4, 2, 18]}})
    with pytest.raises(UsageError, match=r"`train.rampup_batch_size` was \[2, 2, 18\] in this run"):
        loop.run(other, out, quiet)


@pytest.mark.parametrize("key", ["optim.lr", "train.dtype", "model_overrides.qk_norm"])
def test_what_changes_the_training_is_refused_by_name(recipe, tmp_path, key):
    loop.run(recipe(steps=1), tmp_path / "run", quiet)
    path = tmp_path / "run/config.yaml"
    tree = yaml.safe_load(path.read_text())
    section, name = key.split(".")
    tree[section][name] = "other"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(UsageError, match=f"`{key}` was other"):
        loop.run(recipe(steps=1), tmp_path / "run", quiet)


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_a_mixture_continues_where_it_was(recipe, tmp_path, monkeypatch, packing):
    write_tokens(tmp_path / "more", tokens=2000, seed=1)

    def mixed(**changed):
        base = recipe(interval=6)
        both = [str(tmp_path / name) for name in ("text", "more")]
        named = {"prefix": both, "weights": [1.0, 3.0], "epochs": [1.0, 4.0], "packing": packing}
        data = dataclasses.replace(base.data, **{**named, **changed})
        return dataclasses.replace(base, data=data)

    said: list[str] = []
    assert loop.run(mixed(), tmp_path / "whole", said.append) == 0
    assert [line.startswith("data: ") for line in said].count(True) == 2
    out = tmp_path / "run"
    begun(out, mixed(), monkeypatch)
    shutil.rmtree(out / "index")  # made again
    assert loop.run(mixed(), out, quiet) == 0
    assert losses(out) == losses(tmp_path / "whole")
    with pytest.raises(UsageError, match=r"`data.epochs` was \[1.0, 4.0\] .* now \[2.0, 4.0\]"):
        loop.run(mixed(epochs=[2.0, 4.0]), out, quiet)
    few = mixed(epochs=[0.02, 4.0])
    with pytest.raises(UsageError, match="12 rows are needed"):
        loop.run(few, tmp_path / "none", quiet)
    assert not (tmp_path / "none").exists()


def test_a_run_of_an_older_version_resumes(recipe, tmp_path, monkeypatch):
    """Its recipe lacks newer keys, its checkpoint names paths and no order."""
    out = tmp_path / "run"
    assert loop.run(recipe(**CONSTANT), tmp_path / "whole", quiet) == 0
    begun(out, recipe(**CONSTANT), monkeypatch)
    path = out / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    del tree["data"]["replace_tokenizer"], tree["data"]["json_key"], tree["train"]["max_nonfinite"]
    del tree["data"]["epochs"], tree["data"]["packing"]
    path.write_text(yaml.safe_dump(tree))
    note = out / "checkpoints/step-3/state.json"
    state = json.loads(note.read_text())
    del state["start"], state["data"]["rows"], state["data"]["tokenizer"]
    del state["data"]["data.epochs"], state["data"]["data.packing"]
    state["data"] |= {"data.prefix": ["elsewhere"], "world size": 1, "train.micro_batch_size": 2}
    note.write_text(json.dumps(state))
    (out / "checkpoints/step-3/manifest.json").unlink()
    from ling.checkpoint.run_folder import write_manifest

    write_manifest(out / "checkpoints/step-3")
    assert loop.run(recipe(**CONSTANT), out, quiet) == 0
    assert losses(out) == losses(tmp_path / "whole")


def test_the_model_under_another_path_is_the_same_model(recipe, tmp_path, monkeypatch):
    from ling.convert.plan import convert

    assert loop.run(recipe(steps=1), tmp_path / "first", quiet) == 0
    convert(tmp_path / "first", tmp_path / "hf", to="float32")
    begun(tmp_path / "run", recipe(model=str(tmp_path / "hf")), monkeypatch)
    shutil.move(tmp_path / "hf", tmp_path / "moved")
    assert loop.run(recipe(model=str(tmp_path / "moved")), tmp_path / "run", quiet) == 0
    with pytest.raises(UsageError, match=r"`model` was .*moved in this run and is now ling-tiny"):
        loop.run(recipe(), tmp_path / "run", quiet)


def test_another_number_of_prefixes_is_other_data(recipe, tmp_path, monkeypatch):
    write_tokens(tmp_path / "more", seed=3)
    begun(tmp_path / "run", recipe(), monkeypatch)
    base = recipe()
    two = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, prefix=[*base.data.prefix, str(tmp_path / "more")]),
    )
    with pytest.raises(UsageError, match=r"had 1 entries .* now 2; .*--allow-data-reset"):
        loop.run(two, tmp_path / "run", quiet)


def test_parts_of_a_large_file_stand_for_the_whole(tmp_path, monkeypatch):
    file = tmp_path / "data"

    def written(*changes):
        raw = bytearray(8000)
        for at in changes:
            raw[at] = 1
        file.write_bytes(raw)
        return resume._fingerprint([file])

    monkeypatch.setattr(resume, "_BLOCK_BYTES", 512)
    assert written(4000) != written()
    monkeypatch.setattr(resume, "_MAX_BLOCKS", 2)
    assert written(4000) == written()
    assert written(7999) != written()


def test_every_rank_reads_the_rows_of_its_number(recipe, tmp_path, monkeypatch):
    """More ranks read the same rows: their number is not part of the data."""
    from ling.train.parallel.group import World
    from ling.train.setup import setup

    begun(tmp_path / "run", recipe(batch=4), monkeypatch)
    state = setup(recipe(batch=4), tmp_path / "run", quiet).state
    rows = []
    for rank in range(2):
        state.world = World(rank, 2)
        rows.append(state.first_rows(recipe(batch=4).train, ParallelConfig(dp_replicate=2)))
    assert rows == [[12], [14]]
    assert isinstance(setup(recipe(batch=4), tmp_path / "run", quiet).reader, BatchReader)
