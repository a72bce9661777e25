"""Cross-entropy of rows of scores whose memory becomes their gradient (`csrc/kernels/loss.h`).

Legend: T rows · V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from . import native

# Small enough that a chunk's logits (512 × 4096 in float32) stay near the caches.
CHUNK_TOKENS = 512
# Where they become their gradient in place, in bfloat16: as much memory as the others with copies.
IN_PLACE_CHUNK_TOKENS = 2048
# A GPU has no such caches, and each chunk reads and writes the whole gradient of the head, 4 GB at
# Ling-mini's vocabulary.
GPU_CHUNK_TOKENS = 2048


def has_kernel(x: Tensor) -> bool:
    """Whether `loss_gradient_` takes scores of such rows: on a CPU, with the C++ core."""
    if x.dtype == torch.float32:  # that torch does well itself where vectors are slow
        return native.reads(x) and native.isa() != "generic"
    return x.dtype == torch.bfloat16 and native.reads(x)


def loss_gradient_(scores_TV: Tensor, targets_T: Tensor, weights_T: Tensor) -> Tensor:
    """losses_T: -log of the target's share in each row's softmax, times the row's weight.

    `scores_TV` becomes the gradient of their sum. Both are zero where the weight is.
    """
    T, V = scores_TV.shape
    if not has_kernel(scores_TV) or not scores_TV.is_contiguous():
        raise KernelError("scores must be bfloat16 or float32 on the CPU, whole rows in memory")
    if targets_T.shape != (T,) or weights_T.shape != (T,):
        raise KernelError(f"{T} rows have targets of {list(targets_T.shape)}")
    targets, weights = targets_T.long().contiguous(), weights_T.float().contiguous()
    lib, losses_T = native.required(), native.new(T)
    pointers = (x.data_ptr() for x in (targets, weights, losses_T))
    is_bf16 = scores_TV.dtype == torch.bfloat16
    native.check(lib, lib.ling_loss_gradient(scores_TV.data_ptr(), is_bf16, T, V, *pointers))
    return losses_T
