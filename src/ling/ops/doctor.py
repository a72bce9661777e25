"""`ling doctor`: what this installation can do, and why not more."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..errors import KernelError
from ..text import one_line
from . import fp8_choice, machine, native

# Variables that change what runs, where files go or what the network is.
_VARIABLES = re.compile(
    r"(OMP|KMP|GOMP|MKL|LING|HF|TRANSFORMERS|MODELSCOPE|TORCH|PYTORCH|CUDA|NCCL|SLURM|XDG_CACHE)_.*"
    r"|(HTTPS?|NO|ALL)_PROXY|LD_(PRELOAD|LIBRARY_PATH)|PYTHONPATH|PYTHONIOENCODING|LANG|LC_ALL",
    re.IGNORECASE,
)
_SECRET = re.compile(r"token|key|secret|password", re.IGNORECASE)
# Also where our own metadata is absent, as with sources on PYTHONPATH.
_CORE = ("torch", "numpy", "safetensors", "tokenizers", "huggingface-hub", "jsonargparse")
_FOR_DEVELOPERS = ("test", "dev", "all")


def doctor() -> dict[str, str]:
    """The facts for people: each in one line."""
    return {name: _text(value) for name, value in facts().items()}


def facts() -> dict[str, Any]:
    """What there is to say, by name: texts, or tables of them."""
    kernels = _kernels()
    report: dict[str, Any] = {
        "ling": _version("ling"),
        "install": install(),
        "python": f"{sys.version.split()[0]} ({sys.executable})",
        "platform": platform.platform(),
        "cpu": machine.cpu(),
        "memory": machine.memory(),
        "disk": machine.disk(cache=Path(os.environ.get("HF_HOME") or Path.home() / ".cache")),
        "gpu": machine.gpus() or "none",
        "torch": torch.__version__,
        "accelerator": "cuda" if torch.cuda.is_available() else "none",
        "threads": str(torch.get_num_threads()),
        "openmp": ", ".join(sorted(_openmp_runtimes())) or "none",
        "kernels": kernels,
        "engine": _engine(kernels),
        "fp8 training": fp8_choice.described(),
    }
    if not kernels.startswith("native"):
        report["build"] = build()
    return report | {
        "versions": versions(),
        "environment": environment(),
        "missing extras": _missing(),
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{_name(k)} {v}" for k, v in value.items()) or "none"
    return str(value)


def _name(key: str) -> str:
    return key if key.isupper() else key.replace("_", " ")


# ---- the package -------------------------------------------------------------------------------


def install() -> dict[str, str]:
    """Whether the sources are used in place or a copy, where, and of which commit."""
    folder = Path(next(iter(sys.modules[__name__.partition(".")[0]].__path__)))
    origin = _direct_url()
    editable = bool(origin.get("dir_info", {}).get("editable")) or folder.parent.name == "src"
    report = {"kind": "editable" if editable else "copy", "folder": str(folder)}
    commit = origin.get("vcs_info", {}).get("commit_id") or (_commit(folder) if editable else None)
    return report | ({"commit": commit} if commit else {})


def _direct_url() -> dict[str, Any]:
    """What pip noted of the source of this installation."""
    try:
        return json.loads(metadata.distribution("ling").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}


def _commit(folder: Path) -> str | None:
    git = ["git", "-C", str(folder)]
    commit = _output([*git, "rev-parse", "--short=12", "HEAD"])
    changed = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    return commit and (f"{commit} with changes" if changed else commit)


def versions() -> dict[str, str]:
    """Installed versions of everything that the package can use."""
    names = {name for name, extra in _requirements() if extra not in _FOR_DEVELOPERS}
    names |= set(_CORE)
    found = {name: _version(name) for name in sorted(names)}
    return {name: version for name, version in found.items() if version != "unknown"}


def missing_extras() -> list[str]:
    """Optional packages that are absent, with the extra that brings them."""
    wanted: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra and extra not in _FOR_DEVELOPERS and _version(name) == "unknown":
            wanted.setdefault(name, []).append(extra)
    return [f"{name} ({', '.join(extras)})" for name, extras in wanted.items()]


def _missing() -> str:
    if not _requirements():
        return "unknown: no metadata of an installation"
    return ", ".join(missing_extras()) or "none"


def _requirements() -> list[tuple[str, str]]:
    """Names of the packages in our metadata, each with its extra."""
    try:
        found = metadata.requires("ling") or []
    except metadata.PackageNotFoundError:
        return []
    rows = []
    for text in found:
        name, extra = re.match(r"[\w.-]+", text), re.search(r"extra\s*==\s*['\"]([\w-]+)", text)
        if name and name[0].lower() != "ling":
            rows.append((name[0].lower(), extra[1] if extra else ""))
    return rows


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def environment() -> dict[str, str]:
    """Variables that matter here; of secrets only that they are set."""
    found = {k: v for k, v in sorted(os.environ.items()) if _VARIABLES.fullmatch(k)}
    return {k: "(set)" if _SECRET.search(k) else _shown(v) for k, v in found.items()}


def _shown(value: str) -> str:
    """A value in one line, without the login that a proxy's address may have."""
    return re.sub(r"//[^/@\s]*@", "//...@", one_line(value))


# ---- the kernels -------------------------------------------------------------------------------


def _kernels() -> str:
    try:
        level = native.isa()
    except KernelError as err:
        return f"reference ({one_line(str(err))})"
    return f"native/{level}" if level != "none" else "reference (library not built)"


def _engine(kernels: str) -> str:
    """Which device `ling generate` and `serve` use, and how to get another."""
    if not torch.cuda.is_available():
        return f"cpu ({kernels}); no GPU for --device cuda"
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return f"cpu ({kernels}); with --device cuda or auto: {name} (sm_{major}{minor})"


def build() -> dict[str, str]:
    """Why there is no kernel library: the tools that are absent, or the error of a build here."""
    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++"))), None
    )
    sources = Path(__file__).parents[3]
    report = {"compiler": compiler or "none (install g++ or clang, then ling again)"}
    if not (sources / "csrc").is_dir():
        return report | {"error": "unknown: `pip install -v` of ling shows the build"}
    cmake = shutil.which("cmake")
    if compiler is None or cmake is None:
        return report | {"cmake": cmake or "none (pip brings its own)"}
    error = _build_error(cmake, sources)
    return report | {"error": error or "none: it builds now, install ling again"}


def _build_error(cmake: str, sources: Path) -> str | None:
    """The first error of configuring and building in a temporary folder."""
    with tempfile.TemporaryDirectory() as scratch:
        for step in (["-S", str(sources), "-B", scratch], ["--build", scratch, "-j2"]):
            try:
                done = subprocess.run([cmake, *step], capture_output=True, text=True, timeout=300)
            except (OSError, subprocess.SubprocessError) as err:
                return type(err).__name__
            if done.returncode:
                output = (done.stderr + done.stdout).splitlines()
                found = (line for line in output if "error" in line.lower())
                return one_line(next(found, output[-1] if output else "no output"))[:300]
    return None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _openmp_runtimes() -> set[str]:
    """OpenMP libraries mapped into this process; two at once would fight over the cores."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return set()
    paths = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
    return {Path(p).name for p in paths if "gomp" in p or "iomp" in p or "libomp" in p}
