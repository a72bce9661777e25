"""Pictures of a run: losses, expert load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .log import read_metrics

# Of the steps, this many are averaged for the smooth line, and this many are the end of a run.
_SMOOTH_SHARE, _END_SHARE = 0.04, 0.1
_LABELS = {
    "loss": "next token",
    "mtp_loss": "token after next (MTP: a layer that looks one token further)",
}


def draw(run: Path, title: str) -> list[Path]:
    """Pictures of the loss and of the expert load per layer; none without matplotlib."""
    rows = read_metrics(run / "metrics.jsonl")
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    out = [_draw_losses(run, rows, title)]
    loads = [r["expert_load"] for r in rows if r.get("expert_load")]
    if loads:
        out.append(_draw_load(run, loads, title))
    return out


def _draw_losses(run: Path, rows: list[dict[str, Any]], title: str) -> Path:
    """Every step thin, its running mean over it, held-out losses as points."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    for key, label in _LABELS.items():
        steps, losses = _series(rows, key)
        if not len(steps):
            continue
        (line,) = axes.plot(steps, smooth(losses), label=label, linewidth=1.6, zorder=2)
        axes.plot(steps, losses, color=line.get_color(), alpha=0.3, linewidth=0.7, zorder=1)
        held_out = _series(rows, f"valid_{key}")
        if len(held_out[0]):
            style: dict[str, Any] = {
                "color": line.get_color(),
                "marker": "o",
                "linestyle": "none",
                "zorder": 3,
            }
            axes.plot(*held_out, markeredgecolor="black", label="the same, held-out text", **style)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)", title=f"Loss\n{title}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _save(figure, run / "loss.png")


def _draw_load(run: Path, loads: list[dict[str, list[int]]], title: str) -> Path:
    """Tokens of each expert in the last steps, as a multiple of its layer's mean."""
    from matplotlib import colors
    from matplotlib import pyplot as plt

    layers = list(loads[-1])
    recent = loads[-max(round(len(loads) * _END_SHARE), 1) :]
    counts = np.array([[r[layer] for layer in layers] for r in recent], float).sum(0)
    share = counts / np.maximum(counts.mean(-1, keepdims=True), 1e-9)
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(layers) + 2.2))
    norm = colors.TwoSlopeNorm(vmin=0, vcenter=1, vmax=max(2.0, float(share.max())))
    image = axes.imshow(share, aspect="auto", cmap="coolwarm", norm=norm, interpolation="nearest")
    axes.set(
        xlabel="expert",
        ylabel="layer",
        title=f"Expert load, last {len(recent)} of {len(loads)} steps\n{title}",
    )
    axes.set_yticks(range(len(layers)), layers)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("tokens / mean\nof the layer (1 = even)")
    return _save(figure, run / "expert_load.png")


def _series(rows: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one column."""
    found = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
    values = np.array(found, float).reshape(-1, 2)
    values = values[np.isfinite(values[:, 1])]
    return values[:, 0], values[:, 1]


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean of each value's neighbours, fewer of them near both ends."""
    half = round(len(values) * _SMOOTH_SHARE / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    reach = np.minimum(half, np.minimum(at, len(values) - 1 - at))
    return (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path
