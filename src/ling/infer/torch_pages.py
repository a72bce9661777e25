"""KV pages as tensors, and attention over them at fixed boundaries: the reference path.

Legend: T tokens · H query heads · G kv heads · K head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from .pages import PAGE, Segment

QUERY_BLOCK = 16


class PageTensors:
    """Keys and values of every attention layer, MTP layers included: [layers, pages, G, 64, K]."""

    def __init__(self, cfg: ModelConfig, num_pages: int, dtype: torch.dtype) -> None:
        shape = (cfg.num_cache_layers, num_pages, cfg.num_key_value_heads, PAGE, cfg.head_dim)
        # Zeros, not garbage: a masked position adds 0 × value, and 0 × NaN is NaN.
        self.k, self.v = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)

    @staticmethod
    def bytes_per_page(cfg: ModelConfig, dtype: torch.dtype) -> int:
        """KV bytes of one page, all layers."""
        return cfg.num_cache_layers * 2 * cfg.kv_size * PAGE * dtype.itemsize


class PagedAttend:
    """Writes K and V of new tokens to their pages, then attends over each request's own pages.

    Query rows go in blocks of 16 tokens and keys in blocks of one page, combined in order by an
    online softmax in float32: a row's sum has one order, whatever shares the batch, and pages
    that are masked for it add exactly zero.
    """

    def __init__(self, cache: PageTensors, segments: Sequence[Segment]) -> None:
        self.cache, self.segments = cache, segments

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
            self.cache.k[layer, page, :, offset : offset + n] = k_TGK[row : row + n].transpose(0, 1)
            self.cache.v[layer, page, :, offset : offset + n] = v_TGK[row : row + n].transpose(0, 1)
            row, position = row + n, position + n

    def _block(self, layer: int, s: Segment, q_THK: Tensor, first: int) -> Tensor:
        n, H, K = q_THK.shape
        G = self.cache.k.shape[2]
        q = F.pad(q_THK.float() * K**-0.5, (0, 0, 0, 0, 0, QUERY_BLOCK - n))
        q = q.view(QUERY_BLOCK, G, H // G, K).permute(1, 0, 2, 3).reshape(G, -1, K)
        at = first + torch.arange(QUERY_BLOCK).clamp(max=n - 1).repeat_interleave(H // G)
        top = q.new_full((G, q.shape[1], 1), float("-inf"))
        total, acc = torch.zeros_like(top), torch.zeros_like(q)
        for c in range((first + n - 1) // PAGE + 1):
            k, v = (x[layer, s.pages[c]].float() for x in (self.cache.k, self.cache.v))
            scores = torch.bmm(q, k.transpose(1, 2))
            scores.masked_fill_(
                (torch.arange(c * PAGE, c * PAGE + PAGE)[None] > at[:, None])[None], float("-inf")
            )
            new = torch.maximum(top, scores.amax(-1, keepdim=True))
            p, shrink = (scores - new).exp_(), (top - new).exp_()
            total = total * shrink + p.sum(-1, keepdim=True)
            acc = acc * shrink + torch.bmm(p, v)
            top = new
        out = (acc / total).view(G, QUERY_BLOCK, H // G, K).permute(1, 0, 2, 3)
        return out.reshape(QUERY_BLOCK, H, K)[:n].to(q_THK.dtype)
