"""A helper of this folder on several ranks, each with one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HELPERS = Path(__file__).parent


def torchrun(ranks: int, helper: str, folder: Path, *more: str, timeout: float = 240) -> None:
    """`helper FOLDER MORE...` on `ranks` ranks, which must end well."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(ranks), str(HELPERS / helper), str(folder), *more),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
