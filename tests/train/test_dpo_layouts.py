"""Runs on pairs do not depend on the layout: one process against 2 ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dpo_layouts
import numpy as np
import pytest

from ling.train.log import read_metrics
from ling.train.parallel.group import ALONE

HELPERS = Path(__file__).parents[1] / "helpers"


def torchrun(folder, *more):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS)}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(HELPERS / "dpo_layouts.py"), str(folder), *more),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpo")
    dpo_layouts.write(folder)
    for name, degrees in dpo_layouts.LAYOUTS[1].items():
        dpo_layouts.train(ALONE, folder, name, degrees)
    torchrun(folder)
    return folder


def check(folder, name):
    one = folder / ("one, full" if "full" in name else "one")
    rows, got = (read_metrics(f / "metrics.jsonl") for f in (one, folder / name))
    assert len(got) == dpo_layouts.STEPS
    assert any(key.startswith("valid_reward") for key in rows[-1])
    for a, b in zip(rows, got, strict=True):
        words = ("loss", "reward", "logp", "grad_norm")
        keys = [k for k, v in a.items() if isinstance(v, float) and any(w in k for w in words)]
        for key in keys:
            assert b[key] == pytest.approx(a[key], rel=1e-4, abs=2e-5), key
    for file in (one / "reference").iterdir():
        want, found = np.load(file), np.load(folder / name / "reference" / file.name)
        # Of whole layers each rank computes what one process does.
        near = {"rtol": 1e-6, "atol": 0} if name.startswith("cp") else {"rtol": 0, "atol": 0}
        np.testing.assert_allclose(found, want, **near)


@pytest.mark.parametrize("name", dpo_layouts.LAYOUTS[2])
def test_two_ranks_train_what_one_process_does(trained, name):
    check(trained, name)


@pytest.mark.slow
def test_so_do_other_layouts(trained):
    torchrun(trained, "all")
    for name in dpo_layouts.MORE[2]:
        check(trained, name)
