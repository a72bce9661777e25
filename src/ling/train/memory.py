"""The memory of a run: what is expected before its first step, and how far that was off.

Measured is what the process holds beyond what it held before the model; on CUDA what torch
allocated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..config.kinds import Recipe
from ..config.model import ModelConfig
from ..ops.processes import resident_bytes
from ..plan.memory import Memory, memory
from ..plan.shape import shape_of
from ..plan.table import columns
from ..plan.trained import longest_rows
from ..text import size
from .parallel.group import World

# The first step makes the optimizer's states, and later ones fill gaps of the heap.
MEASURED_STEPS = 3
_SHOWN = ("parameters", "gradients", "states", "activations")


class MemoryReport:
    """Make it before the model; all ranks call `measure` after every step."""

    def __init__(self, recipe: Recipe, device: torch.device, world: World) -> None:
        self.recipe, self.device, self.world = recipe, device, world
        self.before = _now(device)
        self.expected: list[Memory] = []
        self._steps = 0

    def tell(self, cfg: ModelConfig, log: Callable[[str], None]) -> None:
        """Log what each rank will hold at most."""
        recipe = longest_rows(self.recipe)
        shape = shape_of(cfg, recipe.data.seq_length)
        self.expected = memory(shape, recipe, self.device.type)
        log("\n".join(lines(self.expected)))

    def measure(self, log: Callable[[str], None]) -> None:
        """After the first steps log what was held, beside what was expected."""
        self._steps += 1
        if self._steps != MEASURED_STEPS or not self.expected:
            return
        held = self.world.gather(_held(self.device) - self.before)
        rank = max(range(len(held)), key=held.__getitem__)
        peak = next(m.peak for m in self.expected if m.rank <= rank <= m.last)
        log(
            f"memory after {self._steps} steps: {size(held[rank])} on rank {rank}, expected "
            f"{size(peak)} ({peak / max(held[rank], 1) - 1:+.0%})"
        )


def lines(expected: Sequence[Memory]) -> list[str]:
    """A short table: kinds in columns, ranks in rows; the rest is in one column."""
    rows = [["memory", *_SHOWN, "rest", "peak"]]
    for m in expected:
        kinds = m.kinds()
        rest = sum(v for name, v in kinds.items() if name not in _SHOWN)
        name = f"rank {m.rank}" if m.rank == m.last else f"ranks {m.rank}-{m.last}"
        rows.append([name, *(size(kinds[k]) for k in _SHOWN), size(rest), size(m.peak)])
    return columns(rows)


def _now(device: torch.device) -> int:
    """Bytes held now; the most is counted from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    _peak_resident()
    return resident_bytes(os.getpid()) or 0


def _held(device: torch.device) -> int:
    """Bytes at most since `_now`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _peak_resident() or resident_bytes(os.getpid()) or 0


def _peak_resident() -> int | None:
    """The most that the process held since the last call, where the system can tell."""
    own = Path("/proc/self")
    try:
        sizes = dict(x.split(":", 1) for x in (own / "status").read_text().splitlines())
        (own / "clear_refs").write_text("5")
        return int(sizes["VmHWM"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None
