"""A run and its row."""

from __future__ import annotations

import json

import pytest
from small_grids import EXPERTS, write_grid
from small_runs import stop_after

from ling.scaling.grid_file import read_grid
from ling.scaling.one_run import train_and_record
from ling.scaling.planned import run_folder
from ling.scaling.sweep import open_sweep
from ling.scaling.sweep_folder import results
from ling.train.loop import Loop


def quiet(text):
    pass


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Runs on text that is prepared once, and where they are."""
    folder = tmp_path_factory.mktemp("sweep")
    extra = {"budget": "1e9", "size": "a", "families": "dense", "lr_factors": 1e6}
    grid = read_grid(write_grid(folder / "g.yaml", extra=[extra]))
    runs, data = open_sweep(grid, folder / "out", quiet)
    return {run.name: run for run in runs}, data, folder


@pytest.fixture
def record(opened, tmp_path):
    """Trains a run in a folder of its own; the row, or the exit code without one."""
    runs, data, _ = opened

    def train(name, out=tmp_path, keep=False):
        code = train_and_record(runs[name], data, out, quiet, keep=keep)
        return results(out).get(name, code)

    return train


def test_a_row_says_what_was_trained(record, opened, tmp_path):
    run = opened[0]["1e9-a-1of4-seed1"]
    found = record(run.name)
    assert (found.status, found.family, found.size, found.seed) == ("done", "1/4", "a", 1)
    assert found.activation_ratio == 1 / 4
    assert found.granularity == EXPERTS["granularity"]
    assert found.flops == run.flops == found.tokens * found.flops_per_token
    assert found.flops_with_head == found.tokens * found.flops_per_token_with_head
    assert found.params_total > found.params_active > found.params_active_no_head
    rows = (run_folder(tmp_path, run.name) / "metrics.jsonl").read_text().splitlines()
    assert found.loss == json.loads(rows[-1])["valid_loss"]
    assert len(rows) == found.steps
    assert found.seconds > 0


def test_the_checkpoint_goes_unless_it_is_to_stay(record, tmp_path):
    record("1e9-a-dense-seed1", tmp_path / "a")
    record("1e9-a-dense-seed1", tmp_path / "b", keep=True)
    folders = [run_folder(tmp_path / out, "1e9-a-dense-seed1") / "checkpoints" for out in "ab"]
    assert not folders[0].exists()
    assert len(list(folders[1].iterdir())) == 1


def test_a_stopped_run_continues_to_the_same_row(record, tmp_path, monkeypatch):
    name = "1e9-a-1of4-seed1"
    whole = record(name, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_catch_signals", stop_after(7))
        assert record(name, tmp_path / "parts") == 143
    parts = record(name, tmp_path / "parts")
    assert (parts.loss, parts.train_loss, parts.steps) == (
        whole.loss,
        whole.train_loss,
        whole.steps,
    )


def test_a_run_with_a_row_is_not_trained_again(record, tmp_path, monkeypatch):
    first = record("1e9-a-dense-seed1")
    monkeypatch.delattr("ling.scaling.one_run.train")
    assert record("1e9-a-dense-seed1") == first


def test_a_run_that_diverged_is_marked(record, tmp_path):
    found = record("1e9-a-dense-lr1e+06-seed1")
    assert found.status == "diverged"
    assert found.loss is None
    assert found.tokens < opened_tokens(found)


def opened_tokens(found):
    return found.steps * found.batch_tokens
