"""Adding up gradients over ranks on gloo, which lacks a reduce-scatter of its own.

torch's is an all-reduce for every rank. This sends each rank the parts that are its own, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class ExchangeAndAdd:
    """What `FSDPModule.set_custom_reduce_scatter` takes."""

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer of the caller's."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: Any,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """`output_tensor` becomes the sum of all ranks' parts for this one."""
        parts = torch.empty_like(input_tensor)
        dist.all_to_all_single(parts, input_tensor, group=group)
        torch.sum(parts.view(dist.get_world_size(group), -1), 0, out=output_tensor)
