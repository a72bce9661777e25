"""Loss curves of ling-nano in bf16, in FP8, and of a control, on Python's own library.

    python benchmarks/fp8_curves.py RUNS [--only bf16|fp8|control] [--steps 2000] [--lr 0.004]
                                         [--threads N]

Three runs of `ling pretrain` into RUNS/bf16, RUNS/fp8 and RUNS/control: the same seed, data and
4,096 tokens a step, the learning rate down to 0. The control is bf16 with half the micro batch, so
its sums are only added up in another order: what it differs by is the noise that FP8 is measured
against. The same command continues runs that were stopped. When all three are done, prints one
JSON object (mean loss of the last 200 steps, held-out loss, relative differences to bf16) and
draws RUNS/fp8_curves.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ling.train.log import read_metrics

RECIPE = Path(__file__).parent.parent / "recipes/pretrain/nano.yaml"
LAST = 200
"""Steps whose mean loss is compared."""
COMMON = {
    "data.corpus": "stdlib",
    "data.seq_length": 512,
    "train.global_batch_size": 8,
    "train.eval_rows": 256,
    "optim.lr_min": 0,
    "optim.warmup_steps": 100,
    "checkpoint.interval_steps": 200,
    "checkpoint.keep_last": 1,
}
RUNS: dict[str, dict[str, Any]] = {
    "bf16": {"train.micro_batch_size": 8},
    "fp8": {"train.micro_batch_size": 8, "train.fp8": "blockwise"},
    "control": {"train.micro_batch_size": 4},
}
LABELS = {"bf16": "bf16", "fp8": "FP8 blockwise", "control": "bf16, half the micro batch"}


def command(name: str, out: Path, args: argparse.Namespace) -> list[str]:
    """`ling pretrain` of one run."""
    options = {**COMMON, **RUNS[name], "train.steps": args.steps, "optim.lr": args.lr}
    # Often enough that the held-out curve can be drawn, at under 2% of the time.
    options["train.eval_interval_steps"] = max(args.steps // 4, 1)
    if args.threads:
        options["train.threads"] = args.threads
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return [sys.executable, "-m", "ling", "pretrain", str(RECIPE), "--out", str(out), *flags]


def compared(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Numbers of each run, and relative differences to bf16."""
    found: dict[str, Any] = {"steps": rows["bf16"][-1]["step"], "runs": {}}
    for name, log in rows.items():
        found["runs"][name] = {
            "loss": float(np.mean([row["loss"] for row in log[-LAST:]])),
            "mtp_loss": float(np.mean([row["mtp_loss"] for row in log[-LAST:]])),
            "valid_loss": log[-1]["valid_loss"],
            "valid_mtp_loss": log[-1]["valid_mtp_loss"],
        }
    base = found["runs"]["bf16"]
    found["relative"] = {
        name: {key: run[key] / base[key] - 1 for key in base}
        for name, run in found["runs"].items()
        if name != "bf16"
    }
    fp8, control = found["relative"]["fp8"], found["relative"]["control"]
    found["fp8_within_control"] = {key: abs(fp8[key]) <= abs(control[key]) for key in fp8}
    return found


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Running means of the losses, and below their relative difference to bf16."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    steps = {name: [row["step"] for row in log] for name, log in rows.items()}
    means = {name: running_mean([row["loss"] for row in log]) for name, log in rows.items()}
    figure, (top, bottom) = plt.subplots(
        2, figsize=(8, 6.5), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    for name, mean in means.items():
        (line,) = top.plot(steps[name], mean, label=LABELS[name], linewidth=1.2)
        held_out = [(r["step"], r["valid_loss"]) for r in rows[name] if "valid_loss" in r]
        top.plot(*zip(*held_out, strict=True), "o", color=line.get_color(), markersize=4)
        if name != "bf16":
            for key, style in (("loss", "-"), ("mtp_loss", ":")):
                own, bf16 = (running_mean([row[key] for row in rows[n]]) for n in (name, "bf16"))
                difference = 100 * (own / bf16 - 1)
                bottom.plot(steps[name], difference, style, color=line.get_color(), linewidth=1.2)
    top.set(ylabel="loss (mean of 50 steps); points: held out", title="ling-nano, FP8 and bf16")
    top.legend()
    bottom.axhline(0, color="black", linewidth=0.8)
    for limit in (-0.25, 0.25):
        bottom.axhline(limit, color="grey", linewidth=0.8, linestyle="--")
    bottom.set(xlabel="step", ylabel="difference to bf16, %\n(dotted: MTP loss)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def running_mean(values: list[float], width: int = 50) -> np.ndarray:
    """Mean of each value and up to `width` - 1 before it."""
    sums = np.cumsum(np.concatenate(([0.0], values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def main() -> None:
    """Run what is not done yet, compare what is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", choices=list(RUNS))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=0.004, help="peak learning rate")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    for name in [args.only] if args.only else RUNS:
        code = subprocess.run(command(name, args.runs / name, args), check=False).returncode
        if code:
            raise SystemExit(code)
    rows = {name: read_metrics(args.runs / name / "metrics.jsonl") for name in RUNS}
    missing = [name for name, log in rows.items() if not log or log[-1]["step"] < args.steps]
    if missing:
        print(f"not done yet: {', '.join(missing)}")
        return
    print(json.dumps({"lr": args.lr, **compared(rows)}, indent=2))
    draw(rows, args.runs / "fp8_curves.png")


if __name__ == "__main__":
    main()
