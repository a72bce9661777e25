"""What one rank's error does to all."""

from __future__ import annotations

import pytest
import torch

from ling.errors import RunError, UsageError
from ling.train.parallel.group import (
    ALONE,
    World,
    code_version,
    launched_world,
)


class Ranks(World):
    """A world in which `others` answer what is gathered."""

    def gather(self, value):
        answers = list(self.slow)
        answers[self.rank] = value
        return answers


def fail(err):
    raise err


def test_alone_nothing_is_exchanged():
    assert ALONE.leads
    assert ALONE.first(lambda: 3) == ALONE.lead(lambda: 3) == ALONE.largest(3) == 3
    assert ALONE.gather("x") == ["x"]
    with pytest.raises(KeyError):
        ALONE.together(lambda: fail(KeyError()))


def test_the_first_rank_that_fails_says_so_and_the_others_end_in_silence():
    with pytest.raises(UsageError, match=r"^rank 1: no such file$"):
        Ranks(1, 3, [None, None, 2]).together(lambda: fail(UsageError("no such file")))
    with pytest.raises(RunError, match=r"^rank 1: OSError: No space left"):
        Ranks(1, 2, [None, None]).together(lambda: fail(OSError(28, "No space left on device")))
    with pytest.raises(SystemExit) as stop:
        Ranks(0, 2, [None, 2]).together(lambda: 1)
    assert stop.value.code == 2
    assert Ranks(0, 2, [None, None]).together(lambda: 1) == 1


def test_an_error_of_all_names_no_rank():
    with pytest.raises(UsageError, match=r"^bad recipe$"):
        Ranks(0, 2, [None, 2]).together(lambda: fail(UsageError("bad recipe")))
    with pytest.raises(SystemExit):
        Ranks(1, 2, [2, None]).together(lambda: fail(UsageError("bad recipe")))


def test_ranks_that_differ_are_named_by_rank_0():
    with pytest.raises(UsageError, match="rank 2 has another recipe than rank 0"):
        Ranks(0, 3, ["a", "a", "b"]).same("recipe", "a")
    with pytest.raises(SystemExit):
        Ranks(1, 3, ["a", "a", "b"]).same("recipe", "a")
    Ranks(1, 2, ["a", "a"]).same("recipe", "a")


def test_evaluation_adds_up_in_the_group_that_waits_long(monkeypatch):
    asked = []

    def double(tensor, group):
        asked.append(group)
        tensor *= 2

    monkeypatch.setattr("torch.distributed.all_reduce", double)
    assert World(0, 2, "slow group").added(torch.ones(2)).tolist() == [2, 2]
    assert ALONE.added(torch.ones(2)).tolist() == [1, 1]
    assert asked == ["slow group"]


def test_a_launcher_is_known_by_its_variables(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert launched_world() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_world() == (0, 1)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    assert launched_world() == (3, 4)


def test_the_version_is_that_of_the_sources():
    assert code_version() == code_version()
    assert len(code_version()) == 16
