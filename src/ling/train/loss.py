"""Losses: chunked cross-entropy (a sum, or token by token), the MTP targets, router z-loss.

Legend: B rows · S positions · T = B·S tokens · D hidden · V vocabulary · E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import products, softmax
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
        return products.mm(hidden_TD, self.w_VD.t())

    def dx(self, dscores_TV: Tensor) -> Tensor:
        return products.mm(dscores_TV, self.w_VD)


class _Gradients:
    """Those of hidden states and of a head, as far as somebody wants them, added chunk by chunk.

    The head is a weight, or the products of one that has no gradient.
    """

    def __init__(self, hidden_TD: Tensor, given: Tensor | Head, wanted: Sequence[bool]) -> None:
        self.hidden_TD = hidden_TD
        self.dhidden_TD = torch.empty_like(hidden_TD) if wanted[0] else None
        self.dhead_VD: Tensor | None = None
        self.weight = given if isinstance(given, Tensor) else None
        if not isinstance(given, Tensor):
            self.head: Head = given
            return
        self.head = _FloatHead(given.to(hidden_TD.dtype))
        if wanted[1]:  # float32 in the size of the head: only where somebody trains it
            self.dhead_VD = torch.zeros_like(given, dtype=torch.float32)

    def chunks(
        self, targets_T: Tensor, weights_T: Tensor, *, wanted: bool
    ) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their losses times weight; the gradients of these are added if `wanted`."""
        in_place = wanted and softmax.has_kernel(self.hidden_TD)
        # Packed weights make scores in float32 first.
        large = in_place and self.weight is not None and self.hidden_TD.dtype == torch.bfloat16
        chunk = IN_PLACE_CHUNK_TOKENS if large else _chunk_tokens(self.hidden_TD.device)
        for a in range(0, self.hidden_TD.shape[0], chunk):
            rows = slice(a, a + chunk)
            logits = self.head.scores(self.hidden_TD[rows])
            dlogits: Tensor | None = logits
            if in_place:
                losses = softmax.loss_gradient_(logits, targets_T[rows], weights_T[rows])
            else:
                losses, dlogits = _loss_gradient(logits, targets_T[rows], weights_T[rows], wanted)
            if dlogits is not None:
                self._add(rows, dlogits)
            yield rows, losses

    def _add(self, rows: slice, dlogits: Tensor) -> None:
        if self.dhidden_TD is not None:
            self.dhidden_TD[rows] = self.head.dx(dlogits)
        if self.dhead_VD is not None:
            self.dhead_VD += products.mm(dlogits.t(), self.hidden_TD[rows])


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Weighted sum of token losses; the gradient is made in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, given: Tensor | Head, targets_T: Tensor, weights_T: Tensor
    ) -> Tensor:
        made = _Gradients(hidden_TD, given, ctx.needs_input_grad)
        wanted = any(ctx.needs_input_grad[:2])
        total = hidden_TD.new_zeros((), dtype=torch.float32)
        for _, losses in made.chunks(targets_T, weights_T, wanted=wanted):
            total += losses.sum()
        ctx.save_for_backward(made.dhidden_TD, made.dhead_VD)
        ctx.head_dtype = None if made.weight is None else made.weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dhidden_TD, dhead_VD = ctx.saved_tensors
        (g,) = grads
        dhidden = None if dhidden_TD is None else dhidden_TD * g.to(dhidden_TD.dtype)
        dhead = None if dhead_VD is None else (dhead_VD * g).to(ctx.head_dtype)
        return dhidden, dhead, None, None


class _TokenLosses(torch.autograd.Function):
    """The loss of each token. Only the backward pass knows what each counts, and makes the scores
    again."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, given: Tensor | Head, targets_T: Tensor) -> Tensor:
        is_weight = isinstance(given, Tensor)
        ctx.save_for_backward(hidden_TD, targets_T, given if is_weight else None)
        ctx.head = None if is_weight else given
        losses_T = hidden_TD.new_empty(len(hidden_TD), dtype=torch.float32)
        made = _Gradients(hidden_TD, given, (False, False))
        for rows, losses in made.chunks(targets_T, torch.ones_like(losses_T), wanted=False):
            losses_T[rows] = losses
        return losses_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, targets_T, weight = ctx.saved_tensors
        made = _Gradients(hidden_TD, ctx.head or weight, ctx.needs_input_grad)
        for _ in made.chunks(targets_T, grads[0].contiguous(), wanted=True):
            pass
        dhead = None if made.dhead_VD is None else made.dhead_VD.to(weight.dtype)
        return made.dhidden_TD, dhead, None


def _chunk_tokens(device: torch.device) -> int:
    return CHUNK_TOKENS if device.type == "cpu" else GPU_CHUNK_TOKENS


def _loss_gradient(
    logits: Tensor, targets_T: Tensor, weights_T: Tensor, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Losses of some rows times weight, and the gradient of their logits if it is wanted."""
    targets, weights = targets_T[:, None], weights_T[:, None]
    dtype, logits = logits.dtype, logits.float()
    logits -= logits.amax(-1, keepdim=True)
    picked = logits.gather(1, targets)
    sums = logits.exp_().sum(-1, keepdim=True)
    # A position without loss must add nothing even where its logits are not finite.
    losses = torch.where(weights != 0, (sums.log() - picked) * weights, 0).squeeze(1)
    if not wanted:
        return losses, None
    dlogits = logits.mul_(weights / sums)
    dlogits.scatter_add_(1, targets, -weights)
    return losses, dlogits.to(dtype)


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

    With `token_losses` the only code that reads the head's weight, or takes its `products`, instead
    of calling the head: its product is made chunk by chunk here. An empty mask gives 0
    (docs/concepts/training.md#main-loss).
    """
    count = mask_T.sum().clamp(min=1) if count is None else count
    weights_T = mask_T.float() / count
    loss = _ChunkedCrossEntropy.apply(hidden_TD, _products(head), targets_T, weights_T)
    return loss, mask_T.sum()


def token_losses(hidden_TD: Tensor, head: nn.Linear, targets_T: Tensor) -> Tensor:
    """losses_T: -log of each target's probability, never storing T × V; for what is no weighted sum
    of them, at the price of making the scores twice.
    """
    losses_T: Tensor = _TokenLosses.apply(hidden_TD, _products(head), targets_T)
    return losses_T


def _products(head: nn.Linear) -> Tensor | Head:
    return getattr(head, "products", None) or head.weight


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
    """A routing trace for training: expert loads per layer and the z-loss of each layer.

    `shares_T` is what each token counts in the z-loss, by default 1/T; those of 0 are padding
    and no load either.
    """

    def __init__(self, num_experts: int, *, train: bool, shares_T: Tensor | None = None) -> None:
        self.num_experts, self.train, self.shares_T = num_experts, train, shares_T
        self.counts: dict[int, Tensor] = {}
        self.z_losses: list[Tensor] = []

    def record(self, layer: int, logits_TE: Tensor, ids_TA: Tensor) -> None:
        """Called by every MoE layer."""
        counts = self._loads(ids_TA)
        self.counts[layer] = self.counts[layer] + counts if layer in self.counts else counts
        if self.train:
            # logsumexp over the raw float32 logits, before any bias, as in Megatron-LM.
            squares_T = logits_TE.logsumexp(-1).square()
            shares_T = self.shares_T
            mean = squares_T.mean() if shares_T is None else (squares_T * shares_T).sum()
            self.z_losses.append(mean)

    def _loads(self, ids_TA: Tensor) -> Tensor:
        if self.shares_T is None:
            return expert_counts(ids_TA, self.num_experts)
        # Padding is counted for an expert more, since a mask would wait for the device.
        ids_TA = ids_TA.masked_fill(self.shares_T[:, None] == 0, self.num_experts)
        return expert_counts(ids_TA, self.num_experts + 1)[:-1]

    def z_loss(self) -> Tensor:
        """Sum over layers, before the coefficient."""
        return torch.stack(self.z_losses).sum() if self.z_losses else torch.zeros(())
