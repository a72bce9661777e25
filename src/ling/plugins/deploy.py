"""`ling deploy vllm|sglang MODEL`: what serves a model folder on the GPUs of a machine."""

from __future__ import annotations

import shlex
from typing import Any

from ..errors import UsageError
from ..text import nearest, size
from .deploy_command import Choice, sglang, vllm, yarn
from .deploy_files import OUTPUTS, compose_file, kubernetes_file
from .deploy_folder import Folder, inspect_folder
from .deploy_split import DEFAULT_GPU, Split, choose_split, find_gpu, problem, room
from .engine_flags import installed_flags

ENGINES = {"vllm": vllm, "sglang": sglang}
# The releases whose command lines these are; another installed one is asked for its flags.
KNOWN = {"vllm": "0.32.0", "sglang": "0.5.23"}


def deploy(
    engine: str,
    model: str,
    *,
    context: int | None = None,
    gpus: int | None = None,
    gpu: str | None = None,
    tensor_parallel: int | None = None,
    speculative: str = "mtp",
    draft_tokens: int = 1,
    output: str = "command",
) -> dict[str, Any]:
    """The command, or the file, its notes, and the release whose flags it was checked against.

    With `gpus` the split is chosen so that the model fits on that many of kind `gpu`; without,
    `tensor_parallel` is taken as it is. `speculative` "mtp" takes effect where the folder has an
    MTP layer. Raises `UsageError` for a format, a split or a context that the engine cannot serve,
    a model that does not fit, and a flag that the installed engine does not have.
    """
    least = draft_tokens if tensor_parallel is None else min(tensor_parallel, draft_tokens)
    _check(engine, speculative, least, output)
    folder = inspect_folder(model)
    if gpu is not None and gpus is None:
        gpus = tensor_parallel or 1
    split = _split(engine, folder, gpus, gpu or DEFAULT_GPU, tensor_parallel, context)
    mtp = speculative == "mtp" and folder.holds_mtp and folder.config.num_nextn_predict_layers > 0
    choice = Choice(
        split=split,
        draft_tokens=draft_tokens if mtp else 0,
        length=context,
        overrides=yarn(folder.config, context),
    )
    command = ENGINES[engine](folder, choice)
    version = _check_flags(engine, command)
    report: dict[str, Any] = {
        "engine": engine,
        "command": shlex.join(command),
        "argv": command,
        "format": folder.quantization or folder.config.dtype,
        "mtp": mtp,
        "split": {
            "tensor": split.tensor,
            "data": split.data,
            "expert_parallel": split.expert_parallel,
        },
        "checked_against": version,
        "notes": _notes(engine, folder, choice, version),
    }
    if gpus is not None:
        report["notes"] += _room_notes(folder, split, gpu or DEFAULT_GPU, is_default=gpu is None)
    if output != "command":
        write = compose_file if output == "compose" else kubernetes_file
        report["file"] = write(
            engine, command, folder.path if folder.is_local else None, split.num_gpus
        )
        report["notes"].append(f"the image `ling-{engine}` is that of deploy/gpu/Containerfile")
    return report


def _check(engine: str, speculative: str, least: int, output: str) -> None:
    if engine not in ENGINES:
        raise UsageError(f"no engine `{engine}`; there are {', '.join(ENGINES)}")
    if speculative not in ("mtp", "off"):
        raise UsageError(f"`--speculative` is `{speculative}`, expected mtp or off")
    if least < 1:
        raise UsageError("`--tensor-parallel` and `--draft-tokens` are at least 1")
    if output not in OUTPUTS:
        hint = nearest(output, list(OUTPUTS))
        raise UsageError(f"`--output` is `{output}`, expected {', '.join(OUTPUTS)}{hint}")


def _split(
    engine: str,
    folder: Folder,
    gpus: int | None,
    gpu: str,
    tensor: int | None,
    context: int | None,
) -> Split:
    cfg, is_fp8 = folder.config, folder.is_fp8
    if gpus is None:
        split = Split(tensor or 1)
        reason = problem(cfg, is_fp8, split)
        if reason is not None:
            raise UsageError(reason)
        return split
    copies = engine == "sglang"
    return choose_split(
        cfg, is_fp8, gpus, gpu, copies_experts=copies, tensor=tensor, context=context
    )


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


def _notes(engine: str, folder: Folder, choice: Choice, version: str | None) -> list[str]:
    notes = ["install ling beside the engine: its plugin makes config.json known to it"]
    if version is None:
        notes.append(f"{engine} cannot be asked here; the flags are those of {KNOWN[engine]}")
    else:
        notes.append(f"the installed {engine} {version} has these flags")
    if folder.holds_mtp and not choice.draft_tokens and not folder.config.num_nextn_predict_layers:
        notes.append("the weights hold an MTP layer that config.json does not count")
    if not folder.holds_mtp and folder.config.num_nextn_predict_layers:
        notes.append("config.json counts an MTP layer that the weights lack: no speculation")
    if choice.overrides:
        notes.append("YaRN is static: it changes short texts too, so use it for long ones only")
    return notes


def _room_notes(folder: Folder, split: Split, gpu: str, *, is_default: bool) -> list[str]:
    """What is on each GPU by calculation, and what to know about it."""
    on_each = room(folder.config, folder.is_fp8, split, find_gpu(gpu).memory)
    assumed = " (assumed; `--gpu` says which)" if is_default else ""
    notes = [
        f"each {gpu}{assumed}: {size(on_each.weight_bytes)} of weights, KV cache for about "
        f"{round(on_each.kv_tokens, -3):,} tokens"
    ]
    if folder.is_fp8 and not find_gpu(gpu).multiplies_fp8:
        notes.append(f"{gpu} does not multiply FP8: weights are expanded, which is slower")
    if split.expert_parallel and split.data > 1:
        notes.append("experts are shared by all GPUs: the links between them should be NVLink")
    return notes
