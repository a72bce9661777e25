"""What engines read from the configuration class; needs transformers."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

from transformers import AutoConfig

from ling.plugins import hf_config
from ling.plugins.sglang_config import SGLangConfig


@pytest.fixture
def raw(fixtures):
    hf_config.register()
    return json.loads((fixtures / "model" / "tiny_bf16" / "config.json").read_text())


def write(folder, raw):
    (folder / "config.json").write_text(json.dumps(raw))
    return AutoConfig.from_pretrained(folder)


def test_rotary_channels_mean_the_same_to_every_reader(raw, tmp_path):
    """Ling-1T has `rotary_dim` and no fraction: SGLang reads the fraction, vLLM the channels."""
    del raw["partial_rotary_factor"]
    config = write(tmp_path, {**raw, "head_dim": 16, "rotary_dim": 8})
    assert config.partial_rotary_factor == 0.5
    assert config.rotary_dim == 8


def test_fields_that_engines_default_differently_are_filled(raw, tmp_path):
    for name in ("use_rmsnorm", "score_function", "router_dtype", "norm_topk_prob", "n_group"):
        raw.pop(name, None)
    config = write(tmp_path, raw)
    assert (config.use_rmsnorm, config.norm_topk_prob) == (True, True)
    assert (config.score_function, config.router_dtype) == ("sigmoid", "fp32")


def test_no_groups_are_one_group(raw, tmp_path):
    config = write(tmp_path, {**raw, "n_group": 0, "topk_group": 0})
    assert (config.n_group, config.topk_group) == (1, 1)


def test_ling_1_keeps_its_own_fields(tmp_path):
    raw = {
        "architectures": ["BailingMoeForCausalLM"],
        "model_type": "bailing_moe",
        "hidden_size": 64,
        "num_experts": 4,
    }
    config = write(tmp_path, raw)
    assert config.hidden_size == 64
    assert config.head_dim is None
    for name in ("use_qk_norm", "n_group", "moe_router_enable_expert_bias"):
        assert not hasattr(config, name)


def test_sglang_leaves_the_bf16_matrix_of_an_fp8_mtp_layer_alone(raw):
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    config = SGLangConfig(**{**raw, "quantization_config": fp8})
    layer = raw["num_hidden_layers"]
    names = config.quantization_config["modules_to_not_convert"]
    assert names == [f"model.layers.{layer}.eh_proj"]
    own = {**fp8, "modules_to_not_convert": ["lm_head"]}
    config = SGLangConfig(**{**raw, "quantization_config": own})
    assert config.quantization_config == own
