"""Records of all files, read once: samples in files, and a report of what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...config.sft import ChatDataConfig
from ...errors import DataError, UsageError
from ..reading import fraction
from .batches import Ready, Supervisor, content_hash
from .report import Report
from .store import Part, Sample, StoreWriter
from .supervise import NOT_TRAINED, Supervised
from .types import BadRecord, Conversation, Preference, Record

Reader = Callable[[list[str]], Iterable[Record | BadRecord]]
"""Records of files, or of names in `dataset_info`."""

# Held-out prompts that are kept to be answered while training.
_MAX_PROMPTS = 64


def limit_of(cfg: ChatDataConfig) -> int:
    """The most ids of a sample; the original's packing takes one more than a row has tokens."""
    return cfg.seq_length + (cfg.packing == "megatron")


def fitted(sample: Supervised, cfg: ChatDataConfig) -> tuple[list[Supervised], str]:
    """The samples of an over-long one, and what was done, by `over_long`; `DataError` refuses."""
    most, length = limit_of(cfg), len(sample.ids)
    rule = "drop" if cfg.packing == "megatron" and cfg.over_long != "error" else cfg.over_long
    if rule == "error":
        raise DataError(
            f"{length:,} tokens are more than `data.seq_length` = {cfg.seq_length:,}; raise it, or "
            "choose `data.over_long`: drop, cut-left or split"
        )
    if rule == "drop":
        return [], f"dropped, more than {cfg.seq_length:,} tokens"
    if rule == "cut-left":
        return [_part(sample, length - most, length)], f"cut to its last {most:,} tokens"
    # Parts share an id, so that each id but the first is predicted once.
    starts = range(0, length - 1, most - 1)
    parts = [_part(sample, at, min(at + most, length)) for at in starts]
    return [p for p in parts if p.trained], f"split into parts of {most:,} tokens"


def fitted_pair(both: Sequence[Supervised], cfg: ChatDataConfig) -> tuple[list[Supervised], str]:
    """`fitted` of a pair with an answer too many: both are cut alike, so that the prompt stays the
    same, or the pair is left out; it cannot be split.
    """
    most, longest = limit_of(cfg), max(both, key=lambda s: len(s.ids))
    if cfg.over_long != "cut-left":
        fitted(longest, cfg)  # may refuse
        return [], f"dropped, a pair with more than {cfg.seq_length:,} tokens"
    start = len(longest.ids) - most
    if start >= min(_first_trained(s) for s in both):
        return [], f"dropped, a pair whose answer alone has more than {cfg.seq_length:,} tokens"
    cut = [_part(s, start, len(s.ids)) for s in both]
    return cut, f"cut, both answers of a pair alike, to at most {most:,} tokens"


def _first_trained(sample: Supervised) -> int:
    return next(i for i, label in enumerate(sample.labels) if label != NOT_TRAINED)


def _part(sample: Supervised, start: int, end: int) -> Supervised:
    labels = [NOT_TRAINED, *sample.labels[start + 1 : end]] if start else sample.labels[:end]
    return sample._replace(ids=sample.ids[start:end], labels=labels)


@dataclass
class Preparation:
    """Reads all files of a recipe and writes their samples."""

    cfg: ChatDataConfig
    seed: int
    supervisor: Supervisor
    read: Reader
    report: Report = field(default_factory=Report)
    prompts: list[dict[str, Any]] = field(default_factory=list)

    def write(self, writer: StoreWriter) -> None:
        """Raises `DataError` for the first bad record unless `skip_bad`, and where nothing is left
        to train on; `UsageError` where pairs and conversations are mixed.
        """
        kinds: set[bool] = set()
        samples_of_file = []
        for name in self.cfg.files:
            before = self.report.samples - self.report.held_out
            for part, batch in self._parts([name], "train", kinds):
                writer.add(part, batch)
            samples_of_file.append(self.report.samples - self.report.held_out - before)
        for part, batch in self._parts(self.cfg.valid_files, "valid", kinds):
            writer.add(part, batch)
        if not sum(samples_of_file):
            raise DataError(f"no sample to train on{self._why()}", path=", ".join(self.cfg.files))
        writer.finish(
            {
                **self.report.as_dict(),
                "pairs": kinds == {True},
                "samples_of_file": samples_of_file,
                "prompts": self.prompts,
            }
        )

    def _why(self) -> str:
        tallies = (self.report.bad, self.report.over_long, self.report.untrained)
        lines = [line for tally in tallies for line in tally.lines()]
        if self.report.held_out:
            lines.append(f"{self.report.held_out:,} samples are held out")
        return f": {'; '.join(lines)}" if lines else ""

    def _parts(
        self, files: list[str], part: Part, kinds: set[bool]
    ) -> Iterator[tuple[Part, list[Sample]]]:
        if not files:
            return
        for ready in self.supervisor.ready(self.read(files)):
            if isinstance(ready, BadRecord):
                self._skip(ready)
                continue
            kinds.add(isinstance(ready.record, Preference))
            if len(kinds) > 1:
                raise UsageError(
                    f"{ready.record.origin}: pairs of answers and conversations are mixed; train "
                    "them one after the other"
                )
            content = content_hash(ready.record)
            chosen = self._part_of(content, part)
            self.report.see(ready.record, content, is_held_out=chosen == "valid")
            yield chosen, self._used(ready, chosen)

    def _part_of(self, content: int, part: Part) -> Part:
        """Held out by content, so that a record stays where it is when files grow."""
        share = self.cfg.valid_share
        return "valid" if share and fraction(f"{self.seed}/{content}") < share else part

    def _skip(self, record: BadRecord) -> None:
        origin = record.origin
        if not self.cfg.skip_bad:
            raise DataError(record.reason, path=origin.path, line=origin.line)
        self.report.skip(record)

    def _used(self, ready: Ready, part: Part) -> list[Sample]:
        """The samples of a record that are kept; of a pair both answers or none."""
        kept: list[Supervised] = []
        for sample in ready.samples:
            self.report.note(sample, ready.record)
        for group in self._together(ready):
            kept += self._learned(group, ready.record)
        self.report.held_out += len(kept) if part == "valid" else 0
        if part == "valid" and kept:
            self._keep_prompt(ready.record)
        return [Sample(s.ids, s.labels) for s in kept]

    def _learned(self, group: list[Supervised], record: Record) -> list[Supervised]:
        """What is kept or left out as one, as it fits; nothing where one of it has no trained
        token."""
        trained = [s.trained for s in group]
        found = self._fitted(group, record) if all(trained) else group
        if found is not group:
            trained = [s.trained for s in found]
        if not all(trained):
            self.report.untrained.add("no token is trained", str(record.origin))
            return []
        for sample, count in zip(found, trained, strict=True):
            self.report.use(sample, count)
        return found

    def _together(self, ready: Ready) -> list[list[Supervised]]:
        """What is kept or left out as one: each sample, or a pair."""
        if isinstance(ready.record, Preference):
            return [ready.samples]
        return [[sample] for sample in ready.samples]

    def _fitted(self, group: list[Supervised], record: Record) -> list[Supervised]:
        if all(len(s.ids) <= limit_of(self.cfg) for s in group):
            return group
        origin = record.origin
        is_pair = isinstance(record, Preference)
        try:
            found, done = fitted_pair(group, self.cfg) if is_pair else fitted(group[0], self.cfg)
        except DataError as err:
            raise DataError(err.reason, path=origin.path, line=origin.line) from None
        self.report.over_long.add(done, str(origin))
        return found

    def _keep_prompt(self, record: Record) -> None:
        """A turn that is learned and what comes before it: the last of the first record, the one
        before it of the second, so that calls are shown and what is said to their results."""
        conversation = record.chosen if isinstance(record, Preference) else record
        if len(self.prompts) >= _MAX_PROMPTS or not isinstance(conversation, Conversation):
            return
        learned = [i for i, kept in enumerate(conversation.in_loss) if kept and i]
        if learned:
            turn = learned[-1 - len(self.prompts) % len(learned)]
            messages = conversation.messages
            self.prompts.append(
                {
                    "messages": messages[:turn],
                    "tools": conversation.tools,
                    "expected": messages[turn],
                }
            )
