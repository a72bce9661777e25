"""BailingMoeV2: the file to read first.

One flat token axis for training (packed documents) and inference (packed requests). What differs
between the two comes in as arguments: `attend` owns the attention state, `trace` watches routing.
Attribute names are those of the released checkpoints. Legend: T tokens · D hidden · V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..config.model import ModelConfig
from ..model import rope as rotary
from .attention import Attend, Attention
from .layers import Linear, RMSNorm
from .moe import MLP, Experts, MoE, Router, RoutingTrace

Rope = tuple[Tensor, Tensor]


class Block(nn.Module):
    """Pre-norm decoder layer: attention, then a dense MLP or a mixture of experts."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.input_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.attention = Attention(cfg)
        self.post_attention_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.mlp: nn.Module = (
            MoE(cfg) if cfg.is_moe_layer(layer) else MLP(cfg.hidden_size, cfg.intermediate_size)
        )

    def forward(
        self, x_TD: Tensor, rope: Rope, attend: Attend, trace: RoutingTrace | None = None
    ) -> Tensor:
        x_TD = x_TD + self.attention(self.input_layernorm(x_TD), rope, attend, self.layer)
        h_TD = self.post_attention_layernorm(x_TD)
        if isinstance(self.mlp, MoE):
            return x_TD + self.mlp(h_TD, self.layer, trace)
        return x_TD + self.mlp(h_TD)


class MTPBlock(Block):
    """Multi-token-prediction layer: a MoE block that mixes a hidden state with the next token.

    Embedding and head are the main model's (docs/concepts/model.md#mtp).
    """

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__(cfg, layer)
        self.enorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.hnorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.eh_proj = Linear(2 * cfg.hidden_size, cfg.hidden_size, bias=False)
        self.final_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)

    def predict(
        self,
        embedding_TD: Tensor,
        hidden_TD: Tensor,
        rope: Rope,
        attend: Attend,
        trace: RoutingTrace | None = None,
    ) -> Tensor:
        """Next hidden_TD from the next token's embedding and the current hidden state."""
        both = torch.cat((self.enorm(embedding_TD), self.hnorm(hidden_TD)), dim=-1)
        # Not `self(...)`: after an inner call sharding would take away the last norm's weight.
        return self.final_layernorm(self.forward(self.eh_proj(both), rope, attend, trace))


class Decoder(nn.Module):
    """Embedding, decoder layers (MTP layers after the main ones, as on disk), final norm."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        n = cfg.num_hidden_layers
        # Not filled: to draw values on the meta device loads torch's compiler, which takes a second
        # and needs a temporary folder that can be written to.
        weight = torch.empty(cfg.vocab_size, cfg.hidden_size)
        self.word_embeddings = nn.Embedding.from_pretrained(weight, freeze=False)
        self.layers = nn.ModuleList(
            [Block(cfg, i) for i in range(n)]
            + [MTPBlock(cfg, n + j) for j in range(cfg.num_nextn_predict_layers)]
        )
        self.norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)


class Ling(nn.Module):
    """A BailingMoeV2 causal language model.

    `compute_dtype` set to bfloat16 over float32 parameters is mixed precision: activations and
    products in bfloat16, parameters and gradients in float32. None computes in the stored dtype.

    In a pipeline stage the modules of other stages are None, under their names.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.config = cfg
        self.compute_dtype: torch.dtype | None = None
        self.model = Decoder(cfg)
        self.lm_head = Linear(cfg.hidden_size, cfg.vocab_size, bias=False)
        self.tie_weights()
        self.register_state_dict_post_hook(_without_tied_head)
        self.register_load_state_dict_pre_hook(_with_tied_head)
        self.register_load_state_dict_post_hook(_tie_again)
        # The frequencies are not weights: kept out of the state, and safe from `to_empty`.
        self._rope: tuple[Tensor, float] | None = None

    def forward(
        self,
        tokens_T: Tensor,
        positions_T: Tensor,
        attend: Attend,
        trace: RoutingTrace | None = None,
    ) -> Tensor:
        """hidden_TD after the final norm; `logits` turns it into scores."""
        return self.hidden(self.embed(tokens_T), positions_T, attend, trace)

    def hidden(
        self,
        x_TD: Tensor,
        positions_T: Tensor,
        attend: Attend,
        trace: RoutingTrace | None = None,
    ) -> Tensor:
        """`forward` from embeddings_TD on."""
        rope = self.rope(positions_T, x_TD.dtype)
        for layer in self.model.layers[: self.config.num_hidden_layers]:
            if layer is not None:
                x_TD = layer(x_TD, rope, attend, trace)
        return x_TD if self.model.norm is None else self.model.norm(x_TD)

    def mtp(
        self,
        j: int,
        next_tokens_T: Tensor,
        hidden_TD: Tensor,
        positions_T: Tensor,
        attend: Attend,
        trace: RoutingTrace | None = None,
    ) -> Tensor:
        """hidden_TD of MTP layer `j`: at position t it has seen tokens up to t + j + 1.

        `next_tokens_T[t]` is token t + j + 1, `hidden_TD` the final hidden state (j = 0) or the
        previous MTP output. `logits` of the result score token t + j + 2.
        """
        block = self.model.layers[self.config.num_hidden_layers + j]
        assert isinstance(block, MTPBlock)
        x_TD = self.embed(next_tokens_T)
        return block.predict(x_TD, hidden_TD, self.rope(positions_T, x_TD.dtype), attend, trace)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Scores_TV over the vocabulary, cast to float32 after the product."""
        return self.lm_head(hidden_TD).float()

    def embed(self, tokens_T: Tensor) -> Tensor:
        """Token embeddings_TD in the compute dtype."""
        x_TD = self.model.word_embeddings(tokens_T)
        return x_TD if self.compute_dtype is None else x_TD.to(self.compute_dtype)

    def rope(self, positions_T: Tensor, dtype: torch.dtype) -> Rope:
        """cos and sin for these positions, shared by all layers, MTP included."""
        if self._rope is None or self._rope[0].device != positions_T.device:
            freq, factor = rotary.inverse_frequencies(self.config)
            self._rope = freq.to(positions_T.device), factor
        freq, factor = self._rope
        return rotary.rotary_tables(freq, factor, positions_T, dtype)

    def tie_weights(self) -> None:
        """Make the head the embedding's own parameter where the configuration ties the two."""
        embedding = self.model.word_embeddings
        both = self.lm_head is not None and isinstance(embedding, nn.Embedding)
        if self.config.tie_word_embeddings and both:
            self.lm_head.weight = embedding.weight

    def _apply(self, *args: Any, **kwargs: Any) -> Ling:
        # `to_empty` and `to` give every module a new parameter of its own, the head as well.
        super()._apply(*args, **kwargs)
        self.tie_weights()
        return self

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Random initialisation (docs/concepts/model.md#initialisation)."""
        tied = self.lm_head if self.config.tie_word_embeddings else None
        for module in self.modules():
            if module is not tied:
                init_module(module, self.config.initializer_range, generator)


_HEAD, _EMBEDDING = "lm_head.weight", "model.word_embeddings.weight"


def _without_tied_head(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """A state holds a tied tensor once, under the embedding's name, as a checkpoint does."""
    assert isinstance(model, Ling)
    if model.config.tie_word_embeddings:
        state.pop(prefix + _HEAD, None)


def _with_tied_head(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(model, Ling)
    if model.config.tie_word_embeddings and prefix + _EMBEDDING in state:
        state[prefix + _HEAD] = state[prefix + _EMBEDDING]


def _tie_again(model: nn.Module, _: Any) -> None:
    """Loading with `assign` replaces parameters, each by its own."""
    assert isinstance(model, Ling)
    model.tie_weights()


@torch.no_grad()
def init_module(module: nn.Module, std: float, generator: torch.Generator | None = None) -> None:
    """Random values for the tensors that `module` itself owns."""
    if isinstance(module, RMSNorm):
        module.weight.fill_(1.0)
    elif isinstance(module, Router):
        # Kaiming-uniform with a = sqrt(5): uniform within 1/sqrt(fan_in).
        bound = 1 / math.sqrt(module.weight.shape[1])
        module.weight.uniform_(-bound, bound, generator=generator)
        module.expert_bias.zero_()
    elif isinstance(module, (nn.Linear, nn.Embedding, Experts)):
        for name, p in module.named_parameters(recurse=False):
            if name == "bias":
                p.zero_()
            else:
                p.normal_(0.0, std, generator=generator)


def from_config(
    cfg: ModelConfig,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
    device: str = "cpu",
) -> Ling:
    """A model with random weights; the same seed gives the same weights, on any device."""
    with torch.device("meta"):
        model = Ling(cfg)
    model = to_dtype(model, dtype).to_empty(device="cpu")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    return model.to(device)


def to_dtype(model: Ling, dtype: torch.dtype) -> Ling:
    """Cast parameters; `expert_bias` stays float32, as it was trained."""
    for module in model.modules():
        for key, p in module._parameters.items():
            if p is not None and p.dtype != dtype:
                module._parameters[key] = nn.Parameter(p.to(dtype), requires_grad=p.requires_grad)
    model.tie_weights()
    return model
