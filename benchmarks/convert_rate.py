#!/usr/bin/env python3
"""Conversion rates: ours, the original algorithm, and a plain copy, in turn on the same files.

    python benchmarks/convert_rate.py --layers 3 --pairs 5 --to bf16

The source is a Megatron checkpoint of full-width Ling-mini layers with random weights. Each round
runs the three in the order A B C C B A; outputs are deleted in between. The page cache is warm: the
source was written just before. Ours brings its files to the disk before it gives them their name,
so the copy does too; `--scratch /dev/shm` leaves the disk out. Prints one JSON line: medians, and
ratios with a 95% interval over the rounds.

With `--to int4` (or another integer format) the source is a bf16 folder, ours runs in turn with
`cp -r` and `sync`, and rates are bytes read and written. `by_cpu` is their ratio were all cores
ours: by processor seconds, ours spread over the cores, where other programs take some of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from ling.checkpoint.megatron.args import common_state
from ling.checkpoint.megatron.names import deinterleave, is_qkv, megatron_slices
from ling.convert.plan import convert
from ling.presets import preset

Run = Callable[[Path], None]
BLOCK, E4M3_MAX = 128, 448.0
CAST = ("_proj.weight", "query_key_value.weight", "attention.dense.weight")
POWER_OF_TWO = ("gate_proj", "up_proj")


def make_source(folder: Path, layers: int) -> None:
    """A checkpoint as a training writes it: stacks of experts, interleaved projections."""
    cfg = preset("ling-mini-2.0").replace(
        num_hidden_layers=layers, num_nextn_predict_layers=0, vocab_size=16384
    )
    state: dict[str, torch.Tensor] = {}
    values = (torch.randn(1 << 22) * 0.02).bfloat16()
    for name, place in megatron_slices(cfg).items():
        if place.key not in state:
            count = math.prod(place.whole)
            tensor = values.repeat(-(-count // len(values)))[:count].view(place.whole)
            state[place.key] = tensor.float() if name.endswith("expert_bias") else tensor.clone()
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    torch.save(common_state(cfg, 1), folder / "common.pt")


def original(source: Path, target: Path, to: str) -> None:
    """The original's way: load everything, map everything, cast each tensor, save as one file."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        args = torch.load(source / "common.pt", weights_only=True)["args"]
    cfg = preset("ling-mini-2.0").replace(
        num_hidden_layers=args.num_layers, num_nextn_predict_layers=0, vocab_size=args.vocab_size
    )
    meta = dcp.FileSystemReader(source).read_metadata().state_dict_metadata
    state = {
        key: torch.empty(m.size, dtype=m.properties.dtype)
        for key, m in meta.items()
        if isinstance(m, TensorStorageMetadata)
    }
    dcp.load(state, checkpoint_id=source, no_dist=True)
    out = {}
    for name, place in megatron_slices(cfg).items():
        box = tuple(slice(s, s + n) for s, n in zip(place.start, place.shape, strict=True))
        value = state[place.key][box].reshape(place.shape[-2:])
        value = deinterleave(value, cfg) if is_qkv(place) else value
        if to == "fp8" and name.endswith(CAST):
            value, out[name + "_scale_inv"] = padded_cast(value, name)
        out[name] = value.contiguous().clone()
    target.mkdir()
    save_file(out, target / "model-00001-of-00001.safetensors", metadata={"format": "pt"})


def padded_cast(x: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The block cast over the whole padded matrix at once."""
    m, n = x.shape
    padded = torch.zeros(-(-m // BLOCK) * BLOCK, -(-n // BLOCK) * BLOCK, dtype=x.dtype)
    padded[:m, :n] = x
    blocks = padded.view(-1, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    scale = blocks.abs().float().amax(dim=(1, 3), keepdim=True).clamp(1e-4) / E4M3_MAX
    routed = ".mlp.experts." in name and any(part in name for part in POWER_OF_TWO)
    if routed or name.endswith("attention.dense.weight"):
        scale = torch.pow(2.0, torch.ceil(torch.log2(scale.clamp(1e-10))))
    cast = (blocks / scale).to(torch.float8_e4m3fn).view_as(padded)
    return cast[:m, :n].contiguous(), scale.view(blocks.shape[0], blocks.shape[2])


def cp(source: Path, target: Path) -> None:
    """The program, and its files brought to the disk."""
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", *target.iterdir()], check=True)


def size_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.iterdir())


class Took(NamedTuple):
    """Seconds of a run: on the clock, and of processors."""

    wall: float
    cpu: float


def seconds(run: Run, scratch: Path) -> Took:
    target = scratch / "out"
    before = os.times()
    run(target)
    after = os.times()
    shutil.rmtree(target)
    cpu = sum(after[:4]) - sum(before[:4])  # children included
    return Took(after.elapsed - before.elapsed, cpu)


def copy(source: Path, target: Path) -> None:
    """`cp -r`, and wait for the disk."""
    shutil.copytree(source, target)
    for path in target.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def interval(ratios: list[float]) -> list[float]:
    """95% bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    return [round(medians[50], 2), round(medians[1949], 2)]


def measure(runs: dict[str, Run], scratch: Path, pairs: int) -> dict[str, list[Took]]:
    """Seconds of each, in the order A B C C B A, this many times."""
    took: dict[str, list[Took]] = {name: [] for name in runs}
    for _ in range(pairs):
        for name in (*runs, *reversed(runs)):
            took[name].append(seconds(runs[name], scratch))
    return took


def add_ratios(
    report: dict[str, object], took: dict[str, list[Took]], moved: dict[str, int]
) -> None:
    """Rates in GB/s of `moved` bytes, and ours relative to each other one."""
    for name, times in took.items():
        wall = statistics.median(t.wall for t in times)
        report[f"{name}_GB_per_s"] = round(moved[name] / 1e9 / wall, 3)
    for name in list(took)[1:]:
        scale = moved["ours"] / moved[name]
        ratios = [scale * b.wall / a.wall for a, b in zip(took["ours"], took[name], strict=True)]
        report[f"ours_over_{name}"] = round(statistics.median(ratios), 2)
        report[f"ours_over_{name}_95"] = interval(ratios)


def from_megatron(scratch: Path, to: str, layers: int, pairs: int) -> dict[str, object]:
    """To bf16 or FP8 from a Megatron checkpoint: ours, the original's way, a copy."""
    source = scratch / "source"
    make_source(source, layers)
    runs: dict[str, Run] = {
        "ours": lambda target: (convert(source, target, to=to), None)[1],
        "original": lambda target: original(source, target, to),
        "copy": lambda target: copy(source, target),
    }
    report: dict[str, object] = {"to": to, "layers": layers, "source_GB": size_of(source) / 1e9}
    add_ratios(report, measure(runs, scratch, pairs), dict.fromkeys(runs, size_of(source)))
    return report


def to_integers(scratch: Path, to: str, layers: int, pairs: int) -> dict[str, object]:
    """To an integer format from a bf16 folder: ours and `cp -r`, by bytes read and written."""
    megatron, source, target = (scratch / name for name in ("megatron", "source", "out"))
    make_source(megatron, layers)
    convert(megatron, source)
    shutil.rmtree(megatron)
    report: dict[str, object] = {"to": to, "layers": layers, "source_GB": size_of(source) / 1e9}
    convert(source, target, to=to)
    moved = {"ours": size_of(source) + size_of(target), "cp": 2 * size_of(source)}
    shutil.rmtree(target)
    runs: dict[str, Run] = {
        "ours": lambda target: (convert(source, target, to=to), None)[1],
        "cp": lambda target: cp(source, target),
    }
    took = measure(runs, scratch, pairs)
    add_ratios(report, took, moved)
    ours, theirs = (statistics.median(t.cpu for t in took[name]) for name in runs)
    cores = len(os.sched_getaffinity(0))
    report["by_cpu"] = round(moved["ours"] / (ours / cores) / (moved["cp"] / theirs), 2)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--to", choices=["bf16", "fp8", "int4", "int4_g32", "int8"], default="bf16")
    parser.add_argument("--scratch", help="folder on the disk to measure (default: temporary)")
    flags = parser.parse_args()
    warnings.simplefilter("ignore")
    compare = to_integers if flags.to.startswith("int") else from_megatron
    with tempfile.TemporaryDirectory(dir=flags.scratch) as name:
        print(json.dumps(compare(Path(name), flags.to, flags.layers, flags.pairs)))


if __name__ == "__main__":
    main()
