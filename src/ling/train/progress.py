"""Progress of a run on the terminal, and the speed it is measured against."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch


def gemm_peak(dtype: torch.dtype, size: int = 1024, repeats: int = 6) -> float:
    """Best FLOP/s of a square matrix product in `dtype`, measured now (about 0.1 s)."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class Progress:
    """A bar on a terminal, plain lines in a log."""

    def __init__(self, steps: int, done: int, every_s: float = 10.0) -> None:
        self.steps, self.first, self.every_s = steps, done, every_s
        self.start = self.last = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)

    def step(self, row: dict[str, Any]) -> None:
        """Show one step."""
        words = f"loss {row['loss']:.3f}"
        if row.get("mtp_loss") is not None:
            words += f" mtp {row['mtp_loss']:.3f}"
        words += f" {row['tokens_per_s']:,.0f} tok/s mfu {row['mfu']:.0%}"
        words += f" load {row['load_max_mean']:.2f}"
        if self.bar is not None:
            self.bar.update(1)
            self.bar.set_postfix_str(words, refresh=False)
            return
        now = time.monotonic()
        if now - self.last >= self.every_s or row["step"] == self.steps:
            self.last = now
            left = (now - self.start) / (row["step"] - self.first) * (self.steps - row["step"])
            print(f"step {row['step']}/{self.steps} {words} {left:.0f} s left", flush=True)

    def close(self) -> None:
        """Leave the terminal clean."""
        if self.bar is not None:
            self.bar.close()
