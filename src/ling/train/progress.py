"""Progress of a run on the terminal, and the speed it is measured against."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import torch

from ..ops import products
from .device import CPU, synchronize

# Side of the matrices of `gemm_peak`: smaller ones would not keep the device busy.
_PEAK_SIZE = {"cpu": 1024, "cuda": 8192}


def gemm_peak(
    dtype: torch.dtype,
    size: int | None = None,
    repeats: int = 6,
    device: torch.device = CPU,
) -> float:
    """Best FLOP/s of a square matrix product in `dtype`, measured now (about 0.1 s)."""
    size = size or _PEAK_SIZE.get(device.type, 1024)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        products.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


WIDTH = 80
# The bar's own numbers: percent, a few cells, steps, time left.
_BAR_WIDTH = 40
# A rank whose own work takes so much longer than that of the median one is named.
_SLOW = 1.2


def tell(text: str) -> None:
    """Print a line, above the bar where there is one."""
    bars = sys.modules.get("tqdm")
    write = print if bars is None else bars.tqdm.write
    write(text)


class Progress:
    """A bar on a terminal, plain lines of at most 80 columns in a log."""

    def __init__(self, steps: int, done: int, every_s: float = 10.0) -> None:
        self.steps, self.first, self.every_s = steps, done, every_s
        self.start = self.last = time.monotonic()
        self.bar: Any = None
        # What only some rows have, from the last one that did.
        self._ranks: dict[str, Any] = {}
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=steps,
                initial=done,
                dynamic_ncols=True,
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} {remaining}{postfix}",
            )

    def step(self, row: dict[str, Any]) -> None:
        """Show one step."""
        self._ranks |= {k: row[k] for k in ("communication_share", "slowest") if k in row}
        row = self._ranks | row
        if self.bar is not None:
            self.bar.update(1)
            room = shutil.get_terminal_size((WIDTH, 24)).columns - _BAR_WIDTH
            self.bar.set_postfix_str(fitting(_words(row), room), refresh=False)
            return
        now = time.monotonic()
        if now - self.last >= self.every_s or row["step"] == self.steps:
            self.last = now
            left = (now - self.start) / (row["step"] - self.first) * (self.steps - row["step"])
            first = f"step {row['step']}/{self.steps}, {duration(left)} left:"
            print(fitting([first, *_words(row)], WIDTH), flush=True)

    def close(self) -> None:
        """Leave the terminal clean."""
        if self.bar is not None:
            self.bar.close()


def _words(row: dict[str, Any]) -> list[str]:
    """A step in parts, the most wanted first."""
    mtp = [] if row.get("mtp_loss") is None else [f"mtp {row['mtp_loss']:.3f}"]
    load = f"load {row['load_max_mean']:.2f}"
    return [f"loss {row['loss']:.3f}", *mtp, *_rates(row), load, *_rank_words(row)]


def _rates(row: dict[str, Any]) -> list[str]:
    """Tokens; of pre-training the share of the peak, of a fine-tuning the tokens that are trained,
    of pairs neither."""
    words = [f"{row['tokens_per_s']:,.0f} tok/s"]
    if "mfu" in row:
        words.append(f"mfu {row['mfu']:.0%}")
    if "trained_tokens_per_s" in row:
        words.append(f"({row['trained_tokens_per_s']:,.0f} trained)")
    return words


def _rank_words(row: dict[str, Any]) -> list[str]:
    """Of several ranks how much they wait for each other, and for which one if for one."""
    if "communication_share" not in row:
        return []
    slowest = row["slowest"]
    is_one = slowest["own_s"] > _SLOW * slowest["median_own_s"]
    name = [f"slow: rank {slowest['rank']} on {slowest['host']}"] * is_one
    return [f"comm {row['communication_share']:.0%}", *name]


def fitting(words: list[str], width: int) -> str:
    """As many of the words, from the first, as a line holds."""
    text = words[0]
    for word in words[1:]:
        if len(text) + 1 + len(word) > width:
            break
        text += f" {word}"
    return text


def duration(seconds: float) -> str:
    """A time as people say it: `42 s`, `3:05 min`, `2:10 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole // 60 % 60:02} h"
