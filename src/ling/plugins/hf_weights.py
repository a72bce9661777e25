"""Between the released layout, one tensor per expert, and transformers' idea of a state dict.

Loading hands transformers one lazy entry per tensor of the module, so that it places, casts and
dispatches as for any model. Nothing is read before its turn; a folder's pickles never are.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.hf.folder import SafetensorsFolder
from ..checkpoint.hf.names import check_names, float_tensor
from ..checkpoint.hf.save import save_model
from ..config.model import ModelConfig
from ..errors import CheckpointError, UsageError
from ..model.names import in_module, tensor_specs

_OLD_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


class WeightFolder(SafetensorsFolder):
    """A released folder; MTP layers beyond the config's are left out."""

    def __init__(self, folder: Path, cfg: ModelConfig) -> None:
        super().__init__(folder)
        self.weight_map = {
            name: file
            for name, file in self.weight_map.items()
            if _layer(name) < cfg.num_cache_layers
        }
        check_names(cfg, self)


def _layer(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else -1


class LazyTensor:
    """A tensor of the module that is read when transformers asks for its values.

    transformers 4 asks by `.to(device)`, transformers 5 by `[...]`.
    """

    def __init__(self, source: WeightFolder, names: Sequence[str], stacked: bool) -> None:
        self._source, self._names, self._stacked = source, names, stacked
        shape = source.shape(names[0])
        self.shape = torch.Size((len(names), *shape) if stacked else shape)
        stored = source.dtype(names[0])
        self.dtype = torch.float32 if stored == torch.float8_e4m3fn else stored

    def is_floating_point(self) -> bool:
        """Every weight is."""
        return True

    def __getitem__(self, index: Any) -> Tensor:
        values = (float_tensor(self._source, name) for name in self._names)
        return (torch.stack(list(values)) if self._stacked else next(values))[index]

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """The values, placed and cast as `Tensor.to` does."""
        return self[...].to(*args, **kwargs)


def lazy_state(files: Sequence[str], cfg: ModelConfig) -> dict[str, LazyTensor]:
    """The module's state by name, from the weight files that transformers found in a folder.

    Raises `CheckpointError` for pickles and for any tensor that is missing, left over or in
    another shape than the config's.
    """
    folder = Path(files[0]).parent
    if not all(str(f).endswith(".safetensors") for f in files):
        raise CheckpointError(f"{folder}: weights as pickles are not read; convert to safetensors")
    source = WeightFolder(folder, cfg)
    names: dict[str, list[str]] = {}
    for name in tensor_specs(cfg):
        names.setdefault(in_module(name)[0], []).append(name)
    return {
        key: LazyTensor(source, parts, in_module(parts[0])[1] is not None)
        for key, parts in names.items()
    }


@torch.no_grad()
def copy_experts(state: MutableMapping[str, Tensor], own: Mapping[str, Tensor]) -> set[str]:
    """Move tensors of single experts out of `state` into the stacks of `own`, and name those.

    Shards of the released layout hold parts of a stack, and transformers loads shard by shard.
    """
    filled = set()
    for name in list(state):
        key, expert = in_module(name)
        if expert is not None and key in own:
            own[key][expert].copy_(state.pop(name))
            filled.add(key)
    return filled


def write_weights(
    state: Mapping[str, Tensor], cfg: ModelConfig, folder: Path, max_shard_bytes: int
) -> None:
    """Write the released layout into `folder`, replacing the weights that it may hold.

    New files take their names when all are written: the old ones may be mapped by this model.
    """
    absent = [name for name, t in state.items() if t.device.type == "meta"]
    if absent:
        raise UsageError(
            f"`{absent[0]}` is offloaded; load the model without offloading to save it"
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".save-") as tmp:
        save_model(state, cfg, tmp, max_shard_bytes=max_shard_bytes)
        new = sorted(p.name for p in Path(tmp).iterdir())
        for path in folder.iterdir():
            if _OLD_WEIGHTS.fullmatch(path.name) and path.name not in new:
                path.unlink()
        for name in new:
            os.replace(Path(tmp) / name, folder / name)
