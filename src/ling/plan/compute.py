"""Operations and bytes of memory traffic of one token, layer by layer, and the seconds they take.

A backward pass is twice a forward pass, but once where weights are frozen. Operations are those of
`model.size.flops_per_token`; of traffic only what is between the products is counted, tensor by
tensor, since the products' own is in their share of the peak.
Legend: D hidden · E experts · A experts per token · F expert width · W MLP width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..config.model import ModelConfig
from .constants import Constants
from .exchange import ranks_reached
from .gpus import Gpu
from .shape import BF16, FP32, Layer, Shape

REPEATED_STREAM = 0.6
"""Share of a MoE layer's traffic that recomputing its experts repeats: the rest is the way back of
rows, which is not repeated."""
# How often the router reads or writes all scores of a token, in float32.
_ROUTER_PASSES = 12


@dataclass(frozen=True)
class Work:
    """Of one token: operations of products that can be in FP8, of others, of attention, of experts;
    bytes of memory traffic, those of experts' rows apart."""

    products: float = 0.0
    bf16: float = 0.0
    attention: float = 0.0
    experts: float = 0.0
    stream: float = 0.0
    expert_stream: float = 0.0

    def __add__(self, other: Work) -> Work:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Work(*(a + b for a, b in pairs))

    @property
    def operations(self) -> float:
        """Of all products."""
        return self.products + self.bf16 + self.attention + self.experts

    def times(self, factor: float) -> Work:
        """That many times this."""
        return Work(*(factor * v for v in dataclasses.astuple(self)))


def forward_work(shape: Shape, ep: int) -> list[Work]:
    """The forward pass of one token in each layer, without its adapters."""
    cfg = shape.config
    return [
        Work() if layer.unused else _layer(cfg, layer, each, 2 * cfg.q_size * shape.seq_length, ep)
        for layer, each in zip(shape.layers, shape.flops, strict=True)
    ]


def adapter_work(layer: Layer, cfg: ModelConfig) -> Work:
    """The forward pass of one token in the adapters of a layer."""
    sizes = {True: 0, False: 0}
    for weight in layer.weights:
        sizes[weight.is_experts] += weight.size * weight.is_adapter
    active = cfg.num_experts_per_tok / max(cfg.num_experts, 1)
    return Work(bf16=2.0 * sizes[False], experts=2.0 * sizes[True] * active)


def backward_work(forward: Work, *, frozen: bool) -> Work:
    """The backward pass: gradients of inputs, and of weights unless they are `frozen`."""
    whole = forward.times(2)
    if not frozen:
        return whole
    once = {name: getattr(forward, name) for name in ("products", "bf16", "experts")}
    return dataclasses.replace(whole, **once)


def _layer(cfg: ModelConfig, layer: Layer, flops: dict[str, int], attention: int, ep: int) -> Work:
    d = cfg.hidden_size
    bf16 = 4 * d * d * layer.is_mtp + 2 * d * cfg.num_experts * layer.is_moe
    # Two norms and two sums of residuals; q and k normed and turned; SwiGLU.
    stream = BF16 * (10 * d + 4 * (cfg.q_size + cfg.kv_size) + 3 * layer.mlp_width)
    return Work(
        products=flops["rest"] - attention - bf16,
        bf16=bf16,
        attention=attention,
        experts=flops["experts"],
        stream=stream,
        expert_stream=_rows(cfg, ep) if layer.is_moe else 0.0,
    )


def _rows(cfg: ModelConfig, ep: int) -> float:
    """Traffic of a token's rows: a copy for each rank, one for each expert, SwiGLU, and back."""
    d, each, copies = cfg.hidden_size, cfg.num_experts_per_tok, ranks_reached(cfg, ep)
    moved = 2 * copies * d + 2 * (copies + each) * d + (copies + 1) * d
    swiglu = 3 * each * cfg.moe_intermediate_size
    return BF16 * (moved + swiglu) + FP32 * _ROUTER_PASSES * cfg.num_experts


def head_work(shape: Shape) -> Work:
    """The forward pass of one token in the head, for every prediction."""
    return Work(bf16=2 * shape.embedding.size * shape.predictions)


def repeated(layer: Layer, forward: Work, shape: Shape, recompute: str) -> Work:
    """What the backward pass of a layer computes again."""
    if recompute == "none":
        return Work()
    again = Work(experts=forward.experts, expert_stream=REPEATED_STREAM * forward.expert_stream)
    if recompute == "full":
        return dataclasses.replace(forward, expert_stream=again.expert_stream)
    if not layer.is_moe:
        return Work()
    shared = 6 * shape.config.hidden_size * layer.mlp_width
    return dataclasses.replace(again, products=shared)


def seconds(work: Work, gpu: Gpu, constants: Constants, *, fp8: bool, expert_rows: float) -> float:
    """Seconds of a token's work on one GPU, one part behind the other."""
    peak, bandwidth = gpu.bf16_flops, constants.copy_bytes_per_s or gpu.memory_bytes_per_s
    product = constants.gemm_share * peak
    expert = constants.expert_share(expert_rows) * peak
    return (
        work.products / (product * (constants.fp8_gemm_factor if fp8 else 1.0))
        + work.bf16 / product
        + work.attention / (constants.attention_share * peak)
        + work.experts / (expert * (constants.fp8_expert_factor if fp8 else 1.0))
        + (work.stream + work.expert_stream) / (constants.stream_share * bandwidth)
    )
