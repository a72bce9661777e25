"""What an adapter's configuration may say."""

from __future__ import annotations

import pytest
from adapters import CFG, adapter_of, edit, refused

from ling.checkpoint.adapter.config import read_adapter_config
from ling.checkpoint.adapter.write import write_adapter


@pytest.fixture
def folder(tmp_path):
    write_adapter(tmp_path, adapter_of(), CFG, alpha=32, base="the/base")
    return tmp_path


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"trainable_token_indices": [1]}, "token embeddings"),
        ({"peft_type": "IA3"}, '`"IA3"`'),
        ({"use_qalora": True}, "`use_qalora`"),
        ({"velora_config": {"a": 1}}, "`velora_config`"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"r": 0}, "`r`"),
        ({"r": True}, "`r`"),
        ({"lora_alpha": float("inf")}, "`lora_alpha`"),
        ({"lora_alpha": 10**400}, "`lora_alpha`"),
        ({"lora_alpha": 1e300}, "`lora_alpha`"),
        ({"use_rslora": "false"}, "`use_rslora`"),
        ({"rank_pattern": {"(.|.|.)" * 20 + "x": 4}}, "write the modules' names"),
        ({"rank_pattern": {"(a)?(a|a)?" * 9 + "x": 4}}, "write the modules' names"),
        ({"rank_pattern": {"(" * 5000 + "a" + ")" * 5000: 4}}, "no regular expression"),
        ({"rank_pattern": {"(a*)*b": 4}}, "write the modules' names"),
        ({"rank_pattern": {"(a": 4}}, "no regular expression"),
        ({"rank_pattern": [1]}, "`rank_pattern`"),
        ({"target_parameters": [1]}, "`target_parameters`"),
    ],
)
def test_what_is_not_lora_of_matrices_is_refused_by_name(folder, config, text):
    edit(folder, **config)
    refused(folder, text)


def test_patterns_are_those_of_peft(folder):
    edit(folder, rank_pattern={"a.b": 2, r"c\.(d|e)": 3, "b": 5}, alpha_pattern={"x.a.b": 4})
    config = read_adapter_config(folder)
    assert config.base == "the/base"
    assert config.of("x.a.b") == (2, 2.0)
    assert config.of("y.a.b") == (2, 16.0)
    assert config.of("c.e") == (3, 32 / 3)
    assert config.of("xa.b") == (5, 32 / 5)  # a name matches from a point on
    assert config.of("abc") == (2, 16.0)
