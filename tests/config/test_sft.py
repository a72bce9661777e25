"""The recipe of `ling sft`: what its values may be, what they are by default, how it prints."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from ling.config.kinds import flat
from ling.config.recipe import CheckpointConfig, recipe_yaml
from ling.config.recipe_file import packaged_recipes, read_recipe
from ling.config.sft import (
    TARGETS,
    ChatDataConfig,
    DPOConfig,
    LoRAConfig,
    SFTConfig,
    SFTOptimConfig,
    SFTTrainConfig,
)
from ling.errors import UsageError
from ling.model.adapter import KINDS


def data(**fields):
    return ChatDataConfig(**{"files": ["a"], **fields})


def recipe(**fields):
    return SFTConfig(**{"model": "m", "data": data(), **fields})


@pytest.mark.parametrize(
    ("section", "fields", "word"),
    [
        (data, {"files": []}, "`data.files` is empty"),
        (data, {"seq_length": 1}, "`data.seq_length` is 1, expected a number of at least 2"),
        (data, {"valid_share": 1.0}, "`data.valid_share` is 1.0, expected 0 up to below 1"),
        (data, {"valid_share": float("nan")}, "`data.valid_share` is nan"),
        (data, {"valid_share": 0.1, "valid_files": ["v"]}, "`data.valid_share`, not both"),
        (data, {"max_samples": 0}, "`data.max_samples` is 0"),
        (data, {"weights": [1, 2]}, r"one value for each of `data.files` .1., not 2"),
        (data, {"weights": [0.0]}, "`data.weights` must be above 0"),
        (SFTTrainConfig, {"epochs": 0}, "`train.epochs` is 0"),
        (SFTTrainConfig, {"epochs": float("inf")}, "`train.epochs` is inf"),
        (SFTTrainConfig, {"early_stop": -1}, "`train.early_stop` is -1"),
        (SFTTrainConfig, {"early_stop": 1}, "set `train.eval_interval_steps`"),
        (SFTTrainConfig, {"show_samples": -1}, "`train.show_samples` is -1"),
        (SFTTrainConfig, {"show_tokens": 0}, "`train.show_tokens` is 0"),
        (SFTTrainConfig, {"steps": -1}, "`train.steps` is -1"),
        (LoRAConfig, {"targets": ["expert"]}, "`expert` .did you mean `experts`"),
        (LoRAConfig, {"targets": []}, "`lora.targets` is empty"),
        (LoRAConfig, {"alpha": 0}, "`lora.alpha` is 0"),
        (LoRAConfig, {"rank": 0}, "`lora.rank` is 0"),
        (LoRAConfig, {"dropout": 1.0}, "`lora.dropout` is 1.0"),
        (DPOConfig, {"beta": 0}, "`dpo.beta` is 0"),
        (DPOConfig, {"label_smoothing": 0.5}, "`dpo.label_smoothing` is 0.5"),
        (DPOConfig, {"sft_weight": -1}, "`dpo.sft_weight` is -1"),
        (
            recipe,
            {"method": "lora", "train": SFTTrainConfig(train_router=True)},
            "`train.train_router` needs `method: full`",
        ),
        (
            recipe,
            {"train": SFTTrainConfig(early_stop=2, eval_interval_steps=5)},
            "set `data.valid_share` or `data.valid_files`",
        ),
        (
            recipe,
            {"train": SFTTrainConfig(steps=3, profile=[4])},
            "`train.profile` is 4, above `train.steps` = 3",
        ),
    ],
)
def test_what_a_recipe_may_not_say(section, fields, word):
    with pytest.raises(UsageError, match=word):
        section(**fields)


@pytest.mark.parametrize(
    ("fields", "lr"),
    [
        ({}, 1e-6),
        ({"objective": "dpo"}, 1e-6),
        ({"method": "lora"}, 1e-4),
        ({"method": "qlora"}, 1e-4),
        ({"method": "lora", "objective": "dpo"}, 1e-5),
        ({"method": "lora", "optim": SFTOptimConfig(lr=3e-4)}, 3e-4),
    ],
)
def test_the_rate_depends_on_what_is_trained(fields, lr):
    assert recipe(**fields).optim.lr == lr


def test_the_released_settings_are_the_default():
    made = recipe()
    assert made.optim.schedule == "constant"
    assert (made.optim.warmup_steps, made.optim.weight_decay, made.optim.beta2) == (0, 0.1, 0.95)
    assert (made.train.seed, made.train.grad_clip, made.train.global_batch_size) == (1234, 1.0, 8)
    assert (made.train.bias_update_rate, made.train.mtp_loss_weight) == (0, 0)


def test_kinds_of_adapters_are_those_of_the_model():
    assert TARGETS == KINDS


def test_steps_of_a_recipe_in_epochs_are_known_later():
    made = recipe(train=SFTTrainConfig(epochs=2, profile=[5]))
    assert dataclasses.replace(made.train, steps=7).steps == 7
    assert made.train.steps == 0


@pytest.mark.parametrize("name", packaged_recipes("sft"))
def test_a_packaged_recipe_reads_and_prints_as_it_is(name, tmp_path):
    tree = read_recipe(packaged_recipes("sft")[name], SFTConfig)
    kinds = {f.name: f.default_factory for f in dataclasses.fields(SFTConfig)}
    made = {**tree, "data": ChatDataConfig(**{"files": ["a"], **tree["data"]})}
    for key in ("train", "optim", "lora", "dpo"):
        if key in tree:
            made[key] = kinds[key](**tree[key])
    made["checkpoint"] = CheckpointConfig(**tree.get("checkpoint", {}))
    made.pop("parallel", None)
    printed = recipe_yaml(SFTConfig(**made))
    (tmp_path / "again.yaml").write_text(printed)
    assert read_recipe(tmp_path / "again.yaml", SFTConfig) == yaml.safe_load(printed)


PUBLISHED = {
    # What the original's model file and launcher come to, the later argument winning.
    "data.seq_length": 8192,
    "train.global_batch_size": 8,
    "train.micro_batch_size": 1,
    "optim.lr": 1e-6,
    "optim.schedule": "constant",
    "optim.warmup_steps": 0,
    "optim.beta1": 0.9,
    "optim.beta2": 0.95,
    "optim.weight_decay": 0.1,
    "optim.name": "adamw",
    "train.grad_clip": 1.0,
    "train.dtype": "bfloat16",
    "train.fp8": "off",
    "train.seed": 1234,
    "parallel.ep": 8,
    "parallel.recompute": "full",
    "train.bias_update_rate": 0.0,
    "train.bias_zero_mean": False,
    "train.z_loss_coef": 3.5e-6,
    "train.mtp_loss_weight": 0.0,
    "model_overrides.rope_theta": 600000.0,
    "model_overrides.initializer_range": 0.006,
    "model_overrides.max_position_embeddings": 8192,
    # Of all weights: only the bias is frozen there.
    "train.train_router": True,
    "data.template": "megatron",
    "data.packing": "megatron",
}


def test_the_published_recipe_is_the_original_field_by_field():
    tree = read_recipe(packaged_recipes("sft")["ling-mini-sft-megatron"], SFTConfig)
    found = flat(tree)
    assert {key: found[key] for key in PUBLISHED} == PUBLISHED
    assert found["train.steps"] * found["train.global_batch_size"] == 664
