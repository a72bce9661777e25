"""Documents that were there before, the same or nearly: found before anything else is counted.

The first of them in the order of the corpus stays. Exact ones are those of the same text; their
hashes are kept on disk. Near ones share about four fifths of their runs of five words, by MinHash
and locality-sensitive hashing of the package `rensa` (the extra `dedupe`), which keeps its index,
about a kilobyte a document, in memory.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError
from .pool import Watch, run_units
from .progress import Progress
from .reading import Reading, Seen
from .tally import Tally
from .units import Unit

Dedupe = Literal["exact", "near"]
_RUN, _THRESHOLD, _PERMUTATIONS, _SEED = 5, 0.8, 128, 42
# At the threshold 95% of pairs agree in one of this many bands of eight, at nine tenths all.
_BANDS = 16
# A character of a script without spaces is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")


@dataclass(frozen=True)
class SignTask:
    """The name of each document of a unit, the hash of its text and, for near ones, its MinHash."""

    reading: Reading
    near: bool

    def __call__(self, unit: Unit, watch: Watch) -> list[tuple[str, bytes, Any]]:
        signed = []
        for document in self.reading.documents(unit.entries, Seen()):
            raw = document.text.encode()
            minhash = _minhash(document.text) if self.near else None
            signed.append((document.name, hashlib.blake2b(raw, digest_size=16).digest(), minhash))
            watch(len(raw))
        return signed


def _minhash(text: str) -> Any:
    import rensa

    words = _WORD.findall(text.lower())
    runs = {" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1))}
    minhash = rensa.RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
    minhash.update(sorted(runs))
    return minhash


def without_duplicates(
    reading: Reading,
    units: Sequence[Unit],
    mode: Dedupe,
    workers: int | None,
    progress: Progress,
) -> tuple[list[Unit], Tally]:
    """The units with what is to be dropped of each, and how many that is.

    Raises `DataError` for text that cannot be read, `UsageError` without the package.
    """
    near = _near_index() if mode == "near" else None
    found = run_units(SignTask(reading, near is not None), units, workers, progress)
    ready: dict[int, list[tuple[str, bytes, Any]]] = {}
    kept: list[Unit] = []
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="ling-dedupe-") as folder:
        is_new = _exact_index(Path(folder) / "hashes")
        for unit, signed in found:
            ready[unit.number] = signed
            while len(kept) in ready:  # in the order of the corpus, whoever is first
                number = len(kept)
                dropped = []
                for k, (name, digest, minhash) in enumerate(ready.pop(number)):
                    if not is_new(digest):
                        tally.add("exact duplicate", name)
                    elif near is not None and not near(name, minhash):
                        tally.add("near duplicate", name)
                    else:
                        continue
                    dropped.append(k)
                kept.append(units[number]._replace(dropped=dropped))
    return kept, tally


def _exact_index(path: Path) -> Callable[[bytes], bool]:
    """Whether a hash was not there before; then it is."""
    table = sqlite3.connect(path, isolation_level=None)
    for line in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", "BEGIN"):
        table.execute(line)
    table.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
    insert = "INSERT OR IGNORE INTO seen VALUES (?)"
    return lambda digest: table.execute(insert, (digest,)).rowcount == 1


def _near_index() -> Callable[[str, Any], bool]:
    """Whether a document is like none before; then it is one of them."""
    try:
        import rensa
    except ImportError:
        raise UsageError("near duplicates need a package: pip install 'ling[dedupe]'") from None
    index = rensa.RMinHashDeduplicator(_THRESHOLD, _PERMUTATIONS, True, _BANDS, _SEED)
    return lambda name, minhash: bool(index.add(name, minhash))
