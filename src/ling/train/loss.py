"""Losses: chunked cross-entropy, the MTP targets, router z-loss.

Legend: B rows · S positions · T = B·S tokens · D hidden · V vocabulary · E experts.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import softmax
from ..ops.experts import expert_counts
from ..ops.softmax import CHUNK_TOKENS, GPU_CHUNK_TOKENS, IN_PLACE_CHUNK_TOKENS

ROW_BLOCK = 64


class Head(Protocol):
    """The products of a frozen head: hidden states to scores, and back."""

    def scores(self, hidden_TD: Tensor) -> Tensor:
        """scores_TV in the dtype of the hidden states; new memory."""

    def dx(self, dscores_TV: Tensor) -> Tensor:
        """dhidden_TD."""


class _FloatHead(NamedTuple):
    w_VD: Tensor

    def scores(self, hidden_TD: Tensor) -> Tensor:
        return hidden_TD @ self.w_VD.t()

    def dx(self, dscores_TV: Tensor) -> Tensor:
        return dscores_TV @ self.w_VD


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Weighted sum of token losses; the gradient is made in the forward pass, chunk by chunk.

    The head is a weight, or the products of one that has no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, given: Tensor | Head, targets_T: Tensor, weights_T: Tensor
    ) -> Tensor:
        head = _FloatHead(given.to(hidden_TD.dtype)) if isinstance(given, Tensor) else given
        wanted = any(ctx.needs_input_grad[:2])
        dhidden_TD = torch.empty_like(hidden_TD) if ctx.needs_input_grad[0] else None
        # float32 in the size of the head: only where somebody trains it.
        dhead_VD: Tensor | None = None
        if isinstance(given, Tensor) and ctx.needs_input_grad[1]:
            dhead_VD = torch.zeros_like(given, dtype=torch.float32)
        in_place = wanted and softmax.has_kernel(hidden_TD)
        # Beside packed weights the scores of more rows would be the largest thing in memory.
        large = in_place and isinstance(given, Tensor)
        chunk = IN_PLACE_CHUNK_TOKENS if large else _chunk_tokens(hidden_TD.device)
        total = hidden_TD.new_zeros((), dtype=torch.float32)
        for a in range(0, hidden_TD.shape[0], chunk):
            rows = slice(a, a + chunk)
            logits = head.scores(hidden_TD[rows])
            dlogits: Tensor | None = logits
            if in_place:
                total += softmax.loss_gradient_(logits, targets_T[rows], weights_T[rows]).sum()
            else:
                loss, dlogits = _loss_gradient(logits, targets_T[rows], weights_T[rows], wanted)
                total += loss
            if dlogits is None:
                continue
            if dhidden_TD is not None:
                dhidden_TD[rows] = head.dx(dlogits)
            if dhead_VD is not None:
                dhead_VD += dlogits.t() @ hidden_TD[rows]
        ctx.save_for_backward(dhidden_TD, dhead_VD)
        ctx.head_dtype = given.dtype if isinstance(given, Tensor) else None
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dhidden_TD, dhead_VD = ctx.saved_tensors
        (g,) = grads
        dhidden = None if dhidden_TD is None else dhidden_TD * g.to(dhidden_TD.dtype)
        dhead = None if dhead_VD is None else (dhead_VD * g).to(ctx.head_dtype)
        return dhidden, dhead, None, None


def _chunk_tokens(device: torch.device) -> int:
    return CHUNK_TOKENS if device.type == "cpu" else GPU_CHUNK_TOKENS


def _loss_gradient(
    logits: Tensor, targets_T: Tensor, weights_T: Tensor, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Weighted sum of the losses of some rows, and the gradient of their logits if it is wanted."""
    targets, weights = targets_T[:, None], weights_T[:, None]
    dtype, logits = logits.dtype, logits.float()
    logits -= logits.amax(-1, keepdim=True)
    picked = logits.gather(1, targets)
    sums = logits.exp_().sum(-1, keepdim=True)
    # A position without loss must add nothing even where its logits are not finite.
    loss = torch.where(weights > 0, (sums.log() - picked) * weights, 0).sum()
    if not wanted:
        return loss, None
    dlogits = logits.mul_(weights / sums)
    dlogits.scatter_add_(1, targets, -weights)
    return loss, dlogits.to(dtype)


def cross_entropy(
    hidden_TD: Tensor,
    head: nn.Linear,
    targets_T: Tensor,
    mask_T: Tensor,
    count: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(mean loss over the mask, number of positions in it), never storing T × V.

    `count` is another number to divide by, above 0: that of all ranks that share the rows, or of
    all rows of a step.

    The only code that reads the head's weight, or takes its `products`, instead of calling the
    head: its product is made chunk by chunk here. An empty mask gives 0
    (docs/concepts/training.md#main-loss).
    """
    count = mask_T.sum().clamp(min=1) if count is None else count
    given = getattr(head, "products", None) or head.weight
    loss = _ChunkedCrossEntropy.apply(hidden_TD, given, targets_T, mask_T.float() / count)
    return loss, mask_T.sum()


def trained_rows(
    hidden_TD: Tensor, targets_T: Tensor, mask_T: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The three where the mask is above 0: only these rows need meet the head.

    Filled up with rows of mask 0 to a multiple of `ROW_BLOCK`, since kernels are compiled for each
    number of rows.
    """
    rows = mask_T.nonzero().flatten()
    padding = -len(rows) % ROW_BLOCK
    rows, mask = F.pad(rows, (0, padding)), F.pad(mask_T[rows], (0, padding))
    return hidden_TD.index_select(0, rows), targets_T[rows], mask


def roll_left(x_BS: Tensor) -> Tensor:
    """Shift every row left by one, filling with 0: no row sees another, as in Megatron-LM."""
    return torch.cat((x_BS[:, 1:], torch.zeros_like(x_BS[:, :1])), dim=1)


class RoutingLoss:
    """A routing trace for training: expert loads per layer and the z-loss of each layer."""

    def __init__(self, num_experts: int, *, train: bool) -> None:
        self.num_experts, self.train = num_experts, train
        self.counts: dict[int, Tensor] = {}
        self.z_losses: list[Tensor] = []

    def record(self, layer: int, logits_TE: Tensor, ids_TA: Tensor) -> None:
        """Called by every MoE layer."""
        counts = expert_counts(ids_TA, self.num_experts)
        self.counts[layer] = self.counts[layer] + counts if layer in self.counts else counts
        if self.train:
            # logsumexp over the raw float32 logits, before any bias, as in Megatron-LM.
            self.z_losses.append(logits_TE.logsumexp(-1).square().mean())

    def z_loss(self) -> Tensor:
        """Sum over layers, before the coefficient."""
        return torch.stack(self.z_losses).sum() if self.z_losses else torch.zeros(())
