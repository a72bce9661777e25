"""`parallel: auto`: the planner's best layout for the ranks at hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..config.kinds import Recipe
from ..config.model import ModelConfig
from ..config.parallel import ParallelConfig
from ..errors import UsageError
from ..ops.limits import memory_available, usable_cores
from ..plan.constants import ASSUMED, Constants
from ..plan.gpus import CPU_CONSTANTS, GPUS, Gpu, gpu_like
from ..plan.search import search
from ..plan.table import layout_words
from .device import choose_device
from .parallel.group import World
from .progress import gemm_peak
from .resume import saved_recipe

_UNKNOWN = GPUS["h100-80g"]
# Of all ranks of a machine together, and between two of them.
CPU_BYTES_PER_S, GLOO_BYTES_PER_S = 30e9, 1.5e9


def chosen(
    recipe: Recipe,
    config: Callable[[Recipe], ModelConfig],
    out: Path,
    log: Callable[[str], None],
    world: World,
) -> Recipe:
    """The recipe with a layout in place of `auto`: that of the run in `out`, which the same number
    of ranks began, else the fastest that fits. All ranks call this; rank 0 chooses."""
    if not recipe.parallel.auto:
        return recipe

    def choose() -> ParallelConfig | None:
        if not world.leads:
            return None
        return _earlier(out, world.size) or _best(recipe, config(recipe), world.size, log)

    layout = world.gather(world.together(choose))[0]
    assert layout is not None
    return dataclasses.replace(recipe, parallel=layout)


def _earlier(out: Path, ranks: int) -> ParallelConfig | None:
    """The layout that the run in `out` was frozen with."""
    before = saved_recipe(out) or {}
    values: dict[str, Any] = {
        key.removeprefix("parallel."): value
        for key, value in before.items()
        if key.startswith("parallel.") and not key.endswith(".auto")
    }
    layout = ParallelConfig(**values) if values else None
    return layout if layout is not None and layout.world == ranks else None


def _best(
    recipe: Recipe, cfg: ModelConfig, ranks: int, log: Callable[[str], None]
) -> ParallelConfig:
    gpu, constants = _here(recipe, ranks)
    micro = [recipe.train.micro_batch_size]
    found = search(cfg, recipe, gpu, constants, ranks, micro_batches=micro)
    if not found:
        raise UsageError(
            f"`parallel: auto`: no layout of {ranks} ranks fits `train.global_batch_size` = "
            f"{recipe.train.global_batch_size}, `train.micro_batch_size` = {micro[0]} and the model"
        )
    best = found[0]
    doubt = "" if best.fits else "; it may not fit into memory"
    log(f"parallel: auto, {ranks} × {gpu.name}: {layout_words(best)}{doubt}")
    return best.recipe.parallel


def _here(recipe: Recipe, ranks: int) -> tuple[Gpu, Constants]:
    """What each rank computes with."""
    device = choose_device(recipe.train.device)
    if device.type == "cpu":
        return this_cpu(ranks), CPU_CONSTANTS
    name = torch.cuda.get_device_name(device)
    known = gpu_like(name)
    doubt = "" if known else f" (unknown, planned with the peaks of {_UNKNOWN.name})"
    free, _ = torch.cuda.mem_get_info(device)
    gpu = dataclasses.replace(known or _UNKNOWN, name=name + doubt, usable_bytes=free)
    return gpu, ASSUMED


def this_cpu(ranks: int) -> Gpu:
    """A rank's part of this machine: its peak is measured on one core, the rest assumed."""
    threads, cores = torch.get_num_threads(), usable_cores()
    torch.set_num_threads(1)
    try:
        one = gemm_peak(torch.bfloat16)
    finally:
        torch.set_num_threads(threads)
    each = max(cores // ranks, 1)
    left = memory_available()
    return Gpu(
        name="cpu",
        bf16_flops=one * each,
        fp8_flops=None,
        usable_bytes=(math.inf if left is None else left) / ranks,
        memory_bytes_per_s=CPU_BYTES_PER_S / ranks,
        link_bytes_per_s=GLOO_BYTES_PER_S,
        net_bytes_per_s=GLOO_BYTES_PER_S,
        per_node=ranks,
        device="cpu",
        source="one core's products measured now; memory 30 GB/s, gloo 1.5 GB/s assumed",
    )
