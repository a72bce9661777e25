"""Every operation of the model in plain torch: the oracle that faster versions are held to.

Legend: T tokens · D hidden · H query heads · G kv heads · K head dim · R rotary channels ·
E experts · A experts per token · F expert width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension in float32, cast back, then scale in `x`'s dtype.

    Casting before scaling matters in bfloat16 (docs/concepts/model.md#rmsnorm).
    """
    h = x.float()
    h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)
    return h.to(x.dtype) * weight.to(x.dtype)


def rotate(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Rotate the first R channels of every head; the others pass through unscaled.

    Pairs are (i, i + R/2), as in GPT-NeoX. cos and sin have `x`'s dtype.
    """
    r = cos_TR.shape[-1]
    rot, rest = x_THK[..., :r], x_THK[..., r:]
    swapped = torch.cat((-rot[..., r // 2 :], rot[..., : r // 2]), dim=-1)
    rot = rot * cos_TR[:, None] + swapped * sin_TR[:, None]
    return torch.cat((rot, rest), dim=-1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` in `x`'s dtype, whatever the parameters are stored in."""
    if bias is not None:
        bias = bias.to(x.dtype)
    return F.linear(x, weight.to(x.dtype), bias)


def top_k_lowest_id(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest entries of the last dimension, ties to the lower index.

    `torch.topk` promises no order among equals; a stable sort does. A copy, since a part of the
    order would keep all of it in memory until the backward pass.
    """
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k].contiguous()


def route(
    logits_TE: Tensor,
    expert_bias_E: Tensor,
    *,
    num_experts_per_tok: int,
    n_group: int,
    topk_group: int,
    routed_scaling_factor: float,
    norm_topk_prob: bool = True,
    top_k: Callable[[Tensor, int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Pick experts inside the best groups by biased scores, weigh them by unbiased ones.

    Takes float32 logits; returns ids_TA (int64, by descending biased score) and weights_TA
    (float32). Dropped groups are -inf: a biased score can be negative, so zero would let them in.
    Ties go to the lower id; `top_k` is `top_k_lowest_id`, or a kernel that gives the same.
    Source: DeepSeek-V3 (arXiv 2412.19437) eq. 16.
    """
    top_k = top_k or top_k_lowest_id
    scores_TE = logits_TE.sigmoid()
    with torch.no_grad():
        choice_TE = scores_TE + expert_bias_E
        if n_group > 1:
            grouped = choice_TE.unflatten(-1, (n_group, -1))
            group_scores = grouped.topk(2, dim=-1).values.sum(-1)
            kept = top_k(group_scores, topk_group)
            dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(-1, kept, False)
            choice_TE = grouped.masked_fill(dropped[..., None], float("-inf")).flatten(-2)
        ids_TA = top_k(choice_TE, num_experts_per_tok)
    return ids_TA, expert_weights(scores_TE, ids_TA, norm_topk_prob, routed_scaling_factor)


def expert_weights(
    scores_TE: Tensor, ids_TA: Tensor, norm_topk_prob: bool, routed_scaling_factor: float
) -> Tensor:
    """What the chosen experts' outputs are multiplied with, from the scores without bias."""
    weights_TA = scores_TE.gather(-1, ids_TA)
    if ids_TA.shape[-1] > 1 and norm_topk_prob:
        weights_TA = weights_TA / (weights_TA.sum(-1, keepdim=True) + 1e-20)
    return weights_TA * routed_scaling_factor


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """`down(silu(gate(x)) * up(x))`, weights as [out, in]."""
    return linear(F.silu(linear(x, gate)) * linear(x, up), down)


def moe(
    x_TD: Tensor,
    ids_TA: Tensor,
    weights_TA: Tensor,
    gate_EFD: Tensor,
    up_EFD: Tensor,
    down_EDF: Tensor,
) -> Tensor:
    """Weighted sum of each token's experts, one expert after the other.

    Expert outputs are in `x`'s dtype, weighed and summed over A in float32, cast back once
    (docs/concepts/model.md#experts).
    """
    y_TAD = x_TD.new_zeros((*ids_TA.shape, x_TD.shape[-1]))
    for e in ids_TA.unique().tolist():
        t, a = (ids_TA == e).nonzero(as_tuple=True)
        y_TAD[t, a] = swiglu(x_TD[t], gate_EFD[e], up_EFD[e], down_EDF[e])
    return (y_TAD.float() * weights_TA[..., None]).sum(1).to(x_TD.dtype)


def causal_attention(q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
    """Causal attention of one sequence, softmax in float32, scale 1/sqrt(K)."""
    group = q_THK.shape[1] // k_TGK.shape[1]
    k_THK, v_THK = (x.repeat_interleave(group, dim=1) for x in (k_TGK, v_TGK))
    scores = torch.einsum("thk,shk->hts", q_THK, k_THK) * q_THK.shape[-1] ** -0.5
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q_THK.device).tril()
    probs = scores.float().masked_fill(~mask, float("-inf")).softmax(-1).to(q_THK.dtype)
    return torch.einsum("hts,shk->thk", probs, v_THK)
