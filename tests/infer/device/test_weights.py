"""Folders straight to a device: every tensor, FP8 as it is."""

from __future__ import annotations

import contextlib

import pytest
import torch
from on_device import CFG, model, tokens

from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import load_module
from ling.checkpoint.open import open_source
from ling.config.engine import EngineConfig
from ling.convert.plan import convert
from ling.infer.device.modules import DeviceExperts, FP8Experts, FP8Linear, stored_tensors
from ling.infer.device.runner import DeviceRunner
from ling.infer.device.weights import load_on_device, random_on_device
from ling.infer.torch_runner import TorchRunner

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SHAPE = CFG.replace(moe_intermediate_size=128, num_nextn_predict_layers=1)
POOL = {"max_model_len": 256, "num_pages": 40}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("device")
    (base / "bf16").mkdir()
    save_model(model(torch.bfloat16, SHAPE), SHAPE, base / "bf16", dtype="bfloat16")
    for to in ("fp8", "dcp"):
        convert(base / "bf16", base / to, to=to)
    return base


@pytest.mark.parametrize("to", ["bf16", "fp8", "dcp"])
def test_tokens_of_a_folder_are_those_of_the_reference(folders, to):
    with contextlib.closing(open_source(folders / to)) as source:
        loaded = load_on_device(source, "float32", CPU)
        want = tokens(TorchRunner(load_module(source, "float32")), **POOL)
    kinds = {type(m) for m in loaded.modules()}
    assert kinds & {DeviceExperts, FP8Experts} == {FP8Experts if to == "fp8" else DeviceExperts}
    assert tokens(DeviceRunner(loaded), speculative="mtp", **POOL) == want


def test_fp8_takes_its_own_bytes(folders):
    sizes = {}
    for to in ("bf16", "fp8"):
        with contextlib.closing(open_source(folders / to)) as source:
            network = load_on_device(source, "auto", CPU)
            assert network.model.norm.weight.dtype == torch.bfloat16
            sizes[to] = sum(p.nbytes for p in network.model.layers.parameters())
            stored = sum(
                source.stored_bytes(name)
                for name in source.tensors.weight_map
                if name.startswith("model.layers") and not name.endswith("_scale_inv")
            )
            routers = sum(p.nbytes for n, p in network.named_parameters() if ".gate.weight" in n)
            bias = sum(b.nbytes for b in network.buffers())
        assert sizes[to] + bias == stored + routers // 2  # routers are widened to float32
    assert sizes["fp8"] < 0.6 * sizes["bf16"]


def test_random_weights_are_finite_numbers_and_repeat():
    for fp8 in (False, True):
        made = [random_on_device(SHAPE, torch.bfloat16, CPU, fp8=fp8) for _ in range(2)]
        assert any(isinstance(m, FP8Linear) for m in made[0].modules()) == fp8
        assert type(made[0].lm_head).__name__ == "Linear"
        for a, b in zip(*(stored_tensors(m).values() for m in made), strict=True):
            assert a.values.float().isfinite().all()
            assert torch.equal(a.values.float(), b.values.float())
    out = tokens(DeviceRunner(made[0], EngineConfig()), **POOL)
    assert all(len(ids) == 14 for ids in out)
