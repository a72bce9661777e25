"""Which device a run is on; and that a step on another one than the CPU is the same step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from runs import write_tokens

from ling.errors import UsageError
from ling.train import device
from ling.train.device import choose_device, device_type, gpu_key, random_states, restore_random
from ling.train.log import read_metrics

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture
def two_gpus(monkeypatch):
    """What torch answers on a machine with two of them."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return chosen


def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    assert device_type("cuda").type == "cpu"  # the error comes once all ranks can tell it
    with pytest.raises(UsageError, match=r"`train.device: cuda`, but torch .*`train.device: cpu`"):
        choose_device("cuda")


def test_each_local_rank_takes_its_own_gpu(two_gpus, monkeypatch):
    assert choose_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    assert two_gpus == [torch.device("cuda", 0), torch.device("cuda", 1)]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match=r"local rank 2 has no GPU, .* --nproc-per-node 2`"):
        choose_device("auto")


def test_the_generator_of_a_gpu_is_kept_beside_that_of_the_cpu(two_gpus, monkeypatch):
    state, found = torch.arange(16, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *given: found.append(given))
    cuda = torch.device("cuda", 1)
    states = random_states(cuda, 5)
    assert set(states) == {"rng", gpu_key(5)}
    torch.rand(3)
    restore_random(states, cuda, 5)
    assert torch.equal(torch.get_rng_state(), states["rng"])
    assert found == [(state, cuda)]
    assert set(random_states(torch.device("cpu"), 5)) == {"rng"}


def test_a_batch_reaches_a_gpu_from_pinned_memory(monkeypatch):
    moved = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: moved.append("pinned") or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *to, **how: moved.append((*to, how)) or x)
    device.move(torch.zeros(2), torch.device("cuda", 0))
    assert moved == ["pinned", (torch.device("cuda", 0), {"non_blocking": True})]


# ---- a run on a device that is not the CPU -----------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs on the CPU and on a device that refuses tensors of the CPU."""
    folder = tmp_path_factory.mktemp("devices")
    write_tokens(folder / "text")
    script = [sys.executable, str(HELPERS / "other_device.py"), str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS)}
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def both(folder, name):
    """Rows of a run on the CPU beside those on the other device."""
    here, there = (read_metrics(folder / n / "metrics.jsonl") for n in (name, f"other {name}"))
    assert len(here) == 4
    return list(zip(here, there, strict=True))


@pytest.mark.parametrize("name", ["one", "full"])
def test_losses_are_those_of_the_cpu(trained, name):
    """No operation meets tensors of two devices, and experts go through `grouped_mm`."""
    rows = both(trained, name)
    for a, b in rows:
        for key in ("loss", "mtp_loss", "z_loss", "grad_norm"):
            assert a[key] == pytest.approx(b[key], rel=1e-6), key
    assert rows[-1][0]["valid_loss"] == pytest.approx(rows[-1][1]["valid_loss"], rel=1e-6)


def test_in_bfloat16_losses_are_as_near_as_its_rounding(trained):
    for n, (a, b) in enumerate(both(trained, "bf16")):
        # Later a token of the 128 may have chosen another expert, for a last bit.
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3 if n else 1e-4)


def test_a_run_goes_on_on_another_device(trained):
    whole, halves = (
        read_metrics(trained / n / "metrics.jsonl") for n in ("one", "one, then other")
    )
    assert [row["step"] for row in halves] == [1, 2, 3, 4]
    for a, b in zip(whole, halves, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-6)


def test_a_step_waits_for_the_device_only_for_what_it_logs(trained):
    """Two losses, z-loss, norms, and the loads of all layers: not once for a layer or a batch."""
    for name, steps in json.loads((trained / "waits.json").read_text()).items():
        for waits in steps:
            scalars = Counter(waits)
            assert scalars.pop("aten._local_scalar_dense.default") == 3, name
            assert scalars == {"aten._to_copy.default": 2}, name
