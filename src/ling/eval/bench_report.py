"""What `ling bench` reports: rates, shares of the machine's limits, the ratio to a peer."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch

from ..config.model import ModelConfig
from ..infer.device.runner import DeviceRunner
from ..infer.native_runner import NativeRunner
from ..ops import native
from ..text import size
from .bench_engine import BenchOptions, Ours
from .peers import interval
from .roofline import roofline, stage_costs


def measured(
    name: str,
    ours: Ours,
    options: BenchOptions,
    mine: list[float],
    limits: list[float],
) -> dict[str, Any]:
    """Our rate, and what it was measured with."""
    rate, limit = statistics.median(mine), statistics.median(limits)
    report: dict[str, Any] = {
        "model": name,
        **options.described(),
        "format": ours.runner.format_name if isinstance(ours.runner, NativeRunner) else "torch",
        "tokens_per_s": rate,
        "samples": mine,
        "read_limit_gb_per_s": limit / 1e9,
        "threads": torch.get_num_threads(),
        "isa": native.isa(),
        "peak_memory_gb": _peak_memory() / 1e9,
        "kv_cache_gb": ours.engine.pool.num_pages * ours.runner.page_bytes() / 1e9,
    }
    if isinstance(ours.runner, DeviceRunner):
        del report["read_limit_gb_per_s"], report["isa"]  # of the CPU, which computes nothing here
        report |= ours.runner.described()
    if options.engine.speculative != "off":
        report["acceptance_measured"] = ours.engine.stats.acceptance
    return report


def against_limits(
    ours: Ours, report: dict[str, Any], stages: dict[str, float], seconds: float
) -> dict[str, Any]:
    """How near the kernels came to what the machine can do."""
    assert isinstance(ours.runner, NativeRunner)
    step, tokens = ours.mean_step()
    limit, peak = report["read_limit_gb_per_s"] * 1e9, int8_peak()
    runner = ours.runner
    costs = stage_costs(
        *(runner.config, runner.bits_per_weight, step, runner.head_bits),
        *(runner.page_bytes(), runner.dense_bits),
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


def of_all_layers(
    report: dict[str, Any], measured: ModelConfig, cfg: ModelConfig
) -> dict[str, Any]:
    """What a model of all layers would take, by the stages of one of fewer: each but the head as
    often as it has layers."""
    stages, layers = report["stages"], measured.num_hidden_layers
    head = stages["head"]["seconds"]
    times = cfg.num_hidden_layers / layers
    outside = report["seconds_per_step"] - sum(s["seconds"] for s in stages.values())
    seconds = (
        head + outside + times * sum(s["seconds"] for name, s in stages.items() if name != "head")
    )
    return {
        "measured_layers": layers,
        "all_layers": cfg.num_hidden_layers,
        "scaled_tokens_per_s": report["tokens_per_step"] / seconds,
        "scaled_kv_cache_gb": report["kv_cache_gb"]
        * (cfg.num_cache_layers / measured.num_cache_layers),
    }


def against_peer(name: str, mine: list[float], theirs: list[float]) -> dict[str, Any]:
    """Our rate as a multiple of a peer's, from neighbouring measurements."""
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
    text += " of noise" if report.get("noise_cache") else ""
    kv = report.get("kv_cache_dtype", "bf16")
    text += "" if kv == "bf16" else f", {kv} KV cache"
    text += f", batch {report['batch']}" if report["batch"] > 1 else ""
    text += f"): {report['tokens_per_s']:,.1f} tokens/s"
    if "share_of_limit" in report and report["kind"] != "prefill":
        text += (
            f", {size(report['bytes_per_token'])} a token, "
            f"{report['share_of_limit']:.0%} of the {report['read_limit_gb_per_s']:.1f} GB/s "
            "read here"
        )
        text += _above_all(report["share_of_limit"], CACHED)
    if "share_of_peak" in report and report["kind"] == "prefill":
        text += (
            f", {report['share_of_peak']:.0%} of the int8 GEMM peak "
            f"({report['int8_peak_gops']:,.0f} GOP/s)"
        )
        text += _above_all(report["share_of_peak"], BETTER)
    if "scaled_tokens_per_s" in report:
        text += (
            f"; {report['measured_layers']} of {report['all_layers']} layers, scaled to all: "
            f"{report['scaled_tokens_per_s']:,.1f} tokens/s, KV cache "
            f"{report['scaled_kv_cache_gb']:.1f} GB"
        )
    if "ratio" in report:
        low, high = report["interval"]
        text += (
            f"; {report['ratio']:.2f} x [{low:.2f}, {high:.2f}] {report['against']} "
            f"({report['theirs']:,.1f})"
        )
    if "theirs_experts" in report and "experts_per_step" in report:
        text += (
            f"; different experts of a layer in a step: {report['experts_per_step']:.1f}, "
            f"theirs {report['theirs_experts']:.1f}"
        )
    return f"{text}; {report['load']}" if "load" in report else text


CACHED = "weights that the CPU's caches keep are read faster than from memory"
BETTER = "our kernels are faster than torch's product, which the peak is measured with"


def _above_all(share: float, reason: str) -> str:
    """Why a share is above 100%, where it is."""
    return f" (above 100%: {reason})" if share > 1.005 else ""


def int8_peak() -> float:
    """Operations per second of torch's own int8 product: what the machine can be expected to
    give.

    Of the largest square that takes a tenth of a second at most: torch multiplies one number at a
    time on a processor without int8 products.
    """
    best = 0.0
    for side in (256, 512, 1024, 2048):
        a = torch.randint(-127, 127, (side, side), dtype=torch.int8)
        b = torch.randint(-127, 127, (side, side), dtype=torch.int8)
        shortest = math.inf
        for _ in range(3):
            start = time.perf_counter()
            torch._int_mm(a, b)
            shortest = min(shortest, time.perf_counter() - start)
        best = max(best, 2 * side**3 / shortest)
        if 8 * shortest > 0.1:
            break
    return best


def _peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
