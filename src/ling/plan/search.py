"""The best layouts for a recipe on a number of GPUs, by trying all that can exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from ..config.kinds import Recipe
from ..config.model import ModelConfig
from ..config.parallel import ParallelConfig
from ..errors import UsageError
from .constants import Constants
from .estimate import Estimate, estimate
from .gpus import Gpu
from .layouts import check_layout
from .memory import Memory, memory
from .shape import shape_of
from .trained import longest_rows

_RECOMPUTE: tuple[Literal["none", "moe", "full"], ...] = ("none", "moe", "full")
_STAGES_PER_RANK = (1, 2, 4)
# Not tried: shorter parts of a row than this, more stages than ranks of two machines.
_TOKENS_PER_PART, _MAX_PP = 2048, 16
# Of layouts that do not fit, how many are told.
_MOST_OTHERS = 100


def search(
    cfg: ModelConfig,
    recipe: Recipe,
    gpu: Gpu,
    constants: Constants,
    gpus: int,
    micro_batches: list[int] | None = None,
) -> list[Estimate]:
    """All layouts that fit, the fastest first; among equals the one with fewer kinds of ranks.

    Global batch and data stay as they are; degrees, recomputation and micro-batch (of
    `micro_batches` where they are given) are tried. Where nothing fits, those that need the least
    memory come first.
    """
    shape = shape_of(cfg, recipe.data.seq_length)
    fitting: list[tuple[float, Recipe, list[Memory]]] = []
    others: list[tuple[float, Recipe, list[Memory]]] = []
    for tried in candidates(recipe, cfg, gpus, micro_batches):
        try:
            check_layout(tried.parallel, tried.train, cfg, gpus)
        except UsageError:
            continue  # it cannot exist
        held = memory(shape, longest_rows(tried), gpu.device)
        peak = max(m.peak for m in held)
        (fitting if peak <= gpu.usable_bytes else others).append((peak, tried, held))
    # Times are simulated only of layouts that matter: most of a large model's do not fit.
    chosen = fitting or sorted(others, key=lambda other: other[0])[:_MOST_OTHERS]
    found = [
        estimate(cfg, tried, gpu, constants, shape=shape, held=held) for _, tried, held in chosen
    ]
    return sorted(found, key=_rank) if fitting else found


def _rank(found: Estimate) -> tuple[float, float]:
    """Faster first, by three digits; then the simpler layout."""
    layout = found.recipe.parallel
    kinds = (layout.dp_replicate, layout.cp, layout.pp, layout.pp_stages_per_rank)
    simple = sum(degree > 1 for degree in kinds) + _RECOMPUTE.index(layout.recompute) / 10
    return -float(f"{found.tokens_per_s:.3g}"), simple


def candidates(
    recipe: Recipe, cfg: ModelConfig, gpus: int, micro_batches: list[int] | None = None
) -> Iterator[Recipe]:
    """The recipe with every layout of `gpus` ranks that its sections take."""
    for layout in _layouts(cfg, gpus, recipe.data.seq_length):
        for micro in micro_batches or _micro_batches(recipe, layout):
            try:
                train: Any = dataclasses.replace(recipe.train, micro_batch_size=micro)
                yield dataclasses.replace(recipe, train=train, parallel=layout)
            except UsageError:
                continue


def _layouts(cfg: ModelConfig, gpus: int, seq_length: int) -> Iterator[ParallelConfig]:
    recompute = [what for what in _RECOMPUTE if cfg.num_experts or what != "moe"]
    for pp in _divisors(gpus):
        if pp > min(cfg.num_hidden_layers + 1, _MAX_PP):
            continue
        for cp in _divisors(gpus // pp):
            if cp > 1 and seq_length // cp < _TOKENS_PER_PART:
                continue
            for shard in _divisors(gpus // pp // cp):
                experts = _divisors(shard * cp) if cfg.num_experts else [1]
                for ep in experts:
                    for per_rank in _STAGES_PER_RANK if pp > 1 else (1,):
                        for what in recompute:
                            yield ParallelConfig(
                                dp_replicate=gpus // pp // cp // shard,
                                dp_shard=shard,
                                cp=cp,
                                pp=pp,
                                pp_stages_per_rank=per_rank,
                                ep=ep,
                                recompute=what,
                            )


def _micro_batches(recipe: Recipe, layout: ParallelConfig) -> list[int]:
    """Rows of a micro-batch: powers of two, and the recipe's own."""
    most = max(recipe.train.global_batch_size // layout.dp, 1)
    powers = [1 << n for n in range(5) if 1 << n <= most]
    own = recipe.train.micro_batch_size
    return sorted({*powers, *([own] if own <= most else [])})


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
