"""Merging checkpoints against decaying the learning rate, from the same run (WSM).

    python benchmarks/wsm.py RUN OUT [--decay-steps N ...] [--shape one-minus-sqrt] [--lr-min 0]
        [--rows 16]

RUN was trained at a constant rate and has kept checkpoints, the newest of them evenly apart
(`ling nano OUT` leaves `OUT/pretrain`). Its last ones are merged over windows and intervals; from
some of the same checkpoints the run is continued on the same rows with a rate that decays to
`--lr-min` at the run's last step, into OUT/decay-STEP-SHAPE (interrupted ones continue). Start it
where the run was started: paths in its recipe may be relative. OUT/wsm.json has the losses on what
was held out (`choosing_loss` is of other rows than `loss`), OUT/wsm.png the picture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ling.errors import LingError
from ling.eval.wsm import compare
from ling.eval.wsm_plot import draw
from ling.files.atomic import make_folder, write_atomic
from ling.train.schedule import SHAPES


def main() -> None:
    """Compare, and write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--decay-steps", type=int, nargs="*", default=[])
    parser.add_argument("--shape", choices=list(SHAPES), default="one-minus-sqrt")
    parser.add_argument("--lr-min", type=float, default=0.0)
    parser.add_argument(
        "--rows", type=int, default=16, help="held-out rows of each prefix; half of them choose"
    )
    args = parser.parse_args()
    out = make_folder(args.out)
    try:
        report = compare(
            args.run,
            out,
            decay_steps=args.decay_steps,
            shape=args.shape,
            lr_min=args.lr_min,
            rows=args.rows,
        )
    except LingError as err:
        raise SystemExit(f"error: {err}") from None
    write_atomic(out / "wsm.json", json.dumps(report, indent=1) + "\n")
    draw(report, out / "wsm.png")
    print(out / "wsm.json")


if __name__ == "__main__":
    main()
