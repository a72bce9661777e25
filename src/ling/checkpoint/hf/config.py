"""config.json of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...config.hf_json import check_quantization, read_raw
from ...config.model import ModelConfig
from ...errors import CheckpointError
from ...files.atomic import stopped
from ...files.guarded import inside
from ..run_folder import refuse_checkpoint

_TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


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
