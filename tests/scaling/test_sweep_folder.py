"""A sweep's grid may grow; what its runs mean may not change."""

from __future__ import annotations

import fcntl
import threading

import pytest
from scaling_rows import row
from small_grids import EXPERTS, SHAPE, write_grid

from ling.errors import UsageError
from ling.scaling.grid_file import read_grid
from ling.scaling.sweep_folder import add_result, keep_grid, results


@pytest.fixture
def change(tmp_path):
    """Keeps a grid in a folder, and then, when something was begun, one with changes."""

    def keep(begun="runs", **changes):
        for values in ({}, changes):
            keep_grid(read_grid(write_grid(tmp_path / "g.yaml", **values)), tmp_path / "out")
            if begun:
                (tmp_path / "out" / begun).mkdir(exist_ok=True)
        return read_grid(tmp_path / "out" / "grid.yaml")

    return keep


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budgets": {"1e9": ["a"], "2e9": ["a"]}},
        {"sizes": {"a": SHAPE, "b": SHAPE}, "budgets": {"1e9": ["b", "a"]}},
        {"families": {"1/4": EXPERTS, "dense": {}, "1/2": EXPERTS | {"num_experts": 3}}},
        {"extra": [{"budget": "1e9", "size": "a", "seeds": 2}]},
    ],
)
def test_runs_may_be_added(change, changes):
    assert len(change(**changes).runs()) >= 2


def test_before_there_is_text_or_a_run_everything_may_change(change):
    """As the corpus, of which a package was missing."""
    assert change(begun=None, vocab_size=512).vocab_size == 512


@pytest.mark.parametrize("begun", ["data", "logs", "slurm"])
def test_text_and_queued_runs_keep_their_grid(change, begun):
    with pytest.raises(UsageError, match="`vocab_size` was `384` in this sweep"):
        change(begun=begun, vocab_size=512)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"vocab_size": 512}, "`vocab_size` was `384` in this sweep and is now `512`"),
        (
            {"sizes": {"a": SHAPE | {"num_hidden_layers": 2}}},
            "`sizes.a.num_hidden_layers` was `1` .* would make `1e9-a-dense-seed1` another run",
        ),
        ({"training": {"lr": 0.02, "batch_tokens": 512}}, "`training.lr` was `0.01`"),
        ({"seed": 3}, "`seed` was `1`"),
        (
            {"budgets": {"2e9": ["a"]}},
            '`budgets.1e9` was `."a".` .* is now `null`, which would remove `1e9-a-',
        ),
        ({"held_out": [{"size": "a"}]}, "`held_out` was `..` in this sweep"),
        (
            {
                "budgets": {"1e8": ["a"], "1e9": ["a"]},
                "extra": [{"budget": "1e8", "size": "a", "seeds": 2}],
                "held_out": [{"budget": "1e9"}],
            },
            "`held_out` was `..` in this sweep",
        ),
    ],
)
def test_another_meaning_of_a_run_is_refused_by_its_key(change, changes, line):
    with pytest.raises(UsageError, match=line):
        change(**changes)


def test_a_row_is_added_once(tmp_path):
    assert results(tmp_path) == {}
    for name in ("x", "y", "x"):
        add_result(tmp_path, row(run=name))
    assert list(results(tmp_path)) == ["x", "y"]
    assert (tmp_path / "results.jsonl").read_text().count("\n") == 2


def test_a_first_row_that_could_not_be_written_leaves_a_sweep_that_continues(tmp_path):
    (tmp_path / "results.jsonl").touch()
    assert results(tmp_path) == {}
    add_result(tmp_path, row(run="x"))
    assert list(results(tmp_path)) == ["x"]


def test_rows_are_not_read_while_one_is_written(tmp_path):
    whole = row(run="x").as_json() + "\n"
    path, found = tmp_path / "results.jsonl", []
    reader = threading.Thread(target=lambda: found.extend(results(tmp_path)))
    with (tmp_path / ".results.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path.write_text(whole[:50])
        reader.start()
        reader.join(0.1)
        path.write_text(whole)
    reader.join()
    assert found == ["x"]
