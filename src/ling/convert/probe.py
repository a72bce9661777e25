"""Logits of any checkpoint on a short text, with one decoder layer in memory at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..checkpoint.source import Source
from ..data.tokenizer import Tokenizer
from ..model.attention import DenseAttend
from ..model.ling import Ling, to_dtype
from ..model.names import module_tensor, tensor_specs

TEXT = "The quick brown fox jumps over the lazy dog. def fibonacci(n):\n    return 1 if n < 2 else"
_MAX_TOKENS = 64


def probe_tokens(source: Source) -> Tensor:
    """Ids of the probe text, or fixed ids over the whole vocabulary where there is no tokenizer."""
    vocab = source.config.vocab_size
    if source.tokenizer_folder is not None:
        ids = Tokenizer.from_folder(source.tokenizer_folder).encode(TEXT)[:_MAX_TOKENS]
        if ids and max(ids) < vocab:
            return torch.tensor(ids)
    return torch.arange(_MAX_TOKENS) * 7919 % vocab


def layer_bytes(source: Source) -> int:
    """float32 bytes of the largest part that `logits` holds."""
    cfg = source.config
    sizes: dict[str, int] = {}
    for name, spec in tensor_specs(cfg).items():
        part = ".".join(name.split(".")[:3]) if ".layers." in name else name
        sizes[part] = sizes.get(part, 0) + 4 * torch.Size(spec.shape).numel()
    return max(sizes.values())


@torch.no_grad()
def logits(source: Source, tokens_T: Tensor) -> Tensor:
    """float32 scores_TV of the main head, computed in float32 whatever the storage."""
    cfg = source.config
    with torch.device("meta"):
        network = to_dtype(Ling(cfg), torch.float32).eval()
    embedding = source.tensor("model.word_embeddings.weight")
    x_TD = embedding[tokens_T].float()
    rope = network.rope(torch.arange(len(tokens_T)), torch.float32)
    attend = DenseAttend([0, len(tokens_T)])
    for n in range(cfg.num_hidden_layers):
        layer = network.model.layers[n].to_empty(device="cpu")
        _fill(layer, source, f"model.layers.{n}.")
        x_TD = layer(x_TD, rope, attend)
        layer.to("meta")
    norm = network.model.norm.to_empty(device="cpu")
    _fill(norm, source, "model.norm.")
    if cfg.tie_word_embeddings:
        head = embedding
    else:
        del embedding
        head = source.tensor("lm_head.weight")
    return norm(x_TD) @ head.float().t()


def _fill(module: nn.Module, source: Source, prefix: str) -> None:
    parts = (*module.named_parameters(), *module.named_buffers())
    own = {prefix + key: value for key, value in parts}
    for name in tensor_specs(source.config):
        if name.startswith(prefix):
            module_tensor(own, name).copy_(source.tensor(name))
