"""The JSON file of a run: written again, whole, whenever there is something new to tell."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import platform
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ling.errors import LingError
from ling.files.atomic import read_json, write_atomic
from ling.ops.machine import cpu

FORMAT = 1
"""Of the file; a reader refuses others."""
ROOT = Path(__file__).parents[2]


class Record:
    """What is known so far, by stage; `add` and the others write the file."""

    def __init__(self, path: Path, *, tiny: bool, machine: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "started": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
            "tiny": tiny,
            "machine": machine,
            "stages": {},
        }
        self._write()

    def begin(self, stage: str, limit_s: float) -> None:
        """A stage has begun that may take so long."""
        stages = self.content["stages"]
        stages[stage] = {"status": "running", "limit_s": round(limit_s, 1), "entries": []}
        self._write()

    def add(self, stage: str, entry: dict[str, Any]) -> None:
        """A check or measurement of a stage has ended."""
        self.content["stages"][stage]["entries"].append(entry)
        # On top, where `ling plan --calibrate` looks for them.
        self.content |= {k: entry[k] for k in ("gpu", "constants") if k in entry}
        self._write()

    def end(self, stage: str, status: str, seconds: float, error: str = "") -> None:
        """A stage has ended, of itself (`done`) or not."""
        found = self.content["stages"][stage]
        found.update(status=status, seconds=round(seconds, 1))
        if error:
            found["error"] = error
        self._write()

    def entries(self, stage: str) -> dict[str, dict[str, Any]]:
        """Those that a stage has, by name."""
        return {entry["name"]: entry for entry in self.content["stages"][stage]["entries"]}

    def _write(self) -> None:
        write_atomic(self.path, json.dumps(self.content, indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """A file that `Record` wrote; raises `SystemExit` with one line where it is none."""
    try:
        content = read_json(path)
    except LingError as err:
        raise SystemExit(str(err)) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SystemExit(f"{path}: no record of gpu_check of format {FORMAT}")
    return content


# ---- what ran where ----------------------------------------------------------------------------


def machine(gpu: dict[str, str] | None) -> dict[str, Any]:
    """The machine and the versions; asks nothing that would start CUDA in this process."""
    return {
        "gpu": gpu,
        "cpu": cpu(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **{name: _version(name) for name in ("triton", "transformers", "torchao")},
        "commit": _commit(),
        "source": source_hash(),
    }


def gpu_here() -> dict[str, str] | None:
    """The GPU as torch and its driver name it; None where torch sees none."""
    # In another process: those of the stages are forked from this one, which must not use CUDA.
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        found = pool.submit(_properties).result()
    if found is not None:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = _said(query).partition("\n")[0]
    return found


def _properties() -> dict[str, str] | None:
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "memory": f"{found.total_memory / 2**30:.1f} GiB",
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": str(found.multi_processor_count),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout, with a `+` where files differ; None in a copy without git."""
    commit = _said(["git", "-C", str(ROOT), "rev-parse", "HEAD"])
    changed = _said(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return commit + "+" * bool(changed) if commit else None


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def source_hash() -> str:
    """Tells the sources that ran from others, also where there is no git."""
    found = hashlib.sha256()
    for folder in (ROOT / "src" / "ling", ROOT / "benchmarks" / "gpu_check"):
        for path in sorted(folder.rglob("*.py")):
            found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]
