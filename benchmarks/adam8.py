#!/usr/bin/env python3
"""A step of 8-bit AdamW beside torch's fused AdamW and bitsandbytes' on a CPU, in turn.

    OMP_NUM_THREADS=1 benchmarks/adam8.py [--elements N] [--pairs N] [--threads N] [--peer FOLDER]

One parameter of N elements in float32. Prints millions of parameters per second, by wall time and
by CPU seconds, the median ratio of a pair with the range of all, and the limit: the bytes that a
step must move at the rate at which all threads read memory in the same minutes. 8-bit AdamW reads
parameter, gradient and 2.03 bytes of moments and writes parameter and moments: 16.06 bytes; plain
AdamW moves 28. FOLDER is where bitsandbytes is installed (`pip install --no-deps --target`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from ling.ops import native
from ling.train.adam8 import AdamW8bit

BYTES = {"adamw8bit": 4 + 4 + 4 + 2 * (2 + 2 * 4 / 256), "adamw": 28.0}
# bitsandbytes is that much slower: fewer elements give the same rate.
PEER_SHARE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=40_000_000)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", help="folder with bitsandbytes")
    ns = parser.parse_args()
    torch.set_num_threads(ns.threads)
    torch.manual_seed(0)
    steps, sizes = contenders(ns)
    for step in steps.values():
        step()
    memory = torch.zeros(1 << 28)
    read = statistics.median(native.read_rate(memory) for _ in range(5))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for pair in range(ns.pairs):
        order = list(steps) if pair % 2 == 0 else list(steps)[::-1]
        for name in order:
            times[name].append(timed(steps[name]))
    for name, found in times.items():
        wall, cpu = (statistics.median(t[i] for t in found) for i in (0, 1))
        row = {"M_per_s": sizes[name] / wall / 1e6, "M_per_cpu_s": sizes[name] / cpu / 1e6}
        if name in BYTES:
            row["GB_per_s"] = sizes[name] * BYTES[name] / wall / 1e9
            row["limit_M_per_s"] = read / BYTES[name] / 1e6
        print(json.dumps({"optimizer": name, **{k: round(v, 1) for k, v in row.items()}}))
    for name in list(times)[1:]:
        print(f"adamw8bit : {name} = {ratio(times, sizes, name)}")
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{ns.threads} threads, memory read at {read / 1e9:.1f} GB/s, {load}, {native.isa()}")


def contenders(ns: argparse.Namespace) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """A step of each, and how many elements it has."""
    makers: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
        "adamw8bit": AdamW8bit,
        "adamw": lambda params: torch.optim.AdamW(params, fused=True),
    }
    sizes: dict[str, int] = dict.fromkeys(makers, ns.elements)
    if ns.peer:
        sys.path.append(ns.peer)
        from bitsandbytes.optim import AdamW8bit as Peer

        makers["bitsandbytes"], sizes["bitsandbytes"] = Peer, ns.elements // PEER_SHARE
    steps: dict[str, Callable[[], Any]] = {}
    for name, make in makers.items():
        p = torch.nn.Parameter(torch.randn(sizes[name]))
        p.grad = 1e-3 * torch.randn(sizes[name])
        steps[name] = make([p]).step
    return steps, sizes


def timed(step: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def ratio(times: dict[str, list[tuple[float, float]]], sizes: dict[str, int], name: str) -> str:
    """The rate of ours by that of `name`, by CPU seconds."""
    share = sizes["adamw8bit"] / sizes[name]
    both = zip(times["adamw8bit"], times[name], strict=True)
    found = sorted(share * b[1] / a[1] for a, b in both)
    return f"{statistics.median(found):.2f} x [{found[0]:.2f}, {found[-1]:.2f}] in CPU seconds"


if __name__ == "__main__":
    main()
