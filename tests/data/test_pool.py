"""Units in processes: results, errors and the end of a process that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ling.data.pool import run_units
from ling.data.progress import Progress
from ling.data.records import NoTextKeyError
from ling.data.units import Unit
from ling.errors import DataError, RunError

UNITS = [Unit(i, [], 1) for i in range(5)]


@dataclass(frozen=True)
class Square:
    """A task; `fails` is the unit at which it does so."""

    fails: int = -1
    kills: bool = False

    def __call__(self, unit, watch):
        watch(1)
        if unit.number == self.fails:
            if self.kills:
                os._exit(9)
            raise NoTextKeyError(["a"], None, Path("x.jsonl"), 7)
        return unit.number**2


@pytest.fixture
def run(monkeypatch):
    """Runs a task in two processes that find this file, as they would the package."""
    monkeypatch.setattr("ling.data.pool._WORTH_BYTES", 1)
    monkeypatch.setitem(sys.modules, "test_pool", sys.modules[__name__])
    monkeypatch.setattr(Square, "__module__", "test_pool")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    progress = Progress(5, "squaring", lambda line: None)
    return lambda task: {u.number: r for u, r in run_units(task, UNITS, 2, progress)}


def test_results_come_with_their_units(run):
    assert run(Square()) == {i: i * i for i in range(5)}


def test_an_error_comes_back_with_its_line(run):
    with pytest.raises(DataError, match=r"^x.jsonl:7: no key with text"):
        run(Square(fails=2))


def test_a_killed_process_is_one_line(run):
    with pytest.raises(RunError, match=r"a worker process was killed .* continues where it ended"):
        run(Square(fails=2, kills=True))


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    (tmp_path / "x.txt").write_text("some words\n\n" * 100)
    script = tmp_path / "script.py"
    script.write_text(
        "import ling.data.pool as pool\n"
        "from ling.data.prepare import prepare\n"
        "pool._WORTH_BYTES = 1\n"
        "print('started')\n"
        f"prepare([{str(tmp_path / 'x.txt')!r}], {str(tmp_path / 'out')!r}, vocab_size=300)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.count("started") == 1
