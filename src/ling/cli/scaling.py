"""`ling scaling`: the scaling laws, published and measured."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from ..errors import UsageError
from ..text import nearest, shown


class Part(NamedTuple):
    """The file of this folder and the function in it, and what `ling scaling --help` says."""

    file: str
    function: str
    summary: str


PARTS = {
    "predict": Part(
        "scaling_predict",
        "predict",
        "what the published laws say about a budget: size, tokens, learning rate, leverage",
    ),
    "sweep": Part(
        "scaling_sweep",
        "sweep",
        "train the runs of a grid, here or as a Slurm array; rerun to continue",
    ),
    "fit": Part(
        "scaling_fit",
        "fit",
        "fit the results of a sweep: power laws, held-out runs, leverage at equal loss",
    ),
}


def scaling(args: list[str]) -> int | None:
    if args and args[0] in ("-h", "--help"):
        print(f"usage: ling scaling {'|'.join(PARTS)} ...\n")
        print("\n".join(f"  {name:10} {part.summary}" for name, part in PARTS.items()))
        print("\n`ling scaling PART --help` lists the options.")
        return None
    if not args or args[0] not in PARTS:
        given = shown(args[0]) if args else "nothing"
        hint = nearest(args[0], list(PARTS)) if args else ""
        raise UsageError(f"scaling: expected `ling scaling {'|'.join(PARTS)}`, got {given}{hint}")
    part = PARTS[args[0]]
    run = getattr(import_module(f".{part.file}", __package__), part.function)
    found: int | None = run(args[1:])
    return found
