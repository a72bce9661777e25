"""Records to supervised samples, many at a time: the tokenizer library is fastest so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ...errors import TemplateError
from .rendered import Marked, TrainingTemplate, marked_samples
from .supervise import Supervised, answers_of, encode_marked
from .types import BadRecord, Conversation, Preference, Record, Tokens

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

# Records that are encoded together: enough for all threads, and little memory.
_BATCH_CHARS, _BATCH_RECORDS = 1 << 19, 512


class Ready(NamedTuple):
    """A record and its samples; of a pair the chosen and the rejected answer."""

    record: Record
    samples: list[Supervised]


@dataclass(frozen=True)
class Supervisor:
    """Makes the samples of records."""

    template: TrainingTemplate
    tokenizer: Tokenizer
    vocab_size: int
    thinking: bool = False
    split_turns: bool = False

    def ready(self, records: Iterable[Record | BadRecord]) -> Iterator[Ready | BadRecord]:
        """Each record with its samples, in order; one that cannot be rendered is bad."""
        batch: list[tuple[Record, list[Marked]] | BadRecord] = []
        size = 0
        for record in records:
            marked = self._marked(record)
            batch.append(marked)
            size += 0 if isinstance(marked, BadRecord) else sum(len(m.text) for m in marked[1])
            if size >= _BATCH_CHARS or len(batch) == _BATCH_RECORDS:
                yield from self._encoded(batch)
                batch, size = [], 0
        yield from self._encoded(batch)

    def _marked(self, record: Record | BadRecord) -> tuple[Record, list[Marked]] | BadRecord:
        try:
            match record:
                case BadRecord():
                    return record
                case Tokens():
                    return self._checked(record)
                case Conversation():
                    return record, self._samples(record, self.split_turns)
                case Preference():
                    both = [self._samples(c, False)[0] for c in answers_of(record)]
                    return record, both
        except TemplateError as err:
            return BadRecord(record.origin, str(err))

    def _samples(self, conversation: Conversation, split_turns: bool) -> list[Marked]:
        return marked_samples(
            conversation,
            self.template,
            self.tokenizer,
            thinking=self.thinking,
            split_turns=split_turns,
        )

    def _checked(self, record: Tokens) -> tuple[Record, list[Marked]] | BadRecord:
        labels = [label for label in record.labels if label != -100]
        bad = next((i for i in [*record.input_ids, *labels] if not 0 <= i < self.vocab_size), None)
        if bad is None:
            return record, []
        reason = f"token id {bad} is outside the vocabulary of {self.vocab_size}"
        return BadRecord(record.origin, reason)

    def _encoded(
        self, batch: list[tuple[Record, list[Marked]] | BadRecord]
    ) -> Iterator[Ready | BadRecord]:
        marked = [m for item in batch if not isinstance(item, BadRecord) for m in item[1]]
        found = iter(encode_marked(marked, self.tokenizer))
        for item in batch:
            if isinstance(item, BadRecord):
                yield item
                continue
            record, own = item
            if isinstance(record, Tokens):
                yield Ready(record, [Supervised("", record.input_ids, record.labels, [], [])])
            else:
                yield Ready(record, [next(found) for _ in own])


def content_hash(record: Record) -> int:
    """64 bits of what a record says, wherever it stands; equal for duplicates."""
    match record:
        case Tokens():
            said: object = [record.input_ids, record.labels]
        case Conversation():
            said = [record.messages, record.tools]
        case Preference():
            said = [record.chosen.messages, record.rejected.messages, record.chosen.tools]
    text = json.dumps(said, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
