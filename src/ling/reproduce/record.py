"""What is kept of a claim: figures, settings, machine, commit, date, as one JSON file."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..errors import UsageError
from ..files.atomic import read_json, write_atomic
from ..ops.cores import FreeCores, load_in_words
from ..ops.doctor import install
from ..ops.machine import cpu
from .claim import Figure, How, Outcome, Result

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """A reproduced claim."""

    claim: str
    quick: bool
    settings: dict[str, Any]
    """The scale's settings and the seed: with the same ones it is not measured again."""
    command: str
    date: str
    commit: str
    machine: str
    cores: int
    load: str
    """What other programs took meanwhile."""
    seconds: float
    outcome: Outcome
    verdict: str
    figures: list[Figure]
    data: dict[str, Any]

    @property
    def headline(self) -> Figure:
        """The figure that summaries quote."""
        return self.figures[0]

    def figure_of(self, row: int) -> Figure:
        """The figure that answers a row of the table."""
        return next((f for f in self.figures if f.row == row), self.headline)

    def save(self, folder: Path) -> None:
        """Write `<claim>.json`."""
        tree = {"format": FORMAT, **dataclasses.asdict(self)}
        write_atomic(folder / f"{self.claim}.json", json.dumps(tree, indent=1) + "\n")


def commit_here() -> str:
    """The commit of the code, and whether it was changed since."""
    return install().get("commit") or "not known"


def made(
    claim: str,
    result: Result,
    *,
    quick: bool,
    settings: Mapping[str, Any],
    command: str,
    commit: str,
    seconds: float,
    cores: FreeCores,
) -> Record:
    """A record of this machine and day."""
    processor = cpu()
    return Record(
        claim=claim,
        quick=quick,
        # As they will be read, so that a comparison does not find a list where a tuple was.
        settings=json.loads(json.dumps(dict(settings))),
        command=command,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        commit=commit,
        # Names of virtual machines do not tell generations apart.
        machine=f"{processor['model']} ({processor['instruction_sets'] or 'no vectors'})",
        cores=processor["usable_cores"],
        load=load_in_words(cores.taken(), len(cores.cores)),
        seconds=seconds,
        outcome=result.outcome,
        verdict=result.verdict,
        figures=result.figures,
        data=json.loads(json.dumps(result.data)),
    )


def read_record(path: Path) -> Record:
    """A record; raises `UsageError` for a damaged file."""
    tree = read_json(path)
    try:
        if tree.pop("format") != FORMAT:
            raise ValueError("another format")
        figures = [Figure(**figure) for figure in tree.pop("figures")]
        record = Record(figures=figures, **tree)
        if not figures:
            raise ValueError("no figures")
        for figure in figures:
            if figure.how not in get_args(How):
                raise ValueError(f"a figure is {figure.how!r}")
        outcomes = {record.outcome, *(f.outcome for f in figures if f.outcome is not None)}
        if unknown := outcomes - set(get_args(Outcome)):
            raise ValueError(f"the outcome is {unknown.pop()!r}")
        return record
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise UsageError(f"{path}: no record of a claim ({err}); remove it") from None


def find_record(folder: Path, claim: str) -> Record | None:
    """The record of a claim in a folder; None where there is none, or only a damaged one."""
    path = folder / f"{claim}.json"
    if not path.is_file():
        return None
    try:
        return read_record(path)
    except UsageError:
        return None
