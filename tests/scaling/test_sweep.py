"""The runs of a sweep as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_grids import SHAPE, write_grid

from ling.cli.main import main
from ling.errors import RunError, UsageError
from ling.scaling import sweep as module
from ling.scaling.grid_file import read_grid
from ling.scaling.sweep import command, run_one, sweep
from ling.scaling.sweep_folder import results

# In place of a training: a row of the results, after what the name of the run asks for.
CHILD = """
import json, signal, sys, time
out, name = sys.argv[1:]
if name in ("1e9-k-dense-seed1", "1e9-b-dense-seed1"):
    if "-b-" in name:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    open(out + "/started", "w").close()
    time.sleep(60)
if name == "1e9-f-dense-seed1":
    sys.exit("error: no room")
row = json.loads(open(out + "/row.json").read()) | {"run": name}
open(out + "/results.jsonl", "a").write(json.dumps(row) + "\\n")
"""


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A folder whose runs are `CHILD`."""
    from scaling_rows import row

    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "row.json").write_text(row().as_json())
    monkeypatch.setattr(
        module, "command", lambda out, name, keep: [sys.executable, "-c", CHILD, str(out), name]
    )
    return folder


def grid_of(tmp_path, *sizes):
    shapes = dict.fromkeys(sizes, SHAPE)
    found = write_grid(
        tmp_path / "g.yaml",
        sizes=shapes,
        budgets={"1e9": list(sizes)},
        families={"dense": {}},
    )
    return read_grid(found)


def test_all_runs_get_a_row_and_a_second_start_trains_none(tmp_path, out):
    lines: list[str] = []
    grid = grid_of(tmp_path, "a", "c", "d")
    assert sweep(grid, out, lines.append, jobs=2) == 0
    assert set(results(out)) == {f"1e9-{size}-dense-seed1" for size in "acd"}
    assert f"{out}: 3 runs, 0 done before" in lines
    lines.clear()
    assert sweep(grid, out, lines.append, jobs=2) == 0
    assert not [line for line in lines if line.endswith("starts")]


def test_rows_alone_continue_a_sweep_in_another_folder(tmp_path, out):
    assert sweep(grid_of(tmp_path, "x"), out, print, jobs=2) == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "row.json").write_bytes((out / "row.json").read_bytes())
    (other / "results.jsonl").write_bytes((out / "results.jsonl").read_bytes())
    assert sweep(grid_of(tmp_path, "x", "y"), other, print, jobs=2) == 0
    assert list(results(other)) == ["1e9-x-dense-seed1", "1e9-y-dense-seed1"]
    assert [p.name for p in (other / "logs").iterdir()] == ["1e9-y-dense-seed1.log"]


def test_a_run_that_fails_does_not_end_the_others(tmp_path, out):
    lines: list[str] = []
    with pytest.raises(RunError, match=r"1e9-f-dense-seed1: exit code 1: error: no room .*logs/"):
        sweep(grid_of(tmp_path, "f", "a"), out, lines.append, jobs=1)
    assert list(results(out)) == ["1e9-a-dense-seed1"]


@pytest.mark.parametrize("name", ["b", "k"], ids=["saved", "before it began"])
def test_a_signal_reaches_the_runs_and_the_rest_does_not_start(tmp_path, out, name):
    def stop():
        while not (out / "started").exists():
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    lines: list[str] = []
    thread = threading.Thread(target=stop)
    thread.start()
    assert sweep(grid_of(tmp_path, name, "a"), out, lines.append, jobs=1) == 143
    thread.join()
    assert results(out) == {}
    assert lines[-1].startswith("stopped; 0 of 2 runs")
    assert not [line for line in lines if "failed" in line]


def test_a_second_sweep_into_a_folder_is_refused_and_changes_nothing(tmp_path, out):
    from ling.checkpoint.run_folder import locked

    with locked(out), pytest.raises(UsageError, match="another run is writing here"):
        sweep(grid_of(tmp_path, "a"), out, print, jobs=1)
    assert not (out / "grid.yaml").exists()


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path, out):
    from ling.checkpoint.run_folder import locked

    lines: list[str] = []
    grid = grid_of(tmp_path, "a", "c")
    folder = out / "runs" / "1e9-a-dense-seed1"

    def release():
        with locked(folder):
            while "1e9-c-dense-seed1" not in results(out):
                time.sleep(0.02)

    thread = threading.Thread(target=release)
    thread.start()
    while not folder.exists():
        time.sleep(0.02)
    assert sweep(grid, out, lines.append, jobs=1) == 0
    thread.join()
    started = [line for line in lines if line.endswith("starts")]
    assert started == ["1e9-c-dense-seed1: starts", "1e9-a-dense-seed1: starts"]


def test_an_unknown_run_gets_the_nearest(tmp_path):
    grid = grid_of(tmp_path, "a")
    with pytest.raises(UsageError, match=r"no run `1e9-a-dense` .* .did you mean `1e9-a-dense-s"):
        run_one(grid, tmp_path / "out", "1e9-a-dense", print)
    assert not (tmp_path / "out").exists()


def test_the_command_of_a_run_trains_it_and_the_sweep_then_has_nothing_to_do(tmp_path, capfd):
    write_grid(tmp_path / "g.yaml", families={"dense": {}})
    folder = tmp_path / "out"
    name = "1e9-a-dense-seed1"
    options = command(folder, name, keep=False)[3:]
    options[2] = str(tmp_path / "g.yaml")
    assert main(options) == 0
    assert results(folder)[name].status == "done"
    assert main(["scaling", "sweep", str(tmp_path / "g.yaml"), "--out", str(folder)]) == 0
    assert "done: 1 of 1 runs" in capfd.readouterr().out


@pytest.mark.slow
def test_a_killed_sweep_continues_to_the_same_losses(tmp_path):
    grid = write_grid(tmp_path / "g.yaml", budgets={"1e9": ["a"], "3e9": ["a"]})

    def start(folder: Path) -> subprocess.Popen[bytes]:
        args = [sys.executable, "-m", "ling", "scaling", "sweep", grid, "--out", folder]
        return subprocess.Popen([*map(str, args), "--jobs", "2"], start_new_session=True)

    assert start(tmp_path / "whole").wait() == 0
    killed = start(tmp_path / "killed")
    while not list((tmp_path / "killed").glob("runs/3e9*/checkpoints/step-*/manifest.json")):
        time.sleep(0.01)
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    assert start(tmp_path / "killed").wait() == 0
    losses = [
        {name: row.loss for name, row in results(tmp_path / out).items()}
        for out in ("whole", "killed")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
