"""Pictures of the card: the curve of the pre-training, and its checkpoints side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..train.plots import smooth
from .checkpoints import MERGED

CURVE, CHECKPOINTS = "ling-nano-curve.png", "ling-nano-checkpoints.png"
WSM = "ling-nano-wsm.png"
_SHARES = {
    "formed": "in form",
    "right_tool": "right tool",
    "exact_listed": "exact call, arguments from lists",
    "exact_free": "exact call, free arguments",
}


def draw(card: dict[str, Any], folder: Path) -> list[Path]:
    """Write both into `folder`; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    return [_draw_curve(card, folder / CURVE), _draw_checkpoints(card, folder / CHECKPOINTS)]


def _draw_curve(card: dict[str, Any], path: Path) -> Path:
    from matplotlib import pyplot as plt

    curve = card["curve"]
    train, held_out = curve["train"], curve["held_out"]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for key, label in (("loss", "next token"), ("mtp_loss", "token after next (MTP)")):
        points = [(s, v) for s, v in zip(train["step"], train[key], strict=True) if v is not None]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, smooth(np.array(values)), label=label, linewidth=1.4)
    label = ", ".join(["next token, held out", *held_out["part"]])
    axes.plot(held_out["step"], held_out["loss"], "o", color="black", markersize=4, label=label)
    for step in curve["kept"]:
        axes.axvline(step, color="grey", linewidth=0.6, linestyle=":")
    axes.set(xlabel="step (dotted: the five checkpoints)", ylabel="loss (nats per token)")
    axes.set_title("ling-nano, pre-training at a constant learning rate")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _save(figure, path)


def _draw_checkpoints(card: dict[str, Any], path: Path) -> Path:
    """Bits per byte and dialogues over the steps, the merge as stars at the end; MTP agreement too,
    where pre-training trained the layer."""
    from matplotlib import pyplot as plt

    rows = card["checkpoints"]
    count = 3 if trains_mtp(card) else 2
    size = (4.4 * count, 4.2)
    figure, panels = plt.subplots(1, count, figsize=size, layout="constrained")
    for name in rows[0]["bits_per_byte"]:
        _line(panels[0], rows, name, lambda row, n=name: row["bits_per_byte"][n])
    for name, label in _SHARES.items():
        _line(panels[1], rows, label, lambda row, n=name: row["dialogues"][n])
    for name in rows[0]["mtp_agreement"] if count == 3 else ():
        _line(panels[2], rows, name, lambda row, n=name: row["mtp_agreement"].get(n))
    titles = (
        ("bits per byte, held out", "lower is better"),
        ("held-out dialogues, base model", "share of turns"),
        ("MTP agrees with the main head", "share of positions, held out"),
    )
    for axes, (title, label) in zip(panels, titles[:count], strict=True):
        axes.set(title=title, ylabel=label, xlabel="step (star: merged)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    for axes in panels[1:]:
        axes.set_ylim(-0.03, 1.03)
    return _save(figure, path)


def trains_mtp(card: dict[str, Any]) -> bool:
    """Whether the pre-training of a card had an MTP loss."""
    return any(loss is not None for loss in card["curve"]["train"]["mtp_loss"])


def _line(axes: Any, rows: list[dict[str, Any]], label: str, value: Any) -> None:
    points = [(row["step"], value(row)) for row in rows if row["step"] != MERGED]
    known = [(step, v) for step, v in points if v is not None]
    if not known:
        return
    (line,) = axes.plot(*zip(*known, strict=True), marker="o", markersize=4, label=label)
    merged = next((value(row) for row in rows if row["step"] == MERGED), None)
    if merged is not None:
        axes.plot(known[-1][0], merged, "*", color=line.get_color(), markersize=11)


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
