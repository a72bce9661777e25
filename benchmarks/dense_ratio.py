"""Decode speed of Ling-mini and of a dense 8B model of the same family at growing contexts.

    python benchmarks/dense_ratio.py CACHE [--png ratio.png]

CACHE holds the folders that `ling bench` makes of presets (`ling-mini-2.0-int4`,
`dense-8b-int4`). The KV cache holds noise instead of a prompt that would take an hour to read:
a step reads the same bytes either way. The two take turns, step by step. Prints one JSON line a
context.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from ling.eval.dense_ratio import Decoder

CONTEXTS = (0, 2048, 8192, 32768 - 64)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Ratio over context."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6))
    axes.plot([r["context"] for r in rows], [r["ratio"] for r in rows], marker="o")
    for row in rows:
        axes.annotate(
            f"{row['mini_tokens_per_s']:.1f} : {row['dense_tokens_per_s']:.1f}",
            (row["context"], row["ratio"]),
            textcoords="offset points",
            xytext=(6, 6),
            fontsize=8,
        )
    top = 1.2 * max(r["ratio"] for r in rows)
    axes.set(xlabel="tokens of context", ylabel="times dense 8B", ylim=(0, top))
    axes.set_title("Decoding: Ling-mini over dense 8B, int4 (tokens/s beside)", fontsize=10)
    axes.grid(alpha=0.3)
    axes.set_xlim(-1000, 40000)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    mini, dense = (
        Decoder(args.cache / f"{n}-int4", CONTEXTS[-1]) for n in ("ling-mini-2.0", "dense-8b")
    )
    rows: list[dict[str, float]] = []
    for context in CONTEXTS:
        mini.step(context), dense.step(context)
        pairs = [
            (mini.step(context).seconds, dense.step(context).seconds) for _ in range(args.steps)
        ]
        row = {
            "context": context,
            "mini_tokens_per_s": 1 / statistics.median(a for a, _ in pairs),
            "dense_tokens_per_s": 1 / statistics.median(b for _, b in pairs),
            "ratio": statistics.median(b / a for a, b in pairs),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.png:
        plot(rows, args.png)


if __name__ == "__main__":
    main()
