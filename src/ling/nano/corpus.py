"""The corpus of `ling-nano`: documents in parts, one tokenizer of all of them, token files.

Each part is a folder as `ling data prepare` writes one. A conversation is one document, rendered by
the chat template: only the template writes control tokens, and the end of the document follows.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.chat import CHAT_TEMPLATE, ChatTemplate
from ..data.conversations.batches import Supervisor
from ..data.conversations.types import BadRecord, Conversation
from ..data.indexed import IndexedWriter, token_dtype
from ..data.prepare import prepare
from ..data.prepared import Prepared, find_prepared, save_note
from ..data.progress import Log, Progress
from ..data.tokenise import long_parts
from ..data.tokenizer import Tokenizer, train_tokenizer
from ..data.tokenizer_vocab import SPECIAL_TOKENS
from ..errors import DataError, UsageError
from ..files.atomic import atomic_folder, make_folder, write_atomic
from .sources import Conversations, Part, Texts, as_record

# Text that the tokenizer is trained on, in the shares of the parts.
SAMPLE_BYTES = 12 << 20
_CONTROL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
# Of a part of text at most: more is not read by the run, less fills no row.
_BYTES_PER_TOKEN, _LEAST_BYTES = 8, 1 << 18
# Held-out tokens of a part of conversations: a fiftieth, enough for a row, no more than is of use.
_HELD_OUT_SHARE, _LEAST_HELD_OUT, _MOST_HELD_OUT = 50, 2_000, 200_000


def prepare_corpus(
    parts: Mapping[str, Part],
    shares: Mapping[str, float],
    tokens: int,
    vocab_size: int,
    out: Path,
    log: Log = print,
) -> dict[str, Prepared]:
    """Tokenizer and token files of all parts in `out`, for a run of `tokens` tokens.

    `shares` are of tokens. A part whose conversations are made by a grammar gets as many as its
    share needs, others all that they have. What is there is used; raises `UsageError` naming the
    key where it was made with another setting.
    """
    tokenizer = _tokenizer(parts, shares, vocab_size, make_folder(out) / "tokenizer", log)
    whole = sum(shares.values())
    return {
        name: _prepare_part(name, part, int(tokens * shares[name] / whole), tokenizer, out, log)
        for name, part in parts.items()
    }


def _prepare_part(
    name: str, part: Part, tokens: int, tokenizer: Path, out: Path, log: Log
) -> Prepared:
    log(f"part {name}: {part.about}")
    if isinstance(part, Texts):
        most = max(tokens * _BYTES_PER_TOKEN, _LEAST_BYTES)
        return prepare(part.sources, out / name, tokenizer=tokenizer, max_bytes=most, log=log)
    return _prepare_conversations(part, tokens, tokenizer, out / name, log)


# ---- the tokenizer -----------------------------------------------------------------------------


def _tokenizer(
    parts: Mapping[str, Part], shares: Mapping[str, float], size: int, folder: Path, log: Log
) -> Path:
    """The folder of the tokenizer, trained on first use."""
    if (folder / "tokenizer.json").is_file():
        return folder
    whole = sum(shares.values())
    wanted = {name: int(SAMPLE_BYTES * shares[name] / whole) for name in parts}
    with Progress(sum(wanted.values()), "reading for the tokenizer", log) as progress:
        texts = (part.texts(wanted[name]) for name, part in parts.items())
        plain = _plain(itertools.chain.from_iterable(texts), progress)
        found = train_tokenizer(plain, size)
    if found.vocab_size != size:
        raise DataError(
            f"the corpus gives a tokenizer of {found.vocab_size} ids, the recipe has {size}; it "
            "needs more text",
            path=folder,
        )
    with atomic_folder(folder) as scratch:
        found.save(scratch)
    log(f"tokenizer: {found.vocab_size} tokens")
    return folder


def _plain(texts: Iterable[str], progress: Progress) -> Iterator[str]:
    """Texts without what becomes control tokens."""
    for text in texts:
        for plain in filter(None, _CONTROL.split(text)):
            yield from long_parts(plain)
        progress.add(len(text.encode()))


# ---- conversations -----------------------------------------------------------------------------


def _prepare_conversations(
    part: Conversations, tokens: int, tokenizer: Path, out: Path, log: Log
) -> Prepared:
    """Token files of conversations, `tokens` of them at most, and of those held out."""
    tok = Tokenizer.from_folder(tokenizer)
    settings = {"part": part.about, "tokens": tokens, "tokenizer": tok.vocabulary_hash}
    if (ready := find_prepared(out)) is not None:
        _require_same(out, settings)
        return ready
    tok.save(make_folder(out) / "tokenizer")
    ready = Prepared(out, {})
    with Progress(tokens, "tokenising", log) as progress:
        train = _write(ready.train_prefix, part.documents("train"), tok, tokens, progress.add)
    held: list[str] = []
    some = min(max(tokens // _HELD_OUT_SHARE, _LEAST_HELD_OUT), _MOST_HELD_OUT)
    documents = _noted(part.documents("held_out"), held)
    valid = _write(ready.valid_prefix, documents, tok, some, lambda _: None)
    write_atomic(ready.valid_text, held)
    ready.stats = {
        **{f"train_{key}": value for key, value in train.items()},
        **{f"valid_{key}": value for key, value in valid.items()},
    }
    save_note(ready, {"settings": settings, "fingerprint": None})
    log(f"tokens: {train['tokens']:,} to train on, {valid['tokens']:,} held out")
    return ready


def _require_same(out: Path, settings: dict[str, Any]) -> None:
    before = json.loads((out / "prepared.json").read_text("utf-8"))["settings"]
    for key, value in settings.items():
        if before.get(key) != value:
            raise UsageError(
                f"{out}: was prepared with `{key}` = {before.get(key)}, not {value}; use another "
                "folder"
            )


def _noted(documents: Iterable[Conversation], lines: list[str]) -> Iterator[Conversation]:
    for document in documents:
        lines.append(json.dumps(as_record(document), ensure_ascii=False) + "\n")
        yield document


def _write(
    prefix: Path, documents: Iterable[Conversation], tok: Tokenizer, tokens: int, watch: Any
) -> dict[str, int]:
    """Conversations as documents, until there are `tokens` ids; what was written."""
    assert tok.eod_token_id is not None
    done, count, longest = 0, 0, 0
    with IndexedWriter(prefix, token_dtype(tok.vocab_size)) as writer:
        for ids in _encoded(documents, tok):
            writer.add_document(np.array([*ids, tok.eod_token_id]))
            done, count, longest = done + len(ids) + 1, count + 1, max(longest, len(ids) + 1)
            watch(len(ids) + 1)
            if done >= tokens:
                break
    if not count:
        raise DataError("no conversation to write", path=prefix)
    return {"tokens": done, "documents": count, "longest": longest}


def _encoded(documents: Iterable[Conversation], tok: Tokenizer) -> Iterator[list[int]]:
    """The ids of each conversation as the server would encode it."""
    supervisor = Supervisor(ChatTemplate(CHAT_TEMPLATE), tok, tok.vocab_size)
    for ready in supervisor.ready(documents):
        if isinstance(ready, BadRecord):
            raise DataError(ready.reason, path=ready.origin.path, line=ready.origin.line)
        yield ready.samples[0].ids
