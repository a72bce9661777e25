"""A training step by the operations of the released modelling code.

    benchmarks/train_peers.py --peer-python PYTHON --peer-step benchmarks/plain_peer.py

Written from docs/concepts/model.md. What makes that code slow is kept: a loop over all experts with
a mask for each, keys and values repeated for every query head, norms and rotary embedding as chains
of operations, and logits of all positions at once. torch's autograd does the rest; nothing of ling
or transformers is used.
Legend: B rows · S positions · T = B·S tokens · D hidden · H query heads · G kv heads · K head dim ·
E experts · A experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_EXPERTS = 64
SCALING = 2.5


class Norm(nn.Module):
    """RMSNorm in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """Sigmoid router with one group, routed experts in a loop, one shared expert."""

    expert_bias: Tensor

    def __init__(self, shape: Mapping[str, int]) -> None:
        super().__init__()
        hidden, width = shape["hidden_size"], shape["moe_intermediate_size"]
        self.per_token = shape["num_experts_per_tok"]
        self.gate = nn.Parameter(torch.empty(NUM_EXPERTS, hidden))
        self.register_buffer("expert_bias", torch.zeros(NUM_EXPERTS))
        self.experts = nn.ModuleList(MLP(hidden, width) for _ in range(NUM_EXPERTS))
        self.shared_experts = MLP(hidden, width)

    def route(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """ids_TA and weights_TA, in float32."""
        with torch.autocast("cpu", enabled=False):
            scores_TE = torch.sigmoid(F.linear(x_TD.float(), self.gate.float()))
        ids_TA = torch.topk(scores_TE + self.expert_bias, self.per_token, sorted=False).indices
        weights_TA = scores_TE.gather(1, ids_TA)
        return ids_TA, weights_TA / weights_TA.sum(-1, keepdim=True) * SCALING

    def forward(self, x_BSD: Tensor) -> Tensor:
        x_TD = x_BSD.flatten(0, 1)
        ids_TA, weights_TA = self.route(x_TD)
        rows, chosen = x_TD.repeat_interleave(self.per_token, dim=0), ids_TA.flatten()
        out = torch.empty_like(rows)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            out[mine] = expert(rows[mine]).to(out.dtype)
        summed_TD = (out.unflatten(0, ids_TA.shape) * weights_TA[..., None]).sum(1)
        return summed_TD.to(x_BSD.dtype).view_as(x_BSD) + self.shared_experts(x_BSD)


class Attention(nn.Module):
    """Grouped-query attention with QK-norm and rotary embedding of half the channels."""

    def __init__(self, shape: Mapping[str, int]) -> None:
        super().__init__()
        self.heads, self.groups = shape["num_attention_heads"], shape["num_key_value_heads"]
        self.dim, hidden = shape["head_dim"], shape["hidden_size"]
        self.query_key_value = nn.Linear(
            hidden, (self.heads + 2 * self.groups) * self.dim, bias=False
        )
        self.dense = nn.Linear(self.heads * self.dim, hidden, bias=False)
        self.query_layernorm, self.key_layernorm = Norm(self.dim), Norm(self.dim)

    def forward(self, x_BSD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        mixed = self.query_key_value(x_BSD).unflatten(-1, (-1, self.dim)).transpose(1, 2)
        q, k, v = mixed.split((self.heads, self.groups, self.groups), dim=1)
        q = rotated(self.query_layernorm(q), cos, sin)
        k = rotated(self.key_layernorm(k), cos, sin)
        each = self.heads // self.groups
        k, v = (x.repeat_interleave(each, dim=1).to(q.dtype) for x in (k, v))
        out_BHSK = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dense(out_BHSK.transpose(1, 2).flatten(2))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first channels turned by the position, the others as they are."""
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    crossed = torch.cat((-second, first), dim=-1)
    return torch.cat((turned * cos + crossed * sin, rest), dim=-1)


class Layer(nn.Module):
    """Pre-norm decoder layer."""

    def __init__(self, shape: Mapping[str, int], *, is_dense: bool) -> None:
        super().__init__()
        hidden = shape["hidden_size"]
        self.input_layernorm, self.post_attention_layernorm = Norm(hidden), Norm(hidden)
        self.attention = Attention(shape)
        self.mlp = MLP(hidden, shape["intermediate_size"]) if is_dense else MoE(shape)

    def forward(self, x_BSD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attention(self.input_layernorm(x_BSD), cos, sin)
        return x_BSD + self.mlp(self.post_attention_layernorm(x_BSD))


class Model(nn.Module):
    """The decoder; `forward` gives the mean loss of the next tokens."""

    def __init__(self, shape: Mapping[str, int]) -> None:
        super().__init__()
        hidden = shape["hidden_size"]
        self.rotary = shape["head_dim"] // 2
        self.embedding = nn.Embedding(shape["vocab_size"], hidden)
        dense = shape["first_k_dense_replace"]
        numbers = range(shape["num_hidden_layers"])
        self.layers = nn.ModuleList(Layer(shape, is_dense=n < dense) for n in numbers)
        self.norm, self.head = Norm(hidden), nn.Linear(hidden, shape["vocab_size"], bias=False)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids_BS: Tensor) -> Tensor:
        frequencies = 1e4 ** -(torch.arange(0, self.rotary, 2) / self.rotary)
        angles = torch.outer(torch.arange(ids_BS.shape[1]), frequencies).repeat(1, 2)
        cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
        x_BSD = self.embedding(ids_BS).bfloat16()
        for layer in self.layers:
            x_BSD = layer(x_BSD, cos, sin)
        logits = self.head(self.norm(x_BSD)).float()
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids_BS[:, 1:].flatten())


def make_step(shape: Mapping[str, int], rows: int, length: int, weights: str) -> Callable[[], None]:
    """A function that takes a step on random tokens; `weights` float32 is under autocast."""
    torch.manual_seed(0)
    model = Model(shape).to(getattr(torch, weights)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    ids_BS = torch.randint(0, shape["vocab_size"], (rows, length))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=weights == "float32"):
            loss = model(ids_BS)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
