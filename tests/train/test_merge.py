"""Merged checkpoints are weighed means of the newest ones, and of whole ones only."""

from __future__ import annotations

import json

import pytest
import torch

from ling.checkpoint.dcp.folder import DCPFolder
from ling.checkpoint.dcp.parts import write_tensors
from ling.checkpoint.run_folder import step_folder, write_manifest
from ling.errors import CheckpointError, UsageError
from ling.train.merge import merge
from ling.train.optim import merge_weights


@pytest.fixture
def parts(tmp_path):
    """The tensors of four checkpoints of a run."""
    parts = {}
    for step in (2, 4, 6, 10):
        folder = step_folder(tmp_path / "run", step)
        folder.mkdir(parents=True)
        parts[step] = {
            "model.weight": torch.randn(3, 4),
            "model.gate.expert_bias": torch.randn(5),
            "model.half": torch.randn(2, 2).bfloat16(),
        }
        write_tensors(folder, {**parts[step], "optimizer.exp_avg.weight": torch.ones(3, 4)})
        (folder / "config.json").write_text(json.dumps({"step": step}))
        write_manifest(folder)
    (tmp_path / "run/tokenizer").mkdir()
    (tmp_path / "run/tokenizer/tokenizer.json").write_text("{}")
    return parts


@pytest.mark.parametrize(
    ("last", "schedule"), [(1, "mean"), (3, "mean"), (3, "linear"), (3, "one-minus-sqrt")]
)
def test_every_tensor_is_the_weighed_sum_of_the_newest(parts, tmp_path, last, schedule):
    out = tmp_path / "merged"
    names = merge(tmp_path / "run", out, last=last, schedule=schedule)
    chosen = [4, 6, 10][-last:]
    assert names == [f"step-{n}" for n in chosen]
    weights = merge_weights(last - 1, schedule)
    merged = DCPFolder(out)
    assert set(merged.tensors) == set(parts[4])  # no optimizer
    for name in merged.tensors:
        want = sum(w * parts[n][name].double() for w, n in zip(weights, chosen, strict=True))
        got = merged.tensor(name)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=1e-6)
    merged.close()
    assert json.loads((out / "merged.json").read_text()) == {"from": names, "schedule": schedule}
    assert json.loads((out / "config.json").read_text()) == {"step": 10}
    assert (out / "tokenizer/tokenizer.json").is_file()


def test_what_cannot_be_merged_leaves_nothing(parts, tmp_path):
    run, out = tmp_path / "run", tmp_path / "merged"
    for last in (0, -1, 5):
        with pytest.raises(UsageError, match=f"holds 4 checkpoints, asked for {last}"):
            merge(run, out, last=last)
    with pytest.raises(UsageError, match="no merge schedule `magic`"):
        merge(run, out, last=2, schedule="magic")
    assert not out.exists()
    with pytest.raises(UsageError, match="exists"):
        merge(run, run, last=2)


def test_damaged_checkpoint_is_not_merged(parts, tmp_path):
    data = next(step_folder(tmp_path / "run", 4).glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="step-4: damaged"):
        merge(tmp_path / "run", tmp_path / "merged", last=3)
    assert not (tmp_path / "merged").exists()
    assert merge(tmp_path / "run", tmp_path / "merged", last=2) == ["step-6", "step-10"]
