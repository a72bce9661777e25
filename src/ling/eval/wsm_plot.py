"""The picture of `wsm.compare`: held-out loss over a merge's window, or a decay's steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLORS = {"mean": "tab:blue", "linear": "tab:orange", "one-minus-sqrt": "tab:green"}
_STYLES = ("-", "--", ":")


def draw(report: dict[str, Any], path: Path) -> Path | None:
    """A line for each schedule and interval, decays as squares; None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    intervals = sorted({row["interval"] for row in report["merges"]})
    for schedule, color in _COLORS.items():
        for interval, style in zip(intervals, _STYLES, strict=False):
            rows = [
                row
                for row in report["merges"]
                if (row["schedule"], row["interval"]) == (schedule, interval)
            ]
            if rows:
                points = sorted((row["window"], row["loss"]) for row in rows)
                label = f"merge, {schedule}, every {interval} steps"
                axes.plot(*zip(*points, strict=True), style, color=color, marker=".", label=label)
    decays = sorted((row["window"], row["loss"]) for row in report["decays"])
    if decays:
        label = f"decay really trained ({report['shape']})"
        axes.plot(*zip(*decays, strict=True), "s-", color="black", label=label)
    last = report["last"]["loss"]
    axes.axhline(last, color="grey", linewidth=1, label="last checkpoint, constant rate")
    axes.set(
        xlabel="window of the merge, or length of the decay (steps)",
        ylabel="held-out loss (nats per token)",
        title=f"Merge or decay: all at step {report['step']:,}",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
