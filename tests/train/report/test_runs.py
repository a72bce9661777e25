"""Run folders as a report reads them."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from ling.errors import DataError, UsageError
from ling.train.report.runs import read_run, read_runs


def test_every_number_of_the_log_becomes_a_curve(run_folder):
    run = read_run(run_folder(), "a")
    assert list(run.series["loss"].steps) == list(range(1, 21))
    assert run.series["loss"].values[6] == 5 / 7
    assert list(run.series["grad_norms/head"].values) == [0.5] * 20
    assert list(run.series["valid_loss"].steps) == [10, 20]
    memory = run.series["memory"]
    assert (memory.values[0], memory.low[0], memory.high[0]) == (2e6, 1e6, 3e6)
    assert run.last("router_bias") == 0.02  # the largest of the layers
    assert run.skipped == [3]
    assert run.slowest == {"1 on b": 2}
    assert run.typical("tokens_per_s") == pytest.approx(1015.5)
    assert (run.restarts, run.recipe, run.is_running) == (None, None, False)


def test_a_run_that_is_writing_lacks_the_line_that_it_writes(run_folder):
    folder = run_folder(cut='{"step": 21, "lo')
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = read_run(folder, "a")
    assert (run.last_step, run.is_running) == (20, True)


def test_a_run_that_went_back_has_each_step_once(run_folder):
    folder = run_folder()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "loss": 9.0, "skipped": 0}) + "\n")
    run = read_run(folder, "a")
    assert list(run.series["loss"].values) == [5.0, 9.0]
    assert run.skipped == []
    assert run.last_step == 2


def test_logs_of_older_versions_are_read(tmp_path):
    row = {"step": 1, "loss": 5.0, "mtp_loss": None, "tokens": 64, "expert_load": {}, "skipped": 0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    run = read_run(tmp_path, "old")
    assert sorted(run.series) == ["loss", "skipped", "tokens"]


@pytest.mark.parametrize(
    ("text", "error", "word"),
    [
        (None, UsageError, "no metrics.jsonl"),
        ("", UsageError, "no step is logged yet"),
        ('{"step": 1}\n{"ste\n{"step": 3}\n', DataError, "not JSON"),
        ("[1]\n", DataError, "no step of a run"),
        ('{"loss": 1}\n', DataError, "no step of a run"),
    ],
)
def test_what_is_no_run_is_said_in_one_line(tmp_path, text, error, word):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(error, match=word):
        read_run(tmp_path, "a")


@pytest.mark.parametrize(
    "values",
    [
        '"grad_norms": [1, 2]',
        '"ranks": [1, 2]',
        '"ranks": {"own_s": ["a"]}',
        '"expert_load": {"1": [NaN, 1]}',
        '"expert_load": {"1": ["x", 1]}',
        '"expert_load": {"1": [1, 2], "2": [1]}',
        '"slowest": {"rank": 1}',
        '"router_bias": {"1": "x"}',
        '"step": 100000000000000000000',
    ],
)
def test_a_damaged_step_is_named_by_file_and_line(run_folder, values):
    folder = run_folder(steps=3, cut=f'{{"step": 4, "loss": 2, {values}}}\n')
    with pytest.raises(DataError, match="a damaged step") as err:
        read_run(folder, "a")
    assert (err.value.path, err.value.line) == (folder / "metrics.jsonl", 4)


def test_names_are_as_short_as_they_can_be_told_apart(run_folder):
    folders = [run_folder("a/run"), run_folder("b/run"), run_folder("c")]
    assert [run.name for run in read_runs(folders)] == [
        "a/run",
        "b/run",
        f"{folders[2].parent.name}/c",
    ]
    assert [run.name for run in read_runs([Path(folders[2])])] == ["c"]
