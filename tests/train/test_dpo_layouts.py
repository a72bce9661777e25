"""Runs on pairs do not depend on the layout: one process against 2 ranks."""

from __future__ import annotations

import dpo_layouts
import numpy as np
import pytest
from torchrun import torchrun

from ling.train.log import read_metrics
from ling.train.parallel.group import ALONE


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpo")
    dpo_layouts.write(folder)
    for name, degrees in dpo_layouts.LAYOUTS[1].items():
        dpo_layouts.train(ALONE, folder, name, degrees)
    torchrun(2, "dpo_layouts.py", folder)
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
    torchrun(2, "dpo_layouts.py", trained, "all")
    for name in dpo_layouts.MORE[2]:
        check(trained, name)
