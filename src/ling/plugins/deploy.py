"""`ling deploy vllm|sglang MODEL`: the command line that serves a model folder on GPUs."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass
from typing import Any

from ..checkpoint.hf.config import read_config, read_quantization
from ..checkpoint.hf.names import SafetensorsFolder
from ..config.model import ModelConfig
from ..data.tokenizer import Tokenizer
from ..errors import UsageError
from ..hub import resolve_model
from .engine_flags import installed_flags

ENGINES = ("vllm", "sglang")
# The releases whose command lines these are; another installed one is asked for its flags.
KNOWN = {"vllm": "0.32.0", "sglang": "0.5.23"}
_FP8_BLOCK = 128


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a model folder holds that decides on flags."""

    path: str
    config: ModelConfig
    quantization: str | None
    """`quant_method`, None for plain weights."""
    holds_mtp: bool
    """Whether the first MTP layer is in the weights, whatever config.json says."""
    calls_tools: bool
    """Whether the chat template has the `<tool_call>` syntax."""


def deploy(
    engine: str,
    model: str,
    *,
    context: int | None = None,
    tensor_parallel: int = 1,
    speculative: str = "mtp",
    draft_tokens: int = 1,
) -> dict[str, Any]:
    """The command, its notes, and the release whose flags it was checked against.

    `speculative` "mtp" takes effect where the folder holds an MTP layer. Raises `UsageError` for
    a format, a split or a context that the engine cannot serve, and for a flag it does not have.
    """
    if engine not in ENGINES:
        raise UsageError(f"no engine `{engine}`; there are {', '.join(ENGINES)}")
    if speculative not in ("mtp", "off"):
        raise UsageError(f"`--speculative` is `{speculative}`, expected mtp or off")
    if min(tensor_parallel, draft_tokens) < 1:
        raise UsageError("`--tensor-parallel` and `--draft-tokens` are at least 1")
    folder = inspect_folder(model)
    _check_split(folder, tensor_parallel)
    mtp = speculative == "mtp" and folder.holds_mtp and folder.config.num_nextn_predict_layers > 0
    overrides, length = _yarn(folder.config, context)
    write = _vllm if engine == "vllm" else _sglang
    command = write(folder, tensor_parallel, draft_tokens if mtp else 0, overrides, length)
    version = _check_flags(engine, command)
    return {
        "engine": engine,
        "command": shlex.join(command),
        "argv": command,
        "format": folder.quantization or folder.config.dtype,
        "mtp": mtp,
        "checked_against": version,
        "notes": _notes(engine, folder, mtp, bool(overrides), version),
    }


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


def _check_split(folder: Folder, parts: int) -> None:
    cfg = folder.config
    if cfg.num_attention_heads % parts:
        raise UsageError(
            f"`--tensor-parallel {parts}` does not divide the {cfg.num_attention_heads} heads"
        )
    if cfg.num_key_value_heads % parts and parts % cfg.num_key_value_heads:
        raise UsageError(
            f"`--tensor-parallel {parts}` neither divides nor is a multiple of the "
            f"{cfg.num_key_value_heads} key-value heads"
        )
    width = cfg.moe_intermediate_size
    if cfg.num_experts and folder.quantization == "fp8" and width % (parts * _FP8_BLOCK):
        raise UsageError(
            f"`--tensor-parallel {parts}` cuts experts of width {width} inside an fp8 block of "
            f"{_FP8_BLOCK}; at most {max(width // _FP8_BLOCK, 1)} parts, or bf16"
        )


def _yarn(cfg: ModelConfig, context: int | None) -> tuple[dict[str, Any], int | None]:
    """(overrides of config.json, length to ask for) so that `context` tokens fit."""
    if context is None or context <= cfg.max_position_embeddings:
        if context is not None and context < 1:
            raise UsageError(f"`--context` is {context}, expected at least 1")
        return {}, context
    scaling = cfg.rope_scaling or {}
    trained = int(scaling.get("original_max_position_embeddings") or cfg.max_position_embeddings)
    rope = {
        **{k: v for k, v in scaling.items() if k != "type"},
        "rope_type": "yarn",
        "rope_theta": cfg.rope_theta,
        # Whole factors, as the released models are measured: 4 for 131,072 tokens.
        "factor": max(float(math.ceil(context / trained)), float(scaling.get("factor", 1.0))),
        "original_max_position_embeddings": trained,
    }
    return {"max_position_embeddings": context, "rope_parameters": rope}, context


def _vllm(
    folder: Folder, parts: int, draft_tokens: int, overrides: dict[str, Any], length: int | None
) -> list[str]:
    command = ["vllm", "serve", folder.path]
    if parts > 1:
        command += ["--tensor-parallel-size", str(parts)]
    if length is not None:
        command += ["--max-model-len", str(length)]
    if overrides:
        command += ["--hf-overrides", _json(overrides)]
    if draft_tokens:
        draft = {"method": "mtp", "num_speculative_tokens": draft_tokens}
        command += ["--speculative-config", _json(draft)]
    if folder.calls_tools:
        command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    return command


def _sglang(
    folder: Folder, parts: int, draft_tokens: int, overrides: dict[str, Any], length: int | None
) -> list[str]:
    command = ["python", "-m", "sglang.launch_server", "--model-path", folder.path]
    if parts > 1:
        command += ["--tp-size", str(parts)]
    if length is not None:
        command += ["--context-length", str(length)]
    if overrides:
        command += ["--json-model-override-args", _json(overrides)]
    if draft_tokens:
        # A chain: one candidate per step, and the verified token beside the drafts.
        command += ["--speculative-algorithm", "NEXTN"]
        command += ["--speculative-num-steps", str(draft_tokens), "--speculative-eagle-topk", "1"]
        command += ["--speculative-num-draft-tokens", str(draft_tokens + 1)]
    if folder.calls_tools:
        command += ["--tool-call-parser", "qwen25"]
    return command


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _check_flags(engine: str, command: list[str]) -> str | None:
    """Version of the installed engine, which has every flag of `command`; None if none is here."""
    installed = installed_flags(engine)
    if installed is None:
        return None
    missing = [word for word in command if word.startswith("--") and word not in installed.flags]
    if missing:
        raise UsageError(
            f"the installed {engine} {installed.version} has no `{missing[0]}`; "
            f"{engine} {KNOWN[engine]} has it"
        )
    return installed.version


def _notes(engine: str, folder: Folder, mtp: bool, yarn: bool, version: str | None) -> list[str]:
    notes = ["install ling beside the engine: its plugin makes config.json known to it"]
    if version is None:
        notes.append(f"{engine} cannot be asked here; the flags are those of {KNOWN[engine]}")
    else:
        notes.append(f"the installed {engine} {version} has these flags")
    if folder.holds_mtp and not mtp and folder.config.num_nextn_predict_layers == 0:
        notes.append("the weights hold an MTP layer that config.json does not count")
    if not folder.holds_mtp and folder.config.num_nextn_predict_layers:
        notes.append("config.json counts an MTP layer that the weights lack: no speculation")
    if yarn:
        notes.append("YaRN is static: it changes short texts too, so use it for long ones only")
    return notes
