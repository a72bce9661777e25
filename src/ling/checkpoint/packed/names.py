"""Model folders in our integer formats or FP8, and any model's weights as packed matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...config.model import ModelConfig
from ...errors import CheckpointError
from ...model.names import tensor_specs
from ...ops.formats import EMBEDDING_INT8, LAYOUT_VERSION, TILE, Format, integer_formats
from ...ops.packing import packed_shapes
from ...text import shown


def plain_names(cfg: ModelConfig) -> list[str]:
    """Hugging Face names of what a packed folder stores as it is."""
    packed = {name for spec in packed_specs(cfg).values() for name in spec.sources}
    packed.add(f"{EMBEDDING}.weight")
    experts = ".mlp.experts."
    return [n for n in tensor_specs(cfg) if n not in packed and experts not in n]


def packed_names(cfg: ModelConfig, fmt: Format) -> dict[str, tuple[int, ...]]:
    """Every tensor of a packed folder and its shape, in the order they are written."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{EMBEDDING}.qweight": (cfg.vocab_size, cfg.hidden_size),
        f"{EMBEDDING}.scales": (cfg.vocab_size, cfg.hidden_size // EMBEDDING_INT8.group),
    }
    every = tensor_specs(cfg)
    shapes.update({name: every[name].shape for name in plain_names(cfg)})
    for spec in packed_specs(cfg).values():
        data, scales = packed_shapes(fmt.of_matrix(spec.name), spec.rows, spec.cols)
        lead = (spec.experts,) if spec.experts else ()
        shapes[f"{spec.name}.qweight"] = (*lead, *data)
        if scales is not None:
            shapes[f"{spec.name}.scales"] = (*lead, *scales)
    return shapes


def packed_plan(cfg: ModelConfig, fmt: Format) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor of a packed folder."""
    plain = tensor_specs(cfg)

    def dtype(name: str) -> torch.dtype:
        if name.endswith(".qweight"):
            return torch.int8 if name.startswith(EMBEDDING) else torch.uint8
        if name.endswith(".scales"):
            return torch.bfloat16
        return torch.float32 if plain[name].float32 else torch.bfloat16

    return {name: (shape, dtype(name)) for name, shape in packed_names(cfg, fmt).items()}


EMBEDDING = "model.word_embeddings"


@dataclass(frozen=True)
class PackedSpec:
    """One packed matrix: its sources are Hugging Face names, a (gate, up) pair or a single one.

    With `experts` it is a stack; `{e}` in a source stands for the expert.
    """

    name: str
    sources: tuple[str, ...]
    rows: int
    cols: int
    experts: int = 0

    def parts(self, expert: int = 0) -> list[str]:
        """Hugging Face names of one matrix of the stack."""
        return [s.format(e=expert) for s in self.sources]


def packed_specs(cfg: ModelConfig) -> dict[str, PackedSpec]:
    """Every packed matrix of a model, by name, in layer order, the head last.

    Raises `CheckpointError` for widths that have no packed layout.
    """
    if cfg.hidden_size % EMBEDDING_INT8.group:
        raise CheckpointError(
            f"`hidden_size` = {cfg.hidden_size} is not a multiple of {EMBEDDING_INT8.group}: "
            "integer formats need that"
        )
    specs = {}
    for n in range(cfg.num_cache_layers):
        for spec in _layer(cfg, n):
            if len(spec.sources) == 2 and spec.rows // 2 % TILE:
                raise CheckpointError(
                    f"`{spec.name}` has width {spec.rows // 2}, not a multiple of {TILE}: "
                    "integer formats need that"
                )
            specs[spec.name] = spec
    head = f"{EMBEDDING}.weight" if cfg.tie_word_embeddings else "lm_head.weight"
    specs["lm_head"] = PackedSpec("lm_head", (head,), cfg.vocab_size, cfg.hidden_size)
    return specs


def _layer(cfg: ModelConfig, n: int) -> Iterator[PackedSpec]:
    prefix, h = f"model.layers.{n}.", cfg.hidden_size

    def single(name: str, rows: int, cols: int) -> PackedSpec:
        return PackedSpec(prefix + name, (f"{prefix}{name}.weight",), rows, cols)

    def mlp(name: str, width: int, experts: int = 0) -> Iterator[PackedSpec]:
        source = f"{prefix}{name}." + ("{e}." if experts else "")
        pair = (f"{source}gate_proj.weight", f"{source}up_proj.weight")
        yield PackedSpec(f"{prefix}{name}.gate_up_proj", pair, 2 * width, h, experts)
        down = (f"{source}down_proj.weight",)
        yield PackedSpec(f"{prefix}{name}.down_proj", down, h, width, experts)

    yield single("attention.query_key_value", cfg.q_size + 2 * cfg.kv_size, h)
    yield single("attention.dense", h, cfg.q_size)
    if not cfg.is_moe_layer(n):
        yield from mlp("mlp", cfg.intermediate_size)
    else:
        if cfg.num_shared_experts:
            yield from mlp("mlp.shared_experts", cfg.shared_expert_width)
        yield from mlp("mlp.experts", cfg.moe_intermediate_size, cfg.num_experts)
    if n >= cfg.num_hidden_layers:
        yield single("eh_proj", h, 2 * h)


def quantization_config(fmt: Format) -> dict[str, object]:
    """What config.json says of a packed folder."""
    return {
        "quant_method": "ling",
        "format": fmt.name,
        "group_size": fmt.group,
        "symmetric": True,
        "layout_version": LAYOUT_VERSION,
    }


def format_of(quantization: dict[str, object], where: object) -> Format:
    """The format that a packed folder names; `CheckpointError` for one that this version lacks."""
    known = integer_formats()
    for fmt in known:
        want = quantization_config(fmt)
        if {key: quantization.get(key) for key in want} == want:
            return fmt
    found = ", ".join(f"{key} {shown(quantization.get(key))}" for key in want)
    names = ", ".join(f.name for f in known)
    raise CheckpointError(
        f"{where}: unknown `quantization_config` ({found}); there are {names} of layout version "
        f"{LAYOUT_VERSION}: convert the model again"
    )
