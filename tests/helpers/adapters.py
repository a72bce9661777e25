"""A small adapter, with random values in A and B, and its folder spoiled."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ling.checkpoint.adapter.read import read_adapter
from ling.errors import CheckpointError
from ling.model.adapter import KINDS, Adapter, LowRank, adapter_targets, scale_of
from ling.presets import preset

CFG = preset("ling-tiny").replace(num_nextn_predict_layers=1, dtype="float32")
RANKS = {"attention": 4, "dense": 4, "shared": 4, "experts": 2}


def adapter_of(cfg=CFG, *, kinds=KINDS, alpha=32, rslora=False, dtype=torch.float32, seed=1):
    """An adapter of all matrices of `kinds`; its product changes logits clearly."""
    g, matrices = torch.Generator().manual_seed(seed), {}
    for name, target in adapter_targets(cfg).items():
        if target.kind not in kinds:
            continue
        stack, r = (target.experts,) if target.experts else (), RANKS[target.kind]
        a = torch.randn(*stack, r, target.in_features, generator=g) / target.in_features**0.5
        b = torch.randn(*stack, target.out_features, r, generator=g) / 200
        scale = scale_of(r, alpha, rslora=rslora)
        matrices[name] = LowRank(a.to(dtype), b.to(dtype), scale)
    return Adapter(matrices)


def edit(folder, tensors=None, **config):
    """Change tensors (None removes one) and the configuration of a folder."""
    path = folder / "adapter_model.safetensors"
    held = load_file(path) | (tensors or {})
    save_file({name: t for name, t in held.items() if t is not None}, path)
    raw = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(raw | config))


def refused(folder, text, cfg=CFG):
    with pytest.raises(CheckpointError) as raised:
        read_adapter(folder, cfg)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)
