"""The published recipes are the original's launch scripts, field by field."""

from __future__ import annotations

from typing import Any

import pytest
from published_arguments import ROWS, SCRIPTS
from runs import write_tokens

from ling.cli.train import _recipe_at, pretrain
from ling.config.recipe_file import packaged_recipes, read_recipe
from ling.presets import preset
from ling.train.log import read_metrics

NOT_OF_AN_ARGUMENT = {
    # The parts of keys that an argument sets, and paths.
    *("model_overrides", "data.prefix"),
    # Defaults of the original, which its scripts do not spell out.
    *("data.isolate_documents", "optim.eps", "train.fp8_scales", "checkpoint.keep_last"),
}


def recipe_of(name):
    return _recipe_at(str(packaged_recipes()[f"ling-mini-{name}"]))


def value_at(recipe, key) -> Any:
    section, _, name = key.partition(".")
    if section == "model" and name:
        return getattr(preset("ling-mini-2.0").replace(**recipe.model_overrides), name)
    return getattr(getattr(recipe, section), name) if name else getattr(recipe, section)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_argument_has_its_value_here(script):
    recipe = recipe_of(script)
    found = {row.argument: value_at(recipe, row.key) for row in ROWS if row.key}
    assert found == {row.argument: row.our_value(script) for row in ROWS if row.key}


def test_an_argument_without_a_key_says_why():
    assert [row.argument for row in ROWS if bool(row.key) == bool(row.why)] == []
    assert len({row.argument for row in ROWS}) == len(ROWS)


def keys_of(tree):
    for section, part in tree.items():
        if isinstance(part, dict) and section != "model_overrides":
            yield from (f"{section}.{name}" for name in part)
        else:
            yield section


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_recipe_says_nothing_that_no_argument_says(script):
    said = set(keys_of(read_recipe(packaged_recipes()[f"ling-mini-{script}"])))
    assert said - NOT_OF_AN_ARGUMENT <= {row.key for row in ROWS}


def test_ranks_of_the_layouts():
    assert [recipe_of(name).parallel.world for name in SCRIPTS] == [8, 8, 16]


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_starts_at_nano_scale(script, tmp_path, capsys):
    """The command of docs/guides/training.md#published-recipes, with fewer rows."""
    write_tokens(tmp_path / "text", tokens=40_000)
    command = [f"ling-mini-{script}", "--model", "ling-tiny", "--out", str(tmp_path / "run")]
    command += ["--data.prefix", str(tmp_path / "text"), "--data.seq_length", "64"]
    command += ["--data.split", "8", "2", "--train.threads", "1", "--train.eval_rows", "2"]
    command += ["--train.steps", "2", "--train.global_batch_size", "4"]
    for degree in ("dp_shard", "cp", "pp", "ep"):
        command += [f"--parallel.{degree}", "1"]
    assert pretrain(command) == 0
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [row["lr"] for row in rows] == pytest.approx([1.65e-5, 3e-6])
    assert rows[-1]["loss"] < 7
    assert rows[-1]["valid_loss"] > 0
