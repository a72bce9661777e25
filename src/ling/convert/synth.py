"""`ling synth`: random weights of a whole model straight in the asked format, for measuring speed.

The bytes are cut from one random block at ever new offsets: every tensor is valid and different,
and disk speed, not a random number generator, is the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.open import sink_for
from ..checkpoint.packed.sink import packed_shards
from ..checkpoint.sink import SinkOptions
from ..config.model import ModelConfig
from ..errors import UsageError
from ..files.atomic import atomic_folder, check_free
from ..model.names import tensor_specs
from ..ops.formats import FORMATS, Format, integer_formats

BLOCK_VALUES = 1 << 24
MAX_SHARD_BYTES = 5_000_000_000
FLOATS = ("bf16", "fp8")


def synth(
    cfg: ModelConfig,
    target: Path,
    *,
    to: str,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> None:
    """Write a folder with random weights of the right size: normal with `initializer_range`.

    `to` is bf16, fp8 or one of our integer formats. Raises `UsageError` for another, or if the
    target exists.
    """
    packed = to in FORMATS and FORMATS[to].integer
    if to not in FLOATS and not packed:
        known = [*FLOATS, *(f.name for f in integer_formats())]
        raise UsageError(f"no format `{to}` to synthesise; there are {', '.join(known)}")
    check_free(target)
    source = _Random(cfg, seed)
    options = SinkOptions(max_shard_bytes=MAX_SHARD_BYTES)
    with atomic_folder(target) as tmp:
        if not packed:
            sink = sink_for(to, tmp, cfg, options)
            log(f"{target}: {sum(sink.files.values()) / 1e9:.1f} GB of random weights")
            for name, spec in tensor_specs(cfg).items():
                dtype = torch.float32 if spec.float32 else torch.bfloat16
                sink.put(name, source.plain(name, spec.shape, dtype))
            sink.finish()
            return
        shards = packed_shards(tmp, cfg, FORMATS[to], MAX_SHARD_BYTES)
        log(f"{target}: {sum(shards.files.values()) / 1e9:.1f} GB of random weights")
        make = source.packed(FORMATS[to])
        for name, (dtype, shape) in shards.stored.items():
            shards.put(name, make(name, shape, dtype))
        shards.finish()


class _Random:
    """Tensors cut from one block of random values."""

    def __init__(self, cfg: ModelConfig, seed: int) -> None:
        self.cfg, self.std = cfg, cfg.initializer_range
        self.generator = torch.Generator().manual_seed(seed)
        self.block = torch.randn(BLOCK_VALUES, generator=self.generator) * self.std
        self.at = 0

    def plain(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if name.endswith("expert_bias"):
            return torch.zeros(shape, dtype=dtype)
        if len(shape) == 1:
            return torch.ones(shape, dtype=dtype)
        return self._cut(self._values(dtype), shape)

    def _values(self, dtype: torch.dtype) -> Tensor:
        if self.block.dtype != dtype:
            self.block = self.block.to(dtype)
        return self.block

    def packed(self, fmt: Format) -> Callable[[str, tuple[int, ...], torch.dtype], Tensor]:
        from ..ops import kernels

        rows = BLOCK_VALUES // 2048
        packed = kernels.packed(self.block.view(rows, 2048), fmt)
        assert packed.scales is not None
        data, scales = packed.data.flatten(), packed.scales.flatten()
        bytes8 = torch.randint(-127, 128, (BLOCK_VALUES,), generator=self.generator).to(torch.int8)

        def make(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            if name.endswith(".scales") and name.startswith("model.word_embeddings"):
                return torch.full(shape, self.std / 73, dtype=dtype)  # a uniform byte's deviation
            if name.endswith(".scales"):
                return self._cut(scales, shape)
            if name.endswith(".qweight"):
                return self._cut(bytes8 if dtype == torch.int8 else data, shape)
            return self.plain(name, shape, dtype)

        return make

    def _cut(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The next this many values; the block goes round, each time from another place."""
        n = int(torch.Size(shape).numel())
        self.at = (self.at + 64 * 7919) % (len(values) // 2) // 64 * 64
        out = torch.empty(n, dtype=values.dtype)
        done, at = 0, self.at
        while done < n:
            take = min(n - done, len(values) - at)
            out[done : done + take] = values[at : at + take]
            done, at = done + take, 0
        return out.view(shape)
