"""Models larger than memory: experts stay in their mapped file, and only the hot ones in memory.

A token needs a few of many experts, so a model runs with a part of its experts resident. Which part
is measured: routing counts, older ones decaying. The others are read ahead when a step needs
them and evicted after it, so memory stays within its bound instead of being fought over.
"""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..checkpoint.packed.folder import PackedFolder
from ..config.model import ModelConfig
from ..errors import UsageError
from ..ops import native

if TYPE_CHECKING:
    from .native_runner import NativeRunner

# Activations of a step, Python and torch themselves.
OVERHEAD_BYTES = 700 << 20
REVIEW_STEPS = 32
DECAY = 0.9
PROBE_BYTES = 32 << 20


@dataclass(frozen=True)
class Budget:
    """How a bound on memory is spent."""

    total: int
    fixed: int
    per_expert: int
    experts: int

    @property
    def slots(self) -> int:
        """Experts that stay in memory."""
        return max(0, min(self.experts, (self.total - self.fixed) // self.per_expert))


def plan(packed: PackedFolder, total: int, kv_bytes: int) -> Budget:
    """What fits. Raises `UsageError`, with the least that would do, when not even one step's
    experts fit beside the rest."""
    cfg, stacks = packed.config, _stacks(packed)
    per_expert = sum(packed.source.nbytes(n) for n in stacks[0].names) // cfg.num_experts
    experts = sum(packed.source.nbytes(n) for s in stacks for n in s.names)
    everything = sum(packed.source.nbytes(n) for n in packed.source.weight_map)
    budget = Budget(
        total,
        everything - experts + kv_bytes + OVERHEAD_BYTES,
        per_expert,
        len(stacks) * cfg.num_experts,
    )
    least = budget.fixed + cfg.num_experts_per_tok * per_expert
    if total < least:
        raise UsageError(
            f"`max_memory` is {total / 1e9:.1f} GB; attention, head, cache and the experts of "
            f"one layer take {least / 1e9:.1f} GB: give that, or a smaller `max_model_len`"
        )
    return budget


@dataclass(frozen=True)
class _Stack:
    layer: int
    names: tuple[str, ...]


def _stacks(packed: PackedFolder) -> list[_Stack]:
    cfg: ModelConfig = packed.config
    suffixes = [f"{m}.{s}" for m in ("gate_up_proj", "down_proj") for s in ("qweight", "scales")]
    return [
        _Stack(n, tuple(f"model.layers.{n}.mlp.experts.{s}" for s in suffixes))
        for n in range(cfg.num_cache_layers)
        if cfg.is_moe_layer(n)
    ]


class ExpertOffload:
    """Keeps the hottest experts of a native runner in memory, and the rest in their file."""

    def __init__(self, runner: NativeRunner, packed: PackedFolder, budget: Budget) -> None:
        self.runner, self.budget = runner, budget
        self.stacks = _stacks(packed)
        self.hot = torch.zeros(len(self.stacks), packed.config.num_experts, dtype=torch.uint8)
        self.heat = torch.zeros(self.hot.shape)
        self._files: dict[Path, int] = {}
        self._steps = 0
        for row, stack in enumerate(self.stacks):
            locations = [packed.source.raw(name) for name in stack.names]
            fd = self._open(locations[0][0])
            if any(location[0] != locations[0][0] for location in locations):
                raise UsageError(
                    f"{packed.source.folder}: layer {stack.layer}'s experts lie in two files; "
                    "convert it with a larger --max-shard-size"
                )
            offsets = (ctypes.c_int64 * 4)(*(offset for _, offset, _ in locations))
            status = runner.lib.ling_model_offload(
                runner.model, stack.layer, fd, offsets, self.hot[row].data_ptr()
            )
            native.check(runner.lib, status)
        self._choose()

    def _open(self, path: Path) -> int:
        if path not in self._files:
            self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._files[path]

    def close(self) -> None:
        """Close the files."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def step_done(self) -> None:
        """Every `REVIEW_STEPS` steps, choose again by the routing so far which experts stay."""
        self._steps += 1
        if self._steps % REVIEW_STEPS == 0:
            counts = self.runner.expert_counts()[[s.layer for s in self.stacks]]
            self.heat = self.heat * DECAY + counts
            self._choose()

    def _choose(self) -> None:
        # Ties, as before anything is known, go to the experts of all layers alike.
        tie = 1e-6 * torch.arange(self.hot.shape[1], 0, -1)
        order = (self.heat + tie).flatten().argsort(descending=True, stable=True)
        self.hot.zero_()
        self.hot.view(-1)[order[: self.budget.slots]] = 1
        for stack in self.stacks:
            native.check(
                self.runner.lib, self.runner.lib.ling_model_evict(self.runner.model, stack.layer)
            )

    def share_cold(self) -> float:
        """Share of routed tokens that need an expert from the file, by the counts so far."""
        if not bool(self.heat.any()):
            return 1 - self.budget.slots / self.budget.experts
        return float(self.heat[self.hot == 0].sum() / self.heat.sum())

    def statement(self, cfg: ModelConfig) -> str:
        """What to expect, in one line."""
        routed = sum(cfg.is_moe_layer(n) for n in range(cfg.num_hidden_layers))
        cold = self.share_cold() * routed * cfg.num_experts_per_tok * self.budget.per_expert
        rate = self._disk_rate()
        return (
            f"{self.budget.slots} of {self.budget.experts} experts stay in "
            f"{self.budget.total / 1e9:.1f} GB; a token reads about {cold / 1e6:.0f} MB from disk "
            f"at {rate / 1e9:.1f} GB/s: expect up to {rate / max(cold, 1):.1f} tokens/s"
        )

    def _disk_rate(self) -> float:
        """Bytes per second of reading a part of the file that is not cached."""
        fd = next(iter(self._files.values()))
        at = max(0, os.fstat(fd).st_size // 2 - PROBE_BYTES)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, at, PROBE_BYTES, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        read = len(os.pread(fd, PROBE_BYTES, at))
        return read / (time.perf_counter() - start)
