"""What a run reports: JSON lines first, then TensorBoard, a progress line and pictures."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..files import write_atomic


def gemm_peak(dtype: torch.dtype, size: int = 1024, repeats: int = 6) -> float:
    """Best FLOP/s of a square matrix product in `dtype`, measured now (about 0.1 s)."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class MetricsLog:
    """`metrics.jsonl` (one object a step, flushed) and, when installed, TensorBoard events."""

    def __init__(self, run: Path, first_step: int) -> None:
        self.path = run / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] < first_step]
        # Steps after the checkpoint run again: their old lines go.
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.path.open("a", encoding="utf-8")
        self._board = _tensorboard(run / "tensorboard", first_step)

    def write(self, row: dict[str, Any]) -> None:
        """Append one step."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            for key, value in row.items():
                if isinstance(value, (int, float)) and key != "step":
                    self._board.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line cut off by a crash is dropped."""
    if not path.is_file():
        return []
    lines = path.read_text("utf-8").splitlines()
    rows = []
    for n, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if n < len(lines):
                raise DataError("not JSON", path=path, line=n) from None
    return rows


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


def draw(run: Path, title: str) -> list[Path]:
    """Pictures of the loss and of the expert load per layer; none without matplotlib."""
    rows = read_metrics(run / "metrics.jsonl")
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    for key, label in (("loss", "next token"), ("mtp_loss", "MTP (token after next)")):
        points = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
    held = [(r["step"], r["valid_loss"]) for r in rows if r.get("valid_loss") is not None]
    if held:
        axes.plot(*zip(*held, strict=True), "k.", label="held out")
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=f"{title}: loss")
    axes.grid(alpha=0.3)
    axes.legend()
    out = [_save(figure, run / "loss.png")]
    loads = [r["expert_load"] for r in rows if r.get("expert_load")]
    if loads:
        layers = list(loads[-1])
        recent = loads[-max(len(loads) // 10, 1) :]
        share = torch.tensor([[r[layer] for layer in layers] for r in recent]).float().sum(0)
        share = share / share.mean(-1, keepdim=True)
        figure, axes = plt.subplots(figsize=(8, 0.5 * len(layers) + 2))
        image = axes.imshow(share.numpy(), aspect="auto", cmap="coolwarm", vmin=0, vmax=2)
        axes.set(
            xlabel="expert", title=f"{title}: expert load over its layer's mean, last 10% of steps"
        )
        axes.set_yticks(range(len(layers)), [f"layer {n}" for n in layers])
        figure.colorbar(image, ax=axes)
        out.append(_save(figure, run / "expert_load.png"))
    return out


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path
