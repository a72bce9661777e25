"""`ling scaling sweep`: the runs of a grid."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..errors import UsageError
from .options import make_parser


def sweep(args: list[str]) -> int:
    parser = make_parser("scaling sweep")
    parser.add_argument("grid", type=str, help="a YAML file, or one that `ling recipes` lists")
    parser.add_argument("--out", type=str, default=None, help="sweep folder (default runs/<grid>)")
    parser.add_argument(
        "--jobs", type=int, default=None, help="runs side by side (default: cores ÷ their threads)"
    )
    parser.add_argument("--only", type=str, default=None, help="train this run, in this process")
    parser.add_argument("--keep", action="store_true", help="keep the last checkpoint of each run")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and what they take")
    parser.add_argument(
        "--slurm",
        nargs="*",
        default=None,
        help="submit an array of Slurm jobs; options of submitit as `partition=short`",
    )
    ns = parser.parse_args(args)
    from ..ops.limits import usable_cores
    from ..scaling.grid_file import read_grid

    grid = read_grid(ns.grid)
    out = Path(ns.out or f"runs/{Path(ns.grid).stem}")
    if ns.jobs is not None and ns.jobs < 1:
        raise UsageError(f"`--jobs` is {ns.jobs}, expected at least 1")
    log = partial(print, flush=True)
    jobs = ns.jobs or max(1, usable_cores() // grid.training.threads)
    if ns.dry_run:
        from ..scaling.dry_run import table
        from ..scaling.planned import planned_runs

        print(table(planned_runs(grid), jobs))
        return 0
    if ns.slurm is not None:
        from ..scaling.submit import submit

        submit(grid, out, ns.slurm, log, at_once=ns.jobs, keep=ns.keep)
        return 0
    from ..scaling.sweep import run_one
    from ..scaling.sweep import sweep as sweep_all

    if ns.only is not None:
        return run_one(grid, out, ns.only, log, keep=ns.keep)
    return sweep_all(grid, out, log, jobs=jobs, keep=ns.keep)
