"""Other engines to measure against: processes that hold a model and measure when told to."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import RunError


class Wanted(Protocol):
    """What of the options a peer needs to know."""

    kind: str
    context: int
    tokens: int
    batch: int


class Running:
    """A started peer. Speaks lines: it prints `{"ready": ...}`, then a measurement for each "go"."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._read("ready")

    def _read(self, key: str) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                if key in answer:
                    return answer[key]
        raise RunError(f"{self.name} ended without an answer (exit code {self.process.wait()})")

    def measure(self) -> float:
        """Tokens per second of one measurement."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self._read("tokens_per_s"))

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()


@dataclass(frozen=True)
class Peer:
    """llama.cpp through `llama-cpp-python`, run by the interpreter that has it."""

    name: str
    python: str
    script: Path
    model: Path
    threads: int
    flags: tuple[str, ...] = ()

    def start(self, wanted: Wanted) -> Running:
        """Load the model and compute the context."""
        command = [self.python, str(self.script), "--model", str(self.model)]
        command += ["--kind", wanted.kind, "--context", str(wanted.context)]
        command += ["--tokens", str(wanted.tokens), "--batch", str(wanted.batch)]
        command += ["--threads", str(self.threads), *self.flags]
        return Running(self.name, command)


def interval(ratios: Sequence[float], rounds: int = 2000) -> tuple[float, float]:
    """95% bootstrap interval of the median."""
    generator = random.Random(0)
    medians = sorted(
        statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(rounds)
    )
    return medians[int(0.025 * rounds)], medians[int(0.975 * rounds) - 1]
