"""Weights a second that one core packs, unpacks, casts to FP8 and decodes from FP8.

python benchmarks/pack_rate.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from ling.ops import native
from ling.ops.formats import FORMATS
from ling.ops.fp8 import dequantise_fp8_block, quantise_fp8_block


def rate(run: Callable[[], object], weights: int) -> float:
    """The best of ten, in weights a second."""
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        run()
        best = max(best, weights / (time.perf_counter() - start))
    return best


def main() -> None:
    """Measure and print a line each."""
    torch.set_num_threads(1)
    w = (torch.randn(2048, 2048) * 0.02).to(torch.bfloat16)
    q, scale = quantise_fp8_block(w)
    runs: dict[str, Callable[[], object]] = {
        f"pack {fmt.name}": lambda fmt=fmt: native.pack(w, fmt)  # type: ignore[misc]
        for fmt in FORMATS.values()
    }
    for fmt in FORMATS.values():
        p, out = native.pack(w, fmt), torch.empty_like(w)
        runs[f"unpack {fmt.name}"] = partial(native.unpack_bf16, p, out)
        runs[f"... to float32 ({fmt.name})"] = partial(native.unpack, p)
    runs["cast to fp8"] = lambda: quantise_fp8_block(w)
    runs["decode fp8"] = lambda: native.widen_fp8(q, scale)
    runs["... in torch"] = lambda: dequantise_fp8_block(q, scale).to(torch.bfloat16)
    for name, run in runs.items():
        print(f"{name:<26} {rate(run, w.numel()) / 1e6:6.0f} million weights a second")


if __name__ == "__main__":
    main()
