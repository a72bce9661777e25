"""`ling reproduce`: the claims of Ling 2.0, one command for each."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from .options import make_parser


def reproduce(args: list[str]) -> int | None:
    from ..reproduce import readme, registry, run

    parser = make_parser("reproduce")
    parser.add_argument("claim", type=str, nargs="?", default=None, help="a claim's name, or `all`")
    parser.add_argument("--quick", action="store_true", help="minutes, at a smaller scale")
    parser.add_argument(
        "--out",
        type=str,
        default=None,
        help=f"folder of the pages (default {run.FULL}; with --quick {run.QUICK})",
    )
    parser.add_argument(
        "--work", type=str, default=str(run.WORK), help="folder of training runs and weights"
    )
    parser.add_argument(
        "--again", action="store_true", help="repeat what was measured with the same settings"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and data")
    parser.add_argument("--list", action="store_true", help="the claims, and how long each takes")
    parser.add_argument(
        "--readme", type=str, default=None, help="write the committed results into this README.md"
    )
    ns = parser.parse_args(args)
    if ns.list:
        print(_listed(registry.claims()))
        return 0
    out = Path(ns.out) if ns.out else run.QUICK if ns.quick else run.FULL
    if ns.readme is not None:
        print(readme.write_block(Path(ns.readme), out))
        return 0
    if ns.seed < 0:
        raise UsageError(f"reproduce: `--seed` is {ns.seed}, expected 0 or more")
    if ns.claim is None:
        raise UsageError(
            f"reproduce: which claim? There are {', '.join(registry.NAMES)}, and `all`"
        )
    chosen = registry.claims() if ns.claim == "all" else [registry.claim(ns.claim)]
    options = run.Options(out=out, quick=ns.quick, work=Path(ns.work), again=ns.again, seed=ns.seed)
    failed = run.reproduce(chosen, options)
    if ns.claim == "all":
        from ..reproduce.page import summary
        from ..reproduce.rows import read_rows

        print(f"\n{summary(read_rows()[0], run.records_in(out))}")
    print(f"\npages: {out / 'README.md'}")
    if failed:
        print(f"failed: {', '.join(failed)}; `ling reproduce all` tries them again")
    return 1 if failed else 0


def _listed(claims: list) -> str:
    lines = [
        f"{c.name:14} {c.quick.budget_s:6,} s quick {c.full.budget_s:6,} s full  {c.title}"
        for c in claims
    ]
    quick, full = (sum(getattr(c, kind).budget_s for c in claims) for kind in ("quick", "full"))
    return "\n".join(
        [*lines, f"{'all':14} {quick:6,} s quick {full:6,} s full  on two quiet cores"]
    )
