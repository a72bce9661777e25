"""vLLM's loader fills its buffers with our adapters. Run with `scripts/interop vllm`.

Loading needs no GPU; vLLM's products of experts with adapters do.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapters import adapter_of
from safetensors.torch import load_file
from tiny_ling import TEXTS, tiny

from ling.checkpoint.adapter.names import TENSORS
from ling.checkpoint.adapter.write import write_adapter
from ling.checkpoint.hf.save import save_model
from ling.data.tokenizer import train_tokenizer
from ling.model.adapter import KINDS, adapter_targets

pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("vllm"), tiny(num_nextn_predict_layers=0)
    save_model(model, model.config, folder)
    train_tokenizer(TEXTS * 10, 300).save(folder)
    return folder, model.config


@pytest.mark.parametrize(("kinds", "rslora"), [(KINDS, False), (("attention", "experts"), True)])
def test_buffers_are_the_adapter(folder, tmp_path, kinds, rslora):
    path, cfg = folder
    adapter = adapter_of(cfg, kinds=kinds, rslora=rslora)
    write_adapter(tmp_path / "adapter", adapter, cfg, alpha=32, rslora=rslora, base=str(path))
    script, out = Path(__file__).with_name("vllm_adapter.py"), tmp_path / "buffers.safetensors"
    command = [sys.executable, script, path, tmp_path / "adapter", out]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = load_file(out)
    for name in adapter_targets(cfg):
        a, b = found.pop(f"{name}.a"), found.pop(f"{name}.b")
        matrix = adapter.matrices.get(name)
        if matrix is not None:
            r = matrix.rank
            assert torch.equal(a[..., :r, :], matrix.a), name
            assert torch.equal(b[..., :r], matrix.b * matrix.scale), name
            a, b = a[..., r:, :], b[..., r:]
        assert not a.any(), name
        assert not b.any(), name
    assert not any(value.any() for value in found.values())  # the router


def test_keys_are_those_that_sglang_resolves(folder, tmp_path):
    """By its own expressions: the layer, and the number of the expert."""
    _, cfg = folder
    write_adapter(tmp_path, adapter_of(cfg), cfg, alpha=32)
    for key in load_file(tmp_path / TENSORS):
        assert re.search(r"layers\.(\d+)\.", key), key
        if "shared_experts" not in key and "experts" in key:
            number = int(re.search(r"experts\.(\d+)\.", key)[1])
            assert number < cfg.num_experts
