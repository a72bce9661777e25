"""Recipes: one value or several, texts of every key, files by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ling.config import recipe_docs, recipe_file
from ling.config.optim import OptimConfig
from ling.config.recipe import DataConfig, PretrainConfig, recipe_yaml
from ling.config.sft import SFTConfig
from ling.errors import UsageError

REPOSITORY = Path(__file__).parents[2]


def test_every_key_has_a_text():
    rows = recipe_docs.keys()
    assert len(rows) > 35
    of_both = [*rows, *recipe_docs.keys(SFTConfig)]
    assert [row.name for row in of_both if not row.text.endswith(".")] == []
    assert {"model", "data.prefix", "train.steps", "checkpoint.keep_last"} <= {r.name for r in rows}


def test_the_reference_page_is_in_step():
    spec = importlib.util.spec_from_file_location("page", REPOSITORY / "tools/recipe_reference.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text("utf-8") == tool.page(), "run `python tools/recipe_reference.py`"


def test_one_value_is_a_list_of_one():
    assert DataConfig(prefix="a").prefix == ["a"]
    assert DataConfig(prefix=["a", "b"], weights=(1, 2)).weights == [1, 2]
    assert DataConfig(prefix="a", weights=2.0, valid_prefix="v").valid_prefix == ["v"]


def test_a_recipe_file_may_have_one_value_for_a_list(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("model: x\ndata: {prefix: d/train, weights: 1}\n")
    assert recipe_file.read_recipe(file)["data"] == {"prefix": ["d/train"], "weights": [1]}
    lists = {"data.prefix", "data.weights", "data.valid_prefix", "data.split", "data.epochs"}
    lists |= {"train.rampup_batch_size", "train.profile", "train.loggers"}
    assert lists == set(recipe_file.list_keys())


def test_off_is_a_word_here_and_false_in_yaml(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("model: x\ntrain: {fp8: off, steps: 3}\ndata: {eod_mask_loss: off}\n")
    assert recipe_file.read_recipe(file)["train"] == {"fp8": "off", "steps": 3}
    assert recipe_file.read_recipe(file)["data"] == {"eod_mask_loss": False}


def test_recipes_are_found_by_name_and_files_win(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = recipe_file.packaged_recipes()
    assert {"tiny", "nano"} <= set(packaged)
    assert all(recipe_file.about(path) for path in packaged.values())
    assert recipe_file.find_recipe("tiny") == packaged["tiny"]
    Path("tiny").write_text("model: x\n")
    assert recipe_file.find_recipe("tiny") == Path("tiny")
    with pytest.raises(UsageError, match=r"no such recipe .did you mean `nano`"):
        recipe_file.find_recipe("nanno")
    with pytest.raises(UsageError, match="ling recipes"):
        recipe_file.find_recipe("qqqq.yaml")


@pytest.mark.parametrize(
    ("kind", "text", "line"),
    [
        (SFTConfig, "data: {corpus: stdlib}", "`ling pretrain` .it has `data.corpus`.: run `ling"),
        (SFTConfig, "model: a\ndata: {prefix: [x]}", "`ling pretrain` .it has `data.prefix`"),
        (PretrainConfig, "budgets: {1e9: [a]}", "`ling scaling sweep` .it has `budgets`.: run `l"),
        (SFTConfig, "{budgets: {1e9: [a]}, data: {corpus: a}}", "run `ling scaling sweep "),
        (PretrainConfig, "data: {files: [a]}", "`ling sft` .it has `data.files`.: run `ling sft "),
        (PretrainConfig, "method: lora", "`ling sft` .it has `method`"),
        # What both have, or neither, is no recipe of the other command.
        (PretrainConfig, "lora: {rank: 1}\ndata: {corpus: a}", "no key `lora`"),
        (PretrainConfig, "train: {epochs: 2}", "no key `train.epochs`"),
        (SFTConfig, "data: {valid_prefix: a}", "no key `data.valid_prefix` .did you mean `valid_"),
    ],
)
def test_a_recipe_of_the_other_command_is_named(tmp_path, kind, text, line):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=line):
        recipe_file.read_recipe(file, kind)


def test_a_packaged_recipe_of_the_other_command_is_named_by_its_name():
    path = recipe_file.find_recipe("ling-mini-lora")
    with pytest.raises(
        UsageError, match=r"^ling-mini-lora: a recipe .* run `ling sft ling-mini-lo"
    ):
        recipe_file.read_recipe(path)
    assert recipe_file.command_of(path) == "sft"
    assert "tiny" in recipe_file.packaged_recipes("pretrain")
    assert "tiny" not in recipe_file.packaged_recipes("sft")


def test_recipes_are_inside_the_package():
    assert recipe_file.FOLDER.is_dir()
    assert not recipe_file.FOLDER.is_symlink()


@pytest.mark.parametrize("text", ["model: a\nseed: 1\nmodel: b\n", "data:\n  a: 1\n  a: 2\n"])
def test_a_key_that_is_there_twice_is_refused_with_its_line(tmp_path, text):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"r.yaml:3: not YAML .the key `(model|a)` is there twice"):
        recipe_file.read_recipe(file)


def test_the_home_folder_is_meant_as_in_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    file = tmp_path / "r.yaml"
    file.write_text("model: ~/m\ndata: {prefix: [~/a, b~/c], corpus: ~}\n")
    want = {"model": "/home/me/m", "data": {"prefix": ["/home/me/a", "b~/c"], "corpus": None}}
    assert recipe_file.read_recipe(file) == want


def test_a_recipe_that_a_run_keeps_is_the_one_it_was_made_from(tmp_path):
    made = PretrainConfig(
        model="ling-tiny",
        data=DataConfig(prefix="a", weights=2.0),
        optim=OptimConfig(schedule="wsd", decay_steps=3),
    )
    file = tmp_path / "config.yaml"
    file.write_text(recipe_yaml(made))
    assert recipe_file.load_recipe(file) == made
    file.write_text("model: ling-tiny\ndata:\n  prefix: a\ntrain:\n  stepz: 3\n")
    with pytest.raises(UsageError, match=r"no key `train\.stepz`"):
        recipe_file.load_recipe(file)
