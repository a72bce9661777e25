"""What a run was started on, each time: a line of `starts.jsonl` with machine, ranks, versions."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..ops import doctor, machine

_NAME = "starts.jsonl"


def note_start(out: Path, step: int, hosts: Sequence[str]) -> None:
    """Add a line: the run starts, or continues after `step`; `hosts` are those of the ranks."""
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "after_step": step,
        "ranks": len(hosts),
        "hosts": list(dict.fromkeys(hosts)),
        **machine_facts(),
    }
    with (out / _NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def machine_facts() -> dict[str, Any]:
    """Processor, memory, GPUs and versions of this machine, each in a few words."""
    cpu, cuda = machine.cpu(), torch.cuda.is_available()
    return {
        "cpu": cpu["model"],
        "instruction_sets": cpu["instruction_sets"],  # one name has several kinds: AMD EPYC
        "cores": cpu["usable_cores"],
        "memory": machine.memory().get("total"),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ling": _version(),
        "commit": doctor.install().get("commit"),
    }


def _version() -> str | None:
    try:
        return metadata.version("ling")
    except metadata.PackageNotFoundError:  # sources on PYTHONPATH
        return None


def read_starts(out: Path) -> list[dict[str, Any]]:
    """The lines of a run; none of an older version's. What cannot be read is left out."""
    try:
        lines = (out / _NAME).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found
