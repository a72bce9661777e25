"""First values with which a small model copies from its context from the first step on.

Learned from random weights, copying takes thousands of steps before anything of it is seen: one
layer has to find the token before, a later one to match it with the current token, a third matrix
to write what followed, and none of them is of use without the others. Here the three begin as what
they are to become, as the "mimetic" initialisation of Trockman and Kolter does it (arXiv
2305.09828), and training goes on from there. Measured in docs/guides/small-model.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config.model import ModelConfig
from ..errors import UsageError
from .attention import Attention
from .ling import Ling, from_config
from .rope import inverse_frequencies

# Of the outputs of all sublayers: the stream begins as the tokens, not as what random layers make
# of them.
OUTPUT_SCALE = 0.05
HEAD_SCALE = 2.0
# Weights of the fastest rotary pairs: with these the token before gets 0.8 of the attention.
PAIRS = (1.0, 1.0, 0.6)
BEFORE_SCALE = 3.0
# Of the norms of queries and keys that match.
MATCH_SCALE = 1.5
COPY_SCALE = 2.0
NOISE = 0.02


def copying_model(cfg: ModelConfig, seed: int) -> Ling:
    """A model with random weights but for: key head 0 of layer 0 attends to the token before; key
    head 0 of layer 1 attends to where the token before is the current one, and adds what is there
    to the output; the head reads the embeddings, rotated so that a token does not predict itself.

    The same seed gives the same weights. Raises `UsageError` for a shape without two layers,
    QK-norm, three rotary pairs, plain channels, or a head of its own.
    """
    _check(cfg)
    model = from_config(cfg, seed=seed)
    with torch.no_grad():
        _begin(model, torch.Generator().manual_seed(seed))
    return model


def _check(cfg: ModelConfig) -> None:
    for is_so, what in (
        (cfg.num_hidden_layers >= 2, "two layers"),
        (cfg.use_qk_norm, "QK-norm"),
        (cfg.rotary_size >= 2 * len(PAIRS), f"{len(PAIRS)} rotary pairs a head"),
        (cfg.rotary_size < cfg.head_dim <= cfg.hidden_size, "channels that do not rotate"),
        (not cfg.tie_word_embeddings, "a head of its own (`tie_word_embeddings: false`)"),
    ):
        if not is_so:
            raise UsageError(f"first values that copy need a model with {what}")


def _begin(model: Ling, generator: torch.Generator) -> None:
    cfg = model.config
    width, size = cfg.hidden_size, cfg.head_dim
    for name, p in model.named_parameters():
        if name.endswith(("attention.dense.weight", "down_proj", "down_proj.weight")):
            p.mul_(OUTPUT_SCALE)
    embedding, head = model.model.word_embeddings.weight, model.lm_head.weight
    # A direction that all tokens have, for scores that depend on positions alone.
    common = _orthonormal(1, width, generator)[0]
    norm = embedding.double().norm(dim=1).mean().float()
    turn = _orthonormal(width, width, generator)
    head.copy_(_product(embedding, turn) * HEAD_SCALE)
    embedding += common * norm
    before, match = (_Heads(layer, cfg) for layer in model.model.layers[:2])

    before.query[0] = _positional(cfg, common, 0, generator)
    before.key[0] = _positional(cfg, common, 1, generator)
    token = _without(_orthonormal(size, width, generator), common)
    place = _orthonormal(size, width, generator)
    before.value[0] = token
    before.output[:, 0] = place.T * norm / width**0.5

    plain = slice(cfg.rotary_size, None)
    count = size - cfg.rotary_size
    shared = cfg.num_attention_heads // cfg.num_key_value_heads
    copied = _without(_orthonormal(size, width, generator), common)
    for own in (match.query[:shared], match.key[:1]):
        own.copy_(NOISE / 10 * torch.randn(own.shape, generator=generator))
    match.query[:shared, plain] = token[:count]
    match.key[0, plain] = place[:count]
    match.value[0] = copied
    match.output[:, :shared] = _product(turn.T, copied.T)[:, None] * COPY_SCALE * norm / width**0.5
    for norm_of in match.norms:
        norm_of.weight.fill_(MATCH_SCALE)


class _Heads:
    """The matrices of a layer's attention by head: `query`, `key`, `value` [heads, size, width],
    `output` [width, heads, size]; and the norms of queries and keys."""

    def __init__(self, layer: nn.Module, cfg: ModelConfig) -> None:
        attention = layer.attention
        assert isinstance(attention, Attention)
        self.norms = (attention.query_layernorm, attention.key_layernorm)
        qkv, dense = attention.query_key_value.weight, attention.dense.weight
        heads, kv_heads = cfg.num_attention_heads, cfg.num_key_value_heads
        by_head = qkv.view(-1, cfg.head_dim, cfg.hidden_size)
        self.query, self.key, self.value = by_head.split((heads, kv_heads, kv_heads))
        self.output = dense.view(cfg.hidden_size, heads, cfg.head_dim)


def _positional(cfg: ModelConfig, common: Tensor, back: int, generator: torch.Generator) -> Tensor:
    """Rows of a query (0) or of a key whose score is largest for the position `back` before."""
    rows = NOISE * torch.randn(cfg.head_dim, cfg.hidden_size, generator=generator)
    frequencies, _ = inverse_frequencies(cfg)
    angles, half = back * frequencies[: len(PAIRS)], cfg.rotary_size // 2
    scale = BEFORE_SCALE * torch.tensor(PAIRS)
    for first, part in ((0, angles.cos()), (half, angles.sin())):
        rows[first : first + len(PAIRS)] += (scale * part)[:, None] * common
    return rows


def _orthonormal(count: int, width: int, generator: torch.Generator) -> Tensor:
    """`count` rows of `width` that are at right angles to each other."""
    random = torch.randn(width, count, generator=generator).double()
    return torch.linalg.qr(random)[0].T.float().contiguous()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """In float64, so that the number of threads decides no bit."""
    return (a.double() @ b.double()).float()


def _without(rows: Tensor, direction: Tensor) -> Tensor:
    return rows - _product(rows, direction[:, None]) * direction
