"""Ling 2.0's MTP layer as a draft model of vLLM (`{"method": "mtp"}`).

Attributes are named as in the checkpoint, so that vLLM's loader finds each tensor.
T tokens · D hidden · V vocab.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.distributed import get_pp_group
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.models import bailing_moe as native
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix

from .vllm_models import layer_of, route_in_float32


class MTPLayer(native.BailingMoeBlock):
    """A decoder block between the joint of token and hidden state, and a last norm.

    The block's number in `prefix` is past all main layers, so vLLM builds it with experts.
    """

    def __init__(self, vllm_config: Any, prefix: str) -> None:
        config = vllm_config.model_config.hf_config
        super().__init__(config, vllm_config.cache_config, vllm_config.quant_config, prefix)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.enorm = RMSNorm(width, eps=eps)
        self.hnorm = RMSNorm(width, eps=eps)
        self.eh_proj = nn.Linear(2 * width, width, bias=False)
        self.final_layernorm = RMSNorm(width, eps=eps)

    def forward(self, embedding_TD: Tensor, positions_T: Tensor, hidden_TD: Tensor) -> Tensor:
        """One position's next token and its hidden state to the hidden state after that token."""
        joint = torch.cat([self.enorm(embedding_TD), self.hnorm(hidden_TD)], dim=-1)
        x_TD, residual_TD = super().forward(self.eh_proj(joint), positions_T, None)
        return self.final_layernorm(x_TD, residual_TD)[0]


class MTPPredictor(nn.Module):
    """The layer in its place, `layers.{num_hidden_layers}`, and the embedding it is lent.

    vLLM sets `embed_tokens` to the target's; a pipeline of several stages may keep the target's
    on another rank, so there the draft loads its own.
    """

    hf_to_vllm_mapper = native.BailingMoeModel.hf_to_vllm_mapper

    def __init__(self, vllm_config: Any, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.layer = str(config.num_hidden_layers)
        block = MTPLayer(vllm_config, f"{prefix}.layers.{self.layer}")
        self.layers = nn.ModuleDict({self.layer: block})
        if get_pp_group().world_size > 1:
            self.embed_tokens = VocabParallelEmbedding(
                config.vocab_size, config.hidden_size, prefix=f"{prefix}.embed_tokens"
            )

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)


@support_torch_compile(
    dynamic_arg_dims=dict.fromkeys(("input_ids", "positions", "hidden_states", "inputs_embeds"), 0)
)
class BailingMoeV2MTPModel(nn.Module):
    """The draft: shares embedding and head with the target, applies its one layer at every step."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        # The target's configuration, not the draft's copy of the file: overrides such as YaRN
        # reach only the target, and both must rotate alike.
        self.config = vllm_config.model_config.hf_config
        self.quant_config = vllm_config.quant_config
        self.model = MTPPredictor(vllm_config, maybe_prefix(prefix, "model"))
        self.lm_head: nn.Module | None = None  # vLLM puts the target's here
        self.logits_processor = LogitsProcessor(self.config.vocab_size)
        route_in_float32(self)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.model.embed_tokens(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        hidden_states: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        spec_step_idx: int = 0,
    ) -> torch.Tensor:
        """Hidden states after `input_ids`, which follow `positions` that gave `hidden_states`."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_input_ids(input_ids)
        return self.model.layers[self.model.layer](inputs_embeds, positions, hidden_states)

    def compute_logits(self, hidden_states: Tensor, spec_step_idx: int = 0) -> Tensor | None:
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Take the MTP layer's tensors, and the embedding where the draft has its own.

        vLLM itself refuses a checkpoint that lacks one of them.
        """
        return AutoWeightsLoader(self).load_weights(self._own(weights))

    def _own(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, value in weights:
            if layer_of(name) == int(self.model.layer):
                yield name, value
            elif name == "model.word_embeddings.weight" and hasattr(self.model, "embed_tokens"):
                yield "model.embed_tokens.weight", value
