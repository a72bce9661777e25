from __future__ import annotations

import pytest

from ling.config.model import ModelConfig
from ling.errors import UsageError
from ling.presets import PRESETS, preset


def test_mini_is_the_default_shape_with_what_the_family_shares():
    mini = preset("ling-mini-2.0")
    assert mini == ModelConfig(
        routed_scaling_factor=2.5,
        partial_rotary_factor=0.5,
        mtp_loss_scaling_factor=0.1,
        num_nextn_predict_layers=1,
    )
    assert (mini.hidden_size, mini.num_hidden_layers, mini.num_experts) == (2048, 20, 256)
    assert (mini.num_experts_per_tok, mini.n_group, mini.topk_group) == (8, 8, 4)


@pytest.mark.parametrize("name", PRESETS)
def test_special_ids_are_in_the_vocabulary(name):
    cfg = preset(name)
    assert max(cfg.pad_token_id, cfg.eos_token_id, cfg.bos_token_id) < cfg.vocab_size
    assert cfg.rotary_size == cfg.head_dim // 2


def test_tiny_has_every_feature_of_the_family():
    cfg = preset("ling-tiny")
    kinds = [cfg.is_moe_layer(n) for n in range(cfg.num_hidden_layers)]
    assert kinds == [False, True, True]
    assert cfg.num_nextn_predict_layers == cfg.num_shared_experts == 1
    assert cfg.num_attention_heads > cfg.num_key_value_heads


def test_unknown_name_is_told_the_nearest():
    with pytest.raises(UsageError, match=r"no preset `ling-mini` \(did you mean `ling-mini-2\.0`"):
        preset("ling-mini")
