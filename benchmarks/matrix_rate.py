"""One product of every format against bf16, in turn: a matrix that no cache holds, few rows of x.

python benchmarks/matrix_rate.py [--rows 1] [--pairs 20]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from ling.ops import native
from ling.ops.formats import FORMATS, Format
from ling.ops.packing import Packed

N, K = 8192, 4096
BYTES = 1 << 29


def copies(w_NK: Tensor, fmt: Format) -> list[Packed]:
    """As many of one matrix as leave the caches behind."""
    first = native.pack(w_NK, fmt)
    scales = first.scales
    return [
        Packed(fmt, N, K, first.data.clone(), None if scales is None else scales.clone())
        for _ in range(-(-BYTES // first.nbytes))
    ]


def seconds(matrices: list[Packed], x_TK: Tensor) -> float:
    """Of one product."""
    start = time.perf_counter()
    for matrix in matrices:
        native.matmul(matrix, x_TK)
    return (time.perf_counter() - start) / len(matrices)


def main() -> None:
    """Measure and print a line a format."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=20)
    args = parser.parse_args()
    w_NK, x_TK = torch.randn(N, K) * 0.02, torch.randn(args.rows, K)
    wide = copies(w_NK, FORMATS["bf16"])
    print(f"[{N}, {K}] times {args.rows} rows, {native.isa()}, {torch.get_num_threads()} threads")
    for fmt in FORMATS.values():
        matrices, pairs = copies(w_NK, fmt), []
        for i in range(args.pairs):
            order = (wide, matrices) if i % 2 else (matrices, wide)
            took = [seconds(m, x_TK) for m in order]
            pairs.append(took if i % 2 else took[::-1])
        one = statistics.median(b for _, b in pairs)
        low, ratio, high = statistics.quantiles([a / b for a, b in pairs], n=4)
        print(
            f"{fmt.name:<9} {1e3 * one:6.2f} ms {matrices[0].nbytes / one / 1e9:5.1f} GB/s, "
            f"{ratio:.2f} x bf16 (quartiles {low:.2f} to {high:.2f})"
        )


if __name__ == "__main__":
    main()
