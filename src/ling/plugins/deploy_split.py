"""How a model is split over the GPUs of a machine: tensor, data and expert parallel sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..config.model import ModelConfig
from ..errors import UsageError
from ..model.size import expert_bytes, kv_bytes_per_token, stored_bytes
from ..text import nearest, size

FP8_BLOCK = 128
MAX_GPUS = 8
"""Of one machine; more need a cluster."""
DEFAULT_GPU = "h100-80g"
# What an engine takes of a GPU's memory by default, and what it needs beside weights and KV cache:
# activations, CUDA graphs, the context of CUDA and of NCCL.
USABLE, OVERHEAD = 0.9, 6e9
# A split is too tight where the KV cache would have room for fewer tokens than this, or than the
# longest request.
MIN_KV_TOKENS = 32_768


class Gpu(NamedTuple):
    """Memory in bytes, and whether it multiplies FP8."""

    memory: float
    multiplies_fp8: bool


GPUS = {
    "a100-40g": Gpu(40e9, False),
    "a100-80g": Gpu(80e9, False),
    "l4-24g": Gpu(24e9, True),
    "l40s-48g": Gpu(48e9, True),
    "h100-80g": Gpu(80e9, True),
    "h20-96g": Gpu(96e9, True),
    "h200-141g": Gpu(141e9, True),
    "b200-180g": Gpu(180e9, True),
}


@dataclass(frozen=True)
class Split:
    """`tensor` GPUs share every matrix; `data` groups of them answer different requests. Where
    experts are parallel, each of all GPUs has whole experts; else each group has all of them."""

    tensor: int = 1
    data: int = 1
    expert_parallel: bool = False

    @property
    def num_gpus(self) -> int:
        """All GPUs."""
        return self.tensor * self.data


@dataclass(frozen=True)
class Room:
    """Bytes of weights, and tokens of KV cache, on each GPU."""

    weight_bytes: int
    kv_tokens: int


def find_gpu(name: str) -> Gpu:
    """A row of the table; raises `UsageError` with the nearest name."""
    if name not in GPUS:
        raise UsageError(f"no GPU `{name}`{nearest(name, list(GPUS))}; there are {', '.join(GPUS)}")
    return GPUS[name]


def problem(cfg: ModelConfig, is_fp8: bool, split: Split) -> str | None:
    """Why no engine can serve this split; None where it can."""
    parts = split.tensor
    if cfg.num_attention_heads % parts:
        return f"tensor parallel {parts} does not divide the {cfg.num_attention_heads} heads"
    heads = cfg.num_key_value_heads
    if heads % parts and parts % heads:
        return (
            f"tensor parallel {parts} neither divides nor is a multiple of the {heads} "
            "key-value heads"
        )
    if split.expert_parallel and cfg.num_experts % split.num_gpus:
        return f"{split.num_gpus} GPUs do not divide the {cfg.num_experts} experts"
    for name, width in _cut_widths(cfg, split):
        if is_fp8 and parts > 1 and width % (parts * FP8_BLOCK):
            return (
                f"tensor parallel {parts} cuts {name} of width {width} inside an fp8 block of "
                f"{FP8_BLOCK}; at most {max(width // FP8_BLOCK, 1)} parts, or bf16"
            )
    return None


def _cut_widths(cfg: ModelConfig, split: Split) -> Iterator[tuple[str, int]]:
    """The matrices that tensor parallelism cuts, by their width."""
    if cfg.first_k_dense_replace or not cfg.num_experts:
        yield "the dense layers", cfg.intermediate_size
    if cfg.num_experts and not split.expert_parallel:
        yield "experts", cfg.moe_intermediate_size
    if cfg.num_experts and cfg.shared_expert_width:
        yield "the shared expert", cfg.shared_expert_width


def room(cfg: ModelConfig, is_fp8: bool, split: Split, memory: float) -> Room:
    """What is on each GPU of `memory` bytes; fewer than 0 tokens where not even weights fit."""
    fmt = "fp8" if is_fp8 else "bf16"
    whole = stored_bytes(cfg, fmt)
    experts = expert_bytes(cfg, fmt) if split.expert_parallel else 0
    weights = (whole - experts) / split.tensor + experts / split.num_gpus
    # With fewer key-value heads than parts, some parts have the same head.
    share = max(1 / cfg.num_key_value_heads, 1 / split.tensor)
    free = memory * USABLE - OVERHEAD - weights
    return Room(int(weights), int(free // (kv_bytes_per_token(cfg) * share)))


def choose_split(
    cfg: ModelConfig,
    is_fp8: bool,
    gpus: int,
    gpu: str,
    *,
    copies_experts: bool,
    tensor: int | None = None,
    context: int | None = None,
) -> Split:
    """The split of a machine with the least tensor parallelism that fits: the model's few active
    parameters gain little from it, and its groups answer more requests at a time.

    `copies_experts` says whether the engine's data parallel groups may each have all experts.
    An engine starts only where a request of `context` tokens (None is the model's own) has room.
    Raises `UsageError` for a `tensor` size that cannot be, and where nothing fits.
    """
    if not 1 <= gpus <= MAX_GPUS:
        raise UsageError(
            f"`--gpus` is {gpus}, expected 1 to {MAX_GPUS}, the GPUs of one machine; "
            "deploy/gpu/ray-serve.yaml is for more"
        )
    if tensor is not None and gpus % tensor:
        raise UsageError(f"`--tensor-parallel` {tensor} does not divide `--gpus` {gpus}")
    memory = find_gpu(gpu).memory
    tokens = max(MIN_KV_TOKENS, context or cfg.max_position_embeddings)
    splits = [
        s for s in _splits(cfg, gpus, copies_experts=copies_experts) if tensor in (None, s.tensor)
    ]
    problems = [(s, problem(cfg, is_fp8, s)) for s in splits]
    possible = [s for s, reason in problems if reason is None]
    if not possible:
        raise UsageError(f"no split over {gpus} GPUs: {problems[0][1]}")
    for split in possible:
        if room(cfg, is_fp8, split, memory).kv_tokens >= tokens:
            return split
    fp8 = [s for s in splits if not is_fp8 and problem(cfg, True, s) is None]
    fits_fp8 = any(room(cfg, True, s, memory).kv_tokens >= tokens for s in fp8)
    raise UsageError(_too_large(cfg, is_fp8, f"{gpus} × {gpu}", tokens, fits_fp8=fits_fp8))


def _splits(cfg: ModelConfig, gpus: int, *, copies_experts: bool) -> Iterator[Split]:
    for tensor in (n for n in range(1, gpus + 1) if gpus % n == 0):
        data = gpus // tensor
        if copies_experts or data == 1 or not cfg.num_experts:
            yield Split(tensor, data)
        if cfg.num_experts and gpus > 1:
            yield Split(tensor, data, True)


def _too_large(cfg: ModelConfig, is_fp8: bool, machine: str, tokens: int, *, fits_fp8: bool) -> str:
    weights = stored_bytes(cfg, "fp8" if is_fp8 else "bf16")
    text = (
        f"{size(weights)} of weights do not fit on {machine} with room for "
        f"{tokens:,} tokens of KV cache"
    )
    if fits_fp8:
        return f"{text}; in fp8 they do: `ling convert SOURCE TARGET --to fp8`"
    return f"{text}; take more or larger GPUs"
