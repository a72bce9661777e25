"""Writing folders in our integer formats, expert by expert."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ...config.model import ModelConfig
from ...model.names import tensor_specs
from ...ops import kernels
from ...ops.formats import Format
from ..hf.shard_folder import ShardFolder, as_text
from ..raw.shards import Stored
from ..sink import SinkOptions, check_finite
from ..source import Rows, TensorRows, pieces
from .matrices import empty_matrix, pack_embedding
from .names import EMBEDDING, PackedSpec, packed_plan, packed_specs, quantization_config

# Packed weights are read by vector instructions as they are in the file.
CACHE_LINE = 64


def packed_shards(folder: Path, cfg: ModelConfig, fmt: Format, max_bytes: int) -> ShardFolder:
    """The files of a packed folder, laid out before anything is written."""
    plan = {n: {n: Stored(d, s)} for n, (s, d) in packed_plan(cfg, fmt).items()}
    raw = cfg.replace(dtype="bfloat16").to_dict()
    texts = {"config.json": as_text(raw | {"quantization_config": quantization_config(fmt)})}
    return ShardFolder(folder, plan, texts, max_bytes, CACHE_LINE)


class PackedSink:
    """Packs Hugging Face tensors as they come, some rows at a time; a matrix waits until both of
    its halves are there.
    """

    def __init__(
        self,
        folder: Path,
        cfg: ModelConfig,
        options: SinkOptions,
        fmt: Format,
    ) -> None:
        self.format, self.importance = fmt, options.importance or {}
        self.names = list(tensor_specs(cfg))
        self._shards = packed_shards(folder, cfg, fmt, options.max_shard_bytes)
        self.files = self._shards.files
        self._vocab_size, self._hidden_size = cfg.vocab_size, cfg.hidden_size
        self._where: dict[str, list[tuple[PackedSpec, int]]] = {}
        for spec in packed_specs(cfg).values():
            for e in range(max(spec.experts, 1)):
                for name in spec.parts(e):
                    self._where.setdefault(name, []).append((spec, e))
        self._waiting: dict[tuple[str, int], dict[str, Rows]] = {}
        self._lock = threading.Lock()

    def takes_rows(self, name: str) -> bool:
        """Every matrix."""
        return name in self._where or name == f"{EMBEDDING}.weight"

    def put(self, name: str, tensor: Tensor) -> None:
        """Take one tensor; its matrix is packed and written when all its parts are there."""
        if self.takes_rows(name):
            return self.put_rows(name, TensorRows(tensor))
        check_finite(name, tensor, self.format.name)
        if name in self._shards.stored:
            self._shards.put(name, tensor.to(self._shards.stored[name].dtype))

    def put_rows(self, name: str, rows: Rows) -> None:
        """`put` for a matrix."""
        if name == f"{EMBEDDING}.weight":
            self._pack_embedding(rows)
        for spec, e in self._where.get(name, []):
            with self._lock:
                parts = self._waiting.setdefault((spec.name, e), {})
                parts[name] = rows
                complete = len(parts) == len(spec.sources)
                if complete:
                    del self._waiting[spec.name, e]
            if complete:
                self._pack(spec, e, [parts[n] for n in spec.parts(e)])

    def _pack_embedding(self, rows: Rows) -> None:
        name = f"{EMBEDDING}.weight"
        for first, count in pieces(self._vocab_size, self._hidden_size):
            values = rows.read(first, count)
            q, scales = pack_embedding(values)
            self._check(scales, [(name, values)])
            for suffix, value in ((".qweight", q), (".scales", scales)):
                at = first * value[0].nbytes
                self._shards.put_piece(EMBEDDING + suffix, at, value)

    def _pack(self, spec: PackedSpec, expert: int, parts: list[Rows]) -> None:
        """A matrix in pieces that stay in the cache from reading to writing."""
        rows, names = spec.rows // len(parts), spec.parts(expert)
        key = f"{spec.name}.{expert}" if spec.experts else spec.name
        at = {".qweight": 0, ".scales": 0}
        out = None
        for first, count in pieces(rows, spec.cols * len(parts)):
            values = [part.read(first, count) for part in parts]
            if out is None or out.rows != count * len(parts):
                piece = replace(spec, rows=count * len(parts), experts=0)
                out = empty_matrix(piece, self.format.of_matrix(spec.name))
            kernels.pack(values, out, self.importance.get(key))
            assert out.scales is not None
            self._check(out.scales, zip(names, values, strict=True))
            for suffix, value in ((".qweight", out.data), (".scales", out.scales)):
                name = spec.name + suffix
                start = expert * (self._shards.stored[name].nbytes // max(spec.experts, 1))
                self._shards.put_piece(name, start + at[suffix], value)
                at[suffix] += value.nbytes

    def _check(self, scales: Tensor, parts: Iterable[tuple[str, Tensor]]) -> None:
        """A scale is NaN where a weight is not finite; then say which tensor holds it."""
        if math.isnan(scales.sum()):
            for name, part in parts:
                check_finite(name, part, self.format.name)

    def finish(self) -> None:
        """Write what describes the files."""
        assert not self._waiting, sorted(self._waiting)[0]
        self._shards.finish()
