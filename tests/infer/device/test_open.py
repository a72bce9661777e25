"""Which device runs a checkpoint, and one line for what a GPU does not have."""

from __future__ import annotations

import logging

import pytest
import torch
from on_device import CFG, model
from random_adapters import random_adapter

import ling.infer.device.open as device_open
from ling.checkpoint.adapter.write import write_adapter
from ling.checkpoint.hf.save import save_model
from ling.cli.main import main
from ling.config.engine import EngineConfig
from ling.convert.plan import convert
from ling.errors import UsageError
from ling.infer.device.open import check_device
from ling.infer.device.runner import DeviceRunner
from ling.infer.native_runner import NativeRunner
from ling.infer.open import open_runner
from ling.infer.torch_runner import TorchRunner

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("open")
    (base / "bf16").mkdir()
    save_model(model(torch.bfloat16), CFG, base / "bf16", dtype="bfloat16")
    convert(base / "bf16", base / "int8", to="int8")
    return base


@no_gpu
@pytest.mark.parametrize(
    "command", [["generate", "-p", "x"], ["serve"], ["chat"], ["bench", "decode"]]
)
def test_without_a_gpu_one_line_and_exit_code_2(command, folders, capsys):
    name, *rest = command
    args = (
        [*command, str(folders / "bf16")]
        if name == "bench"
        else [name, str(folders / "bf16"), *rest]
    )
    assert main([*args, "--device", "cuda"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: `--device cuda` needs a GPU")
    assert line.count("\n") == 1
    assert "`--device cpu`" in line


@no_gpu
def test_auto_runs_on_the_cpu_and_says_why(folders, caplog):
    with caplog.at_level(logging.INFO, logger="ling"):
        runner = open_runner(folders / "bf16", EngineConfig(device="auto"))
    assert isinstance(runner, (NativeRunner, TorchRunner))
    assert "runs on the CPU" in caplog.text


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        (
            "int8",
            {},
            "is in format `int8`, which runs on the CPU only; on a GPU use the bf16 or FP8",
        ),
        ("bf16", {"format": "int4"}, "packing at load is for the CPU"),
        ("bf16", {"max_memory": "1GB"}, "`max_memory` is for folders in int4 or int8"),
        ("bf16", {"kv_cache_dtype": "int8"}, 'leave it at `kv_cache_dtype="bf16"`'),
    ],
)
def test_what_a_gpu_does_not_have(folder, options, message, folders, monkeypatch):
    monkeypatch.setattr(device_open, "why_no_gpu", lambda: None)
    with pytest.raises(UsageError, match=message) as caught:
        open_runner(folders / folder, EngineConfig(device="cuda", **options))
    assert "\n" not in str(caught.value)
    if folder == "int8":  # and `auto` leaves it to the CPU
        assert not hasattr(open_runner(folders / folder, EngineConfig(device="auto")), "device")


def test_adapters_are_for_the_cpu(folders, tmp_path, monkeypatch):
    write_adapter(tmp_path / "a", random_adapter(CFG, 1), CFG, alpha=2)
    monkeypatch.setattr(device_open, "why_no_gpu", lambda: None)
    with pytest.raises(UsageError, match=r"`lora` is for the CPU: on a GPU put the adapter into"):
        open_runner(folders / "bf16", EngineConfig(device="cuda", lora=tmp_path / "a"))
    with pytest.raises(UsageError, match="adapters run on the CPU only"):
        DeviceRunner(model(torch.bfloat16)).use_adapters({"a": random_adapter(CFG, 1)})


@no_gpu
def test_the_device_is_checked_before_anything_is_read():
    check_device(EngineConfig())
    check_device(EngineConfig(device="auto"))
    with pytest.raises(UsageError, match="needs a GPU"):
        check_device(EngineConfig(device="cuda"))
    with pytest.raises(UsageError, match="`device` is `tpu`, expected auto, cpu or cuda"):
        EngineConfig(device="tpu")
