"""The command lines of vLLM and SGLang for a folder and a split."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from ..config.long_context import trained_length, yarn_scaling
from ..config.model import ModelConfig
from ..errors import UsageError
from .deploy_folder import Folder
from .deploy_split import Split


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is decided before a command line is written."""

    split: Split
    draft_tokens: int
    """Tokens that the MTP layer drafts a step; 0 without speculation."""
    length: int | None = None
    """Longest context to ask for."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Values in place of those in config.json."""


def yarn(cfg: ModelConfig, context: int | None) -> dict[str, Any]:
    """Overrides of config.json so that `context` tokens fit; none where they do already."""
    if context is not None and context < 1:
        raise UsageError(f"`--context` is {context}, expected at least 1")
    if context is None or context <= cfg.max_position_embeddings:
        return {}
    # Whole factors, as the released models are measured: 4 for 131,072 tokens.
    whole = float(math.ceil(context / trained_length(cfg)))
    factor = max(whole, float((cfg.rope_scaling or {}).get("factor", 1.0)))
    rope = {**yarn_scaling(cfg, factor), "rope_theta": cfg.rope_theta}
    return {"max_position_embeddings": context, "rope_parameters": rope}


def vllm(folder: Folder, choice: Choice) -> list[str]:
    """`vllm serve`. Its data parallel groups share the experts, so they need expert parallelism."""
    split = choice.split
    command = ["vllm", "serve", folder.path]
    if split.tensor > 1:
        command += ["--tensor-parallel-size", str(split.tensor)]
    if split.data > 1:
        command += ["--data-parallel-size", str(split.data)]
    if split.expert_parallel:
        command += ["--enable-expert-parallel"]
    if choice.length is not None:
        command += ["--max-model-len", str(choice.length)]
    if choice.overrides:
        command += ["--hf-overrides", _json(choice.overrides)]
    if choice.draft_tokens:
        draft = {"method": "mtp", "num_speculative_tokens": choice.draft_tokens}
        command += ["--speculative-config", _json(draft)]
    if folder.calls_tools:
        command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    return command


def sglang(folder: Folder, choice: Choice) -> list[str]:
    """`sglang.launch_server`. Its data parallel groups are copies of the model, unless attention
    alone is data parallel: then the tensor parallel size counts all GPUs."""
    split = choice.split
    command = ["python", "-m", "sglang.launch_server", "--model-path", folder.path]
    tensor = split.num_gpus if split.expert_parallel else split.tensor
    if tensor > 1:
        command += ["--tp-size", str(tensor)]
    if split.data > 1:
        command += ["--dp-size", str(split.data)]
    if split.expert_parallel:
        command += ["--ep-size", str(split.num_gpus)]
        command += ["--enable-dp-attention"] if split.data > 1 else []
    if choice.length is not None:
        command += ["--context-length", str(choice.length)]
    if choice.overrides:
        command += ["--json-model-override-args", _json(choice.overrides)]
    if choice.draft_tokens:
        # A chain: one candidate per step, and the verified token beside the drafts.
        command += ["--speculative-algorithm", "NEXTN"]
        command += ["--speculative-num-steps", str(choice.draft_tokens)]
        command += ["--speculative-eagle-topk", "1"]
        command += ["--speculative-num-draft-tokens", str(choice.draft_tokens + 1)]
    if folder.calls_tools:
        command += ["--tool-call-parser", "qwen25"]
    return command


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
