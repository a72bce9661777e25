from __future__ import annotations

import json

import pytest


@pytest.fixture
def run_folder(tmp_path):
    """Makes a run folder of a log with all that one may have."""

    def make(name="run", steps=20, cut="", recipe=None, **more):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        lines = [json.dumps(row(step) | more) + "\n" for step in range(1, steps + 1)]
        (folder / "metrics.jsonl").write_text("".join(lines) + cut)
        if recipe is not None:
            (folder / "config.yaml").write_text(recipe)
        return folder

    return make


def row(step):
    """A row of two ranks; every tenth has what is measured now and then."""
    found = {
        "step": step, "loss": 5 / step, "mtp_loss": 6 / step, "z_loss": 0.5, "tokens": 100 * step,
        "lr": 1e-3, "grad_norm": 1.0, "grad_norms": {"head": 0.5, "experts": 0.25},
        "tokens_per_s": 1000.0 + step, "mfu": 0.4, "load_max_mean": 2.0, "skipped": int(step == 3),
        "expert_load": {"1": [3, 0, 9], "2": [4, 4, 4]},
    }  # fmt: skip
    if step % 10 == 0:
        found |= {
            "valid_loss": 5.5 / step,
            "data_share": 0.01,
            "communication_share": 0.2,
            "slowest": {"rank": 1, "host": "b", "own_s": 0.5, "median_own_s": 0.4},
            "ranks": {"own_s": [0.3, 0.5], "resident_bytes": [1_000_000, 3_000_000]},
            "router_bias": {"1": 0.01, "2": 0.02},
            "router_bias_change": {"1": 0.001, "2": 0.002},
        }
    return found
