"""`ling scaling` finds its parts."""

from __future__ import annotations

from importlib import import_module

import pytest

from ling.cli.main import main
from ling.cli.scaling import PARTS


@pytest.mark.parametrize("name", PARTS)
def test_each_part_has_its_function(name):
    part = PARTS[name]
    assert callable(getattr(import_module(f"ling.cli.{part.file}"), part.function))


def test_help_names_the_parts(capsys):
    assert main(["scaling", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in PARTS)


@pytest.mark.parametrize(
    ("args", "message"),
    [([], "got nothing"), (["predct"], "got `predct` (did you mean `predict`?)")],
)
def test_another_word_is_refused(args, message, capsys):
    assert main(["scaling", *args]) == 2
    assert message in capsys.readouterr().err
