"""The text of a sweep: found, prepared once, the same for all runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..data.indexed import IndexedDataset
from ..data.packages.catalogue import PACKAGES, default_folder, find
from ..data.packages.store import require, texts_path
from ..data.prepare import prepare
from ..data.prepared import find_prepared
from ..data.sources import STDLIB, standard_library
from ..errors import UsageError
from ..text import nearest, shown
from .grid import GridData
from .planned import Prefixes


def open_corpus(data: GridData, vocab_size: int, out: Path, log: Callable[[str], None]) -> Prefixes:
    """The token files of a sweep; those of a corpus are made in `out` on first use.

    `UsageError` names the command that fetches what of it is not there.
    """
    if data.prefix:
        assert data.valid_prefix
        assert data.tokenizer
        return Prefixes(data.prefix, data.valid_prefix, data.tokenizer)
    found = _prepared(data, vocab_size, out, log)
    held_out = int(IndexedDataset(found.valid).sequence_lengths.sum(dtype="int64"))
    if held_out <= data.seq_length:
        raise UsageError(
            f"{out}: {held_out} held-out tokens are less than a row of `data.seq_length` = "
            f"{data.seq_length}: raise `data.valid_fraction` and delete {out}"
        )
    return found


def _prepared(data: GridData, vocab_size: int, out: Path, log: Callable[[str], None]) -> Prefixes:
    ready = find_prepared(out) or prepare(  # its sources may be gone by now
        sources_of(data.corpus),
        out,
        vocab_size=vocab_size,
        max_bytes=data.corpus_bytes,
        valid_fraction=data.valid_fraction,
        log=log,
    )
    return Prefixes([str(ready.train_prefix)], str(ready.valid_prefix), str(ready.tokenizer_folder))


def sources_of(corpus: list[str]) -> list[Path]:
    """The files of packages, of the standard library and of paths."""
    require([name for name in corpus if name in PACKAGES])
    return [path for name in corpus for path in _files(name)]


def _files(name: str) -> Iterator[Path]:
    if name in PACKAGES:
        yield texts_path(find(name), default_folder())
    elif name == STDLIB:
        yield from (e.path for e in standard_library() if e.path is not None)
    elif Path(name).exists():
        yield Path(name)
    else:
        known = [STDLIB, *PACKAGES]
        raise UsageError(
            f"`data.corpus` has {shown(name)}: no such file{nearest(name, known)}; "
            f"packages are {', '.join(known)}"
        )
