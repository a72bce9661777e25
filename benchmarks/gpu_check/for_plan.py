"""From rates to the constants of `ling plan`: shares of the peaks that it knows of a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ling.plan.gpus import Gpu, gpu_like

from .stage import Missing

# Parts of `a MoE layer`, by the names of their measurements, and how often each is in it.
LAYER_PARTS = {
    "product ling qkv": 1,
    "product ling attention output": 1,
    "product shared expert up": 3,
    "attention, {tokens} tokens": 1,
    "experts, {rows} rows each": 1,
}

Found = Mapping[str, dict[str, Any]]
"""Measurements by name."""


def known_gpu(name: str) -> Gpu:
    """The plan's GPU for torch's name; `Missing` where it knows none."""
    gpu = gpu_like(name)
    if gpu is None:
        raise Missing(f"`ling plan` knows no GPU like {name}")
    return gpu


def constants(found: Found, gpu: Gpu) -> dict[str, Any]:
    """Those constants whose measurements are there; fields of `plan.constants.Constants`."""
    made: dict[str, Any] = {
        "gemm_share": _share(found, "product ", gpu),
        "attention_share": _share(found, "attention, ", gpu),
        "expert_share_by_rows": {
            str(found[name]["rows"]): found[name]["flops_per_s"] / gpu.bf16_flops
            for name in _named(found, "experts, ")
        },
        "copy_bytes_per_s": found.get("copy on the device", {}).get("bytes_per_s"),
        "stream_share": _stream_share(found),
        "fp8_gemm_factor": _factor(found, "FP8 product "),
        "fp8_expert_factor": _factor(found, "FP8 experts, "),
    }
    return {name: value for name, value in made.items() if value}


def _named(found: Found, beginning: str) -> list[str]:
    return [name for name in found if name.startswith(beginning)]


def _share(found: Found, beginning: str, gpu: Gpu) -> float | None:
    """Of the peak, all of them one behind the other."""
    names = _named(found, beginning)
    seconds = sum(found[n]["seconds_each"] for n in names)
    return sum(found[n]["flops"] for n in names) / seconds / gpu.bf16_flops if names else None


def _factor(found: Found, beginning: str) -> float | None:
    """How many times faster than in bfloat16, all of them one behind the other."""
    names = _named(found, beginning)
    ours, base = (
        sum(found[n][key] for n in names) for key in ("seconds_each", "base_seconds_each")
    )
    return base / ours if names else None


def _stream_share(found: Found) -> float | None:
    """Of the measured bandwidth: the bytes that a plan counts between a layer's products over the
    time that the layer takes beside them."""
    layer, copy = found.get("a MoE layer"), found.get("copy on the device")
    if layer is None or copy is None:
        return None
    parts = {name.format(**layer): times for name, times in LAYER_PARTS.items()}
    if not set(parts) <= set(found):
        return None
    seconds = layer["seconds_each"]
    seconds -= sum(times * found[name]["seconds_each"] for name, times in parts.items())
    return layer["bytes"] / seconds / copy["bytes_per_s"] if seconds > 0 else None
