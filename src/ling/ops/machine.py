"""What machine this is, for `ling doctor`: processor, memory, disk, GPUs.

Nothing here raises: what cannot be found out is left out.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ..text import printable, size
from . import limits

CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
# Instruction sets that kernels are chosen by, ours and torch's.
_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def cpu() -> dict[str, Any]:
    """The processor: its name, its cores, how many of them this process may use, and why."""
    found = _first_entries(CPUINFO)
    flags = found.get("flags", found.get("Features", "")).split()
    quota = limits.cpu_quota()
    report: dict[str, Any] = {
        "model": found.get("model name") or platform.processor() or platform.machine(),
        "logical_cores": os.cpu_count(),
        "usable_cores": limits.usable_cores(),
        "instruction_sets": " ".join(f for f in _FLAGS if f in flags),
    }
    if quota is not None:
        report["quota_cores"] = round(quota, 2)
    return report


def memory() -> dict[str, str]:
    """All memory, what is free of it, swap, and the limit of a container or job."""
    table = {name: value.split()[0] for name, value in _first_entries(MEMINFO).items() if value}
    names = {"total": "MemTotal", "available": "MemAvailable", "swap": "SwapTotal"}
    report = {
        ours: size(int(table[theirs]) * 1024)
        for ours, theirs in names.items()
        if table.get(theirs, "").isdigit()
    }
    limit, left = limits.memory_limit(), limits.memory_left()
    if limit is not None:
        report["limit"] = size(limit)
    if left is not None:
        report["left_of_limit"] = size(left)
    return report


def disk(**folders: Path) -> dict[str, str]:
    """Free space where files go: the given folders and that of temporary files."""
    report = {}
    for name, folder in {
        "here": Path.cwd(),
        "temporary": Path(tempfile.gettempdir()),
        **folders,
    }.items():
        at = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
        try:
            usage = shutil.disk_usage(at)
        except OSError:
            continue
        report[name] = f"{size(usage.free)} free of {size(usage.total)} ({folder})"
    return report


def gpus() -> list[dict[str, str]]:
    """NVIDIA's GPUs by its own tool, which works also where torch was built without CUDA."""
    fields = ("name", "memory.total", "driver_version")
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines()] if not done.returncode else []
    return [
        dict(zip(("name", "memory", "driver"), row, strict=True)) for row in rows if len(row) == 3
    ]


def _first_entries(path: Path) -> dict[str, str]:
    """The `name: value` lines of a file, the first of each name."""
    table: dict[str, str] = {}
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return table
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            table.setdefault(name.strip(), printable(value.strip()))
    return table
