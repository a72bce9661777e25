"""Rows of token files: pre-training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checkpoint.run_folder import run_index_folder
from ..config.model import ModelConfig
from ..config.recipe import PretrainConfig
from ..data.index_files import IndexFolder
from ..data.tokenizer import Tokenizer
from .batches import BatchReader
from .heldout import rows_in_order
from .orders import Opening
from .resume import data_change, data_state, fingerprints
from .rows import HeldOutRows, Log, rows_needed
from .run_data import RunData, fills_a_row, open_data
from .state import TrainState


@dataclass
class TokenRows:
    """The `RowSource` of a pre-training recipe; opening it prepares a corpus on first use."""

    recipe: PretrainConfig
    model: ModelConfig
    out: Path
    log: Log

    def __post_init__(self) -> None:
        self.data = open_data(self.recipe, self.model, self.out, self.log)

    @property
    def names(self) -> list[str]:
        """The corpus, or the prefixes."""
        data = self.recipe.data
        return [data.corpus] if data.corpus else data.prefix

    @property
    def tokenizer(self) -> Tokenizer | None:
        """That which the token files were made with."""
        return self.data.tokenizer

    @property
    def config(self) -> ModelConfig:
        """With the special ids of the tokenizer."""
        return with_special_ids(self.model, self.data.tokenizer)

    @cached_property
    def _files(self) -> list[str]:
        return fingerprints(self.data.train_prefixes)

    def identity(self) -> dict[str, Any]:
        """`resume.data_state`."""
        return data_state(self.recipe, self._files, self.data.tokenizer)

    def contents(self) -> dict[str, str]:
        """Of each prefix, held-out ones too."""
        return contents_of(self.data, self._files)

    def change(self, before: dict[str, Any], now: dict[str, Any]) -> str | None:
        """`resume.data_change`."""
        return data_change(before, now, self.data.train_prefixes)

    def reader(self, state: TrainState) -> BatchReader:
        """Rows for all steps; `state.data` notes the orders that they come in."""
        recipe, data = self.recipe, self.data
        opening = Opening(
            data.train_prefixes,
            recipe.data,
            recipe.train.seed,
            data.eod,
            self.model.vocab_size,
            contents=state.data["files"],
            index=IndexFolder(run_index_folder(self.out), self.log),
            log=self.log,
        )
        needed = rows_needed(recipe, state)
        samples, state.data["rows"] = opening.orders(state.data["rows"], needed)
        files = ", ".join(data.train_prefixes)
        return BatchReader(samples, recipe.data.isolate_documents, self.model.vocab_size, files)

    def held_out(self) -> HeldOutRows | None:
        """Those of the first prefix that fills one."""
        recipe, data = self.recipe, self.data
        valid = [p for p in data.valid_prefixes if fills_a_row(p, recipe.data, self.log)]
        if not valid:
            return None
        isolate = recipe.data.isolate_documents and data.eod is not None
        rows = rows_in_order(valid[0], recipe.data, recipe.train.eval_rows, data.eod)
        return HeldOutRows(rows, isolate)


def contents_of(data: RunData, files: list[str]) -> dict[str, str]:
    """Hashes of all token files by their names; `files` are those that are trained on."""
    held_out = [p for p in data.valid_prefixes if p not in data.train_prefixes]
    hashes = [*files, *fingerprints(held_out)]
    prefixes = [*data.train_prefixes, *held_out]
    return {f"content of {p}.bin or .idx": h for p, h in zip(prefixes, hashes, strict=True)}


def with_special_ids(cfg: ModelConfig, tokenizer: Tokenizer | None) -> ModelConfig:
    """Take the special ids of the tokenizer."""
    eod = None if tokenizer is None else tokenizer.eod_token_id
    if tokenizer is None or eod is None:
        return cfg
    bos = tokenizer.token_to_id("<|startoftext|>")
    return cfg.replace(eos_token_id=eod, pad_token_id=eod, bos_token_id=eod if bos is None else bos)
