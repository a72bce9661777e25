"""Recipes by dotted keys."""

from __future__ import annotations

import dataclasses

from ling.config.kinds import default_of, flat
from ling.config.recipe import DataConfig, PretrainConfig
from ling.config.sft import SFTConfig


def test_sections_become_dotted_keys():
    recipe = PretrainConfig(model="ling-tiny", data=DataConfig(prefix=["x"]))
    keys = flat(dataclasses.asdict(recipe))
    assert keys["model"] == "ling-tiny"
    assert keys["data.prefix"] == ["x"]
    assert keys["train.steps"] == 1000
    assert "train" not in keys


def test_what_a_recipe_means_without_a_key_depends_on_its_kind():
    assert default_of("train.seed") == 42
    assert default_of("train.seed", SFTConfig) == 1234
    assert default_of("lora.targets", SFTConfig) == ["attention", "dense", "shared", "experts"]
    assert default_of("lora.targets") is None
    assert default_of("train.no_such_key", SFTConfig) is None
    assert default_of("model") is None
