"""Flags of the commands: made of the fields of the options, and named as flags in errors."""

from __future__ import annotations

import pytest

from ling.cli import options
from ling.cli.generate import generate
from ling.cli.train import pretrain
from ling.config.engine import EngineConfig, SamplingFlags, ServeConfig, flags
from ling.errors import UsageError


@pytest.mark.parametrize("config", [EngineConfig, ServeConfig, SamplingFlags])
def test_flags_are_parsed_to_their_fields(config):
    parser = options.make_parser("generate")
    options.add_flags(parser, flags(config))
    assert options.config_from(parser.parse_args([]), config) == config()
    words = {"int": "3", "float": "0.5", "str": "int8", "list[str]": "*"}
    values = {"int": 3, "float": 0.5, "str": "int8", "list[str]": ["*"]}
    for field in flags(config):
        if field.name in (
            "device", "dtype", "speculative", "max_memory", "kv_cache_memory",
            "cache_dir_size", "log_level", "log_format",
        ):  # fmt: skip
            continue
        kind = field.type.removesuffix(" | None")
        flag = f"--{field.name.replace('_', '-')}"
        parsed = options.config_from(parser.parse_args([flag, words[kind]]), config)
        assert getattr(parsed, field.name) == values[kind]


def test_advice_to_python_callers_becomes_flags():
    with pytest.raises(UsageError) as err, options.naming_flags():
        raise UsageError('`max_memory="6GB"` or `max_model_len=64`, not `other=1` or `format`')
    assert str(err.value) == "`--max-memory 6GB` or `--max-model-len 64`, not `other=1` or `format`"


def test_names_that_stand_alone_are_flags_where_the_command_says_so():
    with pytest.raises(UsageError) as err, options.naming_flags("pairs"):
        raise UsageError("`pairs` is `0`, not `tokens`")
    assert str(err.value) == "`--pairs` is `0`, not `tokens`"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("--data.weights 0.5 abc", "`data.weights`: expected a number, not `abc`"),
        ("--data.epochs nan", "`data.epochs`: expected a number, not `nan`"),
        ("--data.split 9,x", "`data.split`: expected a number, not `x`"),
        ("--train.profile 1.5", "`train.profile`: expected a whole number, not `1.5`"),
        ("--train.threads abc", "`train.threads`: expected a whole number, not `abc`"),
        ("--data.eod_mask_loss 3", "`data.eod_mask_loss`: expected true or false, not `3`"),
    ],
)
def test_a_value_of_another_kind_is_said_in_one_short_line(args, line, tmp_path):
    with pytest.raises(UsageError) as err:
        pretrain(["--model", "x", "--data.prefix", "a", *args.split()])
    assert str(err.value) == f"pretrain: {line}"


def test_a_value_of_another_kind_in_a_recipe_is_said_alike(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("model: x\ndata: {prefix: a, weights: [0.5, abc]}\n")
    with pytest.raises(UsageError) as err:
        pretrain([str(file)])
    assert str(err.value) == "pretrain: `data.weights`: expected a number, not `abc`"
    with pytest.raises(
        UsageError, match=r"^generate: `--threads`: expected a whole number, not `x`$"
    ):
        generate(["x", "--threads", "x"])
