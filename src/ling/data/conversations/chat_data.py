"""Conversations or pairs of a recipe as rows of a run: prepared once, found by their number."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config.sft import ChatDataConfig
from ...errors import DataError, UsageError
from ...files.atomic import hash_file
from ..index_files import IndexFolder
from ..mixture import Mixture
from ..samples import Samples
from .batches import Supervisor
from .files import sources
from .pack import ConversationRows, Packing, RowOrder
from .pair_rows import PairRows, pair_rows
from .preparation import Preparation
from .records import read_records
from .rendered import TrainingTemplate
from .report import report_lines
from .store import PARTS, Part, SampleStore, StoreWriter, read_report

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

Log = Callable[[str], None]


def open_chat_data(
    data: ChatDataConfig,
    seed: int,
    tokenizer: Tokenizer,
    template: TrainingTemplate,
    vocab_size: int,
    folder: Path,
    log: Log = lambda _: None,
) -> ChatData:
    """Tokenise the files of a recipe into `folder`, or find them there as an earlier run left them.

    Says through `log` what was left out. Raises `DataError` for bad records, and where nothing is
    left to train on, `UsageError` for options that do not fit the data.
    """
    if tokenizer.vocab_size > vocab_size:
        raise UsageError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {vocab_size}; give the "
            "model's own by `data.tokenizer`"
        )
    index = IndexFolder(folder, log)
    key = _key(data, seed, tokenizer, template, vocab_size)

    def build(writer: Any) -> None:
        supervisor = Supervisor(template, tokenizer, vocab_size, data.thinking, data.split_turns)
        preparation = Preparation(data, seed, supervisor, lambda files: read_records(data, files))
        preparation.write(StoreWriter(writer, vocab_size))

    arrays = index.get(key, build)
    fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    report = read_report(arrays)
    for line in report_lines(report):
        log(f"data: {line}")
    parts = {part: SampleStore.of(arrays, part) for part in PARTS}
    return ChatData(data, seed, parts, report, fingerprint, pad_id(tokenizer), index, log)


def pad_id(tokenizer: Tokenizer) -> int:
    """What rows are filled up with; what it stands for does not matter, as no loss counts there."""
    named = tokenizer.token_to_id(tokenizer.special_tokens.get("pad_token", ""))
    return next(i for i in (named, tokenizer.eod_token_id, 0) if i is not None)


def _key(
    data: ChatDataConfig,
    seed: int,
    tokenizer: Tokenizer,
    template: TrainingTemplate,
    vocab_size: int,
) -> dict[str, Any]:
    """What decides the samples; paths do not."""
    settings = {k: v for k, v in asdict(data).items() if k not in _NOT_IN_SAMPLES}
    return {
        "what": "conversations, version 2",
        "files": _contents(data, data.files),
        "valid_files": _contents(data, data.valid_files),
        "seed": seed if data.valid_share else 0,
        "template": hashlib.sha256(template.source.encode()).hexdigest()[:16],
        "special_tokens": tokenizer.template_variables,
        "tokenizer": tokenizer.vocabulary_hash,
        "vocab_size": vocab_size,
        "megatron": data.packing == "megatron",
        **settings,
    }


# What has a hash of its own in the key, or decides rows and not samples.
_NOT_IN_SAMPLES = frozenset(
    ["files", "valid_files", "dataset_info", "weights", "tokenizer", "template", "packing"]
)


def _contents(data: ChatDataConfig, names: list[str]) -> list[Any]:
    """Of each name, what its files hold and how they are read."""
    return [
        [[hash_file(p) for p in s.files if p.is_file()], repr(s.layout), s.limit]
        for s in sources(data, names)
    ]


@dataclass
class ChatData:
    """The samples of a recipe, and the orders in which a run reads them.

    `report` counts what was read and left out; `fingerprint` is a hash of what decides the samples.
    """

    cfg: ChatDataConfig
    seed: int
    parts: dict[Part, SampleStore]
    report: dict[str, Any]
    fingerprint: str
    pad: int
    index: IndexFolder = field(default_factory=IndexFolder)
    log: Log = lambda _: None

    @property
    def is_pairs(self) -> bool:
        """Whether the records are pairs of answers."""
        return bool(self.report["pairs"])

    # ---- conversations -------------------------------------------------------------------------

    def order(self, rows: int | None = None, epochs: float | None = None) -> Samples:
        """At least `rows` rows, or those of `epochs`; row n depends on nothing but n.

        Each epoch is shuffled and packed again. With `data.weights`, files are mixed row by row.
        """
        if self.is_pairs:
            raise UsageError("the data has pairs of answers: train on them with `objective: dpo`")
        count = self.rows(1.0 if epochs is None else epochs) if rows is None else rows
        weights = self.cfg.weights
        if not weights:
            (order,) = self._orders
            return ConversationRows(self.parts["train"], order, count, self.pad)
        sources = [
            ConversationRows(part, order, int(count * w / sum(weights) * 1.01) + 2, self.pad)
            for part, order, w in zip(self._files, self._orders, weights, strict=True)
        ]
        return Mixture(sources, weights, count, index=self.index)

    def rows(self, epochs: float) -> int:
        """Rows in this many epochs; at least one."""
        return max(sum(order.rows(epochs) for order in self._orders), 1)

    def rows_per_epoch(self, epoch: int = 0) -> int:
        """Rows of one epoch; later ones may be packed a little otherwise."""
        return sum(order.rows_in(epoch) for order in self._orders)

    @property
    def padding(self) -> float:
        """The share of padding in rows of the first epoch; with `packing: off` a batch decides."""
        widths = [o.rows_in(0) * self.cfg.seq_length for o in self._orders]
        if self.cfg.packing == "off" or not sum(widths):
            return 0.0
        used = sum(int(o.lengths[o.epoch(0)["samples"]].sum(dtype="i8")) for o in self._orders)
        return 1 - used / sum(widths)

    @cached_property
    def _files(self) -> list[SampleStore]:
        """The samples of each file."""
        counts = self.report["samples_of_file"]
        ends = itertools.accumulate(counts)
        return [
            self.parts["train"].section(end - count, count)
            for end, count in zip(ends, counts, strict=True)
        ]

    @cached_property
    def _orders(self) -> list[RowOrder]:
        """One of all files; with weights one of each."""
        if not self.cfg.weights:
            return [self._order_of(self.parts["train"], 0, ", ".join(self.cfg.files))]
        named = zip(self._files, self.cfg.files, strict=True)
        return [self._order_of(samples, k, name) for k, (samples, name) in enumerate(named)]

    def _order_of(self, samples: SampleStore, number: int, name: str) -> RowOrder:
        content = f"{self.fingerprint}/{number}" if self.cfg.weights else self.fingerprint
        order = self._row_order(samples.lengths, self.seed + number, content)
        if not order.rows_in(0):
            raise DataError(f"{len(samples)} samples, which fill no row", path=name)
        return order

    def _row_order(self, lengths: Any, seed: int, content: str) -> RowOrder:
        cfg = self.cfg
        return RowOrder(lengths, cfg.seq_length, seed, cfg.packing, self.index, content)

    @cached_property
    def valid(self) -> Samples | None:
        """The rows that are held out, in one order for all measurements."""
        part = self.parts["valid"]
        if not len(part) or self.is_pairs:
            return None
        packing: Packing = "off" if self.cfg.packing == "off" else "best_fit"
        order = self._row_order(part.lengths, 0, f"{self.fingerprint}/valid")
        order = replace(order, packing=packing)
        return ConversationRows(part, order, order.rows(1.0), self.pad)

    def prompts(self, count: int) -> list[tuple[list[dict[str, Any]], Any, dict[str, Any]]]:
        """Up to `count` held-out (messages, tools, the message that the file has next)."""
        kept = self.report["prompts"][:count]
        return [(p["messages"], p["tools"], p["expected"]) for p in kept]

    # ---- pairs ---------------------------------------------------------------------------------

    def pairs(self, rows: int | None = None, epochs: float = 1.0) -> PairRows:
        """`rows` pairs, or those of `epochs`, each epoch in an order of its own."""
        if not self.is_pairs:
            raise UsageError("`objective: dpo` needs pairs of answers, the data has conversations")
        return pair_rows(self.parts["train"], self.seed, self.pad, rows, epochs)

    @cached_property
    def valid_pairs(self) -> PairRows | None:
        """The pairs that are held out."""
        part = self.parts["valid"]
        return pair_rows(part, self.seed, self.pad) if self.is_pairs and len(part) else None
