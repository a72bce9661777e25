"""What the order of training rows costs: seconds to make it, to open it again, and memory.

    python benchmarks/sample_order.py [--documents 20] [--rows 32] [--mixed 100]

Counts are in millions. `--documents` lengths of documents are made up; of a file with these the
order of `--rows` rows is made in a temporary folder, and opened again as a later start does. Then
the notes of `--mixed` rows of 8 sources are made. Prints a line each; needs a gigabyte of disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ling.data.index_files import IndexFolder
from ling.data.mixture import Mixture
from ling.data.samples import GPTSamples

MILLION = 1_000_000
SOURCES = 8


@dataclass
class Lengths:
    """What `GPTSamples` asks of a dataset to find an order: its documents' lengths."""

    sequence_lengths: np.ndarray
    bin: Path = Path("made-up.bin")
    idx: Path = Path("made-up.idx")

    def __len__(self) -> int:
        return len(self.sequence_lengths)


def own_bytes() -> int:
    """Memory of this process that no file backs (Linux)."""
    status = Path("/proc/self/status").read_text("ascii")
    lines = (line.split() for line in status.splitlines())
    return next(int(words[1]) << 10 for words in lines if words[0] == "RssAnon:")


def timed(run: Callable[[], object], what: str) -> None:
    """Run once, keep the result as long as memory is measured, print."""
    before, start = own_bytes(), time.perf_counter()
    kept = run()
    seconds, held = time.perf_counter() - start, own_bytes() - before
    print(f"{what}: {seconds:.1f} s, {max(held, 0) / 1e6:.0f} MB of the process's own memory held")
    del kept


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--documents", type=float, default=20)
    parser.add_argument("--rows", type=float, default=32)
    parser.add_argument("--mixed", type=float, default=100)
    args = parser.parse_args()
    documents, rows, mixed = (round(n * MILLION) for n in (args.documents, args.rows, args.mixed))
    lengths = np.random.default_rng(0).integers(16, 4096, documents, dtype=np.int32)
    dataset = Lengths(lengths)
    seq_length = max(int(lengths.sum(dtype=np.int64)) // rows, 1)
    with tempfile.TemporaryDirectory() as folder:
        index = IndexFolder(Path(folder))

        def order() -> GPTSamples:
            return GPTSamples(
                dataset,  # type: ignore[arg-type]  # no token is read
                seq_length=seq_length,
                num_samples=rows - 1,
                seed=0,
                index=index,
                content="made-up",
            )

        shape = f"{documents:,} documents, {rows:,} rows"
        timed(order, f"order of {shape}, made")
        timed(order, f"order of {shape}, opened again")
    part = range(mixed)
    weights = [1.0 + k for k in range(SOURCES)]
    timed(lambda: Mixture([part] * SOURCES, weights, mixed), f"mixture of {mixed:,} rows")  # type: ignore[list-item]


if __name__ == "__main__":
    main()
