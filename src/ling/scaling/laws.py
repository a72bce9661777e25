"""The published scaling laws of Ling 2.0 (arXiv 2507.17702): formulas only.

Logarithms: base 10 of compute, base 2 of granularity. The paper does not name them; only with
these the best granularity is in its range (2^3.5 = 11.3 of 8 to 12) and leverage at 1e22 FLOPs
above 7.
Compute C is M × D: training FLOPs of a token, embedding and head not counted, times tokens.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from ..config.model import ModelConfig
from ..model.size import flops_per_token

Kind = Literal["dense", "moe"]

LR, BATCH = (1.1576, -0.1529), (0.0694, 0.3644)
"""Factor and exponent of C: peak learning rate, and batch in tokens."""
FITTED_FLOPS = (3e17, 3e20)
"""Where learning rate and batch were fitted, on 64 experts of which 4 and a shared one are used."""
FLOPS_PER_TOKEN: dict[Kind, tuple[float, float]] = {
    "dense": (0.0655, 0.5422),
    "moe": (0.1915, 0.5095),
}
TOKENS: dict[Kind, tuple[float, float]] = {"dense": (15.2582, 0.4578), "moe": (5.2232, 0.4905)}
"""Factor and exponent of C: the compute-optimal M and D."""

CLAIM = {"flops": 1e22, "activation_ratio": 0.031, "granularity": 12.0, "at_least": 7.0}
"""What Ling 2.0 claims: a mixture of experts as good as a dense model of 7 times the compute."""

# The table has `_LOG_C` negative, the text calls it positive: only the first makes leverage grow.
_CONSTANT, _LOG_C, _LOG_G_SQUARED, _LOG_G = 1.23, -7.61e-2, 1.67e-2, -1.17e-1
_A_START, _A_MAX = 1.63e-2, 5.28e16


def power(law: tuple[float, float], flops: float) -> float:
    """Factor × C ^ exponent."""
    return law[0] * flops ** law[1]


def optimal_lr(flops: float) -> float:
    """Peak learning rate for a compute of `flops`."""
    return power(LR, flops)


def optimal_batch_tokens(flops: float) -> float:
    """Batch in tokens for a compute of `flops`."""
    return power(BATCH, flops)


def was_fitted_at(flops: float) -> bool:
    """Whether the laws of learning rate and batch were fitted around this compute."""
    return FITTED_FLOPS[0] <= flops <= FITTED_FLOPS[1]


class Allocation(NamedTuple):
    """FLOPs per token (M) and tokens (D) of a compute M × D."""

    flops_per_token: float
    tokens: float


def allocation(flops: float, kind: Kind) -> Allocation:
    """The compute-optimal split; M × D is `flops` up to the rounding of the published factors."""
    return Allocation(power(FLOPS_PER_TOKEN[kind], flops), power(TOKENS[kind], flops))


def leverage(activation_ratio: float, granularity: float, flops: float) -> float:
    """EL: compute of a dense model over that of a mixture of experts with the same loss.

    `activation_ratio` (A) is (0, 1], `granularity` (G) is 2 × hidden size / expert width, `flops`
    (C) the compute of the mixture.
    """
    log_g = math.log2(granularity)
    exponent = _CONSTANT + _LOG_C * math.log10(flops)
    exponent += _LOG_G_SQUARED * log_g**2 + _LOG_G * log_g
    return saturated(activation_ratio) ** exponent


def saturated(activation_ratio: float) -> float:
    """Â: the activation ratio with the floor and ceiling that leverage stops growing at."""
    floor = 1 / (1 / _A_START - 1 / _A_MAX)
    return 1 / (1 / (activation_ratio + floor) + 1 / _A_MAX)


# ---- of a shape --------------------------------------------------------------------------------


def activation_ratio(cfg: ModelConfig) -> float:
    """A: experts that a token uses over all, shared ones among both; 1 of a dense model."""
    if not cfg.num_experts:
        return 1.0
    used = cfg.num_experts_per_tok + cfg.num_shared_experts
    return used / (cfg.num_experts + cfg.num_shared_experts)


def granularity(cfg: ModelConfig) -> float | None:
    """G: 2 × hidden size / expert width; None of a dense model."""
    return 2 * cfg.hidden_size / cfg.moe_intermediate_size if cfg.num_experts else None


class TokenFlops(NamedTuple):
    """Training FLOPs of a token: M of the laws, and with the head."""

    without_head: int
    with_head: int


def token_flops(cfg: ModelConfig, seq_length: int) -> TokenFlops:
    """Forward and backward pass of the main layers, counted as the laws count.

    Like them it has no MTP layers, and attention to all `seq_length` positions, of which a causal
    mask leaves half (`model.size.flops_per_token` counts that half). So counted, the three released
    models' 20T tokens give the published learning rates.
    """
    main = cfg.replace(num_nextn_predict_layers=0)
    masked = 6 * main.num_hidden_layers * main.q_size * seq_length
    whole = flops_per_token(main, seq_length) + masked
    return TokenFlops(whole - 6 * main.vocab_size * main.hidden_size, whole)
