"""Which matrices of a model are packed, under which names, and from which Hugging Face tensors.

Packed folders hold `<name>.qweight` and `<name>.scales` (ops/formats.py has the layout); gate and
up projections are one matrix whose rows alternate in tiles of 16, and a layer's routed experts are
one stack, so that a folder maps straight into what the kernels read. Norms, router and biases stay
as they are; the embedding is int8 by rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import CheckpointError
from ..ops import formats, native
from ..ops.formats import FORMATS, TILE, Format, Packed
from ..ops.fp8 import quantise_fp8_block
from ..strict_json import shown

EMBEDDING = "model.word_embeddings"
EMBEDDING_GROUP = 32
EMBEDDING_ROWS = 2048


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
    if cfg.hidden_size % EMBEDDING_GROUP:
        raise CheckpointError(
            f"`hidden_size` = {cfg.hidden_size} is not a multiple of {EMBEDDING_GROUP}: "
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
            yield from mlp("mlp.shared_experts", cfg.moe_shared_expert_intermediate_size)
        yield from mlp("mlp.experts", cfg.moe_intermediate_size, cfg.num_experts)
    if n >= cfg.num_hidden_layers:
        yield single("eh_proj", h, 2 * h)


def format_in(fmt: Format, spec: PackedSpec) -> Format:
    """The format of one matrix in a model of format `fmt`."""
    # Released FP8 models leave the MTP layers' projection in bfloat16, too (spec: checkpoints §3).
    apart = spec.name == "lm_head" or (fmt.kind == 4 and spec.name.endswith(".eh_proj"))
    return FORMATS[fmt.head] if fmt.head and apart else fmt


def interleave(gate_FD: Tensor, up_FD: Tensor) -> Tensor:
    """Rows of both in alternating tiles of 16."""
    both = torch.stack((gate_FD.unflatten(0, (-1, TILE)), up_FD.unflatten(0, (-1, TILE))), dim=1)
    return both.flatten(0, 2)


def separate(both_ND: Tensor) -> list[Tensor]:
    """Undo `interleave`: [gate, up]."""
    tiles = both_ND.unflatten(0, (-1, 2, TILE))
    return [tiles[:, i].flatten(0, 1) for i in (0, 1)]


def empty(spec: PackedSpec, fmt: Format) -> Packed:
    """Room for a matrix or a stack in format `fmt`."""
    data, scales = formats.packed_shapes(fmt, spec.rows, spec.cols)
    lead = (spec.experts,) if spec.experts else ()
    return Packed(
        fmt,
        spec.rows,
        spec.cols,
        torch.empty((*lead, *data), dtype=torch.uint8),
        None if scales is None else torch.empty((*lead, *scales), dtype=fmt.scale_dtype),
    )


def fill(out: Packed, parts: list[Tensor], importance_K: Tensor | None = None) -> None:
    """Pack one matrix from its Hugging Face tensors into `out`."""
    if out.format.kind == 4:
        # Blocks are those of each tensor, as in a released checkpoint.
        fill_fp8(out, [quantise_fp8_block(_packable(part)) for part in parts])
        return
    parts = [_packable(p) for p in parts]
    if len({p.dtype for p in parts}) > 1:
        parts = [p.float() for p in parts]
    if native.library() is None:
        w = parts[0] if len(parts) == 1 else interleave(*parts)
        packed = formats.pack(w, out.format, importance_K)
        out.data.copy_(packed.data)
        if out.scales is not None and packed.scales is not None:
            out.scales.copy_(packed.scales)
    elif len(parts) == 1:
        native.pack(parts[0], out.format, importance_K, out)
    else:
        native.pack_pair(parts[0], parts[1], importance_K, out=out)


def fill_fp8(out: Packed, parts: list[tuple[Tensor, Tensor]]) -> None:
    """Lay out one matrix from its FP8 tensors (values, block scales), bytes as they are."""
    for i, (values, scales) in enumerate(parts):
        if native.library() is not None:
            native.lay_out_fp8(values, scales, out, i, len(parts))
            continue
        packed = formats.lay_out_fp8(values, scales)
        assert out.scales is not None
        assert packed.scales is not None
        out.data[i :: len(parts)] = packed.data
        out.scales[i :: len(parts)] = packed.scales


def _packable(w: Tensor) -> Tensor:
    return w if w.dtype in (torch.float32, torch.bfloat16) else w.float()


def pack_matrix(spec: PackedSpec, fmt: Format, tensor: Callable[[str], Tensor]) -> Packed:
    """Pack a matrix or a stack, reading its tensors one by one."""
    out = empty(spec, format_in(fmt, spec))
    for e in range(max(spec.experts, 1)):
        fill(out[e] if spec.experts else out, [tensor(name) for name in spec.parts(e)])
    return out


def unpack_matrix(spec: PackedSpec, packed: Packed, expert: int = 0) -> list[Tensor]:
    """The Hugging Face tensors (float32) of one matrix, in the order of `spec.parts`."""
    one = packed[expert] if spec.experts else packed
    w = formats.unpack(one) if native.library() is None else native.unpack(one)
    return [w] if len(spec.sources) == 1 else separate(w)


def pack_embedding(w_VD: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [V, D] and bfloat16 scales [V, D / 32], each row by itself."""
    fmt = Format("embedding", 2, EMBEDDING_GROUP, 8.5, 0.01)
    q_VD = torch.empty(w_VD.shape, dtype=torch.int8)
    scales = torch.empty(len(w_VD), w_VD.shape[1] // EMBEDDING_GROUP, dtype=torch.bfloat16)
    pack = formats.pack if native.library() is None else native.pack
    # Rows at a time: quantising takes ten times a matrix, and this is the largest of all.
    for i in range(0, len(w_VD), EMBEDDING_ROWS):
        rows = _packable(w_VD[i : i + EMBEDDING_ROWS])
        at, packed = slice(i, i + len(rows)), pack(rows, fmt)
        assert packed.scales is not None
        # Four columns of a row at a time, as one integer.
        turned = packed.data.view(torch.int32).unflatten(-1, (-1, TILE)).transpose(1, 2)
        q = turned.flatten(0, 1)[: len(rows)].contiguous().view(torch.uint8)
        q_VD[at] = q.bitwise_xor_(0x80).view(torch.int8)
        scales[at] = packed.scales.transpose(1, 2).flatten(0, 1)[: len(rows)]
    return q_VD, scales


def unpack_embedding(q_VD: Tensor, scales: Tensor) -> Tensor:
    """float32 [V, D]."""
    grouped = q_VD.float().unflatten(-1, (-1, EMBEDDING_GROUP))
    return grouped.mul_(scales.float()[..., None]).flatten(-2)


def quantization_config(fmt: Format) -> dict[str, object]:
    """What config.json says of a packed folder."""
    return {
        "quant_method": "ling",
        "format": fmt.name,
        "group_size": fmt.group,
        "symmetric": True,
        "layout_version": formats.LAYOUT_VERSION,
    }


def format_of(quantization: dict[str, object], where: object) -> Format:
    """The format that a packed folder names; `CheckpointError` for one that this version lacks."""
    known = [f for f in FORMATS.values() if f.integer]
    for fmt in known:
        want = quantization_config(fmt)
        if {key: quantization.get(key) for key in want} == want:
            return fmt
    found = ", ".join(f"{key} {shown(quantization.get(key))}" for key in want)
    names = ", ".join(f.name for f in known)
    raise CheckpointError(
        f"{where}: unknown `quantization_config` ({found}); there are {names} of layout version "
        f"{formats.LAYOUT_VERSION}: convert the model anew"
    )
