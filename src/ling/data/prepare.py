"""`ling data prepare`: documents → tokenizer, Megatron token files and a held-out part."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from ..files import make_folder, read_json, write_atomic
from .corpus import Document, documents, fraction
from .indexed import IndexedDataset, IndexedWriter, token_dtype
from .tokenizer import Tokenizer, train_tokenizer

CHUNK_DOCUMENTS = 256
MAX_TOKENIZER_BYTES = 16 << 20
_DONE = "prepared.json"


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
        """Prefix of the held-out `.bin/.idx`; its text is in `valid.jsonl`."""
        return self.folder / "valid_text_document"


def prepare(
    sources: str | Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | None = None,
    vocab_size: int = 4096,
    max_bytes: int | None = None,
    valid_fraction: float = 0.02,
    log: Callable[[str], None] = print,
) -> Prepared:
    """Tokenise `sources` ("stdlib", or files and folders) into `out`; a finished one is reused.

    The held-out part is chosen by file name. Raises `DataError` for an empty corpus and
    `UsageError` when `out` was prepared with other settings.
    """
    out = Path(out)
    settings = {
        "sources": sources if isinstance(sources, str) else [str(s) for s in sources],
        "tokenizer": tokenizer,
        "vocab_size": None if tokenizer else vocab_size,
        "max_bytes": max_bytes,
        "valid_fraction": valid_fraction,
    }
    if (out / _DONE).is_file():
        return _reuse(out, settings)
    docs = list(documents(sources, max_bytes))
    valid = [d for d in docs if fraction(d.name) < valid_fraction]
    if docs and not valid:  # a corpus of few files still has a held-out part
        valid = [min(docs, key=lambda d: fraction(d.name))]
    held = {d.name for d in valid}
    train = [d for d in docs if d.name not in held]
    if not train:
        raise DataError(
            f"{len(docs)} documents found, need at least 2 to hold one out",
            path=settings["sources"],
        )
    make_folder(out)
    log(f"corpus: {len(docs)} documents, {sum(len(d.text) for d in docs) / 1e6:.1f} MB of text")
    tok = (
        Tokenizer.from_folder(tokenizer)
        if tokenizer
        else train_tokenizer(_sample(train), vocab_size)
    )
    if tok.eod_token_id is None:
        raise UsageError(f"{tokenizer}: the tokenizer has no `<|endoftext|>` to end documents with")
    ready = Prepared(out, {})
    tok.save(make_folder(ready.tokenizer_folder))
    log(f"tokenizer: {tok.vocab_size} tokens")
    for name, part in (("train", train), ("valid", valid)):
        _write_tokens(part, tok, out / f"{name}_text_document")
    lines = (json.dumps({"text": d.text, "name": d.name}, ensure_ascii=False) for d in valid)
    write_atomic(out / "valid.jsonl", "\n".join(lines) + "\n")
    ready.stats = _statistics(ready, sum(len(d.text.encode()) for d in valid), tok.vocab_size)
    ready.stats["documents"] = len(docs)
    write_atomic(out / _DONE, json.dumps({"settings": settings, "stats": ready.stats}, indent=1))
    stats = ready.stats
    log(f"tokens: {stats['train_tokens']:,} to train on, {stats['valid_tokens']:,} held out")
    return ready


def _reuse(out: Path, settings: dict[str, Any]) -> Prepared:
    done = read_json(out / _DONE)
    for key, value in settings.items():
        if done["settings"].get(key) != value:
            raise UsageError(
                f"{out}: was prepared with `{key}` = {done['settings'].get(key)}, not {value}; "
                "use another folder"
            )
    return Prepared(out, done["stats"])


def _sample(docs: Sequence[Document]) -> Iterator[str]:
    """Enough text to train a tokenizer on, spread over the corpus."""
    total = sum(len(d.text) for d in docs)
    for d in docs:
        if total <= MAX_TOKENIZER_BYTES or fraction(d.name + "#bpe") < MAX_TOKENIZER_BYTES / total:
            yield d.text


def _write_tokens(docs: Sequence[Document], tok: Tokenizer, prefix: Path) -> None:
    assert tok.eod_token_id is not None
    with IndexedWriter(prefix, token_dtype(tok.vocab_size)) as writer:
        for a in range(0, len(docs), CHUNK_DOCUMENTS):
            for ids in tok.encode_batch([d.text for d in docs[a : a + CHUNK_DOCUMENTS]]):
                if ids:
                    writer.add_document([*ids, tok.eod_token_id])


def _statistics(ready: Prepared, valid_bytes: int, vocab_size: int) -> dict[str, Any]:
    """Sizes, and the loss on held-out tokens of a model that knows only token frequencies."""
    counts = []
    for prefix in (ready.train_prefix, ready.valid_prefix):
        data = IndexedDataset(prefix)
        total = np.zeros(vocab_size, np.int64)
        for i in range(len(data)):
            total += np.bincount(data.get(i), minlength=vocab_size)
        counts.append(total)
    train, valid = counts
    log_p = np.log((train + 1) / (train.sum() + vocab_size))
    unigram = float(-(valid * log_p).sum() / max(valid.sum(), 1))
    return {
        "train_tokens": int(train.sum()),
        "valid_tokens": int(valid.sum()),
        "bytes_per_token": round(valid_bytes / max(int(valid.sum()), 1), 4),
        "unigram_loss": round(unigram, 6),
        "unigram_perplexity": round(math.exp(unigram), 3),
    }
