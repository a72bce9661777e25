"""What a run measures on every rank now and then, in one gather: memory, times, router bias."""

from __future__ import annotations

import os
import re
import statistics
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..model.ling import Ling
from ..ops.processes import resident_bytes
from .clock import Times
from .parallel.group import World

# What each rank has of its own, in the order in which it is gathered.
COLUMNS = ("step_s", "own_s", "communication_s", "data_s", "resident_bytes", "cuda_peak_bytes")
_BIAS = re.compile(r"model\.layers\.(\d+)\.mlp\.gate\.expert_bias")


class RouterBias:
    """How far the expert biases of this rank's layers are from 0, and how much they move."""

    def __init__(self, model: Ling) -> None:
        self.layers = model.config.moe_layers
        found = ((_BIAS.fullmatch(name), bias) for name, bias in model.named_buffers())
        self._own = {int(match[1]): bias for match, bias in found if match}
        self._before = {layer: bias.clone() for layer, bias in self._own.items()}

    def measure(self) -> list[float]:
        """Per MoE layer of the model the largest |bias|, then per layer the mean |change| since the
        last call; 0 for a layer that another rank has."""
        zero = torch.zeros(1)
        size = [self._own.get(n, zero).abs().max() for n in self.layers]
        moved = [
            (self._own[n] - self._before[n]).abs().mean() if n in self._own else zero[0]
            for n in self.layers
        ]
        for layer, bias in self._own.items():
            self._before[layer].copy_(bias)
        values: list[float] = torch.stack([v.float().cpu() for v in (*size, *moved)]).tolist()
        return values


class Ranks:
    """Gathers what ranks measure; `hosts` are their machines."""

    def __init__(self, world: World, device: torch.device, model: Ling, host: str) -> None:
        self.world, self.device, self.hosts = world, device, world.gather(host)
        self._bias = RouterBias(model)

    def measure(self, times: Times) -> dict[str, Any]:
        """Columns of the log for the steps that `times` are of; all ranks call this."""
        mean, bias = times.per_step(), self._bias.measure() if self._bias.layers else []
        own = max(mean.step_s - mean.communication_s, 0.0)
        values = [mean.step_s, own, mean.communication_s, mean.data_s, *_memory(self.device)]
        rows = self._gathered([*values, *bias])
        table = {name: [row[n] for row in rows] for n, name in enumerate(COLUMNS)}
        row = _summary(table, self.hosts)
        # Stages of a pipeline have layers of their own: the others say 0.
        found = [max(column) for column in zip(*(r[len(COLUMNS) :] for r in rows), strict=True)]
        if found:
            names, half = [str(n) for n in self._bias.layers], len(found) // 2
            row["router_bias"] = dict(zip(names, found[:half], strict=True))
            row["router_bias_change"] = dict(zip(names, found[half:], strict=True))
        return row

    def _gathered(self, values: list[float]) -> list[list[float]]:
        """`values` of every rank."""
        if self.world.size == 1:
            return [values]
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        each: list[Tensor] = list(own.new_empty(self.world.size, len(own)))
        dist.all_gather(each, own)
        return [row.tolist() for row in each]


def _memory(device: torch.device) -> tuple[float, float]:
    """Resident bytes, and the most that was allocated on the GPU since the last call."""
    resident = resident_bytes(os.getpid()) or 0
    if device.type != "cuda":
        return resident, 0
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return resident, peak


def _summary(table: dict[str, list[float]], hosts: list[str]) -> dict[str, Any]:
    """Shares over all ranks, the slowest rank, and the columns by rank."""
    if not any(table["cuda_peak_bytes"]):
        del table["cuda_peak_bytes"]
    total = sum(table["step_s"]) or 1.0
    row: dict[str, Any] = {"data_share": sum(table["data_s"]) / total}
    if len(hosts) > 1:
        row["communication_share"] = sum(table["communication_s"]) / total
        row["slowest"] = _slowest(table["own_s"], hosts)
    integers = {name: list(map(int, v)) for name, v in table.items() if name.endswith("_bytes")}
    return row | {"ranks": {**table, **integers}}


def _slowest(own_s: list[float], hosts: list[str]) -> dict[str, Any]:
    """The rank that works longest before it waits for the others, which wait for it."""
    rank = max(range(len(own_s)), key=own_s.__getitem__)
    times = {"own_s": own_s[rank], "median_own_s": statistics.median(own_s)}
    return {"rank": rank, "host": hosts[rank], **times}
