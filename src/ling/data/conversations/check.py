"""What fine-tuning would make of files: each record as text, ids and what of it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ...config.sft import ChatDataConfig
from ...errors import DataError
from .batches import Ready, Supervisor, content_hash
from .preparation import limit_of
from .report import Report
from .supervise import NOT_TRAINED, Supervised
from .types import BadRecord, Preference, Record, Tokens

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer


@dataclass
class Checked:
    """A record: its samples, of a pair the chosen and the rejected answer, or why it is bad."""

    record: Record | BadRecord
    samples: list[Supervised]

    @property
    def sides(self) -> list[tuple[str, Supervised]]:
        """Samples with what they are called; no name but in pairs."""
        is_pair = isinstance(self.record, Preference)
        names = ["chosen", "rejected"] if is_pair else [""] * len(self.samples)
        return list(zip(names, self.samples, strict=True))

    def as_json(self, *, with_ids: bool = True) -> list[dict[str, Any]]:
        """One object a sample, of a pair one with both answers; `line` is that of the record."""
        line = {"line": self.record.origin.line}
        if isinstance(self.record, BadRecord):
            return [{**line, "error": self.record.reason}]
        shown = [(name, _as_json(s, with_ids)) for name, s in self.sides]
        if isinstance(self.record, Preference):
            return [{**line, **dict(shown)}]
        return [{**line, **sample} for _, sample in shown]


@dataclass
class Check:
    """Reads records; `report` counts those that went by."""

    cfg: ChatDataConfig
    supervisor: Supervisor
    has_ids: bool = True
    report: Report = field(default_factory=Report)
    _characters: int = 0
    _said: int = 0

    def records(self, records: Iterable[Record | BadRecord]) -> Iterator[Checked]:
        """Each record; raises `DataError` for a bad one unless `cfg.skip_bad`."""
        for ready in self.supervisor.ready(records):
            if isinstance(ready, Ready):
                yield Checked(ready.record, [self._sample(s, ready.record) for s in ready.samples])
                self.report.see(ready.record, content_hash(ready.record))
                continue
            if not self.cfg.skip_bad:
                raise DataError(ready.reason, path=ready.origin.path, line=ready.origin.line)
            self.report.skip(ready)
            yield Checked(ready, [])

    def _sample(self, sample: Supervised, record: Record) -> Supervised:
        notes = list(sample.notes)
        if isinstance(record, Tokens) and self.has_ids:
            sample = _with_text(sample, self.supervisor.tokenizer)
        elif isinstance(record, Tokens):
            notes.append("its text is not known without a tokenizer")
        self.report.note(sample, record)
        if not sample.trained:
            notes.append("nothing of it is trained: it would be left out")
            self.report.untrained.add("no token is trained", str(record.origin))
        if self.has_ids and len(sample.ids) > limit_of(self.cfg):
            notes.append(
                f"over-long: {len(sample.ids):,} tokens, a row has {self.cfg.seq_length:,}"
            )
            longer = f"more than {self.cfg.seq_length:,} tokens"
            self.report.over_long.add(longer, str(record.origin))
        self.report.use(sample, sample.trained)
        self._characters += len(sample.text)
        self._said += sum(end - start for start, end in sample.spans)
        return sample._replace(notes=notes)

    def summary(self) -> dict[str, Any]:
        """The report; without ids nothing is counted in tokens, and the share is of characters."""
        found = self.report.as_dict()
        if not self.has_ids:
            found |= dict.fromkeys(("tokens", "trained_tokens", "lengths"))
            found["trained_share"] = self._said / max(self._characters, 1)
        return found


def _as_json(sample: Supervised, with_ids: bool) -> dict[str, Any]:
    return {
        "text": sample.text,
        "trained": [list(span) for span in sample.spans],
        "ids": sample.ids if with_ids else None,
        "labels": sample.labels if with_ids else None,
        "notes": sample.notes,
    }


def _with_text(sample: Supervised, tokenizer: Tokenizer) -> Supervised:
    """The text of ids that were given, and which characters of it are trained."""
    decoder, text, ends = tokenizer.incremental(skip_special_tokens=False), "", [0]
    for i in sample.ids:
        text += decoder.push(i)
        ends.append(len(text))
    text += decoder.finish()
    learned = [label != NOT_TRAINED for label in sample.labels]
    spans = []
    for is_learned, group in groupby(range(len(learned)), key=learned.__getitem__):
        numbers = list(group)
        if is_learned:
            spans.append((ends[numbers[0]], ends[numbers[-1] + 1]))
    return sample._replace(text=text, spans=spans)
