"""What is to be done to prepare a corpus: written once, read by all who work on it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.atomic import make_folder, read_json, write_atomic
from .folder import PARTS
from .parts import Part
from .prepared import Prepared
from .reading import Reading
from .split import Split
from .tokenise import TokeniseTask
from .units import Unit


@dataclass(frozen=True)
class Plan:
    """The units of a corpus and how they are read and divided.

    `note` is what `prepared.json` will say beside the statistics: settings, fingerprint, what was
    left out. `documents` and `bytes` were counted in the first reading.
    """

    out: Path
    reading: Reading
    split: Split
    units: list[Unit]
    documents: int
    note: dict[str, Any]

    @property
    def parts(self) -> Path:
        """The folder of the parts."""
        return self.out / PARTS

    @property
    def task(self) -> TokeniseTask:
        """The work on one unit."""
        # Machines of a cluster may work in another folder.
        out = self.out.absolute()
        return TokeniseTask(
            self.reading, self.split, Prepared(out, {}).tokenizer_folder, out / PARTS
        )

    def todo(self) -> list[Unit]:
        """The units without a part."""
        return [u for u in self.units if not Part(self.parts, u.number).is_done()]

    def save(self) -> None:
        """Write the plan; the file with the number of units comes last."""
        make_folder(self.parts)
        lines = "".join(json.dumps(u.as_json()) + "\n" for u in self.units)
        write_atomic(self.parts / "units.jsonl", lines)
        plan = {
            "reading": dataclasses.asdict(self.reading),
            "split": dataclasses.asdict(self.split),
            "units": len(self.units),
            "documents": self.documents,
            **self.note,
        }
        write_atomic(self.parts / "plan.json", json.dumps(plan, indent=1) + "\n")

    @classmethod
    def find(cls, out: Path) -> Plan | None:
        """The plan of an unfinished folder; `UsageError` when it is damaged."""
        file = out / PARTS / "plan.json"
        if not file.is_file():
            return None
        try:
            note = read_json(file)
            reading, split = Reading(**note.pop("reading")), Split(**note.pop("split"))
            count, documents = note.pop("units"), note.pop("documents")
            units = list(_units(out / PARTS / "units.jsonl"))
            if len(units) != count:
                raise ValueError(f"{len(units)} of {count} units")
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise UsageError(f"{file}: damaged; delete {out / PARTS} to begin again") from None
        return cls(out, reading, split, units, documents, note)


def _units(path: Path) -> Iterator[Unit]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            yield Unit.from_json(number, json.loads(line))
