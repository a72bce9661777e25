"""How soon a small model copies: random weights against those of `ling.model.copying`.

    python benchmarks/copying_start.py [--preset ling-nano] [--steps 100]

Both take the course of `ling nano` (`ling.nano.course`); printed is the loss in nats of the tokens
that can be known, in rows that are not trained on.
"""

from __future__ import annotations

import argparse

from ling.model.copying import copying_model
from ling.model.ling import from_config
from ling.nano.course import train_to_copy
from ling.presets import preset


def main() -> None:
    """One after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="ling-nano")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    cfg = preset(args.preset)
    for name, model in (("random", from_config(cfg, seed=0)), ("copying", copying_model(cfg, 0))):
        print(f"{name} weights")
        train_to_copy(model, args.steps, 0, print)


if __name__ == "__main__":
    main()
