"""Results of runs that never were: from a known law, with noise that a seed decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ling.scaling.results import Row


def row(**changes: Any) -> Row:
    """A result with plausible values; FLOPs follow from tokens unless they are given."""
    values: dict[str, Any] = {
        "run": "a",
        "family": "dense",
        "size": "m",
        "activation_ratio": 1.0,
        "granularity": None,
        "seed": 0,
        "params_total": 500_000,
        "params_active": 500_000,
        "params_active_no_head": 100_000,
        "flops_per_token": 700_000,
        "flops_per_token_with_head": 900_000,
        "tokens": 14_000_000,
        "target_flops": 1e13,
        "lr": 0.01,
        "lr_factor": 1.0,
        "batch_tokens": 4096,
        "steps": 3418,
        "loss": 4.0,
        "valid_tokens": 100_000,
        "train_loss": 4.1,
        "status": "done",
        "held_out": False,
        "seconds": 100.0,
        "commit": "abc",
        "machine": "cpu",
    } | changes
    values.setdefault("flops", float(values["flops_per_token"] * values["tokens"]))
    values.setdefault(
        "flops_with_head", float(values["flops_per_token_with_head"] * values["tokens"])
    )
    return Row(**values)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A file of results."""
    path.write_text("".join(one.as_json() + "\n" for one in rows))


FAMILIES = {"dense": (1.0, None, 1.0), "1/8": (5 / 33, 4.0, 1.15), "1/32": (5 / 129, 8.0, 1.4)}
"""Activation ratio, granularity, and how much better than dense the made-up surface is per size."""
TRUTH = {"e": 1.7, "a": 60.0, "alpha": 0.34, "b": 160.0, "beta": 0.30}
BUDGETS = (1e13, 3e13, 1e14)


def true_loss(size: float, tokens: float, gain: float = 1.0) -> float:
    """The surface that `sweep` draws from; a family's `gain` multiplies its size."""
    t = TRUTH
    return t["e"] + t["a"] / (gain * size) ** t["alpha"] + t["b"] / tokens ** t["beta"]


def sweep(
    sigma: float = 0.0,
    seed: int = 0,
    budgets: Sequence[float] = BUDGETS,
    families: Sequence[str] = tuple(FAMILIES),
    seeds_at: float | None = None,
    rates_at: float | None = None,
    best_factor: float = 1.0,
) -> list[Row]:
    """Three sizes a budget around the optimum; a second seed of the middle one at `seeds_at`, its
    rates × 1/2 and 2 at `rates_at`."""
    rng = np.random.default_rng(seed)
    rows = []
    for family in families:
        ratio, granularity, gain = FAMILIES[family]
        for flops in budgets:
            best = best_size(flops, gain)
            for size, times in (("s", 0.6), ("m", 1.0), ("l", 1.7)):
                extra = [(1, 1.0)] if (size, flops) == ("m", seeds_at) else []
                if (size, flops) == ("m", rates_at):
                    extra += [(0, 0.5), (0, 2.0)]
                for run_seed, factor in [(0, 1.0), *extra]:
                    params = round(best * times)
                    tokens = round(flops / (6 * params))
                    penalty = 0.05 * math.log2(factor / best_factor) ** 2
                    loss = true_loss(params, tokens, gain) + penalty + sigma * rng.normal()
                    rows.append(
                        row(
                            run=f"{family}-{size}-{flops:.0e}-{run_seed}-x{factor:g}",
                            family=family,
                            size=f"{size}{flops:.0e}",
                            activation_ratio=ratio,
                            granularity=granularity,
                            seed=run_seed,
                            params_active_no_head=params,
                            flops_per_token=6 * params,
                            flops_per_token_with_head=6 * params + 500_000,
                            tokens=tokens,
                            target_flops=flops,
                            lr=0.01 * factor,
                            lr_factor=factor,
                            loss=loss,
                        )
                    )
    return rows


def best_size(flops: float, gain: float = 1.0) -> float:
    """The compute-optimal size of the surface, by its derivative."""
    t, product = TRUTH, flops / 6
    ratio = t["alpha"] * t["a"] / gain ** t["alpha"] / (t["beta"] * t["b"])
    return (ratio * product ** t["beta"]) ** (1 / (t["alpha"] + t["beta"]))
