"""The rule that makes the device's modules, and where a checkpoint's tensors go."""

from __future__ import annotations

import torch
from on_device import CFG, model

from ling.infer.device.modules import (
    DeviceExperts,
    FP8Experts,
    FP8Linear,
    device_modules,
    stored_tensors,
)
from ling.model.ling import Ling
from ling.model.moe import Router
from ling.model.names import in_module, tensor_specs
from ling.model.swap import swap


def test_every_tensor_of_a_checkpoint_has_its_place():
    made = model(torch.bfloat16)
    before = {name: t.clone() for name, t in made.state_dict().items()}
    swap(made, device_modules())
    places = stored_tensors(made)
    for name, spec in tensor_specs(CFG).items():
        key, expert = in_module(name)
        values, want = places[key].values, before[key]
        assert torch.equal(values, want)
        assert (values if expert is None else values[expert]).shape == spec.shape
    kinds = {type(m) for m in made.modules()}
    assert DeviceExperts in kinds
    assert not {FP8Experts, FP8Linear} & kinds
    routers = [m for m in made.modules() if isinstance(m, Router)]
    assert {m.weight.dtype for m in routers} == {torch.float32}


def test_fp8_where_the_checkpoint_has_it_and_stacks_are_whole_blocks():
    cfg = CFG.replace(moe_intermediate_size=128)
    for shape, kind in ((cfg, FP8Experts), (CFG, DeviceExperts)):
        with torch.device("meta"):
            made = swap(Ling(shape), device_modules(lambda name: name != "lm_head"))
        assert isinstance(made.model.layers[1].mlp.experts, kind)
        assert isinstance(made.model.layers[1].attention.dense, FP8Linear)
        assert not isinstance(made.lm_head, FP8Linear)
    places = stored_tensors(swap(Ling(cfg).to("meta"), device_modules(lambda name: True)))
    up = places["model.layers.1.mlp.experts.up_proj"]
    assert up.values.shape == (cfg.num_experts, 128, cfg.hidden_size)
    assert up.scales.shape == (cfg.num_experts, 1, -(-cfg.hidden_size // 128))
