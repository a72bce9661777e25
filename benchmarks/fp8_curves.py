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

from ling.eval.fp8_curves import RUNS, compared, draw
from ling.train.log import read_metrics

RECIPE = Path(__file__).parent.parent / "recipes/pretrain/nano.yaml"
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


def command(name: str, out: Path, args: argparse.Namespace) -> list[str]:
    """`ling pretrain` of one run."""
    options = {**COMMON, **RUNS[name], "train.steps": args.steps, "optim.lr": args.lr}
    # Often enough that the held-out curve can be drawn, at under 2% of the time.
    options["train.eval_interval_steps"] = max(args.steps // 4, 1)
    if args.threads:
        options["train.threads"] = args.threads
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return [sys.executable, "-m", "ling", "pretrain", str(RECIPE), "--out", str(out), *flags]


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
