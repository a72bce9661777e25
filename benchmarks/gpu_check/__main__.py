"""The command line of `scripts/gpu_check`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from ling.errors import LingError

from .driver import Options, Plan, run_stages
from .page import PAGE, write_page
from .record import ROOT, Record, gpu_here, machine

# Shares of the time: what is checked comes before what is measured.
STAGES = {
    "parity": Plan("parity", 35),
    "fp8": Plan("fp8", 55),
    "checklist": Plan("checklist", 45),
    "constants": Plan("constants", 75),
    "training": Plan("training", 150),
    "decode": Plan("decode", 100),
}
SECONDS = 460.0
NEWEST = Path()
"""Stands for the newest file of results."""


def main() -> None:
    """Run the stages, or make the page of a file; an error of a user is one line."""
    try:
        _main()
    except LingError as err:
        raise SystemExit(f"gpu_check: {err}") from None


def _main() -> None:
    parser = _parser()
    ns = parser.parse_args()
    if ns.out is None:
        write_page(None if ns.page is NEWEST else ns.page, ns.to)
        return
    gpu = None if ns.tiny else gpu_here()
    if gpu is None and not ns.tiny:
        parser.error(
            "torch sees no GPU (`nvidia-smi` shows what the driver sees); `--tiny` runs on CPUs"
        )
    names = [n for n in STAGES if ns.stages is None or n in ns.stages]
    fixtures = ns.fixtures if ns.fixtures is not None and ns.fixtures.is_dir() else None
    options = Options("cpu" if ns.tiny else "cuda:0", ns.tiny, fixtures)
    record = Record(ns.out, tiny=ns.tiny, machine=machine(gpu))
    start = time.time()
    run_stages(STAGES, names, record, options, ns.seconds, _say)
    counts: dict[str, int] = {}
    for stage in record.content["stages"].values():
        for entry in stage["entries"]:
            counts[entry["status"]] = counts.get(entry["status"], 0) + 1
    told = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    _say(f"{ns.out}: {told or 'nothing ran'} in {time.time() - start:.0f} s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu_check", description="Check and measure ling on a CUDA GPU (docs/guides)."
    )
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="FILE.json", help="where results go")
    what.add_argument(
        "--page",
        type=Path,
        nargs="?",
        const=NEWEST,
        metavar="FILE.json",
        help="make the page of results; by default of the newest in benchmarks/results",
    )
    add("--to", type=Path, default=PAGE, help="where the page goes (default docs/evidence/gpu.md)")
    add("--stages", nargs="+", choices=STAGES, help="only these; by default all")
    add("--seconds", type=float, default=SECONDS, help="time for all stages (default %(default)g)")
    add("--tiny", action="store_true", help="small sizes on the CPU: tests the script itself")
    add(
        "--fixtures",
        type=Path,
        default=ROOT / "tests/fixtures",
        metavar="DIR",
        help="what upstream's code computed; without it the CPU is the reference",
    )
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
