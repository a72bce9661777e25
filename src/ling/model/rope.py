"""Rotary tables, plain and YaRN."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config.model import ModelConfig


def inverse_frequencies(cfg: ModelConfig) -> tuple[Tensor, float]:
    """Frequencies for the rotary pairs (float32, [R/2]) and the factor on cos and sin.

    R is the rotary size, not the head size, in the exponent and in YaRN's bounds. The scale
    is `factor` as given, never max_position_embeddings / original (docs/concepts/model.md#rotary).
    """
    r, base = cfg.rotary_size, cfg.rope_theta
    freq = 1.0 / base ** (torch.arange(0, r, 2, dtype=torch.int64).float() / r)
    scaling = cfg.rope_scaling
    if not scaling or scaling.get("rope_type", scaling.get("type")) == "default":
        return freq, 1.0
    factor = float(scaling["factor"])
    original = scaling.get("original_max_position_embeddings") or cfg.max_position_embeddings
    low = _correction(scaling.get("beta_fast") or 32, r, base, original)
    high = _correction(scaling.get("beta_slow") or 1, r, base, original)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, r - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(r // 2).float() - low) / (high - low)).clamp(0, 1)
    freq = freq / factor * ramp + freq * (1 - ramp)
    return freq, _attention_factor(scaling, factor)


def _correction(rotations: float, r: int, base: float, original: float) -> float:
    """The pair index that turns `rotations` times over the original context."""
    return r * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))


def _attention_factor(scaling: dict[str, float], factor: float) -> float:
    if scaling.get("attention_factor"):
        return float(scaling["attention_factor"])

    def grown(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return grown(scaling["mscale"]) / grown(scaling["mscale_all_dim"])
    return grown(1.0)


def rotary_tables(
    freq: Tensor, factor: float, positions_T: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos_TR and sin_TR for these positions; angles in float32, cast to `dtype` at the end."""
    angles = positions_T[:, None].float() * freq[None]
    angles = torch.cat((angles, angles), dim=-1)
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)
