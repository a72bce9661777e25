"""`ling bench decode|prefill|batch|start`: inference speed against the limit of the same minutes,
and, side by side, against llama.cpp.

Both programs have their model and their prompt in processes of their own and take turns, one
measurement each, so that a machine that slows down slows both; ratios are of neighbours. Where both
models do not fit in memory, the peer is started for each of its turns, and our file is read in
again after it.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..files.atomic import make_folder
from ..infer.device.open import check_device
from ..infer.native_runner import NativeRunner
from ..ops import native
from ..ops.cores import FreeCores, load_in_words
from ..ops.limits import memory_available
from ..ops.processes import family_cpu_s
from ..presets import PRESETS, preset
from .bench_engine import BenchOptions, Ours
from .bench_report import against_limits, against_peer, line, measured, of_all_layers
from .bench_start import start
from .peers import Peer, Restarted, Running, best_of, llama_cpp

READ_BYTES = 1 << 30
PLAIN = "plain"


class Plain:
    """Our own engine without drafts, as what is measured in turn with drafting."""

    def __init__(self, ours: Ours) -> None:
        self.measure = ours.measure_plain

    def stop(self) -> None:
        """Nothing of its own runs."""


def read_rate(buffer: torch.Tensor | None = None) -> float:
    """Bytes per second that all threads together read from memory: the limit of decoding."""
    data = torch.ones(READ_BYTES, dtype=torch.uint8) if buffer is None else buffer
    return native.read_rate(data)


def fit_together(folder: Path, peer: Peer) -> bool:
    """Whether both models can stay in memory while they take turns."""
    room = memory_available()
    ours = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    return room is None or ours + peer.model.stat().st_size + 2 * READ_BYTES < room


def run(
    folder: Path,
    name: str,
    options: BenchOptions,
    *,
    peers: list[Peer] | None = None,
    against_plain: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure, in turn with the peer's best setting, or with decoding without drafts; returns the
    report that `--json` prints."""
    # The peer alone first: both at once need not fit in memory until one setting is chosen.
    best = best_of(peers, options, log) if peers else None
    turns = best is not None and not fit_together(folder, best)
    if turns:
        log("both models together exceed the memory: each is loaded for its turn")
    peer: Running | Restarted | Plain | None = None
    if best is not None:
        peer = Restarted(best, options) if turns else best.start(options)
    ours = Ours(folder, options)
    if against_plain:
        peer = Plain(ours)
    buffer = torch.ones(READ_BYTES, dtype=torch.uint8)
    ours.measure()
    if peer is not None and not turns:
        peer.measure()
    mine: list[float] = []
    theirs: list[float] = []
    limits: list[float] = []
    stages: dict[str, float] = {}
    seconds = 0.0
    cores = FreeCores(own=family_cpu_s)
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
    load = load_in_words(cores.taken(), len(cores.cores))
    report = measured(name, ours, options, mine, limits) | {"load": load}
    if isinstance(ours.runner, NativeRunner):
        report["python_overhead"] = max(0.0, 1 - sum(stages.values()) / seconds)
        report |= against_limits(ours, report, stages, seconds)
    if options.layers is not None:
        report |= of_all_layers(report, ours.runner.config, preset(name))
    if peer is not None:
        report |= against_peer(best.name if best else PLAIN, mine, theirs)
        if not isinstance(peer, Plain):
            report["theirs_experts"] = peer.experts()
        peer.stop()
    report["line"] = line(report)
    return report


def bench(
    model: str,
    options: BenchOptions,
    *,
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
    check_device(options.engine)
    models = Path(cache) if cache else cache_folder()
    if against not in (None, "llama.cpp", PLAIN):
        raise UsageError(f"`against` is `{against}`, there are llama.cpp and {PLAIN}")
    if against == PLAIN and (not options.engine.most_drafts or options.kind == "prefill"):
        raise UsageError(
            f"`against` is `{PLAIN}`, decoding without drafts: give `speculative` to `ling bench "
            "decode` or `batch`"
        )
    if against and options.kind == "start":
        raise UsageError("`ling bench start` measures this package alone: leave out `against`")
    folder, options = _our_folder(model, options, models, log)
    if options.kind == "start":
        return start(folder, Path(model).name, options.pairs, options.engine)
    peers: list[Peer] = []
    if against == "llama.cpp":
        types = peer_types or (["q8_0"] if options.engine.format == "int8" else ["q4_0", "q4_k_m"])
        every = llama_cpp(model, types, models, peer_python, log)
        peers = [p for p in every if p.name.endswith(peer_settings)]
        if not peers:
            names = ", ".join(p.name for p in every)
            raise UsageError(f"`peer_settings` is `{peer_settings}`, there are {names}")
    plain = against == PLAIN
    return run(folder, Path(model).name, options, peers=peers, against_plain=plain, log=log)


def cache_folder() -> Path:
    """Where random weights are kept: `LING_CACHE`, else the user's cache folder."""
    given = os.environ.get("LING_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "ling"


def _our_folder(
    model: str, options: BenchOptions, cache: Path, log: Callable[[str], None]
) -> tuple[Path, BenchOptions]:
    """The folder to measure, and the options without a format that it already has."""
    from ..convert.synth import synth

    if model not in PRESETS:
        if options.layers is not None:
            raise UsageError("`layers` is for presets, whose weights are random: name one")
        return Path(model), options
    cfg, name = preset(model), model
    if options.layers is not None:
        if options.layers >= cfg.num_hidden_layers:
            raise UsageError(
                f"`layers` is {options.layers}, and {model} has {cfg.num_hidden_layers}: leave it "
                "out to measure all"
            )
        cfg = cfg.replace(num_hidden_layers=options.layers)
        name = f"{model}-{options.layers}-layers"
    fmt = options.engine.format or ("bf16" if options.engine.device == "cuda" else "int4")
    folder = cache / f"{name}-{fmt}"
    if not folder.exists():
        make_folder(cache)
        synth(cfg, folder, to=fmt, log=log)
    engine = dataclasses.replace(options.engine, format=None if fmt != "bf16" else fmt)
    return folder, dataclasses.replace(options, engine=engine)
