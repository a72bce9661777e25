"""config.json of a model folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ...config.hf_json import check_quantization, not_ours, read_raw
from ...config.model import ModelConfig
from ...errors import CheckpointError
from ...files.atomic import stopped
from ...files.guarded import HEAD_BYTES, check_genuine, inside, open_regular, pread
from ...text import shown
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
        _check_text(folder, name)
    _refuse_other_tools(folder)
    if not (folder / "config.json").is_file():
        refuse_checkpoint(folder)
        refuse_adapter(folder)
        raise CheckpointError(f"{folder}: not a model folder, it has no config.json")
    return ModelConfig.from_file(folder / "config.json")


def _check_text(folder: Path, name: str) -> None:
    """`CheckpointError` for a file that leads out of the folder or that a download replaced."""
    try:
        path = inside(folder, name)
        if path.is_file():
            with open_regular(path) as fd:
                check_genuine(pread(fd, HEAD_BYTES, 0))
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise CheckpointError(f"{folder / name}: {reason}") from None


def refuse_adapter(folder: Path) -> None:
    """`CheckpointError` for a LoRA adapter that was given as a model."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    try:
        base = read_raw(path).get("base_model_name_or_path")
    except CheckpointError:
        base = None
    of = f" for {shown(base)}" if isinstance(base, str) and base else ""
    raise CheckpointError(
        f"{folder}: a LoRA adapter{of}, not a model; merge it into its model: "
        f"`ling convert MODEL OUT --merge {shlex.quote(str(folder))}`"
    )


# What quantising tools write beside a config.json that says nothing of it.
_TOOL_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}


def _refuse_other_tools(folder: Path) -> None:
    for name, method in _TOOL_FILES.items():
        if (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: {not_ours(method)}")


def read_quantization(folder: str | Path) -> dict[str, Any] | None:
    """`quantization_config` of a model folder whose config was read, or None."""
    return check_quantization(read_raw(Path(folder) / "config.json"))
