"""The heat map of `ling eval needle`: depth over length, a panel for each scaling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .needle import works_in_words

PICTURE = "needle.png"


def draw(result: dict[str, Any], path: Path) -> Path | None:
    """Write the picture; None, and nothing written, without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    scalings = result["scalings"]
    width = 1.4 + len(scalings) * (0.9 + 0.75 * len(result["lengths"]))
    figure, panels = plt.subplots(
        1,
        len(scalings),
        figsize=(max(width, 5.5), 1.9 + 0.45 * len(result["depths"])),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axes, scaling in zip(panels[0], scalings, strict=True):
        image = _panel(axes, result, scaling)
    panels[0][0].set_ylabel("depth of the needle")
    figure.colorbar(image, ax=panels, label="share of rows right", shrink=0.9)
    figure.suptitle(
        f"Needle ({result['needles']}), {result['rows']} rows a cell, trained at "
        f"{result['trained_length']:,} tokens",
        fontsize=10,
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _panel(axes: Any, result: dict[str, Any], scaling: dict[str, Any]) -> Any:
    lengths, depths = result["lengths"], result["depths"]
    shares = np.array(scaling["shares"]).T  # depth from top to bottom
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        colour = "black" if 0.1 < share < 0.93 else "white"  # on the darkest ones
        style = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
        axes.text(column, row, f"{100 * share:.0f}", **style)
    axes.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths], fontsize=8)
    axes.set_yticks(range(len(depths)), [f"{d:.0%}" for d in depths], fontsize=8)
    axes.set_xlabel("tokens of context")
    axes.set_title(f"{scaling['name']}: works to {works_in_words(scaling)}", fontsize=9)
    return image
