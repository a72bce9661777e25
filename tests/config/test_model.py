from __future__ import annotations

import json

import pytest

from ling.checkpoint.hf.config import read_config
from ling.config.model import ModelConfig
from ling.errors import CheckpointError, ConfigError
from ling.model.names import tensor_specs
from ling.model.size import describe
from ling.ops.formats import FORMATS, by_size
from ling.presets import PRESETS, preset

# As on the model cards (docs/concepts/model.md#parameter-counts).
COUNTS = {
    "ling-mini-2.0": (16_255_638_528, 1_432_968_192, 789_142_528, 827_861_248),
    "ling-flash-2.0": (102_889_697_280, 6_152_269_824, 4_864_618_496, 3_306_180_864),
    "ling-1t": (999_705_309_184, 51_054_407_680, 48_479_105_024, 13_222_584_576),
}


@pytest.mark.parametrize("name", COUNTS)
def test_released_parameter_counts_to_the_parameter(name):
    assert tuple(describe(preset(name))["parameters"].values()) == COUNTS[name]


def test_mini_kv_cache_bytes():
    assert describe(preset("ling-mini-2.0"))["kv_bytes_per_token"] == 40_960


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_its_own_json(name):
    cfg = preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_size": -1}, "hidden_size"),
        ({"hidden_size": 2**40}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 2.5}, "hidden_size"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"n_group": 7}, "n_group"),
        ({"topk_group": 9}, "topk_group"),
        ({"num_experts_per_tok": 129}, "num_experts_per_tok"),
        ({"num_experts": 1 << 20, "n_group": 1, "topk_group": 1}, "limit"),
        ({"num_hidden_layers": 1 << 20}, "limit"),
        ({"head_dim": 127}, "head_dim"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"score_function": "softmax"}, "score_function"),
        ({"rope_scaling": {"type": "magic"}}, "rope_scaling"),
        ({"architectures": ["BailingMoeForCausalLM"]}, "architectures"),
        ({"model_type": "llama"}, "model_type"),
        ({"torch_dtype": "int3"}, "dtype"),
    ],
)
def test_impossible_config_is_refused_by_field(change, word):
    with pytest.raises(ConfigError, match=word):
        ModelConfig.from_dict({**preset("ling-mini-2.0").to_dict(), **change})


def test_config_tolerances_of_real_checkpoints():
    raw = preset("ling-mini-2.0").to_dict()
    del raw["moe_shared_expert_intermediate_size"], raw["partial_rotary_factor"]
    raw.update(n_group=0, topk_group=0, rotary_dim=64, model_type="bailing_moe_v2")
    cfg = ModelConfig.from_dict(raw)
    assert (cfg.n_group, cfg.rotary_size, cfg.moe_shared_expert_intermediate_size) == (1, 64, 512)


def test_not_a_model_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config.json"):
        read_config(tmp_path)
    with pytest.raises(CheckpointError, match="no such model folder"):
        read_config(tmp_path / "nowhere")


def test_yarn_stretches_the_context_by_its_factor():
    cfg = preset("ling-tiny")
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert cfg.context_length == 512
    assert cfg.replace(rope_scaling=yarn).context_length == 2048
    assert cfg.replace(rope_scaling={"rope_type": "yarn", "factor": 2}).context_length == 1024
    assert cfg.replace(rope_scaling=yarn, max_position_embeddings=4096).context_length == 4096
    assert cfg.replace(rope_scaling={"rope_type": "default", "factor": 2}).context_length == 512
    with pytest.raises(ConfigError, match="factor"):
        cfg.replace(rope_scaling={"type": "yarn", "factor": None})


def test_inspect_counts_the_bytes_of_every_format():
    cfg = preset("ling-tiny")
    for tied in (False, True):
        sizes = describe(cfg.replace(tie_word_embeddings=tied))["bytes"]
        assert list(sizes) == ["float32", *(f.name for f in reversed(by_size()))]
        floats = sizes["float32"] / 4
        for fmt in FORMATS.values():
            assert fmt.stored_bytes * 0.9 < sizes[fmt.name] / floats < 2 * fmt.stored_bytes + 0.5


@pytest.mark.parametrize(
    "name", ["rope_theta", "rms_norm_eps", "hidden_size", "num_experts", "num_key_value_heads"]
)
def test_a_null_that_would_become_a_default_is_an_error(name):
    raw = {**preset("ling-mini-2.0").to_dict(), name: None}
    with pytest.raises(ConfigError, match=f"`{name}` is null"):
        ModelConfig.from_dict(raw)


def test_null_means_what_its_readers_mean():
    raw = preset("ling-mini-2.0").to_dict()
    raw |= dict.fromkeys(
        ("head_dim", "rotary_dim", "moe_shared_expert_intermediate_size", "rope_scaling")
    )
    raw |= dict.fromkeys(("n_group", "topk_group", "pad_token_id", "router_dtype"))
    cfg = ModelConfig.from_dict(raw)
    assert (cfg.n_group, cfg.topk_group, cfg.head_dim) == (1, 1, 128)
    assert cfg.shared_expert_width == 512
    new = {"rope_theta": 5e5, "rope_type": "default"}
    theta = ModelConfig.from_dict({**raw, "rope_theta": None, "rope_parameters": new}).rope_theta
    assert theta == 5e5


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"num_shared_experts": 2, "moe_shared_expert_intermediate_size": 0}, 1024),
        ({"num_shared_experts": 2, "moe_shared_expert_intermediate_size": 768}, 1536),
        ({"num_shared_experts": 1, "moe_shared_expert_intermediate_size": 768}, 768),
        ({"num_shared_experts": 0, "moe_shared_expert_intermediate_size": 0}, 0),
    ],
)
def test_shared_experts_are_as_wide_as_upstream_and_vllm_make_them(changes, width):
    cfg = preset("ling-mini-2.0").replace(**changes)
    assert cfg.shared_expert_width == width
    specs = tensor_specs(cfg)
    name = "model.layers.1.mlp.shared_experts.gate_proj.weight"
    assert (specs[name].shape[0] if width else name not in specs) == (width or True)


@pytest.mark.parametrize(("channels", "head"), [(64, 128), (18, 96), (10, 96), (58, 116)])
def test_rotary_channels_are_exported_as_the_matching_fraction_too(channels, head):
    cfg = preset("ling-mini-2.0").replace(rotary_dim=channels, head_dim=head)
    raw = cfg.to_dict()
    assert raw["rotary_dim"] == channels
    assert int(head * raw["partial_rotary_factor"]) == channels
    assert ModelConfig.from_dict(raw) == cfg
    del raw["rotary_dim"]
    assert ModelConfig.from_dict(raw).rotary_size == channels


@pytest.mark.parametrize(
    ("listed", "eos", "written"),
    [
        (7, 7, 7),
        ([7], 7, 7),
        ([7, 9, 7], 7, [7, 9]),
        ([400_000, 9], 9, [400_000, 9]),
        ([-1, 9], 9, [-1, 9]),
        ([], 156892, 156892),
        (None, 156892, 156892),
        (-1, 156892, 156892),
    ],
)
def test_a_list_of_ends_is_kept(listed, eos, written):
    cfg = ModelConfig.from_dict({"eos_token_id": listed, "pad_token_id": -1})
    assert (cfg.eos_token_id, cfg.to_dict()["eos_token_id"]) == (eos, written)
    assert ModelConfig.from_dict(cfg.to_dict()) == cfg
    other = cfg.replace(eos_token_id=5)
    assert other.end_token_ids == (5,)
    assert cfg.replace(num_hidden_layers=2).end_token_ids == cfg.end_token_ids


@pytest.mark.parametrize("bad", [["x"], [True], [1.0], [[1]], "1", 1.5])
def test_ends_are_whole_numbers(bad):
    with pytest.raises(ConfigError, match=r"`eos_token_id` is .*, expected"):
        ModelConfig.from_dict({"eos_token_id": bad})
