"""The first reading of a corpus: how much text there is, and whether all of it can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .corpus import Corpus
from .pool import Watch, run_units
from .progress import Progress
from .reading import Reading, Seen
from .split import Measured, Split
from .units import Unit

# Of reading, beside tokenising: no more than this.
_COST = 0.1


@dataclass(frozen=True)
class MeasureTask:
    """Reads the documents of a unit without tokenising them."""

    reading: Reading
    split: Split

    def __call__(self, unit: Unit, watch: Watch) -> tuple[Measured, Seen]:
        measured, seen = Measured(), Seen()
        for document in unit.documents(self.reading, seen):
            size = len(document.text.encode())
            measured.add(document, size, self.split)
            watch(size)
        return measured, seen


def measure(
    corpus: Corpus, units: Sequence[Unit], split: Split, workers: int | None, progress: Progress
) -> tuple[Measured, list[Measured]]:
    """All of the corpus and each unit; what was met goes to `corpus.seen`.

    Raises `DataError` for the first unit, in their order, that cannot be read.
    """
    task = MeasureTask(corpus.reading, split)
    found = {u.number: result for u, result in run_units(task, units, workers, progress, _COST)}
    parts = [found[u.number] for u in units]
    corpus.seen = sum((seen for _, seen in parts), Seen())
    return sum((m for m, _ in parts), Measured()), [m for m, _ in parts]
