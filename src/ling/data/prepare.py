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
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files.atomic import make_folder
from ..text import size
from .corpus import Corpus, Document, fraction
from .folder import PREPARED
from .indexed import IndexedWriter, token_dtype
from .plaintext import pieces
from .prepared import Prepared, Request
from .split import SplitCorpus
from .tokenizer import Tokenizer, train_tokenizer

MAX_TOKENIZER_BYTES = 16 << 20
CHUNK_BYTES = 2 << 20
_SPLITS = ("train", "valid")


def prepare(
    sources: str | Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    vocab_size: int = 4096,
    max_bytes: int | None = None,
    valid_fraction: float = 0.02,
    seed: int = 0,
    json_key: str | None = None,
    log: Callable[[str], None] = print,
) -> Prepared:
    """Tokenise `sources` ("stdlib", or files and folders) into `out`; a finished one is reused.

    Documents are held out by a hash of `seed` and their names, so none is on both sides. They are
    read as a stream, three times. `json_key` is the key or column with the text. What was left out
    is counted in the log and in `prepared.json`. Raises `DataError` for an empty corpus and
    `UsageError` when `out` was prepared with other settings or from other text.
    """
    if not 0 < valid_fraction < 1:
        raise UsageError(f"`valid_fraction` is {valid_fraction}, expected a number in (0, 1)")
    if max_bytes is not None and max_bytes < 1:
        raise UsageError(f"`max_bytes` is {max_bytes}, expected at least 1")
    request = Request(
        sources,
        tokenizer,
        {
            "vocab_size": None if tokenizer else vocab_size,
            "max_bytes": max_bytes,
            "valid_fraction": valid_fraction,
            "seed": seed,
            "json_key": json_key,
        },
    )
    out = Path(out)
    if ready := request.find(out):
        log(f"{out}: prepared before, used as it is; delete {PREPARED} to prepare it again")
        return ready
    corpus = Corpus(sources, max_bytes, json_key)
    split = SplitCorpus(corpus, sources, valid_fraction, seed, partial(_shown, log=log))
    _report(corpus, split, log)
    # Trained before the folder exists, so that unusable settings leave nothing behind.
    tok = _tokenizer(tokenizer, vocab_size, split, log)
    log(f"tokenizer: {tok.vocab_size} tokens")
    with _one_at_a_time(make_folder(out)):
        if ready := request.find(out):  # another process was faster
            return ready
        ready = Prepared(out, {})
        tok.save(ready.tokenizer_folder)
        counts = _write(split, tok, ready, log)
        ready.stats = {"documents": split.documents} | _statistics(counts)
        request.save(ready, {"left_out": corpus.left_out, "notes": corpus.notes})
    train, valid = ready.stats["train_tokens"], ready.stats["valid_tokens"]
    log(f"tokens: {train:,} to train on, {valid:,} held out")
    return ready


def _report(corpus: Corpus, split: SplitCorpus, log: Callable[[str], None]) -> None:
    log(f"corpus: {split.documents:,} documents, {size(split.bytes)} of text")
    for line in corpus.notes.lines():
        log(f"read {line}")
    for line in corpus.left_out.lines():
        log(f"left out {line}")
    if split.hint:
        log(split.hint)


def _tokenizer(
    folder: str | Path | None, vocab_size: int, corpus: SplitCorpus, log: Callable[[str], None]
) -> Tokenizer:
    if folder is None:
        return train_tokenizer(_sample(corpus, log), vocab_size)
    tok = Tokenizer.from_folder(folder)
    if tok.eod_token_id is None:
        raise UsageError(f"{folder}: the tokenizer has no `<|endoftext|>` to end documents with")
    return tok


def _sample(corpus: SplitCorpus, log: Callable[[str], None]) -> Iterator[str]:
    """Enough text to train a tokenizer on, spread over what is not held out."""
    share = MAX_TOKENIZER_BYTES / corpus.bytes
    for d in _shown(corpus, corpus.bytes, "reading for the tokenizer", log=log):
        if not corpus.is_held_out(d) and (share >= 1 or fraction(f"{d.name}#bpe") < share):
            yield from _parts(d.text)


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
        for text, ids in zip(self.waiting, _encode(self.waiting, tok), strict=True):
            row = np.fromiter(chain(ids, [tok.eod_token_id]), np.int64, len(ids) + 1)
            self.writer.add_document(row)
            self.counts.tokens += np.bincount(row, minlength=len(self.counts.tokens))
            self.counts.documents += 1
            self.counts.bytes += len(text.encode())
        self.waiting, self.size = [], 0


def _encode(texts: Sequence[str], tok: Tokenizer) -> list[list[int]]:
    """Ids of each text, those of a long one from its parts."""
    if all(len(t) <= CHUNK_BYTES for t in texts):
        return tok.encode_batch(texts)
    return [[i for part in _parts(t) for i in tok.encode_batch([part])[0]] for t in texts]


def _parts(text: str) -> Iterable[str]:
    """A long text in parts: the tokenizer library needs 200 times the memory of a text."""
    return [text] if len(text) <= CHUNK_BYTES else pieces([text])


def _write(
    corpus: SplitCorpus, tok: Tokenizer, ready: Prepared, log: Callable[[str], None]
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
        for document in _shown(corpus, corpus.bytes, "tokenising", log=log):
            split = "valid" if corpus.is_held_out(document) else "train"
            sinks[split].add(document.text, tok)
            if split == "valid":
                record = {"text": document.text, "name": document.name}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        for sink in sinks.values():
            sink.flush(tok)
    os.replace(held, ready.valid_text)
    return {name: sink.counts for name, sink in sinks.items()}


def _shown(
    stream: Iterable[Document], total: int, what: str, *, log: Callable[[str], None]
) -> Iterator[Document]:
    """`stream` with a bar on a terminal, or with a line every ten seconds in a log."""
    if log is print and sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, unit="B", unit_scale=True, desc=what, leave=False) as bar:
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
            log(f"{what}: {size(done)} of about {size(total)}")


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
