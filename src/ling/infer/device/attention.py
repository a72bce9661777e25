"""Attention of a step on a device: new keys and values go to their pages, then rows attend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...ops.device_kernels import paged_attention
from ...ops.paged import prompt_attention
from ..pages import Segment, pages_for
from .inputs import StepInputs
from .pages import DevicePages

SHORT_ROWS = 8
"""Rows of a request that count as decoding: its token, and drafts that are verified."""


class EvenAttend:
    """Every request has the same number of rows, one behind the other (`even_block`)."""

    def __init__(self, pages: DevicePages, inputs: StepInputs) -> None:
        self.pages, self.inputs, self.slots_T = pages, inputs, inputs.slots_T
        self.positions_BQ = inputs.positions_T.view(inputs.shape.requests, -1)

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        self.pages.write(layer, self.slots_T, k_TGK, v_TGK)
        q_BQHK = q_THK.unflatten(0, self.positions_BQ.shape)
        out_BQHK = paged_attention(
            q_BQHK,
            *self.pages.of_layer(layer),
            self.inputs.table_BW,
            self.positions_BQ,
            self.inputs.lengths_B,
        )
        return out_BQHK.flatten(0, 1)


class MixedAttend:
    """Prompts and decoding requests together, rows in the caller's order (`flat_block`)."""

    def __init__(self, pages: DevicePages, inputs: StepInputs, segments: Sequence[Segment]) -> None:
        self.pages, self.inputs, self.slots_T = pages, inputs, inputs.slots_T
        self.long = [(i, s) for i, s in enumerate(segments) if s.stop - s.start > SHORT_ROWS]
        short = [(i, s) for i, s in enumerate(segments) if s.stop - s.start <= SHORT_ROWS]
        # Of short requests the rows, and which of SHORT_ROWS places each of them takes.
        rows = [row for _, s in short for row in range(s.start, s.stop)]
        at = [
            n * SHORT_ROWS + row - s.start
            for n, (_, s) in enumerate(short)
            for row in range(s.start, s.stop)
        ]
        device = inputs.block.device
        numbers = [i for i, _ in short], rows, at
        self.short = [torch.tensor(x).to(device) for x in numbers] if short else []

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        self.pages.write(layer, self.slots_T, k_TGK, v_TGK)
        keys, values = self.pages.of_layer(layer)
        out_THK = torch.empty_like(q_THK)
        for i, s in self.long:
            table_W = self.inputs.table_BW[i, : pages_for(s.first + s.stop - s.start)]
            out_THK[s.start : s.stop] = prompt_attention(
                q_THK[s.start : s.stop], keys, values, table_W, s.first
            )
        if self.short:
            self._short(out_THK, q_THK, keys, values)
        return out_THK

    def _short(self, out_THK: Tensor, q_THK: Tensor, keys: Tensor, values: Tensor) -> None:
        requests, rows, at = self.short
        shape = len(requests) * SHORT_ROWS
        q = q_THK.new_zeros((shape, *q_THK.shape[1:])).index_copy_(0, at, q_THK[rows])
        positions = self.inputs.positions_T
        positions = positions.new_zeros(shape).index_copy_(0, at, positions[rows])
        out = paged_attention(
            q.unflatten(0, (-1, SHORT_ROWS)),
            keys,
            values,
            self.inputs.table_BW[requests],
            positions.view(-1, SHORT_ROWS),
            self.inputs.lengths_B[requests],
        )
        out_THK.index_copy_(0, rows, out.flatten(0, 1)[at])
