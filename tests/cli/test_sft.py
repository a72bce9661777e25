"""`ling sft`: recipes by name, dotted flags, and what is refused before anything is read."""

from __future__ import annotations

import pytest
import yaml

from ling.cli.sft import sft
from ling.errors import UsageError


def printed(capsys, *args):
    assert sft([*args, "--print-config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_the_whole_recipe_is_printed_and_read_again(capsys, tmp_path):
    found = printed(capsys, "ling-mini-lora", "--data.files", "a.jsonl", "--lora.rank", "8")
    assert found["data"]["files"] == ["a.jsonl"]
    assert found["lora"]["rank"] == 8
    assert found["optim"]["lr"] == 1e-4
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(found))
    assert printed(capsys, str(file)) == found


def test_a_method_on_the_command_line_brings_its_rate(capsys):
    common = ("--model", "m", "--data.files", "a")
    assert printed(capsys, *common)["optim"]["lr"] == 1e-6
    assert printed(capsys, *common, "--method", "lora")["optim"]["lr"] == 1e-4
    named = ("ling-mini-lora", "--data.files", "a")
    assert printed(capsys, *named, "--method", "full")["optim"]["lr"] == 1e-6
    assert printed(capsys, *named, "--objective", "dpo")["optim"]["lr"] == 1e-5
    assert printed(capsys, "ling-mini-sft", *named[1:], "--method", "lora")["optim"]["lr"] == 1e-4


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("", "name a recipe: a YAML file, or one that `ling recipes` lists"),
        ("tiny", "run `ling pretrain tiny`"),
        ("ling-mini-lora", "`data.files` is empty"),
        ("ling-mini-lore", "did you mean `ling-mini-lora`"),
        ("nano-sft --train.epoch 3", "did you mean `train.epochs`"),
        ("nano-sft --lora.rank x", "`lora.rank`: expected a whole number, not `x`"),
        ("nano-sft --data.weights a", "`data.weights`: expected a number, not `a`"),
    ],
)
def test_what_is_refused(args, line):
    with pytest.raises(UsageError, match=line):
        sft(args.split())
