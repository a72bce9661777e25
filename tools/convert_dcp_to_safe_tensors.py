#!/usr/bin/env python3
"""The original converter's command line, on the code of `ling convert`.

    python tools/convert_dcp_to_safe_tensors.py --checkpoint-path iter_0001000 --target-path out

Under `torchrun` (or with RANK and WORLD_SIZE set) the shards are split between the processes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from ling.checkpoint.megatron.args import read_args
from ling.checkpoint.megatron.source import find_iteration
from ling.cli.main import guarded
from ling.convert.plan import convert
from ling.convert.ranks import convert_part
from ling.errors import CheckpointError, UsageError


class Parser(argparse.ArgumentParser):
    """Usage errors become one line and exit code 2, as everywhere in `ling`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint-path", required=True, help="Megatron checkpoint")
    parser.add_argument("--target-path", required=True, help="folder to write")
    parser.add_argument("--megatron-path", help="accepted, not needed")
    parser.add_argument("--force-bf16", action="store_true", help="whatever it was trained in")
    parser.add_argument("--force-fp8", action="store_true", help="wins over --force-bf16")
    parser.add_argument("--mtp-path", help="write the MTP layers there, as a model of their own")
    parser.add_argument("--mtp-as-extra-layer", action="store_true", help="keep the MTP layers")
    parser.add_argument("--override-tokenizer-path", help="tokenizer folder to copy")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    flags = parse(argv)
    if flags.mtp_path and flags.mtp_as_extra_layer:
        raise UsageError("--mtp-path and --mtp-as-extra-layer exclude each other")
    iteration = find_iteration(Path(flags.checkpoint_path))
    if iteration is None:
        raise CheckpointError(f"{flags.checkpoint_path}: not a Megatron checkpoint")
    trained_in_fp8 = bool(read_args(iteration).get("fp8"))
    fp8 = flags.force_fp8 or (trained_in_fp8 and not flags.force_bf16)
    options: dict[str, Any] = {
        "to": "fp8" if fp8 else "bf16",
        "tokenizer": flags.override_tokenizer_path,
        "max_shard_size": f"{10 << 30}B",  # as the original has it
        "log": print,
    }
    mtp = "extra-layer" if flags.mtp_as_extra_layer else "drop"
    rank, world_size = (_environment(n, d) for n, d in (("RANK", 0), ("WORLD_SIZE", 1)))
    # A rank that was stopped runs again, and may have written these before.
    if flags.mtp_path and rank == 0 and not (world_size > 1 and Path(flags.mtp_path).exists()):
        convert(iteration, flags.mtp_path, mtp="only", **options)
    if world_size == 1:
        convert(iteration, flags.target_path, mtp=mtp, **options)
        print(f"wrote {flags.target_path}")
    elif convert_part(
        iteration, flags.target_path, mtp=mtp, rank=rank, world_size=world_size, **options
    ):
        print(f"wrote {flags.target_path}")
    return 0


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{name} is `{text}`, expected a number")
    return int(text)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
