"""The recipe: what a file may say, what its values may be, and that it prints as it is read."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from ling.config.optim import OptimConfig
from ling.config.parallel import ParallelConfig
from ling.config.recipe import (
    CheckpointConfig,
    DataConfig,
    PretrainConfig,
    TrainConfig,
    recipe_yaml,
)
from ling.config.recipe_file import read_recipe
from ling.errors import UsageError


def data(**fields):
    return DataConfig(**{"corpus": "stdlib", **fields})


@pytest.mark.parametrize(
    ("section", "fields", "word"),
    [
        (data, {"seq_length": 1}, "`data.seq_length` is 1, expected a number of at least 2"),
        (data, {"vocab_size": 0}, "`data.vocab_size` is 0"),
        (data, {"corpus_bytes": 0}, "`data.corpus_bytes` is 0"),
        (data, {"prefix": ["a"]}, "not both and not neither"),
        (data, {"corpus": None}, "not both and not neither"),
        (
            data,
            {"corpus": None, "prefix": ["a"], "weights": [1, 2]},
            r"needs one value for each `data.prefix` .1., not 2",
        ),
        (data, {"corpus": None, "prefix": ["a"], "weights": [0.0]}, "must be above 0"),
        (data, {"corpus": None, "prefix": ["a"], "weights": [float("nan")]}, "must be above 0"),
        (TrainConfig, {"steps": 0}, "`train.steps` is 0, expected a number of at least 1"),
        (TrainConfig, {"micro_batch_size": 0}, "`train.micro_batch_size` is 0"),
        (TrainConfig, {"eval_rows": 0}, "`train.eval_rows` is 0"),
        (TrainConfig, {"eval_interval_steps": -1}, "`train.eval_interval_steps` is -1"),
        (TrainConfig, {"group_timeout_s": 0}, "`train.group_timeout_s` is 0"),
        (ParallelConfig, {"dp_shard": 0}, "`parallel.dp_shard` is 0"),
        (ParallelConfig, {"pp_stages_per_rank": 2}, "= 2 needs .*; set `parallel.pp` above 1"),
        (
            PretrainConfig,
            {"model": "x", "data": data(seq_length=30), "parallel": ParallelConfig(cp=2)},
            "`data.seq_length` = 30 is not a multiple of 2 × `parallel.cp` = 4; set it to 32",
        ),
        (ParallelConfig, {"dp_shard": 4, "ep": 3}, "set `parallel.ep` to a divisor of 4"),
        (TrainConfig, {"max_nonfinite": 0}, "`train.max_nonfinite` is 0"),
        (TrainConfig, {"log_interval_steps": 0}, "`train.log_interval_steps` is 0"),
        (TrainConfig, {"profile": [0]}, "`train.profile` is 0"),
        (
            PretrainConfig,
            {"model": "x", "data": data(), "train": TrainConfig(steps=9, profile=[9, 10])},
            "`train.profile` is 10, above `train.steps` = 9",
        ),
        (TrainConfig, {"loggers": ["wanbd"]}, "`wanbd` .did you mean `wandb`"),
        (TrainConfig, {"threads": 0}, "`train.threads` is 0"),
        (TrainConfig, {"grad_clip": -1.0}, "`train.grad_clip` is -1"),
        (TrainConfig, {"z_loss_coef": float("inf")}, "`train.z_loss_coef` is inf"),
        (
            TrainConfig,
            {"global_batch_size": 6, "micro_batch_size": 4},
            "`train.global_batch_size` = 6 is not a multiple of `train.micro_batch_size` = 4",
        ),
        (
            TrainConfig,
            {"rampup_batch_size": [6, 2, 100], "global_batch_size": 8},
            r"a batch of `train.rampup_batch_size` .from step 1. = 6 is not a multiple",
        ),
        (TrainConfig, {"rampup_batch_size": [4, 4]}, "expected three whole numbers"),
        (TrainConfig, {"bias_update_hold_steps": -1}, "`train.bias_update_hold_steps` is -1"),
        (TrainConfig, {"bias_update_rate_end": -1}, "`train.bias_update_rate_end` is -1"),
        (data, {"weights": [1]}, "`data.weights` needs `data.prefix`"),
        (data, {"split": [9, 1]}, "`data.split` divides `data.prefix`"),
        (data, {"corpus": None, "prefix": ["a"], "split": [1]}, "two or three shares"),
        (data, {"corpus": None, "prefix": ["a"], "split": [0, 1]}, "nothing is left to train on"),
        (
            data,
            {"corpus": None, "prefix": ["a"], "split": [9, 1], "valid_prefix": ["b"]},
            "have their own held-out part",
        ),
        (OptimConfig, {"schedule": "wsd"}, "give both or neither"),
        (OptimConfig, {"decay_steps": 5}, "give both or neither"),
        (OptimConfig, {"warmup_steps": 5, "warmup_samples": 5}, "not both"),
        (OptimConfig, {"warmup_samples": 0}, "`optim.warmup_samples` is 0"),
        (OptimConfig, {"lr": float("nan")}, "`optim.lr` is nan"),
        (OptimConfig, {"warmup_steps": -1}, "`optim.warmup_steps` is -1"),
        (OptimConfig, {"beta1": 1.0}, "lie in"),
        (OptimConfig, {"beta2": -0.1}, "lie in"),
        (OptimConfig, {"eps": 0.0}, "lie in"),
        (CheckpointConfig, {"interval_steps": 0}, "`checkpoint.interval_steps` is 0"),
        (CheckpointConfig, {"keep_last": -1}, "`checkpoint.keep_last` is -1"),
    ],
)
def test_a_value_out_of_range_is_named_as_in_the_file(section, fields, word):
    with pytest.raises(UsageError, match=word):
        section(**fields)


def test_limits_themselves_are_allowed():
    data(seq_length=2, vocab_size=1, corpus_bytes=1)
    DataConfig(prefix=["a", "b"], weights=[1e-9, 5.0])
    TrainConfig(grad_clip=0, mtp_loss_weight=0, bias_update_rate=0, eval_interval_steps=0)
    OptimConfig(lr=0, beta1=0, beta2=0, eps=1e-30)
    CheckpointConfig(keep_last=0)


def test_a_decay_must_fit_into_its_run():
    wsd = OptimConfig(schedule="wsd", decay_steps=11)
    with pytest.raises(UsageError, match=r"`optim.decay_steps` = 11 is more than the 10 steps"):
        PretrainConfig(model="x", data=data(), train=TrainConfig(steps=10), optim=wsd)
    PretrainConfig(model="x", data=data(), train=TrainConfig(steps=11), optim=wsd)


def test_the_printed_recipe_has_every_key_and_is_accepted(tmp_path):
    recipe = PretrainConfig(
        model="ling-tiny",
        model_overrides={"num_hidden_layers": 2},
        data=data(corpus_bytes=1000),
        optim=OptimConfig(lr=1e-3),
    )
    text = recipe_yaml(recipe)
    (tmp_path / "recipe.yaml").write_text(text)
    read_recipe(tmp_path / "recipe.yaml")
    assert yaml.safe_load(text) == dataclasses.asdict(recipe)
    assert list(yaml.safe_load(text)) == [f.name for f in dataclasses.fields(PretrainConfig)]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"model: ling-tiny\ntrain: [1", r"recipe\.yaml:2: not YAML"),
        (b"model: ling-tiny\ntrain: 3\n", r"`train` is `3`, expected keys such as `steps:`"),
        (b"model: ling-tiny\ntrain: {stpes: 3}\n", r"no key `train\.stpes` \(did you mean `steps`"),
        (b"modle: ling-tiny\n", r"no key `modle` \(did you mean `model`"),
        (b"3: x\n", "no key `3`"),
        (b"- model\n", "expected keys such as `model:`"),
        (b"\xff\xfe", r"recipe\.yaml: not a text file"),
        (b"[" * 50_000, "not YAML"),
        (b"", "expected keys such as `model:`"),
    ],
    ids=["cut", "scalar", "key", "top key", "number", "list", "bytes", "depth", "empty"],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_line_or_key(tmp_path, text, word):
    (tmp_path / "recipe.yaml").write_bytes(text)
    with pytest.raises(UsageError, match=word):
        read_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(UsageError, match="nowhere: not a text file"):
        read_recipe(tmp_path / "nowhere")


def test_overrides_of_the_model_may_have_any_key(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: a\nmodel_overrides: {whatever: {deep: 1}}\n")
    read = read_recipe(tmp_path / "recipe.yaml")
    assert read["model_overrides"] == {"whatever": {"deep": 1}}
