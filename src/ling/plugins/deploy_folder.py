"""What a model folder has that decides on the command line of a GPU engine."""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoint.hf.config import read_config, read_quantization
from ..checkpoint.hf.names import SafetensorsFolder
from ..config.model import ModelConfig
from ..data.tokenizer import Tokenizer
from ..errors import UsageError
from ..hub import resolve_model


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that an engine can serve."""

    path: str
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

    A hub name is downloaded first: what decides is in the weights.
    """
    path = resolve_model(model)
    cfg = read_config(path)
    method = (read_quantization(path) or {}).get("quant_method")
    if method == "ling":
        raise UsageError(
            f"{path}: int8 and int4 folders are for ling's own engine (`ling serve`); "
            "GPUs take bf16 or fp8: `ling convert SOURCE TARGET --to fp8`"
        )
    names = SafetensorsFolder(path).weight_map
    template = None
    if (path / "tokenizer.json").is_file():
        template = Tokenizer.from_folder(path).chat_template
    return Folder(
        path=str(path),
        config=cfg,
        quantization=method,
        holds_mtp=f"model.layers.{cfg.num_hidden_layers}.eh_proj.weight" in names,
        calls_tools="<tool_call>" in (template or ""),
    )
