"""A run folder of an older version goes on with the losses that the version itself had.

`tests/fixtures/training/run-2302805.tar.xz` is a run of commit 2302805 on the tokens that
`runs.write_tokens` makes, after step 3 of 6 (`ling pretrain` with the recipe in its config.yaml).
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import yaml
from runs import write_tokens

from ling.config.recipe import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
)
from ling.train import loop
from ling.train.log import read_metrics

SAVED = Path(__file__).parents[1] / "fixtures" / "training" / "run-2302805.tar.xz"
SECTIONS = {
    "data": DataConfig,
    "train": TrainConfig,
    "optim": OptimConfig,
    "checkpoint": CheckpointConfig,
}
# Steps 4 to 6 as that commit computed them: loss, mtp_loss, z_loss, grad_norm.
WANTED = [
    (5.714885473251343, 5.727458238601685, 4.374291181564331, 0.7727596163749695),
    (5.710238695144653, 5.722988843917847, 4.4161834716796875, 0.7723328471183777),
    (5.72423243522644, 5.71741795539856, 4.772500514984131, 0.7612019181251526),
]


def test_a_run_of_commit_2302805_goes_on(tmp_path):
    out, said = tmp_path / "run", []
    with tarfile.open(SAVED) as archive:
        # Pythons before 3.10.12 and 3.11.4, as Debian 12's, have no filters.
        archive.extractall(out, **{"filter": "data"} if hasattr(tarfile, "data_filter") else {})
    write_tokens(tmp_path / "text")
    recipe = yaml.safe_load((out / "config.yaml").read_text())
    recipe["data"]["prefix"] = [str(tmp_path / "text")]
    for name, kind in SECTIONS.items():
        recipe[name] = kind(**recipe[name])
    assert loop.run(PretrainConfig(**recipe), out, said.append) == 0
    assert f"resuming {out} after step 3" in said
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row, wanted in zip(rows[3:], WANTED, strict=True):
        got = [row[key] for key in ("loss", "mtp_loss", "z_loss", "grad_norm")]
        assert got == pytest.approx(wanted, rel=1e-6)
