"""`ling nano`: what its options give to the stages, and what is refused."""

from __future__ import annotations

import pytest

from ling.cli import nano as command
from ling.errors import UsageError


@pytest.fixture
def asked(monkeypatch):
    """What the command asks for, without doing it."""
    calls = []
    monkeypatch.setattr("ling.nano.make.nano", lambda *args: calls.append(args) or 0)
    monkeypatch.setattr("ling.eval.bench.steps_within", lambda *_: 700)
    return calls


def test_the_packaged_recipes_by_default(asked, tmp_path):
    assert command.nano([str(tmp_path), "--stage", "merge"]) == 0
    ((out, plan, stages),) = asked
    assert (out, stages) == (str(tmp_path), ["merge"])
    assert plan.base.train.steps == 1200
    assert sum(plan.shares.values()) == 115


@pytest.mark.parametrize("options", [["--steps", "700"], ["--minutes", "9"]])
def test_another_length_keeps_checkpoints_at_each_fifth(asked, tmp_path, options):
    assert command.nano([str(tmp_path), *options]) == 0
    plan = asked[0][1]
    assert plan.base.train.steps == 700
    assert plan.conversations == 24_500  # of 42,000, as 700 is of 1,200
    assert (plan.base.checkpoint.interval_steps, plan.base.checkpoint.keep_every_steps) == (7, 140)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--steps", "5", "--minutes", "5"], "either `--steps` or `--minutes`"),
        (["--minutes", "-1"], "`--minutes` is -1"),
        (["--steps", "0"], "steps"),
        (["--stop-after", "0"], "stop-after"),
    ],
)
def test_what_is_refused(tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        command.nano([str(tmp_path), *options])
