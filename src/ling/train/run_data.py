"""The token files and the tokenizer of a run: opened, or prepared from text on first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..config.model import ModelConfig
from ..config.recipe import DataConfig, PretrainConfig
from ..data.indexed import IndexedDataset
from ..data.prepare import prepare
from ..data.samples import split_part
from ..data.tokenizer import EOD, Tokenizer
from ..errors import UsageError
from ..hub.datasets import local_source
from .batches import run_data_folder
from .tokenizers import choose_tokenizer

Log = Callable[[str], None]


@dataclass
class RunData:
    """Token files of a run and the tokenizer they were made with, if it is known."""

    train_prefixes: list[str]
    valid_prefixes: list[str]
    tokenizer: Tokenizer | None

    @property
    def eod(self) -> int | None:
        """The id that ends a document."""
        return None if self.tokenizer is None else self.tokenizer.eod_token_id


def open_data(recipe: PretrainConfig, cfg: ModelConfig, out: Path, log: Log) -> RunData:
    """The token files that the recipe names, prepared from `data.corpus` on first use."""
    data = recipe.data
    folder = choose_tokenizer(recipe, log)
    tokenizer = None if folder is None else _open_tokenizer(folder, cfg)
    if data.corpus and folder is None and data.vocab_size > cfg.vocab_size:
        raise UsageError(
            f"`data.vocab_size` = {data.vocab_size} is above the model's `vocab_size` = "
            f"{cfg.vocab_size}"
        )
    train, valid = list(data.prefix), list(data.valid_prefix)
    if data.split is not None and data.split[1]:
        valid = train[:1]
    if data.corpus:
        ready = prepare(
            data.corpus if data.corpus == "stdlib" else [local_source(data.corpus)],
            run_data_folder(out),
            tokenizer=folder,
            vocab_size=data.vocab_size,
            max_bytes=data.corpus_bytes,
            json_key=data.json_key,
            log=log,
        )
        train, valid = [str(ready.train_prefix)], [str(ready.valid_prefix)]
        tokenizer = _open_tokenizer(str(ready.tokenizer_folder), cfg)
    for prefix in [*train, *valid]:
        IndexedDataset(prefix)  # damaged or missing: said before the network is built
    _check_documents(data, tokenizer, log)
    return RunData(train, valid, tokenizer)


def _open_tokenizer(folder: str, cfg: ModelConfig) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.vocab_size > cfg.vocab_size:
        raise UsageError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model `vocab_size` = "
            f"{cfg.vocab_size}; use a smaller tokenizer or a larger model"
        )
    return tokenizer


def _check_documents(data: DataConfig, tokenizer: Tokenizer | None, log: Log) -> None:
    """Say what does not work without an end-of-document token."""
    known = tokenizer is not None and tokenizer.eod_token_id is not None
    if known or data.packing == "best_fit":  # which reads documents one by one
        return
    lacks = "no `data.tokenizer`" if tokenizer is None else f"the tokenizer has no `{EOD}`"
    if data.isolate_documents:
        raise UsageError(
            f"{lacks}: `data.isolate_documents` needs `data.tokenizer` with `{EOD}`, the border "
            "between documents"
        )
    if data.eod_mask_loss:
        log(f"{lacks}, so ends of documents are unknown: `data.eod_mask_loss` has no effect")


def fills_a_row(prefix: str, data: DataConfig, log: Log) -> bool:
    """Whether held-out data fills a row; says so when it does not."""
    dataset, seq_length = IndexedDataset(prefix), data.seq_length
    part = slice(*split_part(len(dataset), data.split, 1))
    tokens = int(dataset.sequence_lengths[part].sum(dtype="int64"))
    if tokens <= seq_length:
        log(f"{prefix}: {tokens} tokens are less than a row, no held-out loss")
    return tokens > seq_length
