from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from ling.train import progress
from ling.train.progress import Progress, gemm_peak


class Clock:
    """Stands in for the module `time`."""

    def __init__(self, *readings):
        self.now, self.readings = 0.0, list(readings)

    def monotonic(self):
        return self.now

    def perf_counter(self):
        return self.readings.pop(0)


def row(step, **more):
    return {
        "step": step,
        "loss": 2.34567,
        "tokens_per_s": 12345.6,
        "mfu": 0.5,
        "load_max_mean": 1.234,
        **more,
    }


def test_a_log_gets_a_line_now_and_then_and_the_last_step(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    bar = Progress(100, done=10, every_s=10.0)
    for step, now in ((11, 2.0), (20, 10.0), (21, 19.0), (30, 20.0)):
        clock.now = now
        bar.step(row(step))
    clock.now = 21.0
    bar.step(row(100, mtp_loss=3.0))
    bar.close()
    assert capsys.readouterr().out.splitlines() == [
        # Ten of ninety steps took ten seconds.
        "step 20/100 loss 2.346 12,346 tok/s mfu 50% load 1.23 80 s left",
        "step 30/100 loss 2.346 12,346 tok/s mfu 50% load 1.23 70 s left",
        "step 100/100 loss 2.346 mtp 3.000 12,346 tok/s mfu 50% load 1.23 0 s left",
    ]


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch, capsys):
    calls = []

    class Bar:
        def __init__(self, **options):
            calls.append((options["total"], options["initial"]))

        def update(self, n):
            calls.append(n)

        def set_postfix_str(self, words, refresh):
            calls.append(words)

        def close(self):
            calls.append("closed")

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setitem(sys.modules, "tqdm", SimpleNamespace(tqdm=Bar))
    bar = Progress(5, done=2)
    bar.step(row(5))
    bar.close()
    words = "loss 2.346 12,346 tok/s mfu 50% load 1.23"
    assert calls == [(5, 2), 1, words, "closed"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_is_that_of_the_fastest_product(monkeypatch, dtype):
    monkeypatch.setattr(progress, "time", Clock(0.0, 3.0, 10.0, 10.5, 20.0, 21.0))
    assert gemm_peak(dtype, size=8, repeats=3) == 2 * 8**3 / 0.5
