"""The parts of all units become the token files, in the order of the corpus."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError, UsageError
from .indexed import IndexedWriter, token_dtype
from .parts import SPLITS, Part, PartCounts
from .plan import Plan
from .prepared import Prepared, save_note
from .progress import Log, Progress
from .tokenizer import Tokenizer


@dataclass
class _Counts:
    """What went into one token file; `tokens` i64 [vocabulary] says how often each id occurs."""

    tokens: np.ndarray
    documents: int = 0
    bytes: int = 0

    def add(self, part: PartCounts) -> None:
        self.documents += part.documents
        self.bytes += part.bytes


def join(plan: Plan, log: Log) -> Prepared:
    """Write token files, held-out text and `prepared.json`, and remove the parts.

    The same parts give the same bytes. An interrupted join is done again from its beginning.
    Raises `UsageError` when a part is missing.
    """
    if missing := plan.todo():
        raise UsageError(
            f"{plan.out}: {len(missing)} of {len(plan.units)} parts are missing, the first is "
            f"{missing[0].number}; run `ling data prepare` (or its shards) again"
        )
    ready = Prepared(plan.out, {})
    parts = [Part(plan.parts, u.number) for u in plan.units]
    counts = _write(parts, ready, log)
    ready.stats = {"documents": plan.documents} | _statistics(counts)
    save_note(ready, plan.note)
    shutil.rmtree(plan.parts)
    train, valid = ready.stats["train_tokens"], ready.stats["valid_tokens"]
    log(f"tokens: {train:,} to train on, {valid:,} held out")
    return ready


def _write(parts: list[Part], ready: Prepared, log: Log) -> dict[str, _Counts]:
    vocab = Tokenizer.from_folder(ready.tokenizer_folder).vocab_size
    counts = {name: _Counts(np.zeros(vocab, np.int64)) for name in SPLITS}
    prefixes = dict(zip(SPLITS, (ready.train_prefix, ready.valid_prefix), strict=True))
    held = ready.valid_text.with_suffix(".jsonl.tmp")
    total = sum(p.path(f"{name}.bin").stat().st_size for p in parts for name in SPLITS)
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(IndexedWriter(prefix, token_dtype(vocab)))
            for name, prefix in prefixes.items()
        }
        progress = stack.enter_context(Progress(total, "joining", log))
        stack.enter_context(_disk(held))
        text = stack.enter_context(held.open("wb"))
        for part in parts:
            for name, count in part.counts().items():
                counts[name].add(count)
                writers[name].add_lengths(np.fromfile(part.path(f"{name}.len"), "<i4"))
                for ids in _blocks(part.path(f"{name}.bin"), token_dtype(vocab)):
                    writers[name].add_tokens(ids)
                    counts[name].tokens += np.bincount(ids, minlength=vocab)
                    progress.add(ids.nbytes)
            with part.path("valid.jsonl").open("rb") as file:
                shutil.copyfileobj(file, text, 1 << 20)
    os.replace(held, ready.valid_text)
    return counts


def _blocks(path: Path, dtype: Any) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            yield np.frombuffer(block, np.dtype(dtype).newbyteorder("<"))


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise RunError(f"{path}: could not write: {err.strerror}") from None


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
