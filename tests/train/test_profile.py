"""Profiles of chosen steps."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from runs import logged_losses, quiet

from ling.train import loop, profile
from ling.train.profile import StepProfiler


def test_chosen_steps_leave_traces_and_tables_and_train_as_ever(recipe, tmp_path):
    plain = recipe(steps=3)
    chosen = dataclasses.replace(plain, train=dataclasses.replace(plain.train, profile=[2]))
    said = []
    assert loop.run(plain, tmp_path / "plain", quiet) == 0
    assert loop.run(chosen, tmp_path / "run", said.append) == 0
    assert logged_losses(tmp_path / "run") == logged_losses(tmp_path / "plain")
    folder = tmp_path / "run" / "profile"
    assert sorted(p.name for p in folder.iterdir()) == ["step-2-rank-0.json", "step-2-rank-0.txt"]
    events = json.loads((folder / "step-2-rank-0.json").read_text())["traceEvents"]
    assert any(event.get("name") == "aten::mm" for event in events)
    tables = (folder / "step-2-rank-0.txt").read_text()
    assert "by self_cpu_time_total" in tables
    assert "by self_cpu_memory_usage" in tables
    assert f"profile: {folder}/step-2-rank-0.json" in said


def test_a_full_disk_ends_no_run_and_leaves_no_half_file(tmp_path, monkeypatch):
    def full(path, found):
        (tmp_path / path).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profile, "_write_tables", full)
    said = []
    with StepProfiler([1], tmp_path, 3, torch.device("cpu"), said.append).step(1):
        torch.ones(2).add(1)
    assert [p.name for p in (tmp_path / "profile").iterdir()] == ["step-1-rank-3.json"]
    assert len(said) == 1
    assert "No space left" in said[0]


def test_a_step_that_fails_fails_as_ever(tmp_path):
    profiler = StepProfiler([1], tmp_path, 0, torch.device("cpu"), quiet)
    with pytest.raises(ZeroDivisionError), profiler.step(1):
        1 / 0  # noqa: B018
    assert not (tmp_path / "profile").exists()
