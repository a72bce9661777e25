"""Compares the losses of two commits: `python tools/compare_losses.py A B RECIPE [options]`.

Each commit trains the recipe from a work tree of its own, so that what is not committed does not
count; `--ranks N` starts torchrun, and further options go to `ling pretrain` of both. Prints the
largest relative difference of each column and exits with 1 above `--tolerance`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
KEYS = ("loss", "mtp_loss", "z_loss", "grad_norm")


def losses(commit: str, scratch: Path, recipe: str, ranks: int, options: list[str]) -> list[dict]:
    """Rows of `metrics.jsonl` of the recipe at a commit."""
    tree, out = scratch / f"tree-{commit}", scratch / f"run-{commit}"
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(tree), commit], check=True)
    try:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [sys.executable, *(launcher if ranks > 1 else []), "-m", "ling", "pretrain"]
        env = {**os.environ, "PYTHONPATH": str(tree / "src")}
        done = [*command, recipe, "--out", str(out), *options]
        subprocess.run(done, check=True, env=env, stdout=subprocess.DEVNULL)
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def difference(a: list[dict], b: list[dict], key: str) -> float:
    """Largest relative difference of a column."""
    pairs = [(x[key], y[key]) for x, y in zip(a, b, strict=True) if x[key] is not None]
    return max((abs(x - y) / max(abs(x), 1e-30) for x, y in pairs), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("recipe")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=1e-6)
    ns, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        both = [
            losses(commit, Path(scratch), ns.recipe, ns.ranks, options)
            for commit in (ns.before, ns.after)
        ]
    found = {key: difference(*both, key) for key in KEYS}
    for key, value in found.items():
        print(f"{key:<10} {value:.2e}")
    return int(max(found.values()) > ns.tolerance)


if __name__ == "__main__":
    raise SystemExit(main())
