"""Other engines to measure against: processes that hold a model and measure when told to."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import RunError, UsageError

SCRIPT = Path(__file__).with_name("peer_llama.py")


class Wanted(Protocol):
    """What of the options a peer needs to know."""

    @property
    def kind(self) -> str: ...
    @property
    def context(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def batch(self) -> int: ...


class Running:
    """A started peer: one JSON request a line, one JSON answer a line."""

    def __init__(self, name: str, command: Sequence[str], request: dict[str, Any]) -> None:
        self.name, self.request = name, request
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.setting = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RunError(f"{self.name} ended without an answer (exit code {self.process.wait()})")

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def measure(self) -> float:
        """Tokens per second of one measurement."""
        return float(self._ask(self.request)["tokens_per_s"])

    def experts(self) -> float:
        """Different experts that a layer reads in a step such as the measured ones."""
        is_prefill = self.request["what"] == "prefill"
        rows = self.request["tokens" if is_prefill else "batch"]
        shape = {"sequences": 1, "tokens": rows} if is_prefill else {"sequences": rows, "tokens": 1}
        return float(self._ask({"what": "experts", **shape})["experts"])

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Restarted:
    """A peer that has the memory only while it measures: a process for each measurement."""

    def __init__(self, peer: Peer, wanted: Wanted) -> None:
        self._peer, self._wanted = peer, wanted

    def measure(self) -> float:
        """Tokens per second of one measurement, after one that warms up."""
        running = self._peer.start(self._wanted)
        running.measure()
        rate = running.measure()
        running.stop()
        return rate

    def experts(self) -> float:
        """Different experts that a layer reads in a step such as the measured ones."""
        running = self._peer.start(self._wanted)
        count = running.experts()
        running.stop()
        return count

    def stop(self) -> None:
        """Nothing runs between measurements."""


@dataclass(frozen=True)
class Peer:
    """One setting of llama.cpp, run by the interpreter that has `llama-cpp-python`."""

    name: str
    python: str
    model: Path
    threads: int
    flash: str
    repack: str

    def start(self, wanted: Wanted) -> Running:
        """Load the model; its context is computed at the first measurement."""
        command = [self.python, str(SCRIPT), str(self.model), "--requests"]
        command += ["--threads", str(self.threads), "--flash", self.flash, "--repack", self.repack]
        if wanted.kind == "prefill":
            return Running(
                self.name,
                [*command, "--prefill", str(wanted.tokens)],
                {"what": "prefill", "tokens": wanted.tokens},
            )
        shape = {"tokens": wanted.tokens, "context": wanted.context, "batch": wanted.batch}
        for flag, key in (("--decode", "tokens"), ("--context", "context"), ("--batch", "batch")):
            command += [flag, str(shape[key])]
        return Running(self.name, command, {"what": "decode", **shape})


def llama_cpp(
    model: str,
    types: Sequence[str],
    cache: Path,
    python: str | None,
    log: Callable[[str], None],
) -> list[Peer]:
    """Every setting of llama.cpp worth a try: weight types, flash attention, repacked weights.

    MODEL is a preset, whose random GGUF files are made once in the cache, or a GGUF file.
    """
    from ..convert.synth_gguf import cached_name, synth_gguf
    from ..presets import PRESETS, preset

    python = python or os.environ.get("LING_PEER_PYTHON") or sys.executable
    probe = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True)
    if probe.returncode:
        raise UsageError(
            f"{python}: cannot import llama_cpp; `pip install llama-cpp-python` there, or name "
            "another interpreter with --peer-python or LING_PEER_PYTHON"
        )
    peers = []
    for kind in types:
        file = Path(model) if model not in PRESETS else cache / cached_name(model, kind)
        if not file.exists():
            if model not in PRESETS:
                raise UsageError(f"{model}: no such GGUF file")
            log(f"{file}: writing random weights")
            synth_gguf(preset(model), file, kind)
        for flash in ("off", "on"):
            for repack in ("on", "off"):
                name = f"llama.cpp {kind.upper()} flash={flash} repack={repack}"
                peers.append(Peer(name, python, file, torch.get_num_threads(), flash, repack))
    return peers


def best_of(peers: Sequence[Peer], wanted: Wanted, log: Callable[[str], None]) -> Peer:
    """Measure each once, alone, and keep the fastest: the ratio is against the peer at its best."""
    if len(peers) == 1:
        return peers[0]
    rates = {}
    for peer in peers:
        try:
            running = peer.start(wanted)
            running.measure()
            rates[peer] = running.measure()
        except RunError as err:  # a setting that this machine or build lacks
            log(f"{err}; left out")
            continue
        running.stop()
        log(f"{peer.name}: {rates[peer]:,.1f} tokens/s")
    if not rates:
        raise RunError("no setting of the peer works here")
    return max(rates, key=lambda p: rates[p])


def interval(ratios: Sequence[float], rounds: int = 2000) -> tuple[float, float]:
    """95% bootstrap interval of the median."""
    generator = random.Random(0)
    medians = sorted(
        statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(rounds)
    )
    return medians[int(0.025 * rounds)], medians[int(0.975 * rounds) - 1]
