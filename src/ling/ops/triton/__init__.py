"""Kernels for NVIDIA GPUs in Triton; with TRITON_INTERPRET=1 the same code runs on a CPU.

The other files of this folder import Triton, so ask `is_installed` before importing one.
"""

from __future__ import annotations

import importlib.util


def is_installed() -> bool:
    """Whether Triton, which compiles our kernels for a GPU, is installed."""
    return importlib.util.find_spec("triton") is not None
