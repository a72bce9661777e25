"""What a lost rank looks like, and what is told of an error in a step."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ling.errors import DataError, RunError
from ling.train.parallel import lost
from ling.train.parallel.group import ALONE, World
from ling.train.parallel.lost import (
    ended_here,
    first_line,
    is_lost_rank,
    naming_rank,
    process_here,
)


def error_in_a_step(err, world):
    """What is raised where a step raises `err`."""
    with pytest.raises((Exception, SystemExit)) as raised, naming_rank(world, shared=KeyError):
        raise err
    return raised.value


def test_the_first_rank_with_an_error_of_its_own_says_so_and_others_are_silent(monkeypatch):
    first = iter([True, True, False])
    monkeypatch.setattr(lost, "tells_first", lambda: next(first))
    rank = World(1, 2)
    assert str(error_in_a_step(DataError("no such id", path="x.bin"), rank)) == (
        "rank 1: x.bin: no such id"
    )
    told = error_in_a_step(OSError(28, "No space left on device"), rank)
    assert isinstance(told, RunError)
    assert str(told) == "rank 1: OSError: No space left on device"
    assert isinstance(error_in_a_step(RuntimeError("not enough memory"), rank), SystemExit)


@pytest.mark.parametrize(
    ("err", "world"),
    [
        (KeyError("of all"), World(1, 2)),
        (RuntimeError("Connection closed by peer"), World(1, 2)),
        (OSError("alone"), ALONE),
    ],
)
def test_other_errors_stay_as_they_are(err, world):
    assert error_in_a_step(err, world) is err


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("[../pair.cc:553] Connection closed by peer [127.0.0.1]:1", True),
        ("[unbound_buffer.cc:81] Timed out waiting 30000ms for recv operation to complete", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_lost_rank_is_told_from_other_errors(text, lost):
    assert is_lost_rank(RuntimeError(text)) is lost
    assert not first_line(RuntimeError(text)).startswith("[")


def test_ranks_of_this_host_that_have_ended_are_known():
    here = process_here()
    child = subprocess.Popen([sys.executable, "-c", ""])
    others = [here, (here[0], child.pid), ("elsewhere", child.pid)]
    assert ended_here(others) == [1]  # not waited for yet
    child.wait()
    assert ended_here(others) == [1]
