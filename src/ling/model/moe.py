"""Mixture of experts: router, stacked experts, shared expert; and the dense MLP.

Legend: T tokens · D hidden · E experts · A experts per token · F expert width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config.model import ModelConfig
from ..ops import experts, grouped, reference, routing_map
from ..ops.grouped_lora import FloatExperts, FrozenExperts
from .layers import Linear


class RoutingTrace(Protocol):
    """Sees every routing decision: training counts loads and adds the z-loss through it."""

    def record(self, layer: int, logits_TE: Tensor, ids_TA: Tensor) -> None: ...


class MLP(nn.Module):
    """SwiGLU without biases: the dense layers and the shared expert."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        h_TF = torch.nn.functional.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD)
        return self.down_proj(h_TF)


# SwiGLU of rows that are sorted by expert: (x_RD, groups, gate_EFD, up_EFD, down_EDF) to y_RD;
# further parameters of the experts, as those of adapters, follow.
Multiply = Callable[..., Tensor]


class Router(nn.Module):
    """Sigmoid router with group-limited selection, in float32 whatever the model's dtype.

    `expert_bias` steers selection only; it is a float32 buffer without gradient that
    `train.balance` moves (docs/concepts/training.md#balance).
    """

    expert_bias: Tensor

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.num_experts, cfg.hidden_size))
        self.register_buffer("expert_bias", torch.zeros(cfg.num_experts, dtype=torch.float32))
        self.choice: dict[str, Any] = {
            "num_experts_per_tok": cfg.num_experts_per_tok,
            "n_group": cfg.n_group,
            "topk_group": cfg.topk_group,
            "routed_scaling_factor": cfg.routed_scaling_factor,
            "norm_topk_prob": cfg.norm_topk_prob,
        }

    def logits(self, x_TD: Tensor) -> Tensor:
        """Router logits_TE in float32."""
        return reference.linear(x_TD.float(), self.weight)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits_TE = self.logits(x_TD)
        ids_TA, weights_TA = reference.route(
            logits_TE, self.expert_bias, **self.choice, top_k=experts.top_k
        )
        return logits_TE, ids_TA, weights_TA


class Experts(nn.Module):
    """All routed experts of a layer, stacked; on disk they are one tensor per expert.

    `multiply` and `layers.Linear` are the only two multiplications by weights that low precision
    and adapters replace, by a rule of `model.swap`. The router stays in float32 and the head's
    product is inside the loss.

    `pad_routing` pads the routing map for products in FP8, where rows would be padded with zeros.
    """

    pad_routing = False
    # What an expert's rows are padded to a multiple of, from the number of rows and of experts.
    row_block = staticmethod(experts.row_block)
    # The products that adapters are added to, of this module's parameters.
    frozen: Callable[..., FrozenExperts] = FloatExperts

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        e, f, d = cfg.num_experts, cfg.moe_intermediate_size, cfg.hidden_size
        self.gate_proj = nn.Parameter(torch.empty(e, f, d))
        self.up_proj = nn.Parameter(torch.empty(e, f, d))
        self.down_proj = nn.Parameter(torch.empty(e, d, f))
        self.multiply: Multiply = grouped.swiglu

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        slots = self.slots(ids_TA.flatten(), routing_map.tokens_of(ids_TA), len(x_TD))
        y_RD = self.products(experts.dispatch(x_TD, slots), slots.groups)
        return experts.combine(y_RD, slots, weights_TA)

    def slots(self, ids_N: Tensor, token_N: Tensor, num_tokens: int) -> experts.Slots:
        """Slots of routed rows, of token `token_N` for expert `ids_N` of those here each."""
        if self.pad_routing:
            return routing_map.slots_of_padded_map(ids_N, token_N, num_tokens, self.num_own)
        block = self.row_block(len(ids_N), self.num_own)
        return experts.sort_by_expert(ids_N, self.num_own, block)

    @property
    def num_own(self) -> int:
        """How many experts are here."""
        return self.gate_proj.shape[0]

    def products(self, x_RD: Tensor, groups: experts.Groups) -> Tensor:
        """SwiGLU of rows that are sorted by expert, with the borders that `Slots.groups` gives."""
        return self.multiply(x_RD, groups, *self.factors())

    def factors(self) -> list[Tensor]:
        """What `multiply` takes behind rows and groups: the three weights, unless they are packed
        and no parameters, then those of adapters.

        By name: peft puts parametrisations in place of weights, and the weights back in another
        order.
        """
        names = ("gate_proj", "up_proj", "down_proj")
        weights = (getattr(self, name, None) for name in names)
        adapters = (p for name, p in self._parameters.items() if name not in names)
        return [p for p in (*weights, *adapters) if p is not None]


class MoE(nn.Module):
    """Routed experts plus the shared expert.

    Expert parallelism replaces `experts` through `model.swap`: it gets the same three tensors,
    exchanges rows between ranks, and calls `products` of the experts it replaces.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(cfg)
        self.experts = Experts(cfg)
        self.shared_experts = (
            MLP(cfg.hidden_size, cfg.shared_expert_width) if cfg.num_shared_experts else None
        )

    def forward(self, x_TD: Tensor, layer: int, trace: RoutingTrace | None) -> Tensor:
        logits_TE, ids_TA, weights_TA = self.gate(x_TD)
        if trace is not None:
            trace.record(layer, logits_TE, ids_TA)
        out_TD = self.experts(x_TD, ids_TA, weights_TA)
        return out_TD if self.shared_experts is None else out_TD + self.shared_experts(x_TD)
