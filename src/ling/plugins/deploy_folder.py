"""What a model folder has that decides on the command line of a GPU engine."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.hf.config import read_config, read_quantization
from ..checkpoint.hf.names import SafetensorsFolder
from ..config.model import ModelConfig
from ..data.tokenizer import Tokenizer
from ..errors import CheckpointError, UsageError
from ..files.guarded import loads, read_regular
from ..hub import resolve_model
from ..hub.names import hub_name, is_hub_name

INDEX = "model.safetensors.index.json"
MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder, or a model on a hub, that an engine can serve."""

    path: str
    """The folder, or the name by which engines download it."""
    is_local: bool = True
    config: ModelConfig
    quantization: str | None
    """`quant_method`, None for plain weights."""
    holds_mtp: bool
    """Whether the first MTP layer is in the weights, whatever config.json says."""
    calls_tools: bool
    """Whether the chat template has the `<tool_call>` syntax."""

    @property
    def is_fp8(self) -> bool:
        """Whether the weights are FP8 blocks."""
        return self.quantization == "fp8"


def inspect_folder(model: str) -> Folder:
    """Read configuration, tensor names and chat template; refuse formats of our own engine.

    Of a model on Hugging Face only the small files come here: the engine downloads the rest.
    """
    is_local = os.path.exists(model) or not is_hub_name(model)
    if is_local or hub_name(model).hub != "hf":
        path = resolve_model(model)
        if path.is_file():
            raise _not_for_gpus(path, "GGUF files")
        names = set(SafetensorsFolder(path).weight_map)
        has_tokenizer = (path / "tokenizer.json").is_file()
        template = Tokenizer.from_folder(path).chat_template if has_tokenizer else None
        return _folder(str(path), path, names, template or "", is_local=True)
    path = resolve_model(model, only="config.json")
    names = set(_index(model)["weight_map"])
    return _folder(hub_name(model).repository, path, names, _template(model), is_local=False)


def _folder(name: str, path: Path, names: set[str], template: str, *, is_local: bool) -> Folder:
    cfg = read_config(path)
    method = (read_quantization(path) or {}).get("quant_method")
    if method == "ling":
        raise _not_for_gpus(path, "int8 and int4 folders")
    return Folder(
        path=name,
        is_local=is_local,
        config=cfg,
        quantization=method,
        holds_mtp=f"model.layers.{cfg.num_hidden_layers}.eh_proj.weight" in names,
        calls_tools="<tool_call>" in template,
    )


def _not_for_gpus(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path}: {what} are for ling's own engine (`ling serve`); "
        "GPUs take bf16 or fp8: `ling convert SOURCE TARGET --to fp8`"
    )


def _index(model: str) -> dict[str, Any]:
    folder = resolve_model(model, only=INDEX)
    found = loads(read_regular(folder / INDEX, MAX_FILE_BYTES))
    if not isinstance(found, dict) or not isinstance(found.get("weight_map"), dict):
        raise CheckpointError(f"{folder / INDEX}: has no `weight_map`")
    return found


def _template(model: str) -> str:
    """The text of the file that has the chat template; it is only searched."""
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        with contextlib.suppress(CheckpointError):  # the repository has no such file
            path = resolve_model(model, only=name) / name
            return read_regular(path, MAX_FILE_BYTES).decode("utf-8", "replace")
    return ""
