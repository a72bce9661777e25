"""What every writer offers, and the table of formats that `ling convert --to` knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import UsageError


class Sink(Protocol):
    """Writes one format into a folder that exists when the first `put` comes.

    Every name of `names` is put once. With `any_order` several threads put, in any order; else
    one thread puts in the order of `names`.
    """

    any_order: bool
    names: list[str]
    """Names of `tensor_specs(config)` that this writer wants, in the order it likes best."""
    files: dict[str, int]
    """File name to bytes, known before anything is written."""

    def put(self, name: str, tensor: Tensor) -> None: ...

    def finish(self) -> None:
        """All tensors are there: write what describes them."""
        ...


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """What a writer may want to know besides the configuration."""

    dtype: torch.dtype | None = None
    """Of values that the format keeps in floating point; None: the format's own choice."""
    max_shard_bytes: int = 5_000_000_000
    tokenizer: Path | None = None
    rank: int = 0
    world_size: int = 1


MakeSink = Callable[[Path, ModelConfig, SinkOptions], Sink]


def _bf16(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .hf import PlainLayout, SafetensorsSink

    return SafetensorsSink(folder, cfg, PlainLayout(options.dtype or torch.bfloat16), options)


def _float32(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .hf import PlainLayout, SafetensorsSink

    return SafetensorsSink(folder, cfg, PlainLayout(torch.float32), options)


def _dcp(folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    from .dcp import DCPSink

    return DCPSink(folder, cfg, options)


SINKS: dict[str, MakeSink] = {"bf16": _bf16, "float32": _float32, "dcp": _dcp}


def sink_for(to: str, folder: Path, cfg: ModelConfig, options: SinkOptions) -> Sink:
    """The writer of format `to`; nothing is written before its first `put`."""
    if to not in SINKS:
        raise UsageError(f"no format `{to}`; there are {', '.join(SINKS)}")
    return SINKS[to](folder, cfg, options)
