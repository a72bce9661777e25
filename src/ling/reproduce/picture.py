"""Pictures: matplotlib without a screen, and one look for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def drawing(path: Path, columns: int = 1, size: tuple[float, float] = (7, 4.2)) -> Iterator[Any]:
    """Yield the axes of a picture (a list of them for several columns), then save it.

    Raises `ImportError` without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=size, layout="constrained", squeeze=False)
    try:
        for each in axes[0]:
            each.grid(alpha=0.3)
            each.set_axisbelow(True)
        yield axes[0][0] if columns == 1 else list(axes[0])
        figure.savefig(path, dpi=120)
    finally:
        plt.close(figure)


def paired_bars(axes: Any, names: list[str], sides: dict[str, list[float]]) -> None:
    """Groups of bars side by side, with their values above."""
    width = 0.8 / len(sides)
    for k, (label, values) in enumerate(sides.items()):
        at = [n + (k - (len(sides) - 1) / 2) * width for n in range(len(names))]
        bars = axes.bar(at, values, width, label=label)
        axes.bar_label(bars, [f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in values], fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.legend(fontsize=8)
