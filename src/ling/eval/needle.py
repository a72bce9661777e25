"""`ling eval needle`: does a model find what stands somewhere in a long context?

Rows of each length and depth are answered greedily and scored exactly, cell by cell. A finished
cell is a file of its own, so an interrupted run continues with the next one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.fingerprint import weights_id
from ..checkpoint.open import config_at
from ..config.engine import POSITIONS
from ..config.long_context import stretched, trained_length
from ..errors import UsageError
from ..files.atomic import make_folder, write_atomic
from ..hub import resolve_model
from ..infer.request import SamplingParams
from ..llm import LLM
from .needle_rows import Needles, TokenNeedles
from .needle_text import TextNeedles

Log = Callable[[str], None]
WORKS = 0.9
"""Share of rows that are right, over all depths, up to which a length works."""
RESULT, CELLS = "needle.json", "cells"


@dataclass(frozen=True, kw_only=True)
class NeedleOptions:
    """What is measured of a model."""

    lengths: tuple[int, ...]
    """Tokens of a row, its answer included."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Share of what surrounds the needle that is before it."""
    rows: int = 40
    """Rows of each length and depth."""
    yarn: tuple[float | None, ...] = (None,)
    """Factors by which YaRN stretches the positions of training; 1 is without, None as the folder
    has it."""
    seed: int = 0
    text: tuple[str, ...] = ()
    """Files or folders of prose to hide sentences in; without any, needles are token ids."""
    chat: bool = False
    """Ask in a chat instead of by the beginning of the answer."""
    format: str | None = None
    """Number format that weights are packed to at load."""

    def __post_init__(self) -> None:
        for length in self.lengths:
            if length < 1:
                raise UsageError(f"`lengths` has {length}, expected at least 1")
        for depth in self.depths:
            if not 0 <= depth <= 1:
                raise UsageError(f"`depths` has {depth:g}, expected 0 to 1")
        for factor in self.yarn:
            if factor is not None and not 1 <= factor <= 1024:
                raise UsageError(f"`yarn` is {factor:g}, expected a factor from 1 to 1024")
        if not self.lengths or not self.depths or not self.yarn:
            raise UsageError("name at least one of `lengths` and of `depths`")
        if self.rows < 1:
            raise UsageError(f"`rows` is {self.rows}, expected at least 1")
        if self.chat and not self.text:
            raise UsageError("`chat` needs prose to ask about: give `text`")
        for name in ("lengths", "depths", "yarn"):  # each once, in order
            values = sorted(set(getattr(self, name)), key=lambda value: value or 0)
            object.__setattr__(self, name, tuple(values))


@dataclass(frozen=True)
class Cell:
    """One length and depth under one scaling."""

    yarn: float | None
    length: int
    depth: float

    @property
    def file(self) -> str:
        """Its name among the results."""
        return f"{scaling_name(self.yarn).replace(' ', '')}-{self.length}-{self.depth:.4f}.json"

    def __str__(self) -> str:
        return f"{scaling_name(self.yarn)}, {self.length:,} tokens, depth {self.depth:g}"


def scaling_name(yarn: float | None) -> str:
    """How pictures and results call a scaling."""
    if yarn is None:
        return "as configured"
    return "without YaRN" if yarn == 1 else f"YaRN {yarn:g}"


def needle(model: str, out: Path, options: NeedleOptions, log: Log = print) -> dict[str, Any]:
    """Measure every cell that OUT does not have yet; returns the results, also written there.

    Raises `UsageError` where OUT has the results of other weights, needles or seeds.
    """
    folder = resolve_model(model)
    needles, cfg = open_needles(folder, options), config_at(folder)
    identity = {
        "weights": weights_id(folder)[:16],
        "positions": {name: getattr(cfg, name) for name in POSITIONS},
        "format": options.format,
        "seed": options.seed,
        **needles.described(),
    }
    cells = Cells(make_folder(out), identity, options.rows, log)
    for yarn in options.yarn:
        measure(folder, needles, options, yarn, cells)
    result = summary(model, trained_length(cfg), options, cells)
    write_atomic(out / RESULT, json.dumps(result, indent=1) + "\n")
    return result


def open_needles(folder: Path, options: NeedleOptions) -> Needles:
    """Sentences where there is prose to hide them in, else token ids."""
    if not options.text:
        return TokenNeedles()
    return TextNeedles.open(folder, options.text, options.lengths[-1], chat=options.chat)


def measure(
    folder: Path, needles: Needles, options: NeedleOptions, yarn: float | None, cells: Cells
) -> None:
    """The cells of one scaling that are not finished; without any, no model is loaded."""
    todo = [
        cell
        for length in options.lengths
        for depth in options.depths
        if cells.right(cell := Cell(yarn, length, depth)) is None
    ]
    if not todo:
        return
    longest = options.lengths[-1]
    fields = stretched(config_at(folder), longest, yarn)
    with LLM(folder, hf_overrides=fields, max_model_len=longest, format=options.format) as llm:
        for cell in todo:
            cells.keep(cell, num_right(llm, needles, options, cell))


def num_right(llm: LLM, needles: Needles, options: NeedleOptions, cell: Cell) -> int:
    """How many rows of a cell are right."""
    rows = [
        needles.row(cell.length, cell.depth, number, options.seed) for number in range(options.rows)
    ]
    tokens, ends = needles.max_tokens, options.chat
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=not ends)
    outputs = llm.generate([row.prompt for row in rows], params)
    answers = [output.outputs[0] for output in outputs]
    return sum(needles.is_right(r, a) for r, a in zip(rows, answers, strict=True))


class Cells:
    """The finished cells in a folder: those of one model, and one kind of rows."""

    def __init__(self, out: Path, identity: dict[str, Any], rows: int, log: Log) -> None:
        self.folder, self.log = make_folder(out / CELLS), log
        self.identity, self.rows = identity, rows

    def right(self, cell: Cell) -> int | None:
        """How many rows were right, if the cell is finished; one that is damaged, or of another
        number of rows, is not."""
        path = self.folder / cell.file
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
            right, rows = int(found["right"]), int(found["rows"])
            if not 0 <= right <= rows:
                raise ValueError(f"{right} of {rows} rows")
        except (OSError, ValueError, TypeError, KeyError):
            self.log(f"{path}: damaged, measured again")
            return None
        for key, value in self.identity.items():
            if found.get(key) != value:
                raise UsageError(
                    f"{path}: a result of another `{key}` ({found.get(key)}, now {value}); use "
                    "another --out"
                )
        return right if rows == self.rows else None

    def keep(self, cell: Cell, right: int) -> None:
        """Write a finished cell, and say how it went."""
        facts = {"rows": self.rows, "right": right, **self.identity}
        write_atomic(self.folder / cell.file, json.dumps(facts) + "\n")
        self.log(f"{cell}: {right} of {self.rows}")


def summary(model: str, trained: int, options: NeedleOptions, cells: Cells) -> dict[str, Any]:
    """Shares by scaling, length and depth, and up to where each scaling works."""
    scalings = []
    for yarn in options.yarn:
        right = [
            [cells.right(Cell(yarn, length, depth)) or 0 for depth in options.depths]
            for length in options.lengths
        ]
        each = options.rows * len(options.depths)
        by_length = [sum(row) / each for row in right]
        scalings.append(
            {
                "yarn": yarn,
                "name": scaling_name(yarn),
                "shares": [[count / options.rows for count in row] for row in right],
                "by_length": by_length,
                "works_to": works_to(options.lengths, by_length),
            }
        )
    return {
        "model": model,
        "trained_length": trained,
        "needles": "text" if options.text else "token ids",
        "lengths": list(options.lengths),
        "depths": list(options.depths),
        "rows": options.rows,
        "rows_of_a_length": options.rows * len(options.depths),
        "seed": options.seed,
        "works": WORKS,
        "scalings": scalings,
    }


def works_to(lengths: Sequence[int], shares: Sequence[float]) -> int | None:
    """The largest length up to which every one has at least a share of `WORKS` of its rows right;
    None where the shortest has not."""
    found = None
    for length, share in zip(lengths, shares, strict=True):
        if share < WORKS:
            break
        found = length
    return found


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The results as a table of text."""
    yield f"{'share right':<16}" + "".join(f"{length:>9,}" for length in result["lengths"])
    for scaling in result["scalings"]:
        row = "".join(f"{share:>9.1%}" for share in scaling["by_length"])
        yield f"{scaling['name']:<16}{row}   works to {works_in_words(scaling)}"
    yield (
        f"{result['rows_of_a_length']} rows of each length over depths "
        f"{', '.join(f'{depth:g}' for depth in result['depths'])}; trained at "
        f"{result['trained_length']:,} tokens; works: at least {WORKS:.0%} of the rows"
    )


def works_in_words(scaling: dict[str, Any]) -> str:
    """Up to where, or that not even the shortest works."""
    to = scaling["works_to"]
    return "none of these" if to is None else f"{to:,}"
