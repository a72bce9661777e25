"""Recipes on the command line: files in place of names, one value or several for a list."""

from __future__ import annotations

import json

import pytest

from ling.cli.recipe_args import build_recipe, recipe_parser, with_recipe
from ling.config.recipe import PretrainConfig
from ling.config.sft import SFTConfig


@pytest.mark.parametrize(
    ("args", "want"),
    [
        ("--data.files a b", ["--data.files", '["a", "b"]']),
        ("--data.files 7", ["--data.files", '["7"]']),
        ("--data.files=a --train.steps 3", ["--data.files", '["a"]', "--train.steps", "3"]),
        ("--data.weights 1 2 --out x", ["--data.weights", "[1, 2]", "--out", "x"]),
        ("--lora.targets [experts]", ["--lora.targets", "[experts]"]),
        ("--parallel auto", ["--parallel.auto", "true"]),
    ],
)
def test_single_values_are_lists(args, want):
    assert with_recipe(args.split(), SFTConfig) == (want, None)


def test_a_recipe_is_read_where_it_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: m\ndata: {files: a}\n")
    args, path = with_recipe([str(file), "--method", "lora"], SFTConfig)
    assert path == file
    assert args[0] == "--config"
    assert json.loads(args[1]) == {"model": "m", "data": {"files": ["a"]}}
    assert args[2:] == ["--method", "lora"]


@pytest.mark.parametrize("kind", [PretrainConfig, SFTConfig])
def test_flags_win_over_the_file(kind, tmp_path):
    file = tmp_path / "mine.yaml"
    key = "files" if kind is SFTConfig else "prefix"
    file.write_text(f"model: m\ndata: {{{key}: a, seq_length: 16}}\ntrain: {{seed: 3}}\n")
    parser = recipe_parser("pretrain RECIPE", kind)
    args, _ = with_recipe([str(file), f"--data.{key}", "b", "c", "--train.seed=5"], kind)
    recipe = build_recipe(vars(parser.instantiate(parser.parse_args(args))), kind)
    assert isinstance(recipe, kind)
    assert getattr(recipe.data, key) == ["b", "c"]
    assert (recipe.data.seq_length, recipe.train.seed) == (16, 5)
