"""`ling bench decode|prefill|batch|start`: inference speed against the limit of the same minutes,
and, side by side, against llama.cpp.

Both programs hold their model and their prompt in processes of their own and take turns, one
measurement each, so that a machine that slows down slows both; ratios are of neighbours. Where both
models do not fit in memory, the peer is started for each of its turns, and our file is read in
again after it.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import RunError, UsageError
from ..files.atomic import make_folder
from ..infer.engine import Engine
from ..infer.memory import available, check_kv_cache_dtype
from ..infer.native_runner import NativeRunner
from ..infer.open import open_runner
from ..infer.request import Request, SamplingParams
from ..ops import native
from .peers import Peer, Restarted, Running, best_of, interval, llama_cpp
from .roofline import Recorder, Step, roofline, stage_costs

KINDS = ("decode", "prefill", "batch", "start")
READ_BYTES = 1 << 30
MTP_COIN_SEED = 7


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured: `tokens` are generated (or, for prefill, read) at a depth of `context`."""

    kind: str
    context: int = 0
    tokens: int = 64
    batch: int = 1
    pairs: int = 5
    speculative: str = "off"
    acceptance: float | None = None
    """A draft is kept by a seeded coin of this probability: the speed that this rate would
    bring.
    """
    kv_cache_dtype: str = "bf16"

    def __post_init__(self) -> None:
        check_kv_cache_dtype(self.kv_cache_dtype)
        for name, least in (("context", 0), ("tokens", 2), ("batch", 1), ("pairs", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"`--{name}` is {getattr(self, name)}, expected at least {least}")


class CoinEngine(Engine):
    """Keeps drafts by a seeded coin instead of the model's judgement; for speed only."""

    def __init__(self, acceptance: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.acceptance, self.coin = acceptance, random.Random(MTP_COIN_SEED)

    def _agrees(self, request: Request, draft: int) -> bool:
        if self.coin.random() >= self.acceptance:
            return False
        request.tokens[-1] = draft  # what follows was computed from it
        return True


class Ours:
    """Our engine, loaded once and kept at its context."""

    def __init__(self, folder: Path, options: BenchOptions, fmt: str | None = None) -> None:
        self.options = options
        kv = options.kv_cache_dtype
        self.runner = open_runner(folder, fmt=fmt, kv_cache_dtype=kv)
        longest = options.context + max(options.tokens, 16) + 64
        pages = options.batch * -(-longest // 64) + 2
        kwargs: dict[str, Any] = {
            "max_model_len": min(longest, self.runner.config.context_length),
            "num_pages": pages,
            "speculative": options.speculative,
            "adaptive": False,
        }
        self.engine = (
            Engine(self.runner, **kwargs)
            if options.acceptance is None
            else CoinEngine(options.acceptance, self.runner, **kwargs)
        )
        generator = random.Random(0)
        vocab = self.runner.config.vocab_size
        self.prompts = [
            [generator.randrange(vocab) for _ in range(options.context + 1)]
            for _ in range(options.batch)
        ]
        self.fresh = random.Random(1)

    def measure(self) -> float:
        """Tokens per second of one measurement."""
        requests = self._begin()
        before, start = sum(len(r.output) for r in requests), time.perf_counter()
        while self.engine.has_work:
            self.engine.step()
        seconds = time.perf_counter() - start
        if self.options.kind == "prefill":
            return self.options.tokens / seconds
        return (sum(len(r.output) for r in requests) - before) / seconds

    def _begin(self) -> list[Request]:
        """Requests up to what is measured: a fresh prompt, or prompts that have been read. Of
        these only the tails are computed again after the first time: the pages before are
        cached."""
        if self.options.kind == "prefill":
            vocab = self.runner.config.vocab_size
            prompt = [self.fresh.randrange(vocab) for _ in range(self.options.tokens)]
            return [self.engine.add(prompt, self.params(1))]
        requests = [self.engine.add(p, self.params()) for p in self.prompts]
        while any(len(r.output) < 1 for r in requests):
            self.engine.step()
        return requests

    def profile(self) -> dict[str, float]:
        """Seconds per kernel since the last call; empty on plain PyTorch."""
        return self.runner.profile() if isinstance(self.runner, NativeRunner) else {}

    def map_in(self) -> None:
        """Have the weights in memory again."""
        if isinstance(self.runner, NativeRunner):
            self.runner.map_in()

    def mean_step(self) -> tuple[Step, float]:
        """What the steps of one more measurement did, with experts counted as they were chosen;
        and how many tokens a step brought."""
        assert isinstance(self.runner, NativeRunner)
        recorder = Recorder(self.runner)
        requests = self._begin()
        before = sum(len(r.output) for r in requests)
        self.engine.runner = recorder
        while self.engine.has_work:
            self.engine.step()
        self.engine.runner = self.runner
        made = sum(len(r.output) for r in requests) - before
        tokens = self.options.tokens if self.options.kind == "prefill" else made
        return recorder.mean(), tokens / recorder.steps

    def params(self, tokens: int | None = None) -> SamplingParams:
        """Greedy decoding of so many tokens, or of what is measured."""
        return SamplingParams(
            temperature=0, max_tokens=tokens or self.options.tokens, ignore_eos=True
        )


def read_rate(buffer: torch.Tensor | None = None) -> float:
    """Bytes per second that all threads together read from memory: the limit of decoding."""
    data = torch.ones(READ_BYTES, dtype=torch.uint8) if buffer is None else buffer
    return native.read_rate(data)


def fit_together(folder: Path, peer: Peer) -> bool:
    """Whether both models can stay in memory while they take turns."""
    room = available()
    ours = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    return room is None or ours + peer.model.stat().st_size + 2 * READ_BYTES < room


def run(
    folder: Path,
    name: str,
    options: BenchOptions,
    *,
    fmt: str | None = None,
    peers: list[Peer] | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure, in turn with the peer's best setting; returns the report that `--json` prints."""
    # The peer alone first: both at once need not fit in memory until one setting is chosen.
    best = best_of(peers, options, log) if peers else None
    turns = best is not None and not fit_together(folder, best)
    if turns:
        log("both models together exceed the memory: each is loaded for its turn")
    peer: Running | Restarted | None = None
    if best is not None:
        peer = Restarted(best, options) if turns else best.start(options)
    ours = Ours(folder, options, fmt)
    buffer = torch.ones(READ_BYTES, dtype=torch.uint8)
    ours.measure()
    if peer is not None and not turns:
        peer.measure()
    mine: list[float] = []
    theirs: list[float] = []
    limits: list[float] = []
    stages: dict[str, float] = {}
    seconds = 0.0
    for k in range(options.pairs):
        if peer is not None and k % 2:
            theirs.append(peer.measure())
        if turns:  # the peer's weights pushed ours out of the page cache
            ours.map_in()
            ours.measure()
        ours.profile()
        begin = time.perf_counter()
        mine.append(ours.measure())
        seconds += time.perf_counter() - begin
        for stage, spent in ours.profile().items():
            stages[stage] = stages.get(stage, 0.0) + spent
        if peer is not None and not k % 2:
            theirs.append(peer.measure())
        limits.append(read_rate(buffer))
    report = _report(name, ours, options, mine, limits)
    if isinstance(ours.runner, NativeRunner):
        report["python_overhead"] = max(0.0, 1 - sum(stages.values()) / seconds)
        report |= _limits(ours, report, stages, seconds)
    if best is not None and peer is not None:
        peer.stop()
        report |= _ratio(best.name, mine, theirs)
    report["line"] = line(report)
    return report


def _limits(
    ours: Ours, report: dict[str, Any], stages: dict[str, float], seconds: float
) -> dict[str, Any]:
    """How near the kernels came to what the machine can do."""
    assert isinstance(ours.runner, NativeRunner)
    step, tokens = ours.mean_step()
    limit, peak = report["read_limit_gb_per_s"] * 1e9, int8_peak()
    runner = ours.runner
    costs = stage_costs(
        *(runner.config, runner.bits_per_weight, step, runner.head_bits), runner.page_bytes()
    )
    nbytes, ops = (sum(c[i] for c in costs.values()) for i in (0, 1))
    step_seconds = tokens / report["tokens_per_s"]
    per_step = {name: s / seconds * step_seconds for name, s in stages.items()}
    return {
        "tokens_per_step": tokens,
        "seconds_per_step": step_seconds,
        "experts_per_step": step.experts,
        "bytes_per_token": nbytes / tokens,
        "share_of_limit": nbytes / limit / step_seconds,
        "int8_peak_gops": peak / 1e9,
        "share_of_peak": ops / peak / step_seconds,
        "stages": roofline(costs, per_step, limit, peak),
    }


def _report(
    name: str,
    ours: Ours,
    options: BenchOptions,
    mine: list[float],
    limits: list[float],
) -> dict[str, Any]:
    rate, limit = statistics.median(mine), statistics.median(limits)
    report: dict[str, Any] = {
        "model": name,
        **asdict(options),
        "format": ours.runner.format_name if isinstance(ours.runner, NativeRunner) else "torch",
        "tokens_per_s": rate,
        "samples": mine,
        "read_limit_gb_per_s": limit / 1e9,
        "threads": torch.get_num_threads(),
        "isa": native.isa(),
        "peak_memory_gb": _peak_memory() / 1e9,
    }
    if options.speculative != "off":
        report["acceptance_measured"] = ours.engine.stats.acceptance
    return report


def _ratio(name: str, mine: list[float], theirs: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    return {
        "against": name,
        "theirs": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "interval": list(interval(ratios)),
    }


def line(report: dict[str, Any]) -> str:
    """What a person reads."""
    text = f"{report['model']} {report['kind']} ({report['format']}"
    text += f", context {report['context']}" if report["context"] else ""
    text += ", int8 KV cache" if report.get("kv_cache_dtype") == "int8" else ""
    text += f", batch {report['batch']}" if report["batch"] > 1 else ""
    text += f"): {report['tokens_per_s']:,.1f} tokens/s"
    if "share_of_limit" in report and report["kind"] != "prefill":
        text += (
            f", {report['bytes_per_token'] / 1e9:.2f} GB a token, "
            f"{report['share_of_limit']:.0%} of the {report['read_limit_gb_per_s']:.1f} GB/s "
            "read here"
        )
    if "share_of_peak" in report and report["kind"] == "prefill":
        text += (
            f", {report['share_of_peak']:.0%} of the int8 GEMM peak "
            f"({report['int8_peak_gops']:,.0f} GOP/s)"
        )
    if "ratio" in report:
        low, high = report["interval"]
        text += (
            f"; {report['ratio']:.2f} x [{low:.2f}, {high:.2f}] {report['against']} "
            f"({report['theirs']:,.1f})"
        )
    return text


def int8_peak(size: int = 2048) -> float:
    """Operations per second of torch's own int8 product: what the machine can be expected to
    give.
    """
    a = torch.randint(-127, 127, (size, size), dtype=torch.int8)
    b = torch.randint(-127, 127, (size, size), dtype=torch.int8)
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        torch._int_mm(a, b)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def _peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


START = """
import sys
import ling
prompt = {"prompt_token_ids": [1]}
llm = ling.LLM(sys.argv[1], format=sys.argv[2] or None, kv_cache_dtype=sys.argv[3])
llm.generate([prompt], ling.SamplingParams(temperature=0, max_tokens=1, ignore_eos=True))
"""


def start(
    folder: Path, name: str, times: int, fmt: str | None = None, kv_cache_dtype: str = "bf16"
) -> dict[str, Any]:
    """Seconds from starting Python to the first token, each time in a process of its own."""
    command = [sys.executable, "-c", START, str(folder.resolve()), fmt or "", kv_cache_dtype]
    samples = []
    for _ in range(times):
        begin = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        samples.append(time.perf_counter() - begin)
        if done.returncode:
            raise RunError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    seconds = statistics.median(samples)
    text = f"{name}: {seconds:.2f} s from the start of Python to the first token"
    return {"model": name, "seconds": seconds, "samples": samples, "line": text}


def bench(
    model: str,
    options: BenchOptions,
    *,
    fmt: str | None = None,
    against: str | None = None,
    peer_types: list[str] | None = None,
    peer_settings: str = "",
    peer_python: str | None = None,
    cache: str | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """What `ling bench decode|prefill|batch|start` does. MODEL may be a preset: then both sides get
    random weights of its shape, made once in the cache folder.

    Raises `UsageError` for an unknown peer, or when its interpreter lacks llama-cpp-python.
    """
    place = Path(cache) if cache else cache_folder()
    if against not in (None, "llama.cpp"):
        raise UsageError(f"`--against` is `{against}`, there is llama.cpp")
    if against and options.kind == "start":
        raise UsageError("`ling bench start` measures this package alone: leave out `--against`")
    folder, fmt = _our_folder(model, fmt, place, log)
    if options.kind == "start":
        return start(folder, Path(model).name, options.pairs, fmt, options.kv_cache_dtype)
    peers: list[Peer] = []
    if against is not None:
        types = peer_types or (["q8_0"] if fmt == "int8" else ["q4_0", "q4_k_m"])
        every = llama_cpp(model, types, place, peer_python, log)
        peers = [p for p in every if p.name.endswith(peer_settings)]
        if not peers:
            names = ", ".join(p.name for p in every)
            raise UsageError(f"`--peer-settings` is `{peer_settings}`, there are {names}")
    return run(folder, Path(model).name, options, fmt=fmt, peers=peers, log=log)


def cache_folder() -> Path:
    """Where random weights are kept: `LING_CACHE`, else the user's cache folder."""
    given = os.environ.get("LING_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "ling"


def _our_folder(
    model: str, fmt: str | None, cache: Path, log: Callable[[str], None]
) -> tuple[Path, str | None]:
    """The folder to measure, and the format to pack to at load (None: as it is)."""
    from ..convert.synth import synth
    from ..presets import PRESETS, preset

    if model not in PRESETS:
        return Path(model), fmt
    fmt = fmt or "int4"
    folder = cache / f"{model}-{fmt}"
    if not folder.exists():
        make_folder(cache)
        synth(preset(model), folder, to=fmt, log=log)
    return folder, None if fmt != "bf16" else fmt
