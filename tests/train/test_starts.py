"""Starts of a run."""

from __future__ import annotations

import torch
from runs import quiet

from ling.train import loop
from ling.train.starts import read_starts


def test_every_start_is_noted_with_the_step_that_it_continues(recipe, tmp_path):
    out = tmp_path / "run"
    assert read_starts(out) == []
    for steps in (2, 4):
        plain = recipe(steps=steps)
        object.__setattr__(plain.optim, "schedule", "constant")
        assert loop.run(plain, out, quiet) == 0
    first, second = read_starts(out)
    assert (first["after_step"], second["after_step"]) == (0, 2)
    assert first["ranks"] == len(first["hosts"]) == 1
    assert first["torch"] == torch.__version__
    assert {"cpu", "cores", "time", "ling"} <= set(first)


def test_lines_that_cannot_be_read_are_left_out(tmp_path):
    (tmp_path / "starts.jsonl").write_bytes(b'{"after_step": 3}\n[1]\n\xff{"after\n')
    assert read_starts(tmp_path) == [{"after_step": 3}]
