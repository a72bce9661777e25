"""A checkpoint with an adapter added to its weights, as a `Source` of its own."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch
from torch import Tensor

from ...errors import UsageError
from ...model.adapter import Adapter, LowRank
from ...model.names import in_module, tensor_specs
from ...ops.formats import FORMATS
from ..source import Rows, RowSource, Source, TensorRows
from .config import read_adapter_config
from .read import read_adapter

# FP8 values are exact in float32, so that what is merged is what was tuned; of integer formats the
# original exists elsewhere, and has more to add to.
_CAN_MERGE = ("float", "fp8")


class MergedSource:
    """`base` with W + scale · B·A, in float32, for each matrix that `adapter` changes.

    What is not changed comes as the base has it. Memory: the adapter, beside a tensor at a time.
    """

    def __init__(self, base: Source, adapter: Adapter) -> None:
        self._base, self._adapter = base, adapter
        self.kind, self.config = f"{base.kind} with an adapter", base.config
        self.tokenizer_folder = base.tokenizer_folder

    def changes(self, name: str) -> LowRank | None:
        """What is added to a tensor, None for nothing."""
        key, expert = in_module(name)
        matrix = self._adapter.matrices.get(key.removesuffix(".weight"))
        if matrix is None or expert is None:
            return matrix
        return LowRank(matrix.a[expert], matrix.b[expert], matrix.scale)

    def tensor(self, name: str) -> Tensor:
        """As the base has it, or float32 where the adapter changes it."""
        change = self.changes(name)
        return self._base.tensor(name) if change is None else self._merged(name, change)

    def values(self, name: str) -> Tensor:
        change = self.changes(name)
        return self._base.values(name) if change is None else self._merged(name, change)

    def _merged(self, name: str, change: LowRank) -> Tensor:
        a, b = change.a.float(), change.b.float()
        return torch.addmm(self._base.values(name).float(), b, a, alpha=change.scale)

    def rows(self, name: str) -> Rows:
        """What `tensor` gives, of an unchanged matrix some rows at a time."""
        if self.changes(name) is None and isinstance(self._base, RowSource):
            return self._base.rows(name)
        return TensorRows(self.tensor(name))

    def stored_bytes(self, name: str) -> int:
        return self._base.stored_bytes(name)

    def stored_as(self, name: str) -> str:
        return "float" if self.changes(name) is not None else self._base.stored_as(name)

    def close(self) -> None:
        self._base.close()


def with_adapter(source: Source, path: str | Path, folder: str | Path) -> MergedSource:
    """`source`, opened from `path`, with the adapter in `folder`.

    Raises `UsageError` where the weights are integers, with the command that merges into those
    that they were made of, and what `read_adapter` raises.
    """
    merged = MergedSource(source, read_adapter(folder, source.config))
    for name in filter(merged.changes, tensor_specs(source.config)):
        if (stored := source.stored_as(name)) not in _CAN_MERGE:
            raise UsageError(
                f"{path}: `{name}` is stored as {stored}, and an adapter is added to float "
                f"weights; merge it into the model that this one was made of: "
                f"`{_command(path, folder, stored)}`"
            )
    return merged


def _command(path: str | Path, folder: str | Path, stored: str) -> str:
    """The conversion from the adapter's base to the format of `path`."""
    base = read_adapter_config(folder).base or ""
    # The file may say anything; what is no path or hub name is no part of a command.
    known = base.isprintable() and base and Path(base).resolve() != Path(path).resolve()
    original = shlex.quote(base) if known else "ORIGINAL"
    to = f" --to {stored}" if stored in FORMATS else ""
    return f"ling convert {original} OUT --merge {shlex.quote(str(folder))}{to}"
