"""Rows of conversations: fine-tuning."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checkpoint.open import tokenizer_folder
from ..config.kinds import flat
from ..config.model import ModelConfig
from ..config.sft import SFTConfig
from ..data.conversations.chat_data import open_chat_data
from ..data.conversations.pair_rows import PairRows
from ..data.conversations.served import serve_as_trained
from ..data.conversations.store import Part
from ..data.conversations.template import open_template
from ..data.samples import Sample, Samples, lengthened
from ..data.tokenizer import Tokenizer
from ..errors import UsageError
from ..hub import resolve_model, resolve_tokenizer
from .batches import BatchReader, run_data_folder
from .resume import key_change, tokenizer_change
from .rows import HeldOutRows, Log, rows_needed
from .state import TrainState

# Keys that decide the rows and their order; the rest is in the fingerprint of the records.
_ROW_KEYS = (
    "train.seed",
    "train.global_batch_size",
    "train.rampup_batch_size",
    "data.seq_length",
    "data.packing",
    "data.weights",
    "data.valid_share",
)


@dataclass
class ChatRows:
    """The `RowSource` of a fine-tuning recipe; opening it prepares the conversations."""

    given: SFTConfig
    config: ModelConfig
    out: Path
    log: Log

    def __post_init__(self) -> None:
        recipe = self.given
        self.tokenizer = open_tokenizer(recipe, self.config)
        template = open_template(recipe.data.template, self.tokenizer)
        serve_as_trained(self.tokenizer, template)
        self.data = open_chat_data(
            recipe.data,
            recipe.train.seed,
            self.tokenizer,
            template,
            self.config.vocab_size,
            run_data_folder(self.out),
            self.log,
        )

    @cached_property
    def recipe(self) -> SFTConfig:
        """With the steps that the epochs take."""
        train = self.given.train
        if train.steps:
            return self.given
        if self._is_dpo:
            rows = len(self.data.pairs(epochs=train.epochs))
        else:
            rows = self.data.rows(train.epochs)
        resolved = dataclasses.replace(train, steps=steps_of(train, rows))
        return dataclasses.replace(self.given, train=resolved)

    @property
    def _is_dpo(self) -> bool:
        return self.given.objective == "dpo"

    @cached_property
    def pairs(self) -> dict[Part, PairRows]:
        """The pairs of `objective: dpo`, to train on and held out."""
        found: dict[Part, PairRows | None] = {
            "train": self.data.pairs(),
            "valid": self.data.valid_pairs,
        }
        return {part: self._widened(rows) for part, rows in found.items() if rows is not None}

    def _widened(self, rows: PairRows) -> PairRows:
        """All of one length where ranks share rows, or hand them on."""
        parallel = self.given.parallel
        if parallel.cp == parallel.pp == 1:
            return rows
        return dataclasses.replace(rows, width=2 * self.given.data.seq_length)

    @property
    def names(self) -> list[str]:
        """The files, or names of data sets."""
        return self.given.data.files

    @property
    def isolate_documents(self) -> bool:
        """Always, but for the original's packing."""
        return self.given.data.packing != "megatron"

    def identity(self) -> dict[str, Any]:
        """`train.steps` is not in it: row n is the same in a longer run."""
        values = flat(dataclasses.asdict(self.given))
        return {
            **{key: values[key] for key in _ROW_KEYS},
            "tokenizer": self.tokenizer.vocabulary_hash,
            "files": [self.data.fingerprint],
            "rows": [],
        }

    def contents(self) -> dict[str, str]:
        """Of all records together."""
        return {"content of the records": self.data.fingerprint}

    def change(self, before: dict[str, Any], now: dict[str, Any]) -> str | None:
        """Keys first: they say more than a fingerprint."""
        changed = key_change(before, now, _ROW_KEYS, SFTConfig) or tokenizer_change(before, now)
        if changed is None and before["files"] != now["files"]:
            files = ", ".join(self.names)
            return f"the records of {files}, or how they are read, changed since this run read them"
        return changed

    def reader(self, state: TrainState) -> BatchReader:
        """Rows for all steps from `state` on."""
        count = rows_needed(self.recipe, state)
        rows = (
            self._widened(self.data.pairs(count))
            if self._is_dpo
            else self._cut(self.data.order(count))
        )
        files = ", ".join(self.names)
        return BatchReader(rows, self.isolate_documents, self.config.vocab_size, files)

    def held_out(self) -> HeldOutRows | None:
        """None where the recipe holds nothing out."""
        rows = self.pairs.get("valid") if self._is_dpo else self.data.valid
        if rows is None:
            return None
        rows = rows if self._is_dpo else self._cut(rows)
        return HeldOutRows(rows, self.isolate_documents, True, self.given.train.eval_rows)

    def _cut(self, rows: Samples) -> Samples:
        """Rows of one length where ranks take parts of each, or send it on stage by stage."""
        parallel = self.given.parallel
        fixed = parallel.cp > 1 or parallel.pp > 1
        return OfLength(rows, self.given.data.seq_length) if fixed else rows


@dataclass(frozen=True)
class OfLength:
    """Rows with padding behind those that are shorter than `length`."""

    rows: Samples
    length: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sample:
        return lengthened(self.rows[i], self.length)


def steps_of(train: Any, rows: int) -> int:
    """Steps that read at least `rows` rows: the last one may begin another epoch."""
    if rows < 1:
        raise UsageError("no conversation is left to train on")
    steps = math.ceil(rows / train.global_batch_size)
    while train.rows(steps) < rows:  # a batch that grows is smaller at first
        steps += 1
    return steps


def open_tokenizer(recipe: SFTConfig, cfg: ModelConfig) -> Tokenizer:
    """`data.tokenizer`, or that of the model."""
    if recipe.data.tokenizer is None:
        folder = tokenizer_folder(resolve_model(recipe.model))
    else:
        folder = resolve_tokenizer(recipe.data.tokenizer)
    if folder is None:
        raise UsageError(f"{recipe.model}: no tokenizer in it; name one with `data.tokenizer`")
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.vocab_size > cfg.vocab_size:
        raise UsageError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model `vocab_size` = "
            f"{cfg.vocab_size}; it is another model's"
        )
    return tokenizer
