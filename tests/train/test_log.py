from __future__ import annotations

import json
import tracemalloc

import pytest

from ling.errors import DataError
from ling.train.log import MetricsLog, read_metrics


class Board:
    """A logger."""

    def __init__(self):
        self.written, self.closed = [], False

    def write(self, step, values):
        self.written.append((step, values))

    def close(self):
        self.closed = True


def test_a_row_is_there_as_soon_as_it_is_written(tmp_path):
    metrics = MetricsLog(tmp_path, 1)
    rows = [{"step": 1, "loss": 1 / 3, "mtp_loss": None}, {"step": 2, "loss": float("inf")}]
    for n, row in enumerate(rows, 1):
        metrics.write(row)
        assert read_metrics(tmp_path / "metrics.jsonl") == rows[:n]
    metrics.close()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_steps_that_run_again_lose_their_old_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": n, "loss": n}) + "\n" for n in range(1, 6)]
    path.write_text("".join(lines) + '{"st')
    metrics = MetricsLog(tmp_path, 4)
    metrics.write({"step": 4, "loss": 0.5})
    metrics.close()
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3, 4]
    assert [r["loss"] for r in read_metrics(path)] == [1, 2, 3, 0.5]


def test_continuing_a_long_run_needs_little_memory(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = json.dumps({"loads": list(range(1000))})[1:]
    with path.open("w") as file:
        file.writelines(f'{{"step": {step}, {row}\n' for step in range(1, 501))
    tracemalloc.start()
    MetricsLog(tmp_path, 500).close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [r["step"] for r in read_metrics(path)] == list(range(1, 500))
    assert peak < path.stat().st_size / 4


def test_numbers_go_to_the_loggers_and_nothing_else(tmp_path):
    board = Board()
    metrics = MetricsLog(tmp_path, 1, [board])
    metrics.write({"step": 7, "loss": 1.5, "mtp_loss": None, "expert_load": {"1": [1]}, "n": 3})
    metrics.close()
    assert board.written == [(7, {"loss": 1.5, "n": 3})]
    assert board.closed


def test_only_the_last_line_may_be_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(DataError, match="not JSON") as err:
        read_metrics(path)
    assert (err.value.path, err.value.line) == (path, 2)


@pytest.mark.parametrize("line", ["[1]", "7", '{"loss": 1}', '{"step": "2"}', '{"step": null}'])
def test_a_line_that_is_no_step_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(DataError, match="no step of a run") as err:
        MetricsLog(tmp_path, 5)
    assert err.value.line == 2
    assert path.read_text().count("\n") == 2
