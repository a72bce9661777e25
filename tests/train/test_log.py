from __future__ import annotations

import json
import sys

import pytest

from ling.errors import DataError
from ling.train import log
from ling.train.log import MetricsLog, read_metrics


class Board:
    """Stands in for TensorBoard's writer."""

    def __init__(self):
        self.scalars, self.closed = [], False

    def add_scalar(self, *args):
        self.scalars.append(args)

    def close(self):
        self.closed = True


@pytest.fixture
def board(monkeypatch):
    board, opened = Board(), []
    monkeypatch.setattr(log, "_tensorboard", lambda *args: opened.append(args) or board)
    board.opened = opened
    return board


def test_a_row_is_there_as_soon_as_it_is_written(tmp_path, board):
    metrics = MetricsLog(tmp_path, 1)
    rows = [{"step": 1, "loss": 1 / 3, "mtp_loss": None}, {"step": 2, "loss": float("inf")}]
    for n, row in enumerate(rows, 1):
        metrics.write(row)
        assert read_metrics(tmp_path / "metrics.jsonl") == rows[:n]
    metrics.close()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_steps_that_run_again_lose_their_old_lines(tmp_path, board):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": n, "loss": n}) + "\n" for n in range(1, 6)]
    path.write_text("".join(lines) + '{"st')
    metrics = MetricsLog(tmp_path, 4)
    metrics.write({"step": 4, "loss": 0.5})
    metrics.close()
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3, 4]
    assert [r["loss"] for r in read_metrics(path)] == [1, 2, 3, 0.5]
    assert board.opened == [(tmp_path / "tensorboard", 4)]


def test_numbers_go_to_the_board_and_nothing_else(tmp_path, board):
    metrics = MetricsLog(tmp_path, 1)
    metrics.write({"step": 7, "loss": 1.5, "mtp_loss": None, "expert_load": {"1": [1]}, "n": 3})
    metrics.close()
    assert board.scalars == [("loss", 1.5, 7), ("n", 3, 7)]
    assert board.closed


def test_a_board_that_is_not_installed_is_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert log._tensorboard(tmp_path / "tensorboard", 1) is None
    MetricsLog(tmp_path, 1).close()
    assert not (tmp_path / "tensorboard").exists()


def test_only_the_last_line_may_be_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(DataError, match="not JSON") as err:
        read_metrics(path)
    assert (err.value.path, err.value.line) == (path, 2)
