"""Trouble of one rank ends all, with one line that names it, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import logged_losses, saved_steps, write_tokens

HELPERS = Path(__file__).parents[2] / "helpers"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    write_tokens(folder / "text")
    write_tokens(folder / "other", seed=1)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(HELPERS / "faults.py"), str(folder)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def ended(folder, case):
    return [(folder / f"{case}-ended-{rank}").read_text() for rank in (0, 1)]


def test_a_full_disk_of_one_rank_leaves_the_checkpoint_before_and_the_run_goes_on(folder):
    for rank in (0, 1):
        assert (folder / "disk" / f"left-{rank}").read_text() == "step-2"
    assert ended(folder, "disk") == ended(folder, "whole") == ["0", "0"]
    assert saved_steps(folder / "disk") == ["step-2", "step-4", "step-6"]
    assert logged_losses(folder / "disk") == logged_losses(folder / "whole")


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("data", "rank 1 has another content of {}/text.bin or .idx than rank 0; make them equal"),
        ("version", "rank 1 has another version of ling than rank 0; make them equal"),
    ],
)
def test_ranks_that_differ_end_before_the_first_step(folder, case, line):
    assert ended(folder, case) == [line.format(folder), "silent 2"]
    assert saved_steps(folder / case) == []


def test_clocks_that_are_apart_change_nothing(folder):
    assert ended(folder, "clocks") == ["0", "0"]
    assert logged_losses(folder / "clocks") == logged_losses(folder / "whole")


def test_a_checkpoint_of_another_model_is_refused_by_one_rank(folder):
    line, silent = ended(folder, "model")
    assert "`model_overrides.hidden_size` was {} in this run and is now 96" in line
    assert silent == "silent 2"
    assert saved_steps(folder / "model") == ["step-2", "step-4", "step-6"]


def test_an_error_in_a_step_is_one_line_of_its_rank(folder):
    assert ended(folder, "lost") == ["silent 1", "rank 1: text.bin: ends too early"]
