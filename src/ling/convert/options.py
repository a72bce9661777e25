"""What `ling convert` can be asked for. Imports no torch, so that `--help` can list it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.open import check_writer
from ..errors import UsageError
from ..ops.formats import FORMATS

MTP = ("extra-layer", "separate", "drop")
# For the original tool, whose MTP model goes into a folder of its own.
MTP_ONLY = "only"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to convert; see `ling convert --help`."""

    to: str = "bf16"
    mtp: str = "extra-layer"
    tokenizer: str | Path | None = None
    max_shard_size: str = "5GB"
    workers: int | None = None
    overwrite: bool = False
    dry_run: bool = False
    dtype: str | None = None
    gguf_type: str = "bf16"
    verify: bool = False
    calibrate: str | Path | None = None
    """Text whose activations weigh the errors of an integer format."""
    merge: str | Path | None = None
    """Folder of an adapter that is added to the weights."""

    def __post_init__(self) -> None:
        check_writer(self.to)
        if self.mtp not in (*MTP, MTP_ONLY):
            raise UsageError(f"`--mtp` is `{self.mtp}`, expected {', '.join(MTP)}")
        if self.calibrate is not None and not self._integer:
            raise UsageError("`--calibrate` is for the integer formats: `--to int4` or the like")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"`--workers` is {self.workers}, expected at least 1")
        if self.gguf_type != "bf16" and self.to != "gguf":
            raise UsageError(f"`--gguf-type {self.gguf_type}` is for `--to gguf`")
        self._check_dtype()

    @property
    def _integer(self) -> bool:
        return self.to in FORMATS and FORMATS[self.to].integer

    def _check_dtype(self) -> None:
        from ..checkpoint.dtypes import DTYPES

        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f"`--dtype` is `{self.dtype}`, expected {', '.join(DTYPES)}")
        if self.dtype is not None and (self.to == "gguf" or self._integer):
            raise UsageError(f"`--dtype` has no effect on `--to {self.to}`")
        if self.to == "float32" and self.dtype not in (None, "float32"):
            raise UsageError(f"`--to float32` contradicts `--dtype {self.dtype}`")
