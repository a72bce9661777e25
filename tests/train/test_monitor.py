"""Rows of the log, and what is left at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import quiet

from ling.train import loop
from ling.train.log import MetricsLog, read_metrics
from ling.train.monitor import Monitor
from ling.train.setup import setup


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


def test_a_full_disk_at_the_end_does_not_hide_the_error_of_the_step(recipe, tmp_path, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    (tmp_path / "run").mkdir()
    monitor = Monitor(setup(recipe(), tmp_path / "run", quiet))
    monkeypatch.setattr(MetricsLog, "close", full)
    with pytest.raises(KeyError), monitor:
        raise KeyError
    with pytest.raises(OSError, match="No space left"), monitor:
        pass
