"""The losses of fine-tuning do not depend on the layout, however unequal rows are (decision 36)."""

from __future__ import annotations

import pytest
import sft_runs
from runs import quiet
from torchrun import torchrun

from ling.train import loop
from ling.train.log import read_metrics
from ling.train.parallel.group import ALONE


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    sft_runs.write_model(folder / "base")
    sft_runs.write_records(folder / "chat.jsonl", 40)
    for name in dict.fromkeys(map(sft_runs.alone, sft_runs.LAYOUTS)):
        loop.run_in(ALONE, sft_runs.layout_recipe(folder, name, {}), folder / name, quiet)
    torchrun(2, "sft_runs.py", folder, timeout=400)
    return folder


@pytest.mark.parametrize("name", sft_runs.LAYOUTS)
def test_losses_and_norms_are_those_of_one_process(trained, name):
    one, got = (read_metrics(trained / n / "metrics.jsonl") for n in (sft_runs.alone(name), name))
    assert [row["step"] for row in got] == list(range(1, sft_runs.STEPS + 1))
    for key in ("loss", "grad_norm", "z_loss", *["mtp_loss"] * ("mtp" in name)):
        assert [row[key] for row in got] == pytest.approx([row[key] for row in one], rel=1e-6), key
    assert got[-1]["valid_loss"] == pytest.approx(one[-1]["valid_loss"], rel=1e-6)
    # Of padding, which depends on the layout, none is counted.
    assert [row["expert_load"] for row in got] == [row["expert_load"] for row in one]
