"""Bytes that a layer keeps of each token for its backward pass, tensor by tensor.

The counts are those of our own operations (`model/`, `ops/`), so they hold on a GPU and on a CPU;
tests compare them with what autograd keeps.
Legend: D hidden · H heads · W MLP width · E experts · A experts per token · F expert width.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config.model import ModelConfig
from ..ops.experts import row_block
from .shape import BF16, FP32, Layer

INT64 = 8


@dataclass(frozen=True)
class Kept:
    """Bytes of one token in one layer; the last three can be computed again.

    `making` is what a backward pass needs of them while it is in the layer, at most.
    """

    always: float
    attention: float
    mlp: float
    experts: float
    making: float

    def after(self, recompute: str, is_moe: bool) -> float:
        """What stays until the backward pass with `parallel.recompute` set to that."""
        again = {"none": 0.0, "moe": self.experts + self.mlp * is_moe}
        again["full"] = self.experts + self.mlp + self.attention
        return self.always + self.attention + self.mlp + self.experts - again[recompute]

    def again(self, recompute: str, is_moe: bool) -> float:
        """What the backward pass makes again at one time."""
        parts = {"none": [0.0], "moe": [self.experts, self.mlp * is_moe]}
        parts["full"] = [self.experts, self.mlp, self.attention]
        return max(parts[recompute])


def kept(cfg: ModelConfig, layer: Layer, item: int, padding: float = 1.0, ep: int = 1) -> Kept:
    """Bytes of a token in `layer`, numbers of `item` bytes; `padding` is the rows of experts with
    padding over those without."""
    d, q, kv = cfg.hidden_size, cfg.q_size, cfg.kv_size
    always = 4.0 * item * d  # both norms: what goes in, and what comes out
    if layer.is_mtp:
        always += 5 * item * d  # enorm, hnorm, both side by side, and the last norm
    # q, k and v in one; q and k turned; the result, and the softmax sums of heads.
    attention = item * (q + 2 * kv + 2 * q + kv) + FP32 * cfg.num_attention_heads
    mlp = 4 * item * layer.mlp_width
    width = layer.mlp_width
    experts = making = 0.0
    if layer.is_moe:
        always += _router(cfg)
        experts = _experts(cfg, item, padding, ep)
        # Gradients of both rows and of their products, and what SwiGLU is made of again.
        rows = cfg.num_experts_per_tok * padding
        making = item * rows * (2 * d + 8 * cfg.moe_intermediate_size)
    making = max(making, item * (2 * d + 6 * width), item * 3 * (q + 2 * kv)) + 3 * item * d
    return Kept(always, attention, mlp, experts, making)


def _router(cfg: ModelConfig) -> float:
    """Inputs in float32, logits and scores, the chosen experts and their weights."""
    each = cfg.num_experts_per_tok
    return FP32 * (cfg.hidden_size + 2 * cfg.num_experts + 2 + 2 * each) + INT64 * each


def _experts(cfg: ModelConfig, item: int, padding: float, ep: int) -> float:
    """Rows of a token's experts: what goes in, gate and up, and what comes out."""
    d, each = cfg.hidden_size, cfg.num_experts_per_tok
    rows = item * each * padding * (d + 2 * cfg.moe_intermediate_size)
    numbers = each * (INT64 + FP32)
    returned = 2 if ep > 1 and item != BF16 else 1
    return rows + returned * item * each * d + numbers


def padding_of(cfg: ModelConfig, tokens: int, ep: int, device: str) -> float:
    """Rows of experts with padding over those without, when experts have about as many each."""
    if device != "cpu" or not cfg.num_experts:
        return 1.0
    rows, own = tokens * cfg.num_experts_per_tok, cfg.num_experts // ep
    return 1.0 + own * (row_block(rows, own) - 1) / 2 / max(rows, 1)
