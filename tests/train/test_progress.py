"""Lines that tell how far a run is."""

from __future__ import annotations

import io
import sys

import pytest

from ling.train.progress import Progress, duration, fitting, tell

ROW = {
    "step": 100_000, "loss": 11.123, "mtp_loss": 11.234, "tokens_per_s": 1_234_567.0, "mfu": 0.45,
    "load_max_mean": 12.34,
}  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (3599, "59:59 min"), (7500, "2:05 h")],
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("steps", "step"), [(60, 60), (100_000, 100_000), (1_000_000, 100_000)])
def test_lines_fit_80_columns(capsys, steps, step):
    bar = Progress(steps, 0, every_s=0.0)
    bar.step(ROW | {"step": step})
    bar.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert len(line) <= 80
    assert line.startswith(f"step {step}/{steps}, ")
    assert "loss 11.123 mtp 11.234" in line


def test_of_a_fine_tuning_the_trained_tokens_are_told(capsys):
    bar = Progress(1_000_000, 0, every_s=0.0)
    row = {k: v for k, v in ROW.items() if k != "mfu"}
    bar.step(row | {"mtp_loss": None, "trained_tokens_per_s": 54_321.0})
    (line,) = capsys.readouterr().out.splitlines()
    assert "1,234,567 tok/s (54,321 trained)" in line
    assert len(line) <= 80


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_is_printed_above_the_bar(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    bar = Progress(10, 0)
    bar.step(ROW | {"step": 1})
    tell("step 1: said")
    bar.close()
    (line,) = [row for row in screen.getvalue().split("\n") if "said" in row]
    assert line.rpartition("\r")[2] == "step 1: said"
    assert "/10" in screen.getvalue()


def test_the_least_wanted_words_go_first():
    assert fitting(["loss 1", "mtp 2", "load 3"], 12) == "loss 1 mtp 2"
    assert fitting(["a long first word"], 4) == "a long first word"


@pytest.mark.parametrize(
    ("own_s", "words"), [(1.1, ["comm 30%"]), (1.3, ["comm 30%", "slow: rank 3 on b"])]
)
def test_of_several_ranks_the_one_that_others_wait_for_is_named(capsys, own_s, words):
    slowest = {"rank": 3, "host": "b", "own_s": own_s, "median_own_s": 1.0}
    bar = Progress(1_000, 0, every_s=0.0)
    row = ROW | {"step": 100, "mtp_loss": None}
    for more in ({"communication_share": 0.3, "slowest": slowest}, {}):
        bar.step(row | more)
    lines = capsys.readouterr().out.splitlines()
    for line in lines:  # also those between two measurements
        shown = line.partition("load 12.34 ")[2]
        assert " ".join(words).startswith(shown)
        assert shown.startswith("comm 30%")
        assert len(line) <= 80
