"""KV pages as tensors, and attention over them at fixed boundaries: the reference path.

Legend: T tokens · H query heads · G kv heads · K head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.model import ModelConfig
from ..ops.kv_int4 import quantise_rows_int4, rows_of_int4
from ..ops.packing import quantise_rows
from .pages import PAGE, Segment

QUERY_BLOCK = 16
# Of a cache's values, by its name in `model.size.KV_BITS`.
TYPES = {
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "int4": torch.uint8,
}


class PageTensor:
    """Keys, or values, of every attention layer, MTP layers included: [layers, pages, G, 64, K].

    int8 and int4 have a float32 scale for every position and head, [layers, pages, G, 64]; int4
    has two values in a byte.
    """

    def __init__(self, cfg: ModelConfig, num_pages: int, dtype: str) -> None:
        shape = (cfg.num_cache_layers, num_pages, cfg.num_key_value_heads, PAGE)
        self.dtype = dtype
        width = cfg.head_dim // 2 if dtype == "int4" else cfg.head_dim
        self.values = torch.zeros(*shape, width, dtype=TYPES[dtype])
        self.scales = torch.zeros(shape) if dtype in ("int8", "int4") else None

    def parts(self) -> list[Tensor]:
        """The tensors, pages in the second dim."""
        return [self.values] if self.scales is None else [self.values, self.scales]

    def write(self, layer: int, page: int, offset: int, x_TGK: Tensor) -> None:
        """Positions from `offset` of a page on."""
        at = (layer, page, slice(None), slice(offset, offset + len(x_TGK)))
        x_GTK = x_TGK.transpose(0, 1)
        if self.scales is not None:
            quantise = quantise_rows_int4 if self.dtype == "int4" else quantise_rows
            x_GTK, self.scales[at] = quantise(x_GTK)
        self.values[at] = x_GTK

    def read(self, layer: int, page: int) -> Tensor:
        """float32 [G, 64, K]."""
        x_GPK = self.values[layer, page]
        if self.scales is None:
            return x_GPK.float()
        scales_GP = self.scales[layer, page]
        if self.dtype == "int4":
            return rows_of_int4(x_GPK, scales_GP)
        return x_GPK.float() * scales_GP[..., None]


class PagedAttend:
    """Writes K and V of new tokens to their pages, then attends over each request's own pages.

    Query rows go in blocks of 16 tokens and keys in blocks of one page, combined in order by an
    online softmax in float32: a row's sum has one order, whatever shares the batch, and pages
    that are masked for it add exactly zero.
    """

    def __init__(self, cache: tuple[PageTensor, PageTensor], segments: Sequence[Segment]) -> None:
        (self.k, self.v), self.segments = cache, segments

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        out = torch.empty_like(q_THK)
        for s in self.segments:
            self._write(layer, s, k_TGK, v_TGK)
            for a in range(s.start, s.stop, QUERY_BLOCK):
                b = min(a + QUERY_BLOCK, s.stop)
                out[a:b] = self._block(layer, s, q_THK[a:b], s.first + a - s.start)
        return out

    def _write(self, layer: int, s: Segment, k_TGK: Tensor, v_TGK: Tensor) -> None:
        row, position = s.start, s.first
        while row < s.stop:
            offset = position % PAGE
            n = min(PAGE - offset, s.stop - row)
            page = s.pages[position // PAGE]
            self.k.write(layer, page, offset, k_TGK[row : row + n])
            self.v.write(layer, page, offset, v_TGK[row : row + n])
            row, position = row + n, position + n

    def _block(self, layer: int, s: Segment, q_THK: Tensor, first: int) -> Tensor:
        n, H, K = q_THK.shape
        G = self.k.values.shape[2]
        q = F.pad(q_THK.float() * K**-0.5, (0, 0, 0, 0, 0, QUERY_BLOCK - n))
        q = q.view(QUERY_BLOCK, G, H // G, K).permute(1, 0, 2, 3).reshape(G, -1, K)
        at = first + torch.arange(QUERY_BLOCK).clamp(max=n - 1).repeat_interleave(H // G)
        top = q.new_full((G, q.shape[1], 1), float("-inf"))
        total, acc = torch.zeros_like(top), torch.zeros_like(q)
        for c in range((first + n - 1) // PAGE + 1):
            k, v = (x.read(layer, s.pages[c]) for x in (self.k, self.v))
            hidden = torch.arange(c * PAGE, c * PAGE + PAGE)[None] > at[:, None]
            scores = torch.bmm(q, k.transpose(1, 2)).masked_fill_(hidden, float("-inf"))
            new = torch.maximum(top, scores.amax(-1, keepdim=True))
            p, shrink = (scores - new).exp_(), (top - new).exp_()
            total = total * shrink + p.sum(-1, keepdim=True)
            acc = acc * shrink + _weigh(p, v, hidden)
            top = new
        out = (acc / total).view(G, QUERY_BLOCK, H // G, K).permute(1, 0, 2, 3)
        return out.reshape(QUERY_BLOCK, H, K)[:n].to(q_THK.dtype)


def _weigh(p_GRP: Tensor, v_GPK: Tensor, hidden_RP: Tensor) -> Tensor:
    """p @ v, in which a value that a row may not see adds zero, whatever it is: 0 × NaN is NaN."""
    finite = v_GPK.isfinite()
    if finite.all():
        return torch.bmm(p_GRP, v_GPK)
    out_GRK = torch.bmm(p_GRP, v_GPK.masked_fill(~finite, 0))
    for g, key in (~finite.all(-1)).nonzero().tolist():
        odd_K = v_GPK[g, key].masked_fill(finite[g, key], 0)
        seen_R = ~hidden_RP[:, key]
        out_GRK[g, seen_R] += p_GRP[g, seen_R, key, None] * odd_K
    return out_GRK
