"""Where the 16 levels of the 4-bit formats come from, and what others would cost.

    python benchmarks/int4_levels.py

Lloyd's algorithm on normal weights: each group takes the scale that minimises its squared error,
each level then moves to the mean of what it stands for. Prints the error (root mean square,
relative to the weights') of the levels we use, of uniform ones, and of uniform ones with a minimum
per group; then what our quick search for scales loses against one over 80 clips in floats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ling.ops.formats import FORMATS, INT4_CLIPS, INT4_LEVELS, Format
from ling.ops.packing import pack, unpack

UNIFORM = torch.arange(-8, 8).float()
UNIFORM_CLIPS = [s * m for m in torch.linspace(5.5, 9, 10).tolist() for s in (1, -1)]


def fit(w: Tensor, levels: Tensor, clips: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Scale [n], codes [n, G] and squared error [n] of groups w [n, G], by search and least
    squares.
    """
    largest = w.gather(1, w.abs().argmax(-1, keepdim=True))[:, 0]
    borders = (levels[1:] + levels[:-1]) / 2
    error, scale = torch.full((len(w),), float("inf")), torch.zeros(len(w))
    for clip in clips:
        q = levels[torch.bucketize(w * (clip / largest)[:, None], borders)]
        refit = (w * q).sum(-1) / (q * q).sum(-1)
        e = (w - q * refit[:, None]).square().sum(-1)
        error, scale = torch.where(e < error, e, error), torch.where(e < error, refit, scale)
    codes = torch.bucketize(w / scale[:, None], borders)
    return scale, codes, (w - levels[codes] * scale[:, None]).square().sum(-1)


def with_minimum(w: Tensor) -> Tensor:
    """Squared error of uniform levels between a group's own bounds, the best of some clips."""
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    best = torch.full((len(w),), float("inf"))
    for shrink in (1.0, 0.95, 0.9, 0.85, 0.8):
        step = (high - low) * shrink / 15
        q = ((w - low * shrink) / step).round().clamp(0, 15)
        best = torch.minimum(best, (w - (q * step + low * shrink)).square().sum(-1))
    return best


def lloyd(w: Tensor, levels: Tensor, rounds: int = 25) -> Tensor:
    """Levels that suit the groups, largest magnitude 127."""
    for _ in range(rounds):
        scale, codes, _ = fit(w, levels, list(INT4_CLIPS))
        top, bottom = torch.zeros(16), torch.zeros(16)
        top.index_add_(0, codes.flatten(), (w * scale[:, None]).flatten())
        bottom.index_add_(0, codes.flatten(), scale.square()[:, None].expand_as(w).flatten())
        levels = top / bottom
        levels = levels * 127 / levels.abs().max()
    return levels


def draws(n: int, group: int) -> dict[str, Tensor]:
    """Groups of weights with ever more of them far out."""
    far = torch.where(torch.rand(n, group) < 0.005, 8.0, 1.0)
    return {
        "normal": torch.randn(n, group),
        "Laplace": torch.distributions.Laplace(0.0, 1.0).sample((n, group)),
        "Student t, 4": torch.distributions.StudentT(4.0).sample((n, group)),
        "0.5% outliers": torch.randn(n, group) * far,
        "uniform": torch.rand(n, group) - 0.5,
    }


def compare_searches(fmt: Format) -> None:
    """Print our error, and by how much more it is than that of a search over many clips."""
    fine = [sign * c for c in torch.logspace(1.85, 2.2, 40).tolist() for sign in (1, -1)]
    for name, w in draws(20000, fmt.group).items():
        w = w.bfloat16().float()
        total = w.square().sum()
        best = (fit(w, torch.tensor(INT4_LEVELS).float(), fine)[2].sum() / total).sqrt()
        ours = ((unpack(pack(w, fmt)) - w).square().sum() / total).sqrt()
        more = float(ours / best - 1)
        print(f"{fmt.name} {name:<13} error {float(ours):.4f}, {more:+.2%} to 80 clips in floats")


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    ours = torch.tensor(INT4_LEVELS).float()
    for group in (32, 64):
        w = torch.randn(20000, group)
        found = lloyd(w, ours.clone())
        errors = {
            "ours": fit(w, ours, list(INT4_CLIPS))[2],
            "found": fit(w, found, list(INT4_CLIPS))[2],
            "uniform": fit(w, UNIFORM, UNIFORM_CLIPS)[2],
            "uniform with a minimum": with_minimum(w),
        }
        line = ", ".join(
            f"{k} {float((e.sum() / w.square().sum()).sqrt()):.4f}" for k, e in errors.items()
        )
        print(f"groups of {group}: {line}; levels found {[round(x) for x in found.tolist()]}")
    for name in ("int4", "int4_g32"):
        compare_searches(FORMATS[name])


if __name__ == "__main__":
    main()
