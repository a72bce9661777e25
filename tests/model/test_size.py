from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ling.model.ling import from_config
from ling.model.names import tensor_specs
from ling.model.size import (
    flops_per_token,
    kv_bytes_per_token,
    kv_cache_dtypes,
    layer_flops_per_token,
    parameter_counts,
    stored_bytes,
)
from ling.presets import preset

TINY = preset("ling-tiny")
SHAPES = [
    {},
    {"tie_word_embeddings": True},
    {"use_qkv_bias": True, "use_bias": True},
    {"num_shared_experts": 0},
]


def parameters(cfg) -> dict[str, int]:
    """Sizes by name, without a head that is the embedding."""
    sizes = {name: p.numel() for name, p in from_config(cfg, seed=0).named_parameters()}
    return {k: n for k, n in sizes.items() if k != "lm_head.weight" or not cfg.tie_word_embeddings}


@pytest.mark.parametrize("change", SHAPES, ids=str)
def test_counts_are_those_of_the_module(change):
    cfg = TINY.replace(**change)
    sizes = parameters(cfg.replace(num_nextn_predict_layers=0))
    counts = parameter_counts(cfg)
    assert counts["total"] == sum(sizes.values())
    experts = sum(n for name, n in sizes.items() if ".experts." in name)
    idle = experts * (cfg.num_experts - cfg.num_experts_per_tok) // cfg.num_experts
    assert counts["active"] == counts["total"] - idle
    table = cfg.vocab_size * cfg.hidden_size * (1 if cfg.tie_word_embeddings else 2)
    assert counts["active_non_embedding"] == counts["active"] - table
    assert counts["mtp"] == sum(parameters(cfg).values()) - counts["total"]


def test_dense_model_has_all_parameters_active_and_no_mtp_layer():
    counts = parameter_counts(preset("dense-8b"))
    assert counts["active"] == counts["total"]
    assert counts["mtp"] == 0


@pytest.mark.parametrize("change", SHAPES, ids=str)
@pytest.mark.parametrize(("fmt", "width"), [("float32", 4), ("bf16", 2)])
def test_stored_bytes_are_those_of_the_tensors(change, fmt, width):
    cfg = TINY.replace(**change)
    sizes = [math.prod(spec.shape) for spec in tensor_specs(cfg).values() if not spec.float32]
    assert stored_bytes(cfg, fmt) == width * sum(sizes)


def test_smaller_formats_take_about_their_bits():
    cfg = preset("ling-mini-2.0")
    weights = parameter_counts(cfg)["total"] + parameter_counts(cfg)["mtp"]
    for fmt, bits in (("int4", 4.25), ("int8", 8.25), ("fp8", 8)):
        assert 8 * stored_bytes(cfg, fmt) / weights == pytest.approx(bits, rel=0.08)


def test_cache_has_keys_and_values_of_every_layer_in_bf16():
    assert kv_bytes_per_token(TINY) == 3 * 2 * (1 * 32) * 2


def test_smaller_caches_have_a_scale_for_each_head_and_position():
    assert kv_bytes_per_token(TINY, "int8") == 3 * 2 * (32 + 4)
    assert kv_bytes_per_token(TINY, "int4") == 3 * 2 * (16 + 4)


@pytest.mark.parametrize(("head_dim", "has_int4"), [(64, True), (96, False)])
def test_int4_caches_are_of_heads_of_a_power_of_two(head_dim, has_int4):
    assert ("int4" in kv_cache_dtypes(TINY.replace(head_dim=head_dim))) == has_int4


def test_flops_are_three_times_those_of_a_forward_pass():
    """Products counted by torch; attention by formula, and norms as if they were products."""
    cfg = TINY.replace(num_nextn_predict_layers=0, first_k_dense_replace=3)
    model, length = from_config(cfg, seed=0), 32
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        h_TD = model(torch.arange(length), torch.arange(length), lambda layer, q, k, v: q)
        model.logits(h_TD)
    attention = 2 * 2 * cfg.num_hidden_layers * cfg.q_size * length * length
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    forward = counter.get_total_flops() + attention // 2 + 2 * norms * length
    assert flops_per_token(cfg, length) * length == 3 * forward


def test_flops_count_the_experts_of_a_token_and_the_mtp_layer():
    one_expert = 3 * TINY.hidden_size * TINY.moe_intermediate_size
    more = TINY.replace(num_experts_per_tok=3)
    assert flops_per_token(more, 1) - flops_per_token(TINY, 1) == 6 * one_expert * 3
    assert flops_per_token(TINY, 1) > flops_per_token(TINY.replace(num_nextn_predict_layers=0), 1)


@pytest.mark.parametrize("change", SHAPES, ids=str)
def test_flops_of_layers_and_heads_are_those_of_the_model(change):
    cfg = TINY.replace(**change)
    layers = layer_flops_per_token(cfg, 64)
    assert [bool(layer["experts"]) for layer in layers] == [False, True, True, True]
    head = 2 * cfg.vocab_size * cfg.hidden_size * (1 + cfg.num_nextn_predict_layers)
    norm = 2 * cfg.hidden_size
    total = sum(layer["experts"] + layer["rest"] for layer in layers)
    assert 3 * (total + head + norm) == flops_per_token(cfg, 64)
