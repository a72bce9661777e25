"""Folders of our transformers class: what `from_pretrained` reads and `save_pretrained` writes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from ..errors import CheckpointError, UsageError
from ..text import parse_bytes
from .hf_adapter import read_adapter_state
from .hf_config import BailingMoeV2Config
from .hf_release import names_release
from .hf_weights import copy_experts, lazy_state, write_weights

_FOR_HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class FolderModel(PreTrainedModel):
    """Reads and writes the released layout, a tensor per expert, with transformers' own loading."""

    config_class = BailingMoeV2Config

    @classmethod
    @names_release
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """transformers' own, except for what it would do with FP8 folders and foreign formats.

        FP8 is dequantised to bfloat16; `int4` and `int8` folders of `ling convert` are refused.
        """
        if not isinstance(config, BailingMoeV2Config):
            hub = {k: kwargs[k] for k in _FOR_HUB if k in kwargs}
            path = config if config is not None else pretrained_model_name_or_path
            config = cls.config_class.from_pretrained(path, **hub)
        config = _without_quantization(config, str(pretrained_model_name_or_path))
        return super().from_pretrained(
            pretrained_model_name_or_path, *args, config=config, **kwargs
        )

    @classmethod
    def _load_pretrained_model(
        cls, model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if checkpoint_files and getattr(model, "_hf_peft_config_loaded", False):
            # `load_adapter` of transformers 5; that of 4 calls `load_state_dict`.
            state_dict = read_adapter_state(model, checkpoint_files[0])
            if "sharded_metadata" in kwargs:
                kwargs["sharded_metadata"] = None
        elif checkpoint_files is not None:
            devices = kwargs.get("device_map") or getattr(args[0], "device_map", None) or {}
            if "disk" in devices.values():
                raise UsageError("`device_map` sends layers to disk; the stacked experts cannot go")
            state_dict = lazy_state(checkpoint_files, model.config.ling())
            if "sharded_metadata" in kwargs:
                kwargs["sharded_metadata"] = None  # transformers 4 would expect the shards' names
        return super()._load_pretrained_model(model, state_dict, None, *args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Also takes names of the released layout, which `Trainer` reads back from its folders."""
        state = dict(state_dict)
        filled = copy_experts(state, dict(self.named_parameters()))
        own = self.state_dict()
        return super().load_state_dict({**{k: own[k] for k in filled}, **state}, *args, **kwargs)

    @names_release
    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        **kwargs: Any,
    ) -> None:
        """Write the released layout: a tensor per expert, float32 `expert_bias`, auto_map files.

        With adapters loaded into it (`add_adapter`) only these are written, as transformers does.
        """
        if getattr(self, "_hf_peft_config_loaded", False):
            super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
            return
        if not is_main_process:
            return
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder, self.state_dict() if state_dict is None else state_dict, max_shard_size)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    def _write(self, folder: Path, state: Mapping[str, Tensor], max_shard_size: int | str) -> None:
        dtype = str(state["model.norm.weight"].dtype).removeprefix("torch.")
        if isinstance(max_shard_size, str):
            max_shard_size = parse_bytes(max_shard_size, "max_shard_size")
        write_weights(state, self.config.ling().replace(dtype=dtype), folder, max_shard_size)
        self.config.dtype = dtype
        self.config.save_pretrained(folder)
        if self.generation_config is not None:
            self.generation_config.save_pretrained(folder)

    def load_custom_generate(self, *args: Any, **kwargs: Any) -> Any:
        """A folder's own `generate` is code, and never run; transformers continues without it."""
        raise OSError("a model folder's `custom_generate` is not run")

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModelForCausalLM") -> None:
        """Nothing to do: the class lives in `ling`, no copy of its file goes into a folder."""


def _without_quantization(config: BailingMoeV2Config, path: str) -> BailingMoeV2Config:
    quantization = getattr(config, "quantization_config", None)
    if not isinstance(quantization, dict):
        return config
    method = quantization.get("quant_method")
    if method == "ling":
        raise CheckpointError(
            f"{path}: {quantization.get('format', 'integer')} weights are for ling's own engine "
            "(`ling generate`, `ling.LLM`); for transformers convert to bf16 or fp8"
        )
    if method == "fp8":
        config = copy.deepcopy(config)
        del config.quantization_config
    return config
