"""The second reading of a corpus: the documents of one unit become token ids in files."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .indexed import token_dtype
from .parts import Part, PartWriter
from .plaintext import pieces
from .pool import Watch
from .reading import Document, Reading, Seen
from .split import Split
from .tokenizer import Tokenizer
from .units import Unit

# A longer text is encoded in parts: the tokenizer library needs 200 times the memory of a text.
CHUNK_BYTES = 2 << 20
# Documents that are encoded together: enough for all threads, and little memory.
_BATCH_CHARS, _BATCH_DOCUMENTS = 1 << 19, 1024


@dataclass(frozen=True)
class TokeniseTask:
    """Writes the part of a unit to `folder`; a part that is there is left as it is."""

    reading: Reading
    split: Split
    tokenizer: Path
    folder: Path

    def __call__(self, unit: Unit, watch: Watch) -> None:
        part, tok = Part(self.folder, unit.number), _tokenizer(self.tokenizer)
        if part.is_done():
            return
        assert tok.eod_token_id is not None
        documents = self.split.divided(unit.documents(self.reading, Seen()))
        with PartWriter(part, token_dtype(tok.vocab_size)) as writer:
            for batch in _batches(documents):
                rows = encode([d.text for d in batch], tok)
                for document, ids in zip(batch, rows, strict=True):
                    split = "valid" if self.split.is_held_out(document) else "train"
                    size = len(document.text.encode())
                    writer.add(split, document, ids, tok.eod_token_id, size)
                    watch(size)


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_CHARS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode(texts: Sequence[str], tok: Tokenizer) -> list[list[int]]:
    """Ids of each text, those of a long one from its parts."""
    if all(len(t) <= CHUNK_BYTES for t in texts):
        return tok.encode_batch(texts)
    return [[i for part in long_parts(t) for i in tok.encode_batch([part])[0]] for t in texts]


def long_parts(text: str) -> Iterable[str]:
    """A text in parts that the tokenizer library can take."""
    return [text] if len(text) <= CHUNK_BYTES else pieces([text])
