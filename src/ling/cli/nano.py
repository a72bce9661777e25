"""`ling nano`: make `ling-nano`, the small model of the package."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from .options import at_least_one, make_parser


def nano(args: list[str]) -> int:
    """All stages, or one."""
    from ..nano.make import STAGES, nano
    from ..nano.plan import packaged_plan, steps_of

    parser = make_parser("nano")
    parser.add_argument("out", type=str, help="folder for everything it makes")
    parser.add_argument("--stage", type=str, default=None, help=f"only this: {', '.join(STAGES)}")
    parser.add_argument(
        "--packages", type=str, default=None, help="folder of fetched packages (`ling data fetch`)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=None,
        help="of pre-training (default: the recipe's); conversations in proportion",
    )
    parser.add_argument(
        "--minutes", type=float, default=None, help="or the time that it may take on this machine"
    )
    parser.add_argument(
        "--stop-after",
        type=int,
        default=None,
        help="end the pre-training after N steps, to compare its losses",
    )
    ns = parser.parse_args(args)
    for name in ("steps", "stop_after"):
        at_least_one(name, getattr(ns, name))
    if ns.steps is not None and ns.minutes is not None:
        raise UsageError("give either `--steps` or `--minutes`, not both")
    steps = ns.steps if ns.minutes is None else steps_of(Path(ns.out), ns.minutes)
    folder = {} if ns.packages is None else {"packages": Path(ns.packages)}
    plan = packaged_plan(steps, stop_after=ns.stop_after, **folder)
    return nano(ns.out, plan, STAGES if ns.stage is None else [ns.stage])
