"""Weights from and to the released Hugging Face layout, streaming.

Peak memory beyond the model itself is one tensor when reading and one shard when writing.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import ModelConfig
from ..errors import CheckpointError, SafetensorsError, ShardIndexError, UsageError
from ..presets import PRESETS
from .ling import Ling, to_dtype
from .names import in_module, tensor_specs

INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
SHARD_NAME = re.compile(r"[\w.-]+\.safetensors")
MAX_INDEX_BYTES = 256 << 20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class SafetensorsFolder:
    """The tensors of a model folder by name; nothing is read before it is asked for.

    Raises `ShardIndexError` for an index that is damaged or leaves the folder, `SafetensorsError`
    for a damaged file, `CheckpointError` when there are no safetensors at all.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[str, Any] = {}
        self.weight_map = self._from_index() if self._has(INDEX) else self._from_single_file()

    def _has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def _from_index(self) -> dict[str, str]:
        path = self.folder / INDEX
        try:
            if path.stat().st_size > MAX_INDEX_BYTES:
                raise ShardIndexError(f"{path}: larger than {MAX_INDEX_BYTES} bytes")
            weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
            pairs = list(weight_map.items())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            if isinstance(err, ShardIndexError):
                raise
            raise ShardIndexError(f"{path}: no readable `weight_map`") from None
        for name, file in pairs:
            if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
                raise ShardIndexError(f"{path}: `weight_map` sends `{name}` to {json.dumps(file)}")
        for file in sorted({f for _, f in pairs}):
            held = set(self._open(file).keys())
            missing = [n for n, f in pairs if f == file and n not in held]
            if missing:
                raise ShardIndexError(f"{path}: `{missing[0]}` is not in {file}")
        return dict(pairs)

    def _from_single_file(self) -> dict[str, str]:
        if not (self.folder / SINGLE_FILE).exists():
            raise CheckpointError(f"{self.folder}: neither {INDEX} nor {SINGLE_FILE} is here")
        return dict.fromkeys(self._open(SINGLE_FILE).keys(), SINGLE_FILE)

    def _open(self, file: str) -> Any:
        if file not in self._files:
            path = self.folder / file
            try:
                if not stat.S_ISREG(os.stat(path).st_mode):
                    raise SafetensorsError(f"{path}: not a regular file")
                self._files[file] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as err:
                raise SafetensorsError(f"{path}: {_reason(err)}") from None
        return self._files[file]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone."""
        return tuple(self._open(self.weight_map[name]).get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """One tensor, as stored."""
        try:
            return self._open(self.weight_map[name]).get_tensor(name)
        except (SafetensorError, OSError) as err:
            raise SafetensorsError(
                f"{self.folder / self.weight_map[name]}: {_reason(err)}"
            ) from None


def _reason(err: Exception) -> str:
    return getattr(err, "strerror", None) or f"damaged safetensors file ({err})"


def check_names(cfg: ModelConfig, source: SafetensorsFolder) -> None:
    """Every tensor present, none left over, all in shape; `CheckpointError` names the first not."""
    specs = tensor_specs(cfg)
    missing = [n for n in specs if n not in source.weight_map]
    if missing:
        raise CheckpointError(
            f"{source.folder}: tensor `{missing[0]}` is missing ({len(missing)} in all)"
        )
    extra = sorted(n for n in source.weight_map if n not in specs and not n.endswith("inv_freq"))
    if extra:
        raise CheckpointError(
            f"{source.folder}: unexpected tensor `{extra[0]}` ({len(extra)} in all); "
            "does config.json belong to these weights?"
        )
    for name, spec in specs.items():
        shape = source.shape(name)
        if shape != spec.shape:
            raise CheckpointError(
                f"{source.folder / source.weight_map[name]}: tensor `{name}` has shape "
                f"{list(shape)}, expected {list(spec.shape)}"
            )


def read_config(folder: str | Path) -> ModelConfig:
    """The configuration of a model folder; says what is wrong when it is not one."""
    folder = Path(folder)
    if not folder.is_dir():
        if str(folder) in PRESETS:
            raise UsageError(
                f"`{folder}` names weights, and there are none here; give a model folder "
                "(random weights come from `ling.from_config`)"
            )
        raise CheckpointError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: not a model folder, it has no config.json")
    return ModelConfig.from_file(folder / "config.json")


def load_model(folder: str | Path, dtype: str | None = None) -> Ling:
    """Load a Hugging Face folder; `dtype` None or "auto" keeps the one of config.json.

    Checks names and shapes before it allocates. `expert_bias` is float32 always.
    """
    cfg = read_config(folder)
    source = SafetensorsFolder(folder)
    check_names(cfg, source)
    name = cfg.dtype if dtype in (None, "auto") else dtype
    if name not in DTYPES:
        raise UsageError(f"`dtype` is `{dtype}`, expected auto, bfloat16 or float32")
    with torch.device("meta"):
        model = Ling(cfg)
    model = to_dtype(model, DTYPES[name]).to_empty(device="cpu")
    load_tensors(model, source.tensor)
    return model.eval()


@torch.no_grad()
def load_tensors(model: Ling, tensor: Callable[[str], Tensor]) -> None:
    """Fill the module from `tensor(hf_name)`, casting to the module's dtypes."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in tensor_specs(model.config):
        key, expert = in_module(name)
        value = tensor(name)
        if not value.is_floating_point():
            raise CheckpointError(f"tensor `{name}` has dtype {value.dtype}, expected a float type")
        target = own[key] if expert is None else own[key][expert]
        target.copy_(value)


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
    """Write config.json, shards and index into `folder`, which must exist.

    `dtype` None keeps the one of `cfg`; float32 tensors of the spec stay float32.
    """
    folder = Path(folder)
    state = model.state_dict() if isinstance(model, Ling) else model
    target = DTYPES[dtype or cfg.dtype]
    cfg = cfg.replace(dtype=dtype or cfg.dtype)
    specs = tensor_specs(cfg)
    shards = _plan_shards(cfg, target.itemsize, max_shard_bytes)
    weight_map, total = {}, 0
    for i, names in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
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
    (folder / "config.json").write_text(json.dumps(cfg.to_dict(), indent=2) + "\n", "utf-8")


def _plan_shards(cfg: ModelConfig, itemsize: int, max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for name, spec in tensor_specs(cfg).items():
        size = (4 if spec.float32 else itemsize) * int(torch.Size(spec.shape).numel())
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards
