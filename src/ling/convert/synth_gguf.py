"""Random weights straight to a GGUF file, as fast as the disk takes them, for benchmarks.

One tile of random blocks per type is written again and again from different places, so that no
model is ever in memory. Which tensor has which type follows llama.cpp's own mixtures.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..checkpoint.gguf.layout import general_metadata, lay_out
from ..checkpoint.gguf.metadata import check_exportable, metadata_of
from ..checkpoint.gguf.names import GGUFSpec, gguf_specs
from ..checkpoint.gguf.sink import FILE
from ..checkpoint.gguf.vocabulary import vocabulary_metadata
from ..checkpoint.raw.gguf_header import KIND_IDS, KINDS, Kind, nbytes
from ..config.model import ModelConfig
from ..errors import UsageError
from ..files.atomic import scratch_folder

# Mixture: (type of most matrices, llama.cpp's `general.file_type`).
MIXTURES = {"q4_0": ("q4_0", 2), "q8_0": ("q8_0", 7), "q4_k_m": ("q4_k", 15), "bf16": ("bf16", 32)}
REVISION = 2
"""Of how the weights are made; in the names of kept files, so that older ones are not measured."""
TILE_BYTES = 32 << 20
# Where a block keeps its float16 factors, and values that give weights of deviation 1. The other
# bytes of a block may be anything: quants, and small integer scales in Q4_K.
_FACTORS = {
    "q4_0": {0: 1 / 4.6},
    "q8_0": {0: 1 / 74},
    "q5_0": {0: 1 / 9.2},
    "q4_k": {0: 1 / 168, 2: 7.5 / 168},
    "q6_k": {208: 1 / 93},
}
# Uniform codes of these types are half a step below zero on average. Weights with a mean make all
# tokens alike: 16 of them would choose a fifth of the experts that they should. As in files of
# llama.cpp's own quantiser, the factor is negative in half of the blocks.
_SIGNED = ("q4_0", "q8_0", "q5_0", "q6_k")
# For rows that are not whole blocks.
_FALLBACK = {"q4_k": "q5_0", "q6_k": "q8_0"}
_Q6_K_SCALES = slice(192, 208)
# In Q4_K, 6-bit scales and minima share 12 bytes: four of each with the high bits of the rest, then
# the low halves of the rest in pairs.
_Q4_K_SCALES, _Q4_K_MINIMA, _Q4_K_PAIRS = slice(4, 8), slice(8, 12), slice(12, 16)


def synth_gguf(
    cfg: ModelConfig,
    path: str | Path,
    kind: str = "q4_0",
    *,
    tokenizer_folder: Path | None = None,
    seed: int = 0,
) -> int:
    """Write a loadable file of `cfg`'s shapes, one of `MIXTURES`; returns its bytes.

    Norms are ones and expert biases zeros; all other weights have zero mean and the deviation of
    those of `ling synth`, so that tokens choose as many different experts. Without a tokenizer the
    model takes ids only.
    """
    if kind not in MIXTURES:
        raise UsageError(f"no mixture `{kind}`; there are {', '.join(MIXTURES)}")
    check_exportable(cfg)
    specs = gguf_specs(cfg)
    kinds = {n: mixed_kind(n, spec, kind, cfg.num_cache_layers) for n, spec in specs.items()}
    metadata = general_metadata("random weights", MIXTURES[kind][1]) | metadata_of(cfg)
    metadata |= vocabulary_metadata(tokenizer_folder, cfg.vocab_size)
    layout = lay_out(metadata, specs, kinds)
    tiles = _Tiles(seed, cfg.initializer_range)
    with scratch_folder(Path(path)) as tmp:
        with (tmp / FILE).open("wb", buffering=0) as file:
            file.write(layout.head)
            for name, place in layout.places.items():
                file.seek(place.offset)
                tiles.fill(file, name, place.kind, nbytes(place.shape, place.kind))
            file.truncate(layout.size)
        os.replace(tmp / FILE, path)
    return layout.size


def cached_name(model: str, kind: str) -> str:
    """The name under which a preset's file is kept for benchmarks."""
    return f"{model}-{kind}-r{REVISION}.gguf"


def mixed_kind(name: str, spec: GGUFSpec, kind: str, layers: int) -> Kind:
    """The type that llama.cpp's quantiser gives a tensor (its case of 8 experts left out)."""
    if spec.float32:
        return KINDS[KIND_IDS["f32"]]
    chosen = MIXTURES[kind][0]
    layer = re.match(r"blk\.(\d+)\.(attn_qkv|ffn_down)", name)
    head = kind.startswith("q4") and name == "output.weight"
    if head or (kind == "q4_k_m" and layer and _more_bits(int(layer[1]), layers)):
        chosen = "q6_k"
    if spec.shape[-1] % KINDS[KIND_IDS[chosen]].block:
        chosen = _FALLBACK.get(chosen, "bf16")
    return KINDS[KIND_IDS[chosen]]


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


class _Tiles:
    """Random blocks by type, made on first use; weights have the standard deviation `std`."""

    def __init__(self, seed: int, std: float) -> None:
        self.rng, self.tiles = np.random.default_rng(seed), dict[str, np.ndarray]()
        self.std = np.float32(std)

    def fill(self, file: BinaryIO, name: str, kind: Kind, size: int) -> None:
        """Write `size` bytes of valid blocks at the file's position."""
        if name.endswith(("norm.weight", "exp_probs_b.bias")):
            value = 0.0 if name.endswith("bias") else 1.0
            file.write(np.full(size // 4, value, np.float32).tobytes())
            return
        if kind.name not in self.tiles:
            self.tiles[kind.name] = self._tile(kind)
        tile = self.tiles[kind.name].data.cast("B")
        # Another start each time: equal stacks would share their cache lines.
        start = int(self.rng.integers(len(tile) // kind.size)) * kind.size
        while size:
            size -= file.write(tile[start : start + size])
            start = 0

    def _tile(self, kind: Kind) -> np.ndarray:
        count = TILE_BYTES // kind.size
        if kind.name == "f32":
            return self.rng.standard_normal(count, np.float32) * self.std
        if kind.name == "bf16":
            values = self.rng.standard_normal(count, np.float32) * self.std
            return (values.view(np.uint32) >> 16).astype(np.uint16)
        blocks = np.frombuffer(self.rng.bytes(count * kind.size), np.uint8).copy()
        blocks = blocks.reshape(count, kind.size)
        for at, value in _FACTORS[kind.name].items():
            blocks[:, at : at + 2] = np.array([value * self.std], np.float16).view(np.uint8)
            if kind.name in _SIGNED:
                blocks[:, at + 1] ^= self.rng.integers(2, size=count, dtype=np.uint8) << 7
        if kind.name == "q6_k":
            blocks[:, _Q6_K_SCALES] = blocks[:, _Q6_K_SCALES] % 8 + 1
        if kind.name == "q4_k":  # equal scales and minima: codes are centred at 7.5
            blocks[:, _Q4_K_MINIMA] = blocks[:, _Q4_K_SCALES]
            blocks[:, _Q4_K_PAIRS] = (blocks[:, _Q4_K_PAIRS] & 15) * 17
        return blocks
