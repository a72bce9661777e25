"""What the C++ core is pointed at: every tensor of a layer, and null where there is none."""

from __future__ import annotations

import ctypes
from functools import partial

import pytest
import torch

from ling.checkpoint.packed.load import PackedAtLoad
from ling.checkpoint.packed.names import packed_specs
from ling.infer.native_weights import NativeWeights
from ling.model.ling import from_config
from ling.model.names import module_tensor
from ling.ops.formats import FORMATS, INT8, TILE
from ling.presets import preset

TINY = preset("ling-tiny")
NORMS = {
    "input_norm": "input_layernorm.weight",
    "post_norm": "post_attention_layernorm.weight",
    "q_norm": "attention.query_layernorm.weight",
    "k_norm": "attention.key_layernorm.weight",
}
MATRICES = {
    "qkv": "attention.query_key_value",
    "dense": "attention.dense",
    "expert_gate_up": "mlp.experts.gate_up_proj",
    "expert_down": "mlp.experts.down_proj",
    "eh_proj": "eh_proj",
}


def made(cfg, fmt="int8"):
    """Weights that all differ, and the function that gives them by name."""
    model = from_config(cfg, seed=0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.normal_()
    tensor = partial(module_tensor, model.state_dict())
    weights = PackedAtLoad(cfg, FORMATS[fmt], tensor)
    return NativeWeights(weights, map_in=False), weights, tensor


def floats(address, count):
    return torch.tensor((ctypes.c_float * count).from_address(address)[:])


def test_norms_and_biases_are_float32_in_memory():
    cfg = TINY.replace(use_qkv_bias=True, use_bias=True)
    native_weights, _, tensor = made(cfg)
    biases = {"qkv_bias": "attention.query_key_value.bias", "dense_bias": "attention.dense.bias"}
    for n, layer in enumerate(native_weights.layers):
        for field, name in (NORMS | biases).items():
            want = tensor(f"model.layers.{n}.{name}")
            assert torch.equal(floats(getattr(layer, field), len(want)), want), (n, field)
    norm = tensor("model.norm.weight")
    assert torch.equal(floats(native_weights.norm, len(norm)), norm)


@pytest.mark.parametrize("fmt", ["int4", "int8", "bf16", "fp8"])
def test_matrices_are_the_packed_ones(fmt):
    native_weights, weights, _ = made(TINY, fmt)
    specs = packed_specs(TINY)
    for n, layer in enumerate(native_weights.layers):
        moe = TINY.is_moe_layer(n)
        dense = "mlp.shared_experts." if moe else "mlp."
        names = {**MATRICES, "gate_up": f"{dense}gate_up_proj", "down": f"{dense}down_proj"}
        for field, name in names.items():
            got, spec = getattr(layer, field), specs.get(f"model.layers.{n}.{name}")
            if spec is None:
                assert not got.data
                continue
            want = weights.matrix(spec)
            assert (got.format, got.group) == (want.format.kernel, want.format.group)
            assert (got.rows, got.cols) == (spec.rows, spec.cols)
            stored = (ctypes.c_uint8 * want.data.numel()).from_address(got.data)[:]
            assert stored == want.data.flatten().tolist(), (n, field)
            assert bool(got.scales) == (want.scales is not None)


def test_the_head_may_have_more_bits_than_the_rest():
    assert made(TINY, "int4")[0].head_bits == FORMATS["int4"].bits
    assert made(TINY, "int4_g32")[0].head_bits == INT8.bits
    native_weights, weights, _ = made(TINY, "bf16")
    assert native_weights.embedding_scales is None
    assert torch.equal(native_weights.embedding, weights.embedding()[0])


def test_a_layer_has_what_its_kind_has():
    native_weights, _, tensor = made(TINY)
    dense, *_, mtp = native_weights.layers
    assert [layer.is_moe for layer in native_weights.layers] == [0, 1, 1, 1]
    assert (dense.router, dense.expert_bias) == (None, None)
    for layer in native_weights.layers[:-1]:
        assert (layer.enorm, layer.hnorm, layer.final_norm) == (None, None, None)
    for field, name in (("enorm", "enorm"), ("hnorm", "hnorm"), ("final_norm", "final_layernorm")):
        want = tensor(f"model.layers.3.{name}.weight")
        assert torch.equal(floats(getattr(mtp, field), len(want)), want)
    plain = made(TINY.replace(use_qk_norm=False))[0].layers[0]
    assert (plain.q_norm, plain.k_norm, plain.qkv_bias, plain.dense_bias) == (None,) * 4


@pytest.mark.parametrize("experts", [8, 20])
def test_the_router_is_in_tiles_of_experts_with_columns_outermost(experts):
    cfg = TINY.replace(num_experts=experts, n_group=4, topk_group=2)
    native_weights, _, tensor = made(cfg)
    w = tensor("model.layers.1.mlp.gate.weight").bfloat16()
    layer, tiles = native_weights.layers[1], -(-experts // TILE)
    raw = (ctypes.c_int16 * (tiles * TILE * cfg.hidden_size)).from_address(layer.router)
    stored = torch.tensor(raw[:], dtype=torch.int16).view(torch.bfloat16)
    stored = stored.view(tiles, cfg.hidden_size, TILE)
    for e in range(tiles * TILE):
        column = stored[e // TILE, :, e % TILE]
        assert torch.equal(column, w[e] if e < experts else torch.zeros_like(column))
    want = tensor("model.layers.1.mlp.gate.expert_bias")
    assert torch.equal(floats(layer.expert_bias, experts), want)
