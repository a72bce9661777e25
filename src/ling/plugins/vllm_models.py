"""vLLM's own Ling 2.0 class with three defects mended; vLLM imports this file when it loads one.

T tokens · D hidden · E experts.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.models import bailing_moe as native

log = logging.getLogger("vllm.ling")
_CAST = "router_logits.to(hidden_states.dtype)"


class BailingMoeV2ForCausalLM(native.BailingMoeV2ForCausalLM):
    """Loads checkpoints that hold MTP layers, routes in float32, lends its embedding to a draft."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        route_in_float32(self)
        # The name under which vLLM looks for the embedding that a draft shares. A plain
        # attribute: a second submodule would list the weight twice.
        object.__setattr__(self.model, "embed_tokens", self.model.word_embeddings)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load all but the MTP layers, which the native class has no place for."""
        first_mtp = self.config.num_hidden_layers
        return super().load_weights(w for w in weights if layer_of(w[0]) < first_mtp)


def layer_of(name: str) -> int:
    """Number of the layer that a checkpoint's tensor belongs to, -1 for none."""
    parts = name.split(".")
    if parts[:2] != ["model", "layers"] or len(parts) < 3 or not parts[2].isdecimal():
        return -1
    return int(parts[2])


def route_in_float32(model: nn.Module) -> None:
    """Give the model's MoE blocks a forward pass that keeps the router's logits in float32."""
    if _CAST not in inspect.getsource(native.BailingMoE.forward):
        log.info("ling leaves routing to this vLLM: it does not round the router's logits")
        return
    for module in model.modules():
        if type(module) is native.BailingMoE:
            module.__class__ = Float32RoutedMoE  # same state, other forward


class Float32RoutedMoE(native.BailingMoE):
    """The native block rounds the router's float32 logits to the model's dtype; this does not.

    In bfloat16 that rounding (3 significant digits) changes which experts are chosen.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        x_TD = hidden_states.view(-1, hidden_states.shape[-1])
        logits_TE, _ = self.gate(x_TD)
        return self.experts(hidden_states=x_TD, router_logits=logits_TE).view_as(hidden_states)
