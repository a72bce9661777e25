"""`ling doctor`: what this installation can do, and why not more."""

from __future__ import annotations

import importlib.util
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from ..ops import native

_OPTIONAL = {"fastapi": "serve", "uvicorn": "serve", "tensorboard": "train", "matplotlib": "plot"}


def doctor() -> dict[str, str]:
    """Facts by name, each one line."""
    missing = [
        f"{m} ({extra})" for m, extra in _OPTIONAL.items() if not importlib.util.find_spec(m)
    ]
    level = native.isa()
    kernel = (
        f"native/{level}"
        if level != "none"
        else "reference (library not built: no C++ compiler at install)"
    )
    return {
        "ling": version("ling"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "accelerator": "cuda" if torch.cuda.is_available() else "none",
        "openmp": ", ".join(sorted(_openmp_runtimes())) or "none",
        "kernels": kernel,
        "missing extras": ", ".join(missing) or "none",
    }


def _openmp_runtimes() -> set[str]:
    """OpenMP libraries mapped into this process; two at once would fight over the cores."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return set()
    paths = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
    return {Path(p).name for p in paths if "gomp" in p or "iomp" in p or "libomp" in p}
