"""`ling data prepare`: documents → tokenizer, Megatron token files and a held-out part."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from ..files.atomic import make_folder, read_json, write_atomic
from .corpus import Document, documents, fraction
from .indexed import IndexedWriter, token_dtype
from .tokenizer import Tokenizer, train_tokenizer

MAX_TOKENIZER_BYTES = 16 << 20
CHUNK_BYTES = 2 << 20
_DONE = "prepared.json"
_SPLITS = ("train", "valid")


@dataclass
class Prepared:
    """Where the prepared data is, and what it is like."""

    folder: Path
    stats: dict[str, Any]

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of the tokenizer."""
        return self.folder / "tokenizer"

    @property
    def train_prefix(self) -> Path:
        """Prefix of the training `.bin/.idx`."""
        return self.folder / "train_text_document"

    @property
    def valid_prefix(self) -> Path:
        """Prefix of the held-out `.bin/.idx`."""
        return self.folder / "valid_text_document"

    @property
    def valid_text(self) -> Path:
        """The held-out documents as jsonl."""
        return self.folder / "valid.jsonl"

    @property
    def files(self) -> list[Path]:
        """What must be there, beside the tokenizer."""
        prefixes = (self.train_prefix, self.valid_prefix)
        return [Path(f"{p}.{end}") for p in prefixes for end in ("bin", "idx")] + [self.valid_text]


def prepare(
    sources: str | Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    vocab_size: int = 4096,
    max_bytes: int | None = None,
    valid_fraction: float = 0.02,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> Prepared:
    """Tokenise `sources` ("stdlib", or files and folders) into `out`; a finished one is reused.

    Documents are held out by a hash of `seed` and their names, so a file is never on both sides.
    They are read as a stream, three times. Raises `DataError` for an empty corpus and
    `UsageError` when `out` was prepared with other settings.
    """
    if not 0 < valid_fraction < 1:
        raise UsageError(f"`valid_fraction` is {valid_fraction}, expected a number in (0, 1)")
    if max_bytes is not None and max_bytes < 1:
        raise UsageError(f"`max_bytes` is {max_bytes}, expected at least 1")
    settings = {
        "sources": sources if isinstance(sources, str) else [str(s) for s in sources],
        "tokenizer": None if tokenizer is None else str(tokenizer),
        "vocab_size": None if tokenizer else vocab_size,
        "max_bytes": max_bytes,
        "valid_fraction": valid_fraction,
        "seed": seed,
    }
    out = Path(out)
    if (out / _DONE).is_file():
        return _reuse(out, settings)
    corpus = _Corpus(sources, max_bytes, valid_fraction, seed)
    log(f"corpus: {corpus.documents} documents, {corpus.bytes / 1e6:.1f} MB of text")
    # Trained before the folder exists, so that unusable settings leave nothing behind.
    tok = _tokenizer(tokenizer, vocab_size, corpus)
    log(f"tokenizer: {tok.vocab_size} tokens")
    with _one_at_a_time(make_folder(out)):
        if (out / _DONE).is_file():  # another process was faster
            return _reuse(out, settings)
        ready = Prepared(out, {})
        tok.save(ready.tokenizer_folder)
        counts = _write(corpus, tok, ready, log)
        ready.stats = {"documents": corpus.documents} | _statistics(counts)
        sizes = {p.name: p.stat().st_size for p in ready.files}
        note = {"settings": settings, "stats": ready.stats, "files": sizes}
        write_atomic(out / _DONE, json.dumps(note, indent=1) + "\n")
    train, valid = ready.stats["train_tokens"], ready.stats["valid_tokens"]
    log(f"tokens: {train:,} to train on, {valid:,} held out")
    return ready


def _reuse(out: Path, settings: dict[str, Any]) -> Prepared:
    done = read_json(out / _DONE)
    if not isinstance(done, dict) or not isinstance(done.get("settings"), dict):
        raise UsageError(f"{out / _DONE}: damaged; delete it to prepare the data again")
    for key, value in settings.items():
        if done["settings"].get(key, 0 if key == "seed" else None) != value:
            raise UsageError(
                f"{out}: was prepared with `{key}` = {done['settings'].get(key)}, not {value}; "
                "use another folder"
            )
    for name, size in done.get("files", {}).items():
        path = out / name
        if not path.is_file() or path.stat().st_size != size:
            raise UsageError(
                f"{path}: missing or not {size} bytes long; delete {_DONE} to prepare it again"
            )
    return Prepared(out, done["stats"])


class _Corpus:
    """A stream of documents, split into a part to train on and a held-out part."""

    def __init__(
        self, sources: str | Sequence[str | Path], max_bytes: int | None, share: float, seed: int
    ) -> None:
        self._sources, self._max_bytes, self._seed = sources, max_bytes, seed
        self.documents = self.bytes = held = 0
        lowest = 1.0
        for document in self:
            self.documents += 1
            self.bytes += len(document.text.encode())
            place = self._place(document)
            lowest, held = min(lowest, place), held + (place < share)
        if self.documents < 2:
            where = sources if isinstance(sources, str) else ", ".join(map(str, sources))
            raise DataError(
                f"{self.documents} documents with text, need at least 2 to hold one out", path=where
            )
        # A corpus of few documents still has both parts.
        self._border = share if 0 < held < self.documents else math.nextafter(lowest, 1.0)

    def __iter__(self) -> Iterator[Document]:
        return documents(self._sources, self._max_bytes)

    def split(self, document: Document) -> str:
        """`train` or `valid`."""
        return "valid" if self._place(document) < self._border else "train"

    def _place(self, document: Document) -> float:
        return fraction(f"{self._seed}/{document.name}" if self._seed else document.name)


def _tokenizer(folder: str | Path | None, vocab_size: int, corpus: _Corpus) -> Tokenizer:
    if folder is None:
        return train_tokenizer(_sample(corpus), vocab_size)
    tok = Tokenizer.from_folder(folder)
    if tok.eod_token_id is None:
        raise UsageError(f"{folder}: the tokenizer has no `<|endoftext|>` to end documents with")
    return tok


def _sample(corpus: _Corpus) -> Iterator[str]:
    """Enough text to train a tokenizer on, spread over what is not held out."""
    share = MAX_TOKENIZER_BYTES / corpus.bytes
    for d in corpus:
        if corpus.split(d) == "train" and (share >= 1 or fraction(f"{d.name}#bpe") < share):
            yield d.text


@dataclass
class _Counts:
    """What went into one token file."""

    tokens: np.ndarray
    documents: int = 0
    bytes: int = 0


@dataclass
class _Sink:
    """One token file in the making, and the documents that wait to be encoded together."""

    writer: IndexedWriter
    counts: _Counts
    waiting: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, text: str, tok: Tokenizer) -> None:
        self.waiting.append(text)
        self.size += len(text)
        if self.size >= CHUNK_BYTES:
            self.flush(tok)

    def flush(self, tok: Tokenizer) -> None:
        for text, ids in zip(self.waiting, tok.encode_batch(self.waiting), strict=True):
            row = np.fromiter(chain(ids, [tok.eod_token_id]), np.int64, len(ids) + 1)
            self.writer.add_document(row)
            self.counts.tokens += np.bincount(row, minlength=len(self.counts.tokens))
            self.counts.documents += 1
            self.counts.bytes += len(text.encode())
        self.waiting, self.size = [], 0


def _write(
    corpus: _Corpus, tok: Tokenizer, ready: Prepared, log: Callable[[str], None]
) -> dict[str, _Counts]:
    dtype, zeros = token_dtype(tok.vocab_size), np.zeros(tok.vocab_size, np.int64)
    held = ready.valid_text.with_suffix(".jsonl.tmp")
    with contextlib.ExitStack() as stack:
        prefixes = dict(zip(_SPLITS, (ready.train_prefix, ready.valid_prefix), strict=True))
        sinks = {
            name: _Sink(stack.enter_context(IndexedWriter(p, dtype)), _Counts(zeros.copy()))
            for name, p in prefixes.items()
        }
        lines = stack.enter_context(held.open("w", encoding="utf-8"))
        for document in _shown(corpus, corpus.bytes, log):
            split = corpus.split(document)
            sinks[split].add(document.text, tok)
            if split == "valid":
                record = {"text": document.text, "name": document.name}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        for sink in sinks.values():
            sink.flush(tok)
    os.replace(held, ready.valid_text)
    return {name: sink.counts for name, sink in sinks.items()}


def _shown(
    stream: Iterable[Document], total: int, log: Callable[[str], None]
) -> Iterator[Document]:
    """`stream` with a bar on a terminal, or with a line every ten seconds in a log."""
    if log is print and sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, unit="B", unit_scale=True, desc="tokenising", leave=False) as bar:
            for document in stream:
                yield document
                bar.update(len(document.text.encode()))
        return
    done, last = 0, time.monotonic()
    for document in stream:
        yield document
        done += len(document.text.encode())
        if time.monotonic() - last > 10:
            last = time.monotonic()
            log(f"tokenising: {done / 1e6:.0f} of {total / 1e6:.0f} MB")


def _statistics(counts: dict[str, _Counts]) -> dict[str, Any]:
    """Sizes, and the loss on held-out tokens of a model that knows only token frequencies.

    `unigram_loss` is the cross-entropy under the training frequencies (one added to each),
    `unigram_entropy` that under the held-out part's own; both in nats per token.
    """
    train, valid = counts["train"].tokens, counts["valid"].tokens
    log_p = np.log((train + 1) / (train.sum() + len(train)))
    own = valid[valid > 0] / valid.sum()
    loss = float(-(valid * log_p).sum() / valid.sum())
    return {
        "train_documents": counts["train"].documents,
        "valid_documents": counts["valid"].documents,
        "train_tokens": int(train.sum()),
        "valid_tokens": int(valid.sum()),
        "train_bytes": counts["train"].bytes,
        "valid_bytes": counts["valid"].bytes,
        "bytes_per_token": round(counts["valid"].bytes / int(valid.sum()), 4),
        "unigram_loss": round(loss, 6),
        "unigram_entropy": round(float(-(own * np.log(own)).sum()), 6),
        "unigram_perplexity": round(math.exp(loss), 3),
    }


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Several processes of one training job prepare the same folder: the others wait."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
