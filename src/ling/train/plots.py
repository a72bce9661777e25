"""Pictures of a run: losses, expert load at its end and over time, drift of the router bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .loads import LoadMap
from .log import each_row

# Of the steps, this many are averaged for the smooth line, and this many are the end of a run.
_SMOOTH_SHARE, _END_SHARE = 0.04, 0.1
# Of the expert loads, at least this many spans of steps once a run is that long.
_SPANS = 60
_LABELS = {
    "loss": "next token",
    "mtp_loss": "token after next (MTP: a layer that looks one token further)",
}


def draw(run: Path, title: str) -> list[Path]:
    """Pictures of losses, expert load and router bias; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    rows, loads = _read(run / "metrics.jsonl")
    matplotlib.use("Agg")
    out = [_draw_losses(run, rows, title)]
    if loads.counts:
        out += [_draw_load(run, loads, title), _draw_history(run, loads, title)]
    if any(row.get("router_bias") for row in rows):
        out.append(_draw_bias(run, rows, title))
    return out


def _read(path: Path) -> tuple[list[dict[str, Any]], LoadMap]:
    """Rows without expert loads, which are most of the bytes of a large model's log, and these
    added up over spans of steps."""
    rows, loads = [], LoadMap(_SPANS)
    for row in each_row(path):
        load = row.pop("expert_load", None)
        if load:
            loads.add(row["step"], load)
        rows.append(row)
    return rows, loads


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


def _draw_load(run: Path, loads: LoadMap, title: str) -> Path:
    """Tokens of each expert in the last steps, as a multiple of its layer's mean."""
    from matplotlib import pyplot as plt

    recent = max(round(len(loads.spans) * _END_SHARE), 1)
    share = _share(np.sum(loads.counts[-recent:], axis=0))
    first, last = loads.spans[-recent][0], loads.spans[-1][1]
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(loads.layers) + 2.2))
    image = _load_image(axes, share)
    axes.set(
        xlabel="expert", ylabel="layer", title=f"Expert load, steps {first} to {last}\n{title}"
    )
    axes.set_yticks(range(len(loads.layers)), loads.layers)
    _load_scale(figure, image, axes)
    return _save(figure, run / "expert_load.png")


def _draw_history(run: Path, loads: LoadMap, title: str) -> Path:
    """The same over time: a strip for each layer, in it a line for each expert."""
    from matplotlib import pyplot as plt

    share = np.stack([_share(counts) for counts in loads.counts], axis=-1)
    layers, experts, spans = share.shape
    figure, axes = plt.subplots(figsize=(8, min(0.9 * layers, 24) + 2.2))
    image = _load_image(axes, share.reshape(layers * experts, spans))
    axes.set(xlabel="optimizer step", ylabel="layer, and its experts from the top")
    axes.set_title(f"Expert load over time\n{title}")
    axes.set_yticks(np.arange(layers) * experts + (experts - 1) / 2, loads.layers)
    for border in range(1, layers):
        axes.axhline(border * experts - 0.5, color="black", linewidth=0.8)
    shown = np.unique(np.linspace(0, spans - 1, 7).astype(int))
    axes.set_xticks(shown, [str(loads.spans[n][1]) for n in shown])
    _load_scale(figure, image, axes)
    return _save(figure, run / "expert_load_over_time.png")


def _share(counts: np.ndarray) -> np.ndarray:
    """Loads [layers, experts] as multiples of the layer's mean."""
    share: np.ndarray = counts / np.maximum(counts.mean(-1, keepdims=True), 1e-9)
    return share


def _load_image(axes: Any, share: np.ndarray) -> Any:
    from matplotlib import colors

    norm = colors.TwoSlopeNorm(vmin=0, vcenter=1, vmax=max(2.0, float(share.max())))
    return axes.imshow(share, aspect="auto", cmap="coolwarm", norm=norm, interpolation="nearest")


def _load_scale(figure: Any, image: Any, axes: Any) -> None:
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("tokens / mean\nof the layer (1 = even)")


def _draw_bias(run: Path, rows: list[dict[str, Any]], title: str) -> Path:
    """The largest |bias| of each layer; one that grows without end follows no balance."""
    from matplotlib import pyplot as plt

    rows = [row for row in rows if row.get("router_bias")]
    layers = list(rows[-1]["router_bias"])
    figure, axes = plt.subplots(figsize=(8, 4.5))
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(layers)))
    for layer, shade in zip(layers, shades, strict=True):
        points = [(r["step"], r["router_bias"][layer]) for r in rows if layer in r["router_bias"]]
        marker = "o" if len(points) == 1 else None
        axes.plot(*zip(*points, strict=True), color=shade, label=f"layer {layer}", marker=marker)
    axes.set(xlabel="optimizer step", ylabel="largest |bias|", title=f"Router bias\n{title}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=max(1, len(layers) // 8))
    return _save(figure, run / "router_bias.png")


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
