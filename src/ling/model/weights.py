"""Weights from and to the released Hugging Face layout, streaming.

Peak memory beyond the model itself is one tensor when reading and one shard when writing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import ModelConfig, check_quantization, read_raw
from ..errors import CheckpointError, UsageError
from ..files import inside, stopped
from ..hub import resolve_model
from ..ops.formats import dequantise_fp8_block
from ..strict_json import shown
from .door import write_config
from .folder import INDEX, SafetensorsFolder, refuse_checkpoint
from .ling import Ling, to_dtype
from .names import TensorSpec, in_module, tensor_specs
from .shards import plan_shards, shard_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCALE = "_scale_inv"
"""Suffix of an FP8 tensor's scales (spec: checkpoints §3)."""
FP8_BLOCK = 128
_TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def check_names(cfg: ModelConfig, source: SafetensorsFolder) -> None:
    """Every tensor present, none left over, all of a shape and type that the model can take.

    Reads headers only. `CheckpointError` names the first tensor that is wrong.
    """
    specs = tensor_specs(cfg)
    missing = [n for n in specs if n not in source]
    if missing:
        raise CheckpointError(
            f"{source.folder}: tensor `{missing[0]}` is missing ({len(missing)} in all)"
        )
    for name, spec in specs.items():
        _check_tensor(cfg, source, name, spec)
    scales = {n + SCALE for n in specs if source.dtype(n) == torch.float8_e4m3fn}
    extra = sorted(
        n
        for n in source.weight_map
        if n not in specs and n not in scales and not n.endswith("inv_freq")
    )
    if extra:
        raise CheckpointError(
            f"{source.folder}: unexpected tensor {shown(extra[0])} ({len(extra)} in all); "
            "does config.json belong to these weights?"
        )


def _check_tensor(cfg: ModelConfig, source: SafetensorsFolder, name: str, spec: TensorSpec) -> None:
    _check_shape(source, name, spec.shape)
    dtype = source.dtype(name)
    if dtype == torch.float8_e4m3fn and len(spec.shape) == 2 and not spec.float32:
        if name + SCALE not in source:
            raise CheckpointError(
                f"{source.path(name)}: tensor `{name}` is FP8, but its scales "
                f"`{name}{SCALE}` are missing"
            )
        _check_shape(source, name + SCALE, tuple(-(-n // FP8_BLOCK) for n in spec.shape))
        _check_dtype(source, name + SCALE, {torch.float32})
    else:
        _check_dtype(source, name, {torch.float32, torch.bfloat16, DTYPES[cfg.dtype]})


def _check_shape(source: SafetensorsFolder, name: str, expected: tuple[int, ...]) -> None:
    if source.shape(name) != expected:
        raise CheckpointError(
            f"{source.path(name)}: tensor `{name}` has shape {list(source.shape(name))}, "
            f"expected {list(expected)}"
        )


def _check_dtype(source: SafetensorsFolder, name: str, expected: set[torch.dtype]) -> None:
    if source.dtype(name) not in expected:
        names = " or ".join(sorted(str(d).removeprefix("torch.") for d in expected))
        raise CheckpointError(
            f"{source.path(name)}: tensor `{name}` has dtype "
            f"{str(source.dtype(name)).removeprefix('torch.')}, expected {names}"
        )


def float_tensor(source: SafetensorsFolder, name: str) -> Tensor:
    """A tensor that `check_names` let pass: as stored, or float32 where FP8 is stored.

    Errors as `fp8_scales`.
    """
    if source.dtype(name) != torch.float8_e4m3fn:
        return source.tensor(name)
    return dequantise_fp8_block(*fp8_tensor(source, name), FP8_BLOCK)


def fp8_tensor(source: SafetensorsFolder, name: str) -> tuple[Tensor, Tensor]:
    """Values and block scales of a tensor stored in FP8 that `check_names` let pass.

    Errors as `fp8_scales`.
    """
    return source.tensor(name), fp8_scales(source, name)


def fp8_scales(source: SafetensorsFolder, name: str) -> Tensor:
    """Scales of an FP8 tensor; `CheckpointError` for one that is not a finite number above 0."""
    scale = source.tensor(name + SCALE)
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise CheckpointError(
            f"{source.path(name)}: tensor `{name}{SCALE}` holds a scale that is not a finite "
            "number above 0"
        )
    return scale


def read_config(folder: str | Path) -> ModelConfig:
    """The configuration of a model folder; says what is wrong when it is not one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such model folder{stopped(folder)}")
    for name in _TEXT_FILES:
        try:
            inside(folder, name)
        except OSError as err:
            raise CheckpointError(f"{folder / name}: {err.strerror}") from None
    if not (folder / "config.json").is_file():
        refuse_checkpoint(folder)
        raise CheckpointError(f"{folder}: not a model folder, it has no config.json")
    return ModelConfig.from_file(folder / "config.json")


def read_quantization(folder: str | Path) -> dict[str, Any] | None:
    """`quantization_config` of a model folder whose config was read, or None."""
    return check_quantization(read_raw(Path(folder) / "config.json"))


def load_model(model: str | Path, dtype: str | None = None) -> Ling:
    """Load a Hugging Face folder, bf16, float32 or FP8, or download a named model first.

    `dtype` None or "auto" keeps the one of config.json. Names, shapes and types are checked before
    anything is allocated. `expert_bias` is float32 always.
    """
    folder = resolve_model(model)
    cfg = read_config(folder)
    _check_float_storage(folder)
    source = SafetensorsFolder(folder)
    check_names(cfg, source)
    name = cfg.dtype if dtype in (None, "auto") else dtype
    if name not in DTYPES:
        raise UsageError(f"`dtype` is `{dtype}`, expected auto, bfloat16 or float32")
    with torch.device("meta"):
        network = Ling(cfg)
    network = to_dtype(network, DTYPES[name]).to_empty(device="cpu")
    load_tensors(network, source)
    return network.eval()


def _check_float_storage(folder: Path) -> None:
    stored = read_quantization(folder)
    if stored is not None and stored["quant_method"] == "ling":
        raise CheckpointError(
            f"{folder}: holds {shown(stored.get('format'))} weights, which cannot be loaded as "
            "floats; convert the bf16 checkpoint instead"
        )


@torch.no_grad()
def load_tensors(model: Ling, source: SafetensorsFolder) -> None:
    """Fill the module from a folder that `check_names` let pass, casting to the module's dtypes."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in tensor_specs(model.config):
        key, expert = in_module(name)
        target = own[key] if expert is None else own[key][expert]
        if source.dtype(name) == target.dtype:
            source.tensor(name, into=target)
        else:
            target.copy_(float_tensor(source, name))


@torch.no_grad()
def fill_tensors(model: Ling, tensor: Callable[[str], Tensor]) -> None:
    """Fill the module from `tensor(hf_name)`, casting to the module's dtypes."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in tensor_specs(model.config):
        key, expert = in_module(name)
        (own[key] if expert is None else own[key][expert]).copy_(tensor(name))


def model_tensors(state: Mapping[str, Tensor], cfg: ModelConfig) -> Iterable[tuple[str, Tensor]]:
    """(Hugging Face name, tensor) of a module's state, in layer order, without copies."""
    for name in tensor_specs(cfg):
        key, expert = in_module(name)
        yield name, state[key] if expert is None else state[key][expert]


def save_model(
    model: Ling | Mapping[str, Tensor],
    cfg: ModelConfig,
    folder: str | Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write config.json (with its door), shards and index into `folder`, which must exist.

    `dtype` None keeps the one of `cfg`; float32 tensors of the spec stay float32.
    """
    folder = Path(folder)
    state = model.state_dict() if isinstance(model, Ling) else model
    target = DTYPES[dtype or cfg.dtype]
    cfg = cfg.replace(dtype=dtype or cfg.dtype)
    specs = tensor_specs(cfg)
    sizes = {
        name: (4 if spec.float32 else target.itemsize) * math.prod(spec.shape)
        for name, spec in specs.items()
    }
    shards = plan_shards(sizes, max_shard_bytes)
    weight_map, total = {}, 0
    for i, names in enumerate(shards, 1):
        file = shard_name(i, len(shards))
        wanted = set(names)
        tensors = {
            # Slices of a stack share memory, which safetensors refuses: copy out.
            name: t.to(torch.float32 if specs[name].float32 else target).clone(
                memory_format=torch.contiguous_format
            )
            for name, t in model_tensors(state, cfg)
            if name in wanted
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
        total += sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    write_config(cfg, folder)
